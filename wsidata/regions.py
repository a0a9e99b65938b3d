"""Rectangles of a resampled slide: where they lie, what of the level they need, and what of them is outside.

Pure arithmetic, no files. Two promises rest on it:

    1. A region read at any resolution is the same region cut from the whole slide read at that resolution.
    2. So neighbouring regions join without a seam, if their places are whole multiples of their size in output pixels.

The second needs a rule for places, which are given in level-0 pixels, as in OpenSlide: a region begins at the output
pixel that holds the *centre* of that level-0 pixel. A place that was rounded to the nearest level-0 pixel therefore
comes back as the output pixel it was computed from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from wsidata.spacing import Level, Resampling

KERNEL_RADIUS = 3
"""Of Lanczos-3, in output pixels when shrinking, in input pixels when enlarging."""
MARGIN_PX = 8
"""More than what libvips' rounding of origins and sizes can shift its grid by, in input pixels, at factors near 1."""
_ROUNDING_PX = 1e-9
"""How far below a whole output pixel a quotient may lie that is meant to be that pixel: (544 + 0.5) / 1.1 is 495."""

ReadRectangle = Callable[[int, int, int, int], NDArray[Any]]
"""From (x, y, width, height) in pixels, a rectangle inside an image, to its pixels: (height, width, bands)."""


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels.

    Attributes:
        x: First column; may be negative.
        y: First row; may be negative.
        width: Columns, at least 1.
        height: Rows, at least 1.
    """

    x: int
    y: int
    width: int
    height: int

    def inside(self, width: int, height: int) -> Window | None:
        """The part of it that lies inside an image of this size; None where none does."""
        return self.inside_of(Window(0, 0, width, height))

    def inside_of(self, other: Window) -> Window | None:
        """The part of it that lies inside another window; None where none does."""
        left, right = max(self.x, other.x), min(self.x + self.width, other.x + other.width)
        top, bottom = max(self.y, other.y), min(self.y + self.height, other.y + other.height)
        return Window(left, top, right - left, bottom - top) if left < right and top < bottom else None

    def grown(self, rim: int) -> Window:
        """With so many pixels more on each side."""
        return Window(self.x - rim, self.y - rim, self.width + 2 * rim, self.height + 2 * rim)

    def moved(self, x: int, y: int) -> Window:
        """Shifted to the right and down."""
        return Window(self.x + x, self.y + y, self.width, self.height)

    def within(self, other: Window) -> tuple[slice, slice]:
        """Rows and columns of an array of `other` that this window is."""
        top, left = self.y - other.y, self.x - other.x
        return slice(top, top + self.height), slice(left, left + self.width)


def output_pixel(plan: Resampling, level: Level, x_lv0: float, y_lv0: float) -> tuple[int, int]:
    """The output pixel (column, row) that holds the centre of a level-0 pixel.

    Args:
        plan: How the slide is read.
        level: The level the plan decodes.
        x_lv0: Column, in pixels of level 0; may lie outside.
        y_lv0: Row, in pixels of level 0.
    """
    return (
        math.floor((x_lv0 + 0.5) / (level.downsample_x * plan.factor_x) + _ROUNDING_PX),
        math.floor((y_lv0 + 0.5) / (level.downsample_y * plan.factor_y) + _ROUNDING_PX),
    )


def level_zero_place(plan: Resampling, level: Level, x: int, y: int) -> tuple[int, int]:
    """The level-0 pixel nearest to the corner of an output pixel: the inverse of `output_pixel`.

    Args:
        plan: How the slide is read.
        level: The level the plan decodes.
        x: Column of the output.
        y: Row of the output.
    """
    return (
        math.floor(x * level.downsample_x * plan.factor_x + 0.5),
        math.floor(y * level.downsample_y * plan.factor_y + 0.5),
    )


def source_window(plan: Resampling, level: Level, window: Window) -> Window:
    """What of the level is needed to resample a window of the output exactly as in the whole image.

    Args:
        plan: How the slide is read.
        level: The level the plan decodes.
        window: A rectangle inside the output.

    Returns:
        A rectangle inside the level, with the surroundings the kernel reaches into.
    """
    left, width = _reach(window.x, window.width, plan.factor_x, level.width)
    top, height = _reach(window.y, window.height, plan.factor_y, level.height)
    return Window(left, top, width, height)


def shared_px(plan: Resampling, rim_px: int = 0) -> tuple[int, int]:
    """Columns and rows of the level that windows side by side, and one below the other, both need.

    Args:
        plan: How the slide is read.
        rim_px: Pixels of the output that windows take more on each side, for what is done to them afterwards.
    """
    if plan.is_identity:
        return 2 * rim_px, 2 * rim_px
    x, y = (2 * (_margin(factor) + math.ceil(rim_px * factor)) for factor in (plan.factor_x, plan.factor_y))
    return x, y


def _margin(factor: float) -> int:
    return math.ceil((KERNEL_RADIUS + 1) * max(factor, 1.0)) + MARGIN_PX


def _reach(start: int, count: int, factor: float, side: int) -> tuple[int, int]:
    margin = _margin(factor)
    first = min(max(0, math.floor(start * factor) - margin), side - 1)
    last = min(side, math.ceil((start + count) * factor) + margin)
    return first, last - first
