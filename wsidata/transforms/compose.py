"""Compositions of transforms, and the default transforms of slides and photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyvips

from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.base import Sample, Transform, TransformError, check_probability
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.color.tone import Blur, ToneJitter
from wsidata.transforms.geometry.affine import RandomD4, RandomHorizontalFlip
from wsidata.transforms.geometry.crop import CropOrPad, check_size


class Compose(Transform):
    """Transforms one after another, all drawing from the sample's one generator.

    Args:
        transforms: Transforms of this package, albumentationsxl pipelines, or callables on a pyvips image, in any
            mixture. Only the last may return an array or a tensor.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = [as_transform(transform) for transform in transforms]

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> None:
        """Draws nothing: each transform draws in turn, for the result of the one before."""

    def step(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Apply them in order."""
        for transform in self.transforms:
            sample = transform.run(sample, rng)
        return sample


class OneOf(Transform):
    """One of several transforms, with equal probability.

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
        """Draws nothing; see `step`."""

    def step(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Choose one, and apply it."""
        chosen = self.chosen(rng)
        return sample if chosen is None else chosen.run(sample, rng)

    def chosen(self, rng: np.random.Generator) -> Transform | None:
        """One of them, or none."""
        if self.p < 1 and rng.random() >= self.p:
            return None
        return self.transforms[int(rng.integers(len(self.transforms)))]


def default_train_transform(
    image_size: int | tuple[int, int] | None, mask_fill: float | None = None, fill: float | None = None
) -> Transform:
    """`CropOrPad` to `image_size` (left out if None) and `RandomD4`.

    A square is cropped before it is rotated, as that moves fewer pixels; another shape after, so that the result has
    the requested size.

    Args:
        image_size: Height and width in pixels, or one number for both.
        mask_fill: Value of the padding in masks; see `CropOrPad`.
        fill: Value of the padding in images; see `CropOrPad`.
    """
    if image_size is None:
        return RandomD4()
    height_px, width_px = check_size(image_size)
    crop = CropOrPad((height_px, width_px), fill, mask_fill)
    return Compose([crop, RandomD4()] if height_px == width_px else [RandomD4(), crop])


def he_train_transform(image_size: int | tuple[int, int] | None) -> Transform:
    """Augmentation of H&E slides: `default_train_transform`, then small changes of tone, stain and focus.

    Lazy throughout; costs about one and a half times the decoding, besides, and three times with the blur.
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
    """A random crop of `image_size` (left out if None), padded in white, and `RandomHorizontalFlip`."""
    crop = [] if image_size is None else [CropOrPad(image_size, position="random")]
    return Compose([*crop, RandomHorizontalFlip()])


def auto_resize_px(image_size: tuple[int, int] | None) -> int | None:
    """Shorter side to resize photos to before a crop of `image_size`: 8/7 of it, as 256 for 224. None for None."""
    return None if image_size is None else -(-8 * max(image_size) // 7)
