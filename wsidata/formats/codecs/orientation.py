"""Turning of stored pixels upright, by an orientation of 1 to 8.

Exif 2.32, 4.6.4; TIFF 6.0, page 36.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

UPRIGHT = 1


def is_transposed(orientation: int) -> bool:
    """Whether stored rows are columns, so that width and height, x and y change places."""
    return orientation >= 5


def upright_size(height_px: int, width_px: int, orientation: int) -> tuple[int, int]:
    """(height, width) of an image once it is upright."""
    return (width_px, height_px) if is_transposed(orientation) else (height_px, width_px)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Stored pixels, (height, width, bands), turned upright.

    Returns:
        A view; of shape (width, height, bands) for 5 to 8.
    """
    if is_transposed(orientation):
        pixels = pixels.swapaxes(0, 1)
    if _is_upside_down(orientation):
        pixels = pixels[::-1]
    if _is_mirrored(orientation):
        pixels = pixels[:, ::-1]
    return pixels


def stored_rectangle(
    rectangle: tuple[int, int, int, int], stored_px: tuple[int, int], orientation: int
) -> tuple[int, int, int, int]:
    """The rectangle (x, y, width, height) of a stored image that is one of the upright image.

    Args:
        rectangle: In the upright image.
        stored_px: (width, height) of the stored image.
        orientation: 1 to 8.
    """
    x, y, width, height = rectangle
    upright_height, upright_width = upright_size(stored_px[1], stored_px[0], orientation)
    if _is_mirrored(orientation):
        x = upright_width - x - width
    if _is_upside_down(orientation):
        y = upright_height - y - height
    return (y, x, height, width) if is_transposed(orientation) else (x, y, width, height)


def upright_rectangle(
    rectangle: tuple[int, int, int, int], stored_px: tuple[int, int], orientation: int
) -> tuple[int, int, int, int]:
    """The rectangle (x, y, width, height) of the upright image that is one of the stored image; see above."""
    x, y, width, height = rectangle
    if is_transposed(orientation):
        x, y, width, height = y, x, height, width
    upright_height, upright_width = upright_size(stored_px[1], stored_px[0], orientation)
    if _is_upside_down(orientation):
        y = upright_height - y - height
    if _is_mirrored(orientation):
        x = upright_width - x - width
    return x, y, width, height


def turned_pair(pair: tuple[Any, Any], orientation: int) -> tuple[Any, Any]:
    """(x, y) of a stored image as (x, y) of the upright one: sizes, spacings, factors."""
    return (pair[1], pair[0]) if is_transposed(orientation) else pair


def upright_copy(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """`upright`, contiguous."""
    return pixels if orientation == UPRIGHT else np.ascontiguousarray(upright(pixels, orientation))


def _is_upside_down(orientation: int) -> bool:
    return orientation in (3, 4, 7, 8)


def _is_mirrored(orientation: int) -> bool:
    return orientation in (2, 3, 6, 7)
