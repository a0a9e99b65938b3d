"""What is read of a file with several channels, planes or images, and scaling to 8 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, NoReturn

import numpy as np

from wsidata.errors import UndecidedImageError, UnknownPlaneError, UnsupportedImageError

RGB_NAMES = ("red", "green", "blue")
RGB = "rgb"
"""In place of channels: the three channels of the file are red, green and blue."""
MAX_LISTED = 30
"""Images or planes that an error lists."""
PLAIN_TYPES = ("uint8", "uint16", "float32")
"""Types of samples that are returned as they are stored."""


@dataclass(frozen=True)
class ImageChoice:
    """The image to read of a file with several, and the focal plane and time of a stack; None: there is only one.

    Attributes:
        series: Number of the image in the file, from 0; None for the one that is the slide.
        z: Number of the focal plane, from 0.
        t: Number of the point in time, from 0.

    Raises:
        ValueError: if one of them is no whole number from 0.
    """

    series: int | None = None
    z: int | None = None
    t: int | None = None

    def __post_init__(self) -> None:
        for name, number in vars(self).items():
            if number is not None and (isinstance(number, bool) or not isinstance(number, Integral) or number < 0):
                raise ValueError(f"{name}={number!r} must be a whole number; 0 is the first one.")

    def place(self, name: Literal["series", "z", "t"], names: Sequence[object], path: object) -> int:
        """The number of the chosen one of some images or planes; 0 where none was chosen.

        Args:
            name: Which of the three.
            names: Name of each that the file has; a range where they have none.
            path: The file, for errors.

        Raises:
            UnknownPlaneError: if it is not there; it lists them.
        """
        number = getattr(self, name)
        if number is not None and number >= len(names):
            what = {"series": "image", "z": "focal plane", "t": "time"}[name]
            has = f"{len(names)} {what}s" if len(names) > 1 else f"one {what}"
            first = names[:MAX_LISTED]
            listed = [str(one) if isinstance(names, range) else f"{at}: {one}" for at, one in enumerate(first)]
            listing = ", ".join([*listed, *([f"to {len(names) - 1}"] if len(names) > MAX_LISTED else [])])
            raise UnknownPlaneError(
                f"'{path}' has {has}, and {name}={number} is none of them ({listing}). Choose one of these"
                f"{'' if len(names) > 1 else f', or leave {name}= out'}.",
                name,
                tuple(map(str, names)),
            )
        return number or 0

    def check_one_image(self, path: object) -> None:
        """Check that nothing but the first is chosen of a file that has one image of one plane.

        Raises:
            UnknownPlaneError: naming what is.
        """
        for name in ("series", "z", "t"):
            self.place(name, range(1), path)


@dataclass(frozen=True)
class PixelRequest:
    """The channels to read, the scaling of their samples, and the image and plane they are of.

    Attributes:
        channels: Numbers or names of the channels, in that order; None for RGB.
        scale_to_8bit: (low, high): stored values that become 0 and 255, linear between; None leaves them.
        is_rgb: Whether three channels of unstated colors are red, green and blue.
        of: The image and plane.
    """

    channels: tuple[int | str, ...] | None = None
    scale_to_8bit: tuple[float, float] | None = None
    is_rgb: bool = False
    of: ImageChoice = ImageChoice()

    @classmethod
    def checked(
        cls, channels: Sequence[int | str] | int | str | None, scale_to_8bit: tuple[float, float] | None
    ) -> PixelRequest:
        """From unchecked arguments.

        Raises:
            ValueError: if no channel is named, or the scale is not (low, high).
        """
        is_rgb = isinstance(channels, str) and channels.lower() == RGB
        if is_rgb:
            channels = None
        if isinstance(channels, int | str):
            channels = (channels,)
        if channels is not None and len(channels) == 0:
            raise ValueError("channels=[] names no channel. Pass numbers or names, or leave it out for RGB.")
        if scale_to_8bit is not None:
            low, high = scale_to_8bit
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"scale_to_8bit={scale_to_8bit} must be (low, high) with low < high.")
            scale_to_8bit = low, high  # a list, as of a configuration, has no hash
        return cls(None if channels is None else tuple(channels), scale_to_8bit, is_rgb)


def channel_numbers(requested: Sequence[int | str], names: Sequence[str], path: object) -> tuple[int, ...]:
    """Indices of channels given by number or name, among the names of all channels of the file.

    Raises:
        UnsupportedImageError: for a missing channel, or a name that several share; it lists them all.
    """
    numbers = []
    for one in requested:
        places = [one] if isinstance(one, int) else [place for place, name in enumerate(names) if name == one]
        if len(places) != 1 or not 0 <= places[0] < len(names):
            why = "is the name of several" if len(places) > 1 else "does not exist"
            raise UnsupportedImageError(
                f"'{path}': channel {one!r} {why}. It has {len(names)} ({listed(names)}): choose by number or name."
            )
        numbers.append(places[0])
    return tuple(numbers)


def check_is_rgb(names: Sequence[str], path: object) -> None:
    """Check that channels which are said to be red, green and blue are three.

    Raises:
        UndecidedImageError: listing them.
    """
    if len(names) != 3:
        raise UndecidedImageError(
            f"'{path}' has {len(names)} channels ({listed(names)}), and channels='rgb' is for three. Choose by number "
            "or name, such as channels=[0].",
            tuple(names),
        )


def choose_channels(what: str, names: Sequence[str], hint: str = "") -> NoReturn:
    """Raise the error for channels of which some have to be chosen.

    Args:
        what: What holds which channels.
        names: Names of all channels.
        hint: Further arguments that are needed, such as ", scale_to_8bit=(0, 65535)".

    Raises:
        UndecidedImageError: always.
    """
    or_rgb = f" If they are red, green and blue, pass channels='rgb'{hint}." if len(names) == 3 else ""
    raise UndecidedImageError(
        f"{what} ({listed(names)}), not one RGB image. Choose channels by number or name, such as channels=[0]{hint}."
        f"{or_rgb}",
        tuple(names),
    )


def listed(names: Sequence[str]) -> str:
    """Numbers and names of channels, for messages."""
    return ", ".join(f"{number}: '{name}'" for number, name in enumerate(names))


def scaling_hint(dtype: np.dtype[Any] | None, bits: int | None = None) -> str:
    """The argument that scales all values of a type (of so many `bits` used) to 8 bits, after a comma, for messages.

    Empty for types that are not scaled.
    """
    if dtype is None or dtype.kind not in "iuf" or dtype == "uint8":
        return ""
    if dtype.kind == "f":
        return ", scale_to_8bit=(0, 1.0)"
    high = np.iinfo(dtype).max if bits is None else 2 ** (bits - (dtype.kind == "i")) - 1
    return f", scale_to_8bit=(0, {high})"
