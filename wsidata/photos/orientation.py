"""Cameras store the picture as the sensor lay, and note which way is up. It must be turned once: not never, not twice.

EXIF orientation     1        2        3        4         5          6          7          8
what was stored      a b      b a      d c      c d       a c        b d        d b        c a     of   a b
                     c d      d c      b a      a b       b d        a c        c a        d b          c d
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Samples = TypeVar("Samples", bound=np.generic)


def upright_size(height_px: int, width_px: int, orientation: int) -> tuple[int, int]:
    """(height, width) of a picture once it is upright."""
    return (width_px, height_px) if orientation >= 5 else (height_px, width_px)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels upright.

    Args:
        pixels: (height, width, bands) as stored.
        orientation: EXIF orientation, 1 to 8 (Exif 2.32, 4.6.4).

    Returns:
        A view; of shape (width, height, bands) for 5 to 8.
    """
    if orientation >= 5:  # stored columns are rows
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
