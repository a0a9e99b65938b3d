"""A photo's subject may fill it or be far away: crops of any size, brought to one, teach a network both.

For slides this is rarely right, as their scale means something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyvips

from wsidata.transforms.base import (
    Operation,
    Points,
    Transform,
    TransformError,
    check_probability,
    check_range,
)
from wsidata.utils.messages import check_choice
from wsidata.utils.rectangle import Rectangle

Position = Literal["centre", "random"]


class CropOrPad(Transform):
    """Bring a picture to a fixed size: crop what is too large, pad what is too small.

    Where the difference is odd, the extra row or column goes to the bottom or right.

    Args:
        size: Height and width in pixels, or one number for both.
        fill: Value of the padding in all bands. None: white in the picture's number format (255, 65535
            or 1.0), or no light where a data module reads channels.
        mask_fill: Value of the padding in masks. None: 0, or no class where a data module reads masks.
        position: "centre" crops and pads around the centre; "random" crops anywhere, and pads around the centre.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        fill: float | None = None,
        mask_fill: float | None = None,
        position: Position = "centre",
    ) -> None:
        check_choice("position", position, ("centre", "random"), TransformError)
        self.height_px, self.width_px = check_size(size)
        self.fill = fill
        self.mask_fill = mask_fill
        self.position = position

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Window | None:
        """Place the window."""
        if (image.height, image.width) == (self.height_px, self.width_px):
            return None
        left, top = self._start(image.width - self.width_px, rng), self._start(image.height - self.height_px, rng)
        white_of(image, self.fill)  # refuses early
        return Window(left, top, self.width_px, self.height_px, self.fill, self.mask_fill)

    def _start(self, spare_px: int, rng: np.random.Generator) -> int:
        if self.position == "random" and spare_px > 0:
            return int(rng.integers(spare_px + 1))
        return -(-spare_px // 2) if spare_px < 0 else spare_px // 2


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a size given as one number or two.

    Raises:
        TransformError: if it is neither, or not positive.
    """
    sides = (size, size) if isinstance(size, int) else size
    if (
        not isinstance(sides, (tuple, list))
        or len(sides) != 2
        or not all(isinstance(side, int) and side > 0 for side in sides)
    ):
        raise TransformError(f"image size {size!r} must be one whole number of pixels above 0, or (height, width).")
    return sides[0], sides[1]


_WHITE = {"uchar": 255.0, "ushort": 65535.0, "float": 1.0, "double": 1.0}


@dataclass(frozen=True)
class Window(Operation):
    """A rectangle of the picture, which may reach beyond its edges.

    Attributes:
        left: First column; negative to begin outside.
        top: First row.
        width: Columns.
        height: Rows.
        fill: Value outside the picture. None: white in its number format.
        mask_fill: Value outside the masks. None: 0.
    """

    cost: ClassVar[float] = 0.3
    left: int
    top: int
    width: int
    height: int
    fill: float | None
    mask_fill: float | None

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Cut out, and fill."""
        right, bottom = self.left + self.width, self.top + self.height
        if self.left >= 0 and self.top >= 0 and right <= image.width and bottom <= image.height:
            return image.crop(self.left, self.top, self.width, self.height)
        return self._embed(image, white_of(image, self.fill))

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Cut out, and fill."""
        return self._embed(mask, self.mask_fill or 0)

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Shift."""
        return points - [self.left, self.top]

    def source_window(self, window: Rectangle, width_px: int, height_px: int) -> Rectangle:
        """The same, shifted."""
        return window.moved(self.left, self.top)

    def _embed(self, image: pyvips.Image, fill: float) -> pyvips.Image:
        background = [fill] * image.bands
        return image.embed(
            -self.left, -self.top, self.width, self.height, extend="background", background=background
        )  # fmt: skip


def white_of(image: pyvips.Image, fill: float | None) -> float:
    """`fill`, or white in the picture's number format.

    Raises:
        TransformError: if the format has no white that everybody agrees on.
    """
    if fill is not None:
        return fill
    if image.format not in _WHITE:
        raise TransformError(f"white is not known for a '{image.format}' picture. Pass fill=.")
    return _WHITE[image.format]


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
