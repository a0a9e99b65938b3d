"""Slides are augmented as lazy libvips pipelines: what is cropped away is never decoded.

These are ours because no library has them right for large images: padding in the picture's own white, and the eight
symmetries of the square. Pipelines in albumentationsxl and plain functions join in through `Compose` (see
`transform_adapters.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyvips

from wsidata.transform_adapters import AlbumentationsXL, FunctionTransform, as_transform
from wsidata.transform_base import Picture, Transform, TransformError

__all__ = [
    "AlbumentationsXL",
    "Compose",
    "CropOrPad",
    "FunctionTransform",
    "RandomD4",
    "RandomHorizontalFlip",
    "RandomRotate90",
    "RandomVerticalFlip",
    "Transform",
    "TransformError",
    "as_transform",
    "default_eval_transform",
    "default_train_transform",
    "rot90",
]

_WHITE = {"uchar": 255.0, "ushort": 65535.0, "float": 1.0, "double": 1.0}


def rot90(image: pyvips.Image, turns: int) -> pyvips.Image:
    """Turn counter-clockwise by `turns` right angles, as `numpy.rot90` does."""
    turns %= 4
    return [image.copy, image.rot270, image.rot180, image.rot90][turns]()


class Compose(Transform):
    """Transforms one after another, all drawing from the sample's one generator.

    Args:
        transforms: Ours, albumentationsxl pipelines, or callables on a pyvips image, in any mixture. Only the last may
            return an array or a tensor.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = [as_transform(transform) for transform in transforms]

    def apply(self, image: pyvips.Image, rng: np.random.Generator) -> Picture:
        """Apply them in order."""
        picture: Picture = image
        for transform in self.transforms:
            picture = transform(picture, rng)
        return picture


class CropOrPad(Transform):
    """Bring a picture to a fixed size around its centre: crop what is too large, pad what is too small.

    Where the difference is odd, the extra row or column goes to the bottom or right.

    Args:
        size: Height and width in pixels, or one number for both.
        fill: Value of the padding in all bands. None: white in the picture's number format (255, 65535 or 1.0).
    """

    def __init__(self, size: int | tuple[int, int], fill: float | None = None) -> None:
        self.height_px, self.width_px = check_size(size)
        self.fill = fill

    def apply(self, image: pyvips.Image, rng: np.random.Generator) -> pyvips.Image:
        """Crop or pad."""
        if (image.height, image.width) == (self.height_px, self.width_px):
            return image
        fill = self.fill
        if fill is None:
            if image.format not in _WHITE:
                raise TransformError(f"white is not known for a '{image.format}' picture. Pass CropOrPad(fill=...).")
            fill = _WHITE[image.format]
        background = [fill] * image.bands
        return image.gravity("centre", self.width_px, self.height_px, extend="background", background=background)


class RandomHorizontalFlip(Transform):
    """Mirror left and right.

    Args:
        p: Probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _check_probability(p)

    def apply(self, image: pyvips.Image, rng: np.random.Generator) -> pyvips.Image:
        """Mirror or not."""
        return image.fliphor() if rng.random() < self.p else image


class RandomVerticalFlip(Transform):
    """Mirror top and bottom.

    Args:
        p: Probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _check_probability(p)

    def apply(self, image: pyvips.Image, rng: np.random.Generator) -> pyvips.Image:
        """Mirror or not."""
        return image.flipver() if rng.random() < self.p else image


class RandomRotate90(Transform):
    """Turn by 0, 90, 180 or 270 degrees, each as likely. Height and width change places with 90 and 270."""

    def apply(self, image: pyvips.Image, rng: np.random.Generator) -> pyvips.Image:
        """Turn."""
        return rot90(image, int(rng.integers(4)))


class RandomD4(Transform):
    """One of the eight symmetries of the square (four turns, each mirrored or not), each as likely."""

    def apply(self, image: pyvips.Image, rng: np.random.Generator) -> pyvips.Image:
        """Turn and perhaps mirror."""
        turns, mirrored = divmod(int(rng.integers(8)), 2)
        turned = rot90(image, turns)
        return turned.fliphor() if mirrored else turned


def default_train_transform(image_size: int | tuple[int, int] | None) -> Transform:
    """`CropOrPad` to `image_size` (left out if None) and `RandomD4`.

    A square is cropped first, so that a turn moves no more than is kept; for another shape the turn comes first, so
    that the result has the size asked for.
    """
    if image_size is None:
        return RandomD4()
    height_px, width_px = check_size(image_size)
    crop = CropOrPad((height_px, width_px))
    return Compose([crop, RandomD4()] if height_px == width_px else [RandomD4(), crop])


def default_eval_transform(image_size: int | tuple[int, int] | None) -> Transform:
    """`CropOrPad` to `image_size`, or nothing if it is None."""
    return Compose([] if image_size is None else [CropOrPad(image_size)])


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


def _check_probability(p: float) -> float:
    if not 0 <= p <= 1:
        raise TransformError(f"probability p={p} is not between 0 and 1.")
    return p
