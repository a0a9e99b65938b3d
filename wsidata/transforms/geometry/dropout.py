"""Coarse dropout, which fills random rectangles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyvips

from wsidata.transforms.base import Operation, Transform, TransformError, check_probability, same_window
from wsidata.transforms.canvas import Canvas
from wsidata.transforms.geometry.crop import white_of
from wsidata.utils.rectangle import Rectangle


@dataclass(frozen=True)
class Holes(Operation):
    """Fill rectangles.

    Attributes:
        boxes: (left, top, width, height) of each, inside the image.
        fill: Value in all bands. None: white in the image's number format.
        mask_fill: Value in the masks; None leaves them unchanged.
    """

    cost: ClassVar[float] = 0.5
    boxes: tuple[tuple[int, int, int, int], ...]
    fill: float | None
    mask_fill: float | None
    source_window = same_window

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Fill."""
        return self._fill(image, white_of(image, self.fill))

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Fill, if `mask_fill` is set."""
        return mask if self.mask_fill is None else self._fill(mask, self.mask_fill)

    def on_canvas(self, canvas: Canvas) -> Canvas:
        """The plan with these rectangles filled."""
        value = replace(self, boxes=((0, 0, 1, 1),)).image(canvas.pixel)
        return canvas.filled([Rectangle(*box) for box in self.boxes], value)

    def filled(self, fill: float | None, mask_fill: float | None) -> Operation:
        """The same operation with `fill` where its own is None; `mask_fill` stays, as None means unchanged masks."""
        return super().filled(fill, None)

    def _fill(self, image: pyvips.Image, fill: float) -> pyvips.Image:
        for left, top, width, height in self.boxes:
            hole = (pyvips.Image.black(width, height, bands=image.bands) + fill).cast(image.format)
            image = image.insert(hole.copy(interpretation=image.interpretation), left, top)
        return image


class CoarseDropout(Transform):
    """Fill rectangles of random place and size.

    Args:
        count: Range of their number, at most 64.
        size_px: Range of their sides, in pixels; at most the image's.
        fill: Value in all bands. None: white in the image's number format.
        mask_fill: Value in the masks; None leaves them unchanged.
        p: Probability.
    """

    def __init__(
        self,
        count: tuple[int, int] = (1, 8),
        size_px: tuple[int, int] = (16, 64),
        fill: float | None = None,
        mask_fill: float | None = None,
        p: float = 1.0,
    ) -> None:
        for name, (low, high), most in (("count", count, 64), ("size_px", size_px, 2**31)):
            if not 1 <= low <= high <= most:
                raise TransformError(f"{name}={(low, high)} must be a range of whole numbers from 1 to {most}.")
        self.count = (int(count[0]), int(count[1]))
        self.size_px = (int(size_px[0]), int(size_px[1]))
        self.fill = fill
        self.mask_fill = mask_fill
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Holes:
        """Place the holes."""
        white_of(image, self.fill)
        boxes = []
        for _ in range(int(rng.integers(self.count[0], self.count[1], endpoint=True))):
            sizes = rng.integers(self.size_px[0], self.size_px[1], 2, endpoint=True)
            width, height = min(int(sizes[0]), image.width), min(int(sizes[1]), image.height)
            left = int(rng.integers(image.width - width + 1))
            top = int(rng.integers(image.height - height + 1))
            boxes.append((left, top, width, height))
        return Holes(tuple(boxes), self.fill, self.mask_fill)
