"""Conversion of colors to sRGB by the ICC profile in the file.

Phones store Display P3, cameras Adobe RGB. Most profiles say sRGB in one wording or another; those are recognized by
what they do to a grid of colors, and not applied.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.errors import UnsupportedImageError
from wsidata.remote.address import SlidePath

ICC_FIELD = "icc-profile-data"
UNCHANGED = 2
"""Of 255: profiles that change no color by more are sRGB. (Those that are, by 1; Display P3, by 112.)"""

_HEADER_BYTES, _GRID = 128, 17


class ProfileError(ValueError):
    """The bytes are no complete ICC profile."""


def is_rgb_profile(profile: bytes) -> bool:
    """Whether a profile describes RGB: one of gray or CMYK does not apply to RGB made from those (ICC.1, 7.2.8)."""
    return profile[16:20] == b"RGB "


def check_profile(profile: bytes) -> None:
    """Check that LittleCMS can open a profile; if not, libvips takes the pixels for sRGB without an error.

    Raises:
        ProfileError: if its header or table of tags is incomplete (ICC.1:2022, 7.2 and 7.3).
    """
    if len(profile) < _HEADER_BYTES + 4 or profile[36:40] != b"acsp":
        raise ProfileError("it is no ICC profile")
    size_bytes, tag_count = (int.from_bytes(profile[at : at + 4]) for at in (0, _HEADER_BYTES))
    table = profile[_HEADER_BYTES + 4 :][: 12 * tag_count]
    ends = [
        int.from_bytes(table[at + 4 : at + 8]) + int.from_bytes(table[at + 8 : at + 12])
        for at in range(0, len(table), 12)
    ]
    if len(profile) < max([size_bytes, *ends]) or len(table) < 12 * tag_count:
        raise ProfileError(f"it is cut off after {len(profile)} bytes")


def apply_profile(image: pyvips.Image, profile: bytes) -> pyvips.Image:
    """A uchar image of 3 bands, or 1 of gray, converted to sRGB (relative colorimetric, by LittleCMS), lazily."""
    tagged = image.copy()
    tagged.set_type(pyvips.GValue.blob_type, ICC_FIELD, profile)
    shown = tagged.icc_transform("srgb", embedded=True, intent="relative", pcs="lab", black_point_compensation=False)
    plain = shown.copy(interpretation="srgb")
    plain.remove(ICC_FIELD)
    return plain


def by_profile(image: pyvips.Image, profile: bytes, name: str) -> pyvips.Image:
    """A slide's stored RGB colors converted to sRGB, if its profile is one of RGB; lazily.

    Raises:
        UnsupportedImageError: if the profile is damaged.
    """
    try:
        check_profile(profile)
    except ProfileError as error:
        raise UnsupportedImageError(
            f"slide '{name}' has a color profile that cannot be applied: {error}. Leave out apply_icc=True to read "
            "the stored values."
        ) from error
    return apply_profile(image, profile) if is_rgb_profile(profile) else image


def to_srgb(pixels: NDArray[np.uint8], profile: bytes | None, path: SlidePath) -> NDArray[np.uint8]:
    """A photo's colors converted to sRGB, by relative colorimetric intent.

    Args:
        pixels: (height, width, 3) uint8, as stored; all three alike if the file is gray.
        profile: The ICC profile in the file, or None for sRGB. One of CMYK is ignored: the conversion to RGB has
            applied it.
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
        is_gray = profile[16:20] == b"GRAY"
        is_of_pixels = (pixels == pixels[..., :1]).all() if is_gray else is_rgb_profile(profile)
        return _applied(pixels, profile, is_gray) if is_of_pixels and _changes_colors(profile, is_gray) else pixels
    except (pyvips.Error, ProfileError) as error:
        raise UnsupportedImageError(
            f"'{path}' has a color profile that cannot be applied ({' '.join(str(error).split())}), so its colors "
            "are unknown. Save it without the profile, or take the stored values for sRGB with apply_icc=False."
        ) from error


@lru_cache(maxsize=256)
def _changes_colors(profile: bytes, is_gray: bool) -> bool:
    steps = np.linspace(0, 255, _GRID).round().astype(np.uint8)
    if is_gray:
        colors = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    else:
        colors = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(_GRID, -1, 3)
    shown = _applied(colors, profile, is_gray)
    return int(np.abs(shown.astype(np.int16) - colors).max()) > UNCHANGED


def _applied(pixels: NDArray[np.uint8], profile: bytes, is_gray: bool) -> NDArray[np.uint8]:
    if is_gray:
        image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels[..., 0])).copy(interpretation="b-w")
    else:
        image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    return np.asarray(apply_profile(image, profile).numpy(), dtype=np.uint8)
