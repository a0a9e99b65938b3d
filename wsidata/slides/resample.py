"""From a level's pixels to those of the resolution asked for, by libvips (Lanczos-3).

A window of the result is made by the very pipeline that makes the whole, on a canvas of the level's size on which only
the surroundings of the window are painted. So it has the same pixels: there is no second arithmetic to agree with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.levels import Level, Resampling
from wsidata.formats.vips import naming_errors
from wsidata.utils.rectangle import ReadRectangle, Rectangle

KERNEL_RADIUS = 3
"""Of Lanczos-3, in output pixels when shrinking, in input pixels when enlarging."""


MARGIN_PX = 8
"""More than what libvips' rounding of origins and sizes can shift its grid by, in input pixels, at factors near 1."""


_ROUNDING_PX = 1e-9
"""How far below a whole output pixel a quotient may lie that is meant to be that pixel: (544 + 0.5) / 1.1 is 495."""


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


def source_window(plan: Resampling, level: Level, window: Rectangle) -> Rectangle:
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
    return Rectangle(left, top, width, height)


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


ReadWindow = Callable[[Rectangle], NDArray[Any]]
"""From a rectangle inside a picture to its pixels: (height, width, bands), memory of its own."""


@dataclass(frozen=True)
class PlannedWindows:
    """Rectangles of a slide at one resolution.

    Attributes:
        read: Reads rectangles of the level.
        level: The level the plan decodes.
        plan: How it is resampled.
        coloured: Turns the stored colours into those wanted; None leaves them.
        name: The slide, for errors.
    """

    read: ReadRectangle
    level: Level
    plan: Resampling
    coloured: Callable[[pyvips.Image], pyvips.Image] | None
    name: str

    def __call__(self, window: Rectangle) -> NDArray[Any]:
        """Decode what the rectangle needs, and no more."""
        if self.plan.is_identity and self.coloured is None:  # nothing between decoder and caller
            return self.read(window.x, window.y, window.width, window.height)
        with naming_errors(self.name):
            image = resampled_window(self.read, self.level, self.plan, window)
            shown = image if self.coloured is None else self.coloured(image)
            return window_pixels(shown, window)


def resample(image: pyvips.Image, plan: Resampling) -> pyvips.Image:
    """Shrink (or, within the tolerance, enlarge) by the plan's true factors, the top left corner in place, lazily.

    libvips centres its grid on the image it is given, so the image is first cut or continued, by about half an output
    pixel at most, to the width the output stands for. What remains is a shift of at most an eighth of an output pixel.

    Args:
        image: The whole level.
        plan: What to make of it.
    """
    if plan.is_identity:
        return image
    width, height = _spanned(plan.width, plan.factor_x), _spanned(plan.height, plan.factor_y)
    if (width, height) != (image.width, image.height):
        image = image.gravity("north-west", width, height, extend="copy")
    return image.resize(1 / plan.factor_x, vscale=1 / plan.factor_y, kernel="lanczos3")


def resampled_window(read: ReadRectangle, level: Level, plan: Resampling, window: Rectangle) -> pyvips.Image:
    """A rectangle of `resample`'s result, of which only the part of the level it needs is decoded.

    Args:
        read: Reads rectangles of the level.
        level: The level the plan decodes.
        plan: What to make of it.
        window: A rectangle inside the result.
    """
    source = window if plan.is_identity else source_window(plan, level, window)
    part = pyvips.Image.new_from_array(read(source.x, source.y, source.width, source.height))
    if plan.is_identity:
        return part
    canvas = pyvips.Image.black(level.width, level.height, bands=part.bands).cast(part.format)
    whole = resample(canvas.insert(part, source.x, source.y), plan)
    return whole.crop(window.x, window.y, window.width, window.height)


def _spanned(output_px: int, factor: float) -> int:
    """Input pixels that so many output pixels stand for, in whole blocks of libvips' first, box-shrinking step."""
    block = max(1, math.floor(factor / 2))
    return max(1, round(output_px * factor / block)) * block


def window_pixels(image: pyvips.Image, window: Rectangle) -> NDArray[Any]:
    """The pixels of an image of a window's size: (height, width, bands)."""
    return np.asarray(image.numpy()).reshape(window.height, window.width, image.bands)
