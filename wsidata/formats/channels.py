"""The channels to read, and the scaling of samples of more than 8 bits to 8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wsidata.errors import UnsupportedImageError

RGB_NAMES = ("red", "green", "blue")
PLAIN_TYPES = ("uint8", "uint16", "float32")
"""Types of samples that are returned as they are stored."""


@dataclass(frozen=True)
class PixelRequest:
    """The channels to read, and the scaling of their samples.

    Attributes:
        channels: Numbers or names of the channels, in that order; None for RGB.
        scale_to_8bit: (low, high): stored values that become 0 and 255, linear between; None leaves them.
    """

    channels: tuple[int | str, ...] | None = None
    scale_to_8bit: tuple[float, float] | None = None

    @classmethod
    def checked(
        cls, channels: Sequence[int | str] | int | str | None, scale_to_8bit: tuple[float, float] | None
    ) -> PixelRequest:
        """From unchecked arguments.

        Raises:
            ValueError: if no channel is named, or the scale is not (low, high).
        """
        if isinstance(channels, int | str):
            channels = (channels,)
        if channels is not None and len(channels) == 0:
            raise ValueError("channels=[] names no channel. Pass numbers or names, or leave it out for RGB.")
        if scale_to_8bit is not None:
            low, high = scale_to_8bit
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"scale_to_8bit={scale_to_8bit} must be (low, high) with low < high.")
        return cls(None if channels is None else tuple(channels), scale_to_8bit)


def channel_numbers(requested: Sequence[int | str], names: Sequence[str], path: object) -> tuple[int, ...]:
    """Indices of channels given by number or name, among the names of all channels of the file.

    Raises:
        UnsupportedImageError: for a missing channel, or a name that several share; it lists them all.
    """
    listing = ", ".join(f"{number}: '{name}'" for number, name in enumerate(names))
    numbers = []
    for one in requested:
        places = [one] if isinstance(one, int) else [place for place, name in enumerate(names) if name == one]
        if len(places) != 1 or not 0 <= places[0] < len(names):
            why = "is the name of several" if len(places) > 1 else "does not exist"
            raise UnsupportedImageError(
                f"'{path}': channel {one!r} {why}. It has {len(names)} ({listing}): choose by number or name."
            )
        numbers.append(places[0])
    return tuple(numbers)
