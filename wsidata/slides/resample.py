"""Resampling of a level to the requested resolution (Lanczos-3), whole or region by region.

A region is resampled by the same pipeline as the whole, on a canvas of the level's size on which only the surroundings
of the region are painted. So its pixels are those of the whole: there is no second arithmetic to agree with.
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
"""Radius of Lanczos-3, in output pixels when shrinking, in input pixels when enlarging."""

MARGIN_PX = 8
"""More than libvips' rounding of origins and sizes can shift its grid, in input pixels, at factors near 1."""

_ROUNDING_PX = 1e-9
"""How far below a whole output pixel a quotient may lie that is meant to be that pixel: (544 + 0.5) / 1.1 is 495."""

ReadRegion = Callable[[Rectangle], NDArray[Any]]
"""From a rectangle inside an image to its pixels: (height, width, bands), memory of its own."""


def resample(image: pyvips.Image, plan: Resampling) -> pyvips.Image:
    """Shrink (or, within the tolerance, enlarge) a level by the plan's true factors, lazily.

    libvips centers its grid on the image it is given, so the image is first cut or extended, by about half an output
    pixel at most, to the width the output stands for. What remains is a shift of at most an eighth of an output pixel.

    Args:
        image: The whole level.
        plan: Factors and size of the output. The top left corner stays in place.
    """
    if plan.is_identity:
        return image
    width, height = _spanned(plan.width, plan.factor_x), _spanned(plan.height, plan.factor_y)
    if (width, height) != (image.width, image.height):
        image = image.gravity("north-west", width, height, extend="copy")
    return image.resize(1 / plan.factor_x, vscale=1 / plan.factor_y, kernel="lanczos3")


def _spanned(output_px: int, factor: float) -> int:
    """Input pixels that some output pixels stand for, in whole blocks of libvips' first, box-shrinking step."""
    block = max(1, math.floor(factor / 2))
    return max(1, round(output_px * factor / block)) * block


@dataclass(frozen=True)
class ResampledRegions:
    """Reads regions of a slide at one resolution, from the plan's `level`; `to_color` of None leaves stored colors."""

    read: ReadRectangle
    level: Level
    plan: Resampling
    to_color: Callable[[pyvips.Image], pyvips.Image] | None
    name: str

    def __call__(self, region: Rectangle) -> NDArray[Any]:
        """Decode what the region needs, and no more."""
        if self.plan.is_identity and self.to_color is None:  # nothing between decoder and caller
            return self.read(region.x, region.y, region.width, region.height)
        with naming_errors(self.name):
            image = self._resampled(region)
            return pixels_of(image if self.to_color is None else self.to_color(image))

    def _resampled(self, region: Rectangle) -> pyvips.Image:
        source = region if self.plan.is_identity else source_region(self.plan, self.level, region)
        part = pyvips.Image.new_from_array(self.read(source.x, source.y, source.width, source.height))
        if self.plan.is_identity:
            return part
        canvas = pyvips.Image.black(self.level.width, self.level.height, bands=part.bands).cast(part.format)
        whole = resample(canvas.insert(part, source.x, source.y), self.plan)
        return whole.crop(region.x, region.y, region.width, region.height)


def source_region(plan: Resampling, level: Level, region: Rectangle) -> Rectangle:
    """The part of the plan's level that a region of the output is resampled from, with all that the kernel reaches."""
    left, width = _reach(region.x, region.width, plan.factor_x, level.width)
    top, height = _reach(region.y, region.height, plan.factor_y, level.height)
    return Rectangle(left, top, width, height)


def shared_px(plan: Resampling, rim_px: int = 0) -> tuple[int, int]:
    """Columns and rows of the level that neighboring regions both need, side by side and one below the other.

    Regions are extended by `rim_px` pixels of the output on each side, for later operations.
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


def output_pixel(plan: Resampling, level: Level, x_lv0: float, y_lv0: float) -> tuple[int, int]:
    """The output pixel (column, row) that contains the center of a level-0 pixel, which may lie outside."""
    return (
        math.floor((x_lv0 + 0.5) / (level.downsample_x * plan.factor_x) + _ROUNDING_PX),
        math.floor((y_lv0 + 0.5) / (level.downsample_y * plan.factor_y) + _ROUNDING_PX),
    )


def pixels_of(image: pyvips.Image) -> NDArray[Any]:
    """The decoded pixels of an image: (height, width, bands)."""
    return np.asarray(image.numpy()).reshape(image.height, image.width, image.bands)
