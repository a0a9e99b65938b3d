"""Crops to a fixed size, padded or resized."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pyvips

from wsidata.transforms.base import Operation, Points, Transform, TransformError, check_probability, check_range
from wsidata.transforms.canvas import Canvas
from wsidata.utils.messages import check_choice
from wsidata.utils.rectangle import Rectangle

Position = Literal["center", "centre", "random"]

_WHITE = {"uchar": 255.0, "ushort": 65535.0, "float": 1.0, "double": 1.0}
_ATTEMPTS = 10
_CENTER = 0.5 + 1e-7  # of a pixel; a center on the border of two pixels takes the second, whatever is rounded


@dataclass(frozen=True)
class CropWindow(Operation, saved_as="Window"):
    """A rectangle of the image, which may reach beyond its edges.

    Attributes:
        left: First column; negative to begin outside.
        top: First row.
        width: Columns.
        height: Rows.
        fill: Value outside the image. None: white in its number format.
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
        """Crop, and pad."""
        right, bottom = self.left + self.width, self.top + self.height
        if self.left >= 0 and self.top >= 0 and right <= image.width and bottom <= image.height:
            return image.crop(self.left, self.top, self.width, self.height)
        return self._embed(image, white_of(image, self.fill))

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Crop, and pad."""
        return self._embed(mask, self.mask_fill or 0)

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Shift."""
        return points - [self.left, self.top]

    def source_window(self, window: Rectangle, width_px: int, height_px: int) -> Rectangle:
        """The rectangle, shifted."""
        return window.moved(self.left, self.top)

    def on_canvas(self, canvas: Canvas) -> Canvas:
        """The plan of the rectangle."""
        beside = replace(self, left=0, top=0, width=2, height=1)
        part = Rectangle(self.left, self.top, self.width, self.height)
        return canvas.window(part, lambda: beside.image(canvas.pixel).crop(1, 0, 1, 1))

    def _embed(self, image: pyvips.Image, fill: float) -> pyvips.Image:
        background = [fill] * image.bands
        return image.embed(
            -self.left, -self.top, self.width, self.height, extend="background", background=background
        )  # fmt: skip


@dataclass(frozen=True)
class ResizedWindow(Operation):
    """A rectangle inside the image, resampled: images linear and antialiased, masks nearest neighbor.

    Attributes:
        left: First column.
        top: First row.
        width: Columns of the crop.
        height: Rows of the crop.
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
        """Crop and resample; libvips' `resize` would shift by a part of a pixel what it enlarges."""
        if image.format == "ushort":  # libvips' integer weights add up to less than 1
            return self.image(image.cast("float")).rint().cast("ushort")
        part = image.crop(self.left, self.top, self.width, self.height)
        if self.to_height < self.height:
            part = part.reducev(self.height / self.to_height, kernel="linear")
        if self.to_width < self.width:
            part = part.reduceh(self.width / self.to_width, kernel="linear")
        return part if (part.width, part.height) == (self.to_width, self.to_height) else self._stretch(part, "bilinear")

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Crop, and take for each pixel the one under its center."""
        return self._stretch(mask.crop(self.left, self.top, self.width, self.height), "nearest")

    def _stretch(self, part: pyvips.Image, interpolate: str) -> pyvips.Image:
        """To the size of the result, without antialiasing."""
        x, y = self.to_width / part.width, self.to_height / part.height
        # libvips counts from pixel centers; "nearest" takes the whole part of a coordinate, so it needs the place.
        shift = [0.5 * x - 0.5, 0.5 * y - 0.5] if interpolate == "bilinear" else [-_CENTER, -_CENTER]
        return part.affine(
            [x, 0, 0, y],
            oarea=[0, 0, self.to_width, self.to_height],
            odx=shift[0],
            ody=shift[1],
            interpolate=pyvips.Interpolate.new(interpolate),
            extend="copy",
        )

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Shift and scale."""
        scale = self.to_width / self.width, self.to_height / self.height
        return np.asarray((points - [self.left, self.top]) * scale)


class CropOrPad(Transform):
    """Crop what is larger than a fixed size, pad what is smaller.

    Where the difference is odd, the extra row or column goes to the bottom or right.

    Args:
        size: Height and width in pixels, or one number for both.
        fill: Value of the padding in all bands. None: white in the image's number format (255, 65535 or 1.0), or no
            light where a data module reads channels.
        mask_fill: Value of the padding in masks. None: 0, or no class where a data module reads masks.
        position: "center" crops and pads around the center; "random" crops anywhere, and pads around the center.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        fill: float | None = None,
        mask_fill: float | None = None,
        position: Position = "center",
    ) -> None:
        if position != "centre":
            check_choice("position", position, ("center", "random"), TransformError)
        self.height_px, self.width_px = check_size(size)
        self.fill = fill
        self.mask_fill = mask_fill
        self.position = "centre" if position == "center" else position  # as exports describe it

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> CropWindow | None:
        """Choose the rectangle."""
        if (image.height, image.width) == (self.height_px, self.width_px):
            return None
        left, top = self._start(image.width - self.width_px, rng), self._start(image.height - self.height_px, rng)
        white_of(image, self.fill)  # raises early
        return CropWindow(left, top, self.width_px, self.height_px, self.fill, self.mask_fill)

    def _start(self, spare_px: int, rng: np.random.Generator) -> int:
        if self.position == "random" and spare_px > 0:
            return int(rng.integers(spare_px + 1))
        return -(-spare_px // 2) if spare_px < 0 else spare_px // 2


class RandomResizedCrop(Transform):
    """A rectangle of random area and shape, anywhere in the image, resized to one size; for photos.

    Area and shape are drawn as torchvision's `RandomResizedCrop` draws them: the area uniformly, the shape
    log-uniformly; after ten rectangles that do not fit, the largest one in the middle with a shape in range. Slides,
    whose scale has a meaning, rarely need it.

    Args:
        size: Height and width of the result in pixels, or one number for both.
        area: Range of the rectangle's share of the image.
        shape: Range of the rectangle's width divided by its height.
        p: Probability; otherwise the largest rectangle in the middle with the result's shape.
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
            raise TransformError(f"area={area} is a share of the image, at most 1.")
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
        """The largest rectangle in the middle with a shape in a range."""
        ratio = min(max(width_px / height_px, shape[0]), shape[1])
        width = max(1, min(width_px, round(height_px * ratio)))
        height = max(1, min(height_px, round(width_px / ratio)))
        left, top = (width_px - width) // 2, (height_px - height) // 2
        return ResizedWindow(left, top, width, height, self.width_px, self.height_px)


def check_size(size: int | tuple[int, int], what: str = "image size") -> tuple[int, int]:
    """Height and width of a size that is one number or two; `what` it is of, for the error.

    Raises:
        TransformError: if it is neither, or not positive.
    """
    sides = (size, size) if isinstance(size, int) else size
    if (
        not isinstance(sides, (tuple, list))
        or len(sides) != 2
        or not all(isinstance(side, int) and side > 0 for side in sides)
    ):
        raise TransformError(f"{what} {size!r} must be one whole number of pixels above 0, or (height, width).")
    return sides[0], sides[1]


def white_of(image: pyvips.Image, fill: float | None) -> float:
    """`fill`, or white in the image's number format.

    Raises:
        TransformError: if the number format has no agreed white.
    """
    if fill is not None:
        return fill
    if image.format not in _WHITE:
        raise TransformError(f"white is not known for a '{image.format}' image. Pass fill=.")
    return _WHITE[image.format]
