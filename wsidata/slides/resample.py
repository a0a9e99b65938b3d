"""Resampling of a level to the requested resolution (Lanczos-3), whole or region by region.

Output pixel i is centered on (i + 0.5) * factor, counted in pixels of the level from its edge, to 1/50 of an output
pixel, whatever the factor. A region is resampled by the same pipeline as the whole, on a canvas of the level's size on
which only the surroundings of the region are painted. So its pixels are those of the whole: there is no second
arithmetic to agree with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.levels import Level, Resampling
from wsidata.formats.vips import DECODED_AT_ONCE_BYTES, naming_errors, pixels_of
from wsidata.utils.rectangle import Pixels, Put, ReadParts, Rectangle

RESAMPLING_VERSION = 2
"""Counts changes of what is resampled, so that an export that is resumed does not mix pixels of two versions."""

KERNEL_RADIUS = 3
"""Radius of Lanczos-3, in output pixels when shrinking, in input pixels when enlarging."""

MARGIN_PX = 8
"""More than rounding to whole blocks can shift the grid, in input pixels, at factors near 1."""

_OFF_CENTER = 0.01
"""Largest shift of the grid, in output pixels. libvips' 64 phases of the kernel add up to 1/128 of an input pixel."""

_PHASES = 2**26
"""Factors are rounded to this fraction of a pixel, so that libvips, which adds them up along a row, is exact.

Then a tile's place does not depend on where the request began. A side of 100,000 pixels changes by 1/1000 of one."""

_PIXEL_BYTES = 4
"""Of a pixel of the level, about, in deciding how much of it is decoded at a time."""

_EDGE_PX = 1e-6
"""Pixels within which edges in um count as those of a pixel, or of half of one."""
_ROUNDING_PX = 1e-9
"""How far below a whole output pixel a quotient may lie that is meant to be that pixel: (544 + 0.5) / 1.1 is 495."""

ReadRegion = Callable[[Rectangle], Pixels]
"""From a rectangle inside an image to its pixels: (height, width, bands), memory of its own."""

STRIP_PX = 512
"""Rows of a resampled image that are passed on at a time."""


def resample(image: pyvips.Image, plan: Resampling, region: Rectangle | None = None) -> pyvips.Image:
    """Shrink (or, within the tolerance, enlarge) a level by the plan's true factors, lazily.

    Shrinking averages whole blocks first where the factor is 4 or more, as libvips' `resize` does, and applies
    Lanczos-3 to what remains. Enlarging is bicubic (Catmull-Rom).

    Args:
        image: The whole level.
        plan: Factors and size of the output. The top left corner stays in place.
        region: The part of the output to return; None: all.
    """
    if plan.is_identity:
        resampled = image
    elif image.format == "ushort":  # libvips' integer weights add up to as little as 0.997; these cost no more
        resampled = _resampled(image.cast("float"), plan).rint().cast("ushort")
    else:
        resampled = _resampled(image, plan)
    part = Rectangle(0, 0, plan.width, plan.height) if region is None else region
    if (part.width, part.height) == (resampled.width, resampled.height):
        return resampled
    return resampled.crop(part.x, part.y, part.width, part.height)


def _resampled(image: pyvips.Image, plan: Resampling) -> pyvips.Image:
    """The output, perhaps with more columns and rows behind it."""
    x, y = _shrink(plan.width, image.width, plan.factor_x), _shrink(plan.height, image.height, plan.factor_y)
    if x.block > 1 or y.block > 1:
        image = image.shrink(x.block, y.block, ceil=True)
    if x.factor > 1 or y.factor > 1:
        image = image.embed(0, 0, x.span, y.span, extend="copy").reduce(x.factor, y.factor, kernel="lanczos3")
    return _enlarged(image, plan) if plan.factor_x < 1 or plan.factor_y < 1 else image


@dataclass(frozen=True)
class _Shrink:
    """How libvips shrinks along one axis without displacing anything.

    Its `reduceh` and `reducev` put the middle of their output on the middle of their input, whose sides are whole
    numbers of pixels: the picture is displaced by half of what was rounded. So the input is extended, at its end, to
    where a whole number of output pixels covers a whole number of its own. That costs nothing, as the rest is never
    computed.

    Attributes:
        block: Pixels that are averaged first.
        factor: Such blocks per output pixel.
        span: Blocks to extend the input to.
    """

    block: int
    factor: float
    span: int


@lru_cache(maxsize=256)
def _shrink(output_px: int, input_px: int, factor: float) -> _Shrink:
    if factor <= 1:
        return _Shrink(1, 1.0, input_px)
    block = max(1, math.floor(factor / 2))
    exact = round(factor / block * _PHASES) / _PHASES
    count, tried = max(output_px, math.ceil(input_px / (block * exact))), 1024
    while True:
        spans = np.arange(count, count + tried) * exact
        rounded_off = np.abs(spans - np.rint(spans))
        best = int(rounded_off.argmin())
        if rounded_off[best] <= 2 * exact * _OFF_CENTER:
            return _Shrink(block, exact, round(float(spans[best])))
        count, tried = count + tried, min(2 * tried, 2**20)


def _enlarged(image: pyvips.Image, plan: Resampling) -> pyvips.Image:
    """Enlarge the axes whose factor is below 1; libvips' own `resize` would displace the picture by half a pixel."""
    factors = [min(plan.factor_x, 1.0), min(plan.factor_y, 1.0)]
    starts = [(factor - 1) / 2 for factor in factors]
    # In libvips' coordinates pixel centers are whole numbers. Each is computed by itself, not summed up along a row.
    places = pyvips.Image.xyz(plan.width, plan.height).cast("double").linear(factors, starts)
    return image.mapim(places, interpolate=pyvips.Interpolate.new("bicubic"), extend="copy")


def shrunk_to(image: pyvips.Image, max_side_px: int) -> pyvips.Image:
    """An image with its longer side `max_side_px` or less, from edge to edge; a smaller one as it is."""
    scale = max_side_px / max(image.width, image.height)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in (image.width, image.height))
    return image.resize(width / image.width, vscale=height / image.height)


@dataclass(frozen=True)
class ResampledRegions:
    """Reads regions of a slide at one resolution, from the plan's `level`; `to_color` of None leaves stored colors."""

    read: ReadRegion
    level: Level
    plan: Resampling
    to_color: Callable[[pyvips.Image], pyvips.Image] | None
    name: str
    read_parts: ReadParts | None = None

    def parts(self, region: Rectangle, put: Put) -> None:
        """Decode what the region needs, and pass it on part by part."""
        if self.plan.is_identity and self.to_color is None and self.read_parts is not None:
            self.read_parts(region, put)
            return
        pixel_px = max(1.0, self.plan.factor_x) * max(1.0, self.plan.factor_y) * _PIXEL_BYTES
        rows = max(STRIP_PX, int(DECODED_AT_ONCE_BYTES / (region.width * pixel_px)))
        for part in region.strips(rows):
            if self.plan.is_identity and self.to_color is None:
                put(part, self(part))
                continue
            with naming_errors(self.name):
                level = self._level_around(part)
                whole = level if self.plan.is_identity else resample(level, self.plan)
                whole = whole if self.to_color is None else self.to_color(whole)
                by_rows = self.to_color is None and shrinks_bytes(level, self.plan)
                for strip in part.strips(STRIP_PX):
                    put(strip, shrunk(level, self.plan, strip) if by_rows else pixels_of(_cut(whole, strip)))

    def __call__(self, region: Rectangle) -> NDArray[Any]:
        """Decode what the region needs, and no more."""
        if self.plan.is_identity and self.to_color is None:  # nothing between decoder and caller
            return self.read(region)
        with naming_errors(self.name):
            level = self._level_around(region)
            image = _cut(level, region) if self.plan.is_identity else resample(level, self.plan, region)
            return pixels_of(image if self.to_color is None else self.to_color(image))

    def _level_around(self, region: Rectangle) -> pyvips.Image:
        """The plan's level, decoded where a region of the output needs it, and black elsewhere."""
        source = region if self.plan.is_identity else source_region(self.plan, self.level, region)
        part = pyvips.Image.new_from_array(self.read(source))
        return _placed(part, source.x, source.y, self.level.width, self.level.height)


def shrinks_bytes(image: pyvips.Image, plan: Resampling) -> bool:
    """Whether `shrunk` applies: 8 bits, and both sides become smaller."""
    return image.format == "uchar" and plan.factor_x > 1 and plan.factor_y > 1


def shrunk(image: pyvips.Image, plan: Resampling, region: Rectangle) -> Pixels:
    """The pixels of a region of `resample`, where `shrinks_bytes`, in two thirds of the time.

    libvips shrinks columns by vector instructions, and rows of RGB several times as slowly, by the same arithmetic. So
    the second of the two steps is made on the transposed picture.
    """
    x, y = _shrink(plan.width, image.width, plan.factor_x), _shrink(plan.height, image.height, plan.factor_y)
    if x.block > 1 or y.block > 1:
        image = image.shrink(x.block, y.block, ceil=True)
    tall = image.embed(0, 0, x.span, y.span, extend="copy")
    if y.factor > 1:
        tall = tall.reducev(y.factor, kernel="lanczos3")
    left, width = _reach(region.x, region.width, x.factor, x.span)
    rows = pixels_of(tall.crop(left, region.y, width, region.height))
    part = pyvips.Image.new_from_array(_transposed(rows))
    turned = _placed(part, 0, left, region.height, x.span)
    if x.factor > 1:
        turned = turned.reducev(x.factor, kernel="lanczos3")
    return _transposed(pixels_of(turned.crop(0, region.x, region.height, region.width)))


def _transposed(pixels: Pixels) -> Pixels:
    """Rows and columns of bytes, changed over; NumPy copies three bytes one at a time."""
    if pixels.shape[2] == 3:
        return np.asarray(cv2.transpose(pixels))
    return np.ascontiguousarray(pixels.swapaxes(0, 1))


def _placed(part: pyvips.Image, x: int, y: int, width: int, height: int) -> pyvips.Image:
    """A part of a picture on a black one of that size, at its place."""
    if (part.width, part.height) == (width, height):
        return part
    return pyvips.Image.black(width, height, bands=part.bands).cast(part.format).insert(part, x, y)


def _cut(image: pyvips.Image, region: Rectangle) -> pyvips.Image:
    return image.crop(region.x, region.y, region.width, region.height)


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


def pixel_span(start_um: float, length_um: float, mpp: float, what: str) -> tuple[int, int]:
    """The first pixel of a stretch along an axis, and how many it has; each edge is the nearest one of a pixel.

    Args:
        start_um: Where it begins, in um.
        length_um: Its length in um.
        mpp: um per pixel along the axis.
        what: What asks for it, for errors.

    Raises:
        ValueError: if it is not finite, or less than a pixel long.
    """
    if not (math.isfinite(start_um) and math.isfinite(length_um) and length_um >= mpp * (1 - _EDGE_PX)):
        raise ValueError(
            f"{what}: {start_um}, {length_um} um must be finite, and the size at least one pixel of {mpp:.4g} um."
        )
    # What is half a pixel but for the rounding of floats is rounded up at both edges.
    first, end = (math.floor(edge / mpp + 0.5 + _EDGE_PX) for edge in (start_um, start_um + length_um))
    return first, end - first
