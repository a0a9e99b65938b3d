"""Where pixels go, drawn by chance: crops and padding, right-angle turns, flips, affine maps.

What is done with a draw is in `transform_moves`.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pyvips

from wsidata.transform_base import Transform, TransformError, check_limit, check_probability, check_range
from wsidata.transform_moves import AffineMap, Symmetry, Window, rot90, white_of

__all__ = [
    "AffineMap",
    "CropOrPad",
    "RandomAffine",
    "RandomD4",
    "RandomHorizontalFlip",
    "RandomRotate90",
    "RandomVerticalFlip",
    "Symmetry",
    "Window",
    "check_size",
    "rot90",
    "white_of",
]

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
        if position not in ("centre", "random"):
            raise TransformError(f"position={position!r} is not known. Pass 'centre' or 'random'.")
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


class RandomHorizontalFlip(Transform):
    """Mirror left and right.

    Args:
        p: Probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Symmetry:
        """Mirror."""
        return Symmetry(turns=0, mirrored=True)


class RandomVerticalFlip(Transform):
    """Mirror top and bottom.

    Args:
        p: Probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Symmetry:
        """Mirror."""
        return Symmetry(turns=2, mirrored=True)


class RandomRotate90(Transform):
    """Turn by 0, 90, 180 or 270 degrees, each as likely. Height and width change places with 90 and 270."""

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Symmetry:
        """Choose the turn."""
        return Symmetry(turns=int(rng.integers(4)), mirrored=False)


class RandomD4(Transform):
    """One of the eight symmetries of the square (four turns, each mirrored or not), each as likely."""

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Symmetry:
        """Choose the symmetry."""
        turns, mirrored = divmod(int(rng.integers(8)), 2)
        return Symmetry(turns, bool(mirrored))


class RandomAffine(Transform):
    """Rotate, scale, shear and shift around the centre; the size stays.

    The map is T(shift) R(angle) [[1, tan(shear)], [0, 1]] scale, about the centre (the order of torchvision's
    `RandomAffine`). Shrinking much below 1 aliases: read the slide at a coarser spacing instead.

    Args:
        degrees: Angle is drawn from -degrees..degrees, counter-clockwise.
        scale: Range of the factor, which is drawn alike often for enlarging and shrinking (log-uniform).
        shear_degrees: Shear is drawn from -shear_degrees..shear_degrees.
        shift: Shift along each axis as a share of the side, drawn from -shift..shift.
        fill: Value of what comes from outside. None: white in the picture's number format.
        mask_fill: The same in masks. None: 0, or no class where a data module reads masks.
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
