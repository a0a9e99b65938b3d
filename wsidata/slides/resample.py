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

from wsidata.formats.vips import naming_errors
from wsidata.regions import ReadRectangle, Window, source_window
from wsidata.spacing import Level, Resampling

ReadWindow = Callable[[Window], NDArray[Any]]
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

    def __call__(self, window: Window) -> NDArray[Any]:
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


def resampled_window(read: ReadRectangle, level: Level, plan: Resampling, window: Window) -> pyvips.Image:
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


def window_pixels(image: pyvips.Image, window: Window) -> NDArray[Any]:
    """The pixels of an image of a window's size: (height, width, bands)."""
    return np.asarray(image.numpy()).reshape(window.height, window.width, image.bands)
