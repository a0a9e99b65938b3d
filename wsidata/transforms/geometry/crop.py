"""A photo's subject may fill it or be far away: crops of any size, brought to one, teach a network both.

For slides this is rarely right, as their scale means something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyvips

from wsidata.transform_base import Operation, Points, Transform, TransformError, check_probability, check_range
from wsidata.transform_geometry import check_size

_ATTEMPTS = 10
_CENTRE = 0.5 + 1e-7  # of a pixel; a centre on the border of two pixels takes the second, whatever is rounded


@dataclass(frozen=True)
class ResizedWindow(Operation):
    """A rectangle inside the picture, resampled: pictures linear and antialiased, masks nearest neighbour.

    Attributes:
        left: First column.
        top: First row.
        width: Columns that are cut out.
        height: Rows that are cut out.
        to_width: Columns of the result.
        to_height: Rows of the result.
    """

    cost: ClassVar[float] = 2.0
    left: int
    top: int
    width: int
    height: int
    to_width: int
    to_height: int

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Cut out, and resample: libvips' `resize` would shift what it enlarges by a part of a pixel."""
        part = image.crop(self.left, self.top, self.width, self.height)
        if self.to_height < self.height:
            part = part.reducev(self.height / self.to_height, kernel="linear")
        if self.to_width < self.width:
            part = part.reduceh(self.width / self.to_width, kernel="linear")
        return part if (part.width, part.height) == (self.to_width, self.to_height) else self._stretch(part, "bilinear")

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Cut out, and take for each pixel the one under its centre."""
        return self._stretch(mask.crop(self.left, self.top, self.width, self.height), "nearest")

    def _stretch(self, part: pyvips.Image, interpolate: str) -> pyvips.Image:
        """To the size of the result, without antialiasing."""
        x, y = self.to_width / part.width, self.to_height / part.height
        # libvips counts from pixel centres. "nearest" takes the whole part of a coordinate, so there the place itself
        # is wanted.
        shift = [0.5 * x - 0.5, 0.5 * y - 0.5] if interpolate == "bilinear" else [-_CENTRE, -_CENTRE]
        return part.affine(
            [x, 0, 0, y],
            oarea=[0, 0, self.to_width, self.to_height],
            odx=shift[0],
            ody=shift[1],
            interpolate=pyvips.Interpolate.new(interpolate),
            extend="copy",
        )

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Shift and stretch."""
        scale = self.to_width / self.width, self.to_height / self.height
        return np.asarray((points - [self.left, self.top]) * scale)


class RandomResizedCrop(Transform):
    """A rectangle of random area and shape, anywhere in the picture, brought to one size.

    Area and shape are drawn as torchvision's `RandomResizedCrop` draws them: the area uniformly, the shape
    log-uniformly; after ten rectangles that do not fit, the largest one in the middle whose shape is allowed.

    Args:
        size: Height and width of the result in pixels, or one number for both.
        area: Range of the share of the picture that is shown.
        shape: Range of the rectangle's width divided by its height.
        p: Probability; otherwise the largest rectangle in the middle of the result's shape.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        area: tuple[float, float] = (0.35, 1.0),
        shape: tuple[float, float] = (3 / 4, 4 / 3),
        p: float = 1.0,
    ) -> None:
        self.height_px, self.width_px = check_size(size)
        self.area = check_range("area", area, 1e-4)
        self.shape = check_range("shape", shape, 0.01)
        if self.area[1] > 1:
            raise TransformError(f"area={area} is a share of the picture, at most 1.")
        self.probability = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> ResizedWindow:
        """Choose the rectangle."""
        if self.probability < 1 and rng.random() >= self.probability:
            shape = self.width_px / self.height_px
            return self._middle(image.width, image.height, (shape, shape))
        for _ in range(_ATTEMPTS):
            area = rng.uniform(*self.area) * image.width * image.height
            shape = math.exp(rng.uniform(math.log(self.shape[0]), math.log(self.shape[1])))
            width, height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < width <= image.width and 0 < height <= image.height:
                left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
                return ResizedWindow(int(left), int(top), width, height, self.width_px, self.height_px)
        return self._middle(image.width, image.height, self.shape)

    def _middle(self, width_px: int, height_px: int, shape: tuple[float, float]) -> ResizedWindow:
        """The largest rectangle in the middle whose shape lies in a range."""
        wanted = min(max(width_px / height_px, shape[0]), shape[1])
        width = max(1, min(width_px, round(height_px * wanted)))
        height = max(1, min(height_px, round(width_px / wanted)))
        left, top = (width_px - width) // 2, (height_px - height) // 2
        return ResizedWindow(left, top, width, height, self.width_px, self.height_px)
