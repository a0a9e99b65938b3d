"""Flips, right-angle rotations and affine maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.transforms.base import (
    Operation,
    Points,
    Transform,
    TransformError,
    check_limit,
    check_probability,
    check_range,
)
from wsidata.transforms.canvas import Canvas
from wsidata.transforms.geometry.crop import white_of
from wsidata.transforms.turn import Turn
from wsidata.utils.rectangle import Rectangle


@dataclass(frozen=True)
class Symmetry(Operation):
    """Right-angle rotations, counterclockwise as in `numpy.rot90`, then a flip left to right or none.

    Attributes:
        turns: 0 to 3.
        mirrored: Whether to flip.
    """

    cost: ClassVar[float] = 0.3
    turns: int
    mirrored: bool

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Rotate and flip."""
        if self.mirrored and self.turns == 2:
            return image.flipver()
        turned = rot90(image, self.turns)
        return turned.fliphor() if self.mirrored else turned

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Rotate and flip."""
        return self.image(mask)

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Rotate and flip."""
        x, y = points[:, 0], points[:, 1]
        for _ in range(self.turns):
            x, y = y, width_px - x
            width_px, height_px = height_px, width_px
        return np.stack([width_px - x if self.mirrored else x, y], axis=1)

    def source_window(self, window: Rectangle, width_px: int, height_px: int) -> Rectangle:
        """The rectangle, rotated back."""
        return Turn(self.turns, self.mirrored).source(window, width_px, height_px)

    def on_canvas(self, canvas: Canvas) -> Canvas:
        """The plan, turned."""
        return canvas.turned(Turn(self.turns, self.mirrored))


@dataclass(frozen=True)
class AffineMap(Operation):
    """new point = matrix @ point + offset, on a canvas of the same size; images bilinear, masks nearest neighbor.

    Attributes:
        matrix: ((a, b), (c, d)).
        offset: (x, y) in pixels.
        fill: Value outside the image. None: white in its number format.
        mask_fill: Value outside the masks. None: 0.
    """

    cost: ClassVar[float] = 4.0
    matrix: tuple[tuple[float, float], tuple[float, float]]
    offset: tuple[float, float]
    fill: float | None
    mask_fill: float | None

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Resample, bilinear."""
        # libvips counts from pixel centers: the point (0.5, 0.5) is its (0, 0).
        shift = np.asarray(self.matrix) @ (0.5, 0.5) + self.offset - 0.5
        return self._resample(image, "bilinear", shift, white_of(image, self.fill))

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Resample, nearest neighbor."""
        # "nearest" takes the whole part of a coordinate, so it needs the place itself, not the pixel center.
        return self._resample(mask, "nearest", np.asarray(self.offset) - 0.5, self.mask_fill or 0)

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Map."""
        return np.asarray(points @ np.asarray(self.matrix).T + self.offset)

    def _resample(self, image: pyvips.Image, interpolate: str, shift: NDArray[np.float64], fill: float) -> pyvips.Image:
        return image.affine(
            [value for row in self.matrix for value in row],
            oarea=[0, 0, image.width, image.height],
            odx=float(shift[0]),
            ody=float(shift[1]),
            interpolate=pyvips.Interpolate.new(interpolate),
            extend="background",
            background=[fill] * image.bands,
        )


class RandomHorizontalFlip(Transform):
    """Flip left to right.

    Args:
        p: Probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Symmetry:
        """Flip."""
        return Symmetry(turns=0, mirrored=True)


class RandomVerticalFlip(Transform):
    """Flip top to bottom.

    Args:
        p: Probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Symmetry:
        """Flip."""
        return Symmetry(turns=2, mirrored=True)


class RandomRotate90(Transform):
    """Rotate by 0, 90, 180 or 270 degrees, with equal probability; 90 and 270 swap height and width."""

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Symmetry:
        """Choose the angle."""
        return Symmetry(turns=int(rng.integers(4)), mirrored=False)


class RandomD4(Transform):
    """One of the eight symmetries of the square (four rotations, each flipped or not), with equal probability."""

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Symmetry:
        """Choose the symmetry."""
        turns, mirrored = divmod(int(rng.integers(8)), 2)
        return Symmetry(turns, bool(mirrored))


class RandomAffine(Transform):
    """Rotate, scale, shear and shift about the center; the size stays.

    The map is T(shift) R(angle) [[1, tan(shear)], [0, 1]] scale, about the center (the order of torchvision's
    `RandomAffine`). Shrinking much below 1 aliases: read the slide at a coarser spacing instead.

    Args:
        degrees: The angle is drawn from -degrees..degrees, counterclockwise.
        scale: Range of the factor, drawn log-uniformly.
        shear_degrees: The shear is drawn from -shear_degrees..shear_degrees.
        shift: Shift along each axis as a share of the side, drawn from -shift..shift.
        fill: Value outside the image. None: white in its number format.
        mask_fill: Value outside the masks. None: 0, or no class where a data module reads masks.
        p: Probability.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        shear_degrees: float = 0.0,
        shift: float = 0.0,
        fill: float | None = None,
        mask_fill: float | None = None,
        p: float = 1.0,
    ) -> None:
        self.degrees = check_limit("degrees", degrees)
        self.scale = check_range("scale", scale, 0.1)
        self.shear_degrees = check_limit("shear_degrees", shear_degrees)
        if self.shear_degrees > 60:
            raise TransformError(f"shear_degrees={shear_degrees} must be at most 60.")
        self.shift = check_limit("shift", shift)
        self.fill = fill
        self.mask_fill = mask_fill
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> AffineMap:
        """Choose the map."""
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        shear = math.tan(math.radians(rng.uniform(-self.shear_degrees, self.shear_degrees)))
        factor = math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        size = np.array([image.width, image.height], dtype=np.float64)
        shift = rng.uniform(-self.shift, self.shift, 2) * size
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])  # y runs downwards
        matrix = factor * turn @ np.array([[1.0, shear], [0.0, 1.0]])
        offset = size / 2 + shift - matrix @ (size / 2)
        (a, b), (c, d) = matrix.tolist()
        white_of(image, self.fill)
        return AffineMap(((a, b), (c, d)), (float(offset[0]), float(offset[1])), self.fill, self.mask_fill)


def rot90(image: pyvips.Image, turns: int) -> pyvips.Image:
    """Rotate counterclockwise by `turns` right angles, as `numpy.rot90` does."""
    turns %= 4
    return [image.copy, image.rot270, image.rot180, image.rot90][turns]()
