"""Phones store Display P3, cameras Adobe RGB: the same bytes are other colours. The profile in the file says which.

Most profiles say sRGB in one wording or another, and change nothing; those are recognised by what they do to a grid of
colours, and not applied.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.errors import UnsupportedImageError

ICC_FIELD = "icc-profile-data"


_ICC_HEADER_BYTES = 128


class ProfileError(ValueError):
    """The bytes are no whole ICC profile."""


def is_rgb_profile(profile: bytes) -> bool:
    """Whether a profile describes RGB: one of grey or ink says nothing about the RGB made of those (ICC.1, 7.2.8)."""
    return profile[16:20] == b"RGB "


def check_profile(profile: bytes) -> None:
    """Refuse a profile that LittleCMS would not open; libvips then takes the pixels for sRGB without an error.

    Raises:
        ProfileError: if its header or table of tags is not whole (ICC.1:2022, 7.2 and 7.3).
    """
    if len(profile) < _ICC_HEADER_BYTES + 4 or profile[36:40] != b"acsp":
        raise ProfileError("it is no ICC profile")
    size_bytes, tag_count = (
        int.from_bytes(profile[:4]),
        int.from_bytes(profile[_ICC_HEADER_BYTES : _ICC_HEADER_BYTES + 4]),
    )
    table = profile[_ICC_HEADER_BYTES + 4 :][: 12 * tag_count]
    ends = [
        int.from_bytes(table[at + 4 : at + 8]) + int.from_bytes(table[at + 8 : at + 12])
        for at in range(0, len(table), 12)
    ]
    if len(profile) < max([size_bytes, *ends]) or len(table) < 12 * tag_count:
        raise ProfileError(f"it is cut off after {len(profile)} bytes")


def apply_profile(image: pyvips.Image, profile: bytes) -> pyvips.Image:
    """Turn the scanner's colours into sRGB (relative colorimetric, as libvips does it by LittleCMS).

    Args:
        image: uchar, 3 bands, in the scanner's colours.
        profile: Its ICC profile.
    """
    tagged = image.copy()
    tagged.set_type(pyvips.GValue.blob_type, ICC_FIELD, profile)
    shown = tagged.icc_transform("srgb", embedded=True, intent="relative", pcs="lab", black_point_compensation=False)
    plain = shown.copy(interpretation="srgb")
    plain.remove(ICC_FIELD)
    return plain


def by_profile(image: pyvips.Image, profile: bytes, name: str) -> pyvips.Image:
    """The stored colours of a slide as sRGB, if its profile is one of RGB; lazily.

    Args:
        image: RGB.
        profile: The ICC profile in the file.
        name: The slide, for errors.

    Raises:
        UnsupportedImageError: if the profile is damaged.
    """
    try:
        check_profile(profile)
    except ProfileError as error:
        raise UnsupportedImageError(
            f"slide '{name}' has a colour profile that cannot be applied: {error}. Leave out apply_icc=True to read "
            "the stored values."
        ) from error
    return apply_profile(image, profile) if is_rgb_profile(profile) else image


GREY = b"GRAY"


UNCHANGED = 2
"""Of 255: profiles that change no colour by more are sRGB. (Those that are, by 1; Display P3, by 112.)"""


_GRID = 17


def to_srgb(pixels: NDArray[np.uint8], profile: bytes | None, path: Path) -> NDArray[np.uint8]:
    """Colours as sRGB, by relative colorimetric intent.

    Args:
        pixels: (height, width, 3), as stored; all three alike if the file is grey.
        profile: The ICC profile in the file, or None for sRGB. One of ink is ignored: whoever made RGB of the ink
            has applied it.
        path: The file, for errors.

    Returns:
        (height, width, 3) uint8.

    Raises:
        UnsupportedImageError: if the profile is damaged.
    """
    if profile is None:
        return pixels
    try:
        check_profile(profile)
        is_grey = profile[16:20] == GREY
        if not is_grey and not is_rgb_profile(profile):
            return pixels
        if is_grey and not (pixels == pixels[..., :1]).all():
            return pixels
        return _applied(pixels, profile, is_grey) if _changes_colours(profile, is_grey) else pixels
    except (pyvips.Error, ProfileError) as error:
        raise UnsupportedImageError(
            f"'{path}' has a colour profile that cannot be applied ({' '.join(str(error).split())}), so its colours "
            "are not known. Save it without the profile, or take the stored values for sRGB with apply_icc=False."
        ) from error


@lru_cache(maxsize=256)
def _changes_colours(profile: bytes, is_grey: bool) -> bool:
    steps = np.linspace(0, 255, _GRID).round().astype(np.uint8)
    if is_grey:
        colours = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    else:
        colours = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(_GRID, -1, 3)
    shown = _applied(colours, profile, is_grey)
    return int(np.abs(shown.astype(np.int16) - colours).max()) > UNCHANGED


def _applied(pixels: NDArray[np.uint8], profile: bytes, is_grey: bool) -> NDArray[np.uint8]:
    if is_grey:
        image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels[..., 0])).copy(interpretation="b-w")
    else:
        image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    return np.asarray(apply_profile(image, profile).numpy(), dtype=np.uint8)
