"""Slides are augmented as lazy libvips pipelines: what is cropped away is never decoded.

These are ours because no library has them right for large pictures: geometry that picture, masks and points share,
stains, any number format, one seeded generator a sample, a record that can be replayed. Pipelines in albumentationsxl
and plain functions join in through `Compose` (see `transform_adapters`).

    transform = Compose([CropOrPad(4096), RandomD4(), StainJitter(), Blur(p=0.2)])
    image = transform(image, np.random.default_rng(0))                                  # a picture alone
    sample = transform.run(Sample(image, masks=(mask,), points=points), rng)            # all that shares its geometry
    Record.of(sample).to_json()                                                         # what was done

Geometry is in `transform_geometry` and `transform_elastic`, colour in `transform_colour`, stains in `transform_stain`
and `transform_normalise`, holes in `transform_dropout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyvips

from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.base import Sample, Transform, TransformError, check_probability
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.color.tone import Blur, ToneJitter
from wsidata.transforms.geometry.affine import (
    RandomD4,
    RandomHorizontalFlip,
)
from wsidata.transforms.geometry.crop import CropOrPad, check_size


class Compose(Transform):
    """Transforms one after another, all drawing from the sample's one generator.

    Args:
        transforms: Ours, albumentationsxl pipelines, or callables on a pyvips image, in any mixture. Only the last may
            return an array or a tensor.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = [as_transform(transform) for transform in transforms]

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> None:
        """Nothing of its own: each member draws when its turn comes, on the picture as it is by then."""

    def step(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Apply them in order."""
        for transform in self.transforms:
            sample = transform.run(sample, rng)
        return sample


class OneOf(Transform):
    """One of several transforms, each as likely.

    Args:
        transforms: As for `Compose`.
        p: Probability that any is applied.
    """

    def __init__(self, transforms: Sequence[Any], p: float = 1.0) -> None:
        self.transforms = [as_transform(transform) for transform in transforms]
        if not self.transforms:
            raise TransformError("OneOf needs at least one transform.")
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> None:
        """Nothing of its own; see `step`."""

    def step(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Choose one, and apply it."""
        if self.p < 1 and rng.random() >= self.p:
            return sample
        return self.transforms[int(rng.integers(len(self.transforms)))].run(sample, rng)


def default_train_transform(
    image_size: int | tuple[int, int] | None, mask_fill: float | None = None, fill: float | None = None
) -> Transform:
    """`CropOrPad` to `image_size` (left out if None) and `RandomD4`.

    A square is cropped first, so that a turn moves no more than is kept; for another shape the turn comes first, so
    that the result has the size asked for.

    Args:
        image_size: Height and width in pixels, or one number for both.
        mask_fill: Value of the padding in masks; see `CropOrPad`.
        fill: Value of the padding in pictures; see `CropOrPad`.
    """
    if image_size is None:
        return RandomD4()
    height_px, width_px = check_size(image_size)
    crop = CropOrPad((height_px, width_px), fill, mask_fill)
    return Compose([crop, RandomD4()] if height_px == width_px else [RandomD4(), crop])


def he_train_transform(image_size: int | tuple[int, int] | None) -> Transform:
    """For H&E: `default_train_transform`, then small changes of tone, stain and focus.

    Lazy throughout, and about eight times the cost of decoding alone, of which `StainJitter` is the most.
    """
    return Compose(
        [
            default_train_transform(image_size),
            StainJitter(alpha=0.1, beta=0.05, p=0.8),
            ToneJitter(brightness=0.03, contrast=0.1, gamma=0.1, p=0.8),
            Blur(sigma_px=(0.3, 1.2), p=0.2),
        ]
    )


def default_eval_transform(
    image_size: int | tuple[int, int] | None, mask_fill: float | None = None, fill: float | None = None
) -> Transform:
    """`CropOrPad` to `image_size`, or nothing if it is None; arguments as in `default_train_transform`."""
    return Compose([] if image_size is None else [CropOrPad(image_size, fill, mask_fill)])


def photo_train_transform(image_size: tuple[int, int] | None) -> Transform:
    """A crop of `image_size` anywhere in the photo (left out if None), and left and right mirrored every other time.

    Photos that are smaller are padded in white.
    """
    crop = [] if image_size is None else [CropOrPad(image_size, position="random")]
    return Compose([*crop, RandomHorizontalFlip()])


def photo_eval_transform(image_size: tuple[int, int] | None) -> Transform:
    """The centre of the photo, of `image_size`, or all of it if that is None. Smaller photos are padded in white."""
    return Compose([] if image_size is None else [CropOrPad(image_size)])


def auto_resize_px(image_size: tuple[int, int] | None) -> int | None:
    """Shorter side of which a crop of `image_size` shows most: 8/7 of it, as 256 for 224. None for None."""
    return None if image_size is None else -(-8 * max(image_size) // 7)
