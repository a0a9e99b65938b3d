"""Plain functions and albumentationsxl pipelines as transforms that draw from the sample's generator.

Such code draws from the global generators of `random`, NumPy and torch. They are seeded from the sample's generator for
the call, and restored afterwards.
"""

from __future__ import annotations

import copyreg
import random
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
import torch

from wsidata.transforms.adapters.albumentations_xl import check_image, check_pipeline, names_of, slowest_member
from wsidata.transforms.base import (
    GIGAPIXEL_PX,
    GigapixelWarning,
    ImageLike,
    Operation,
    Sample,
    Transform,
    TransformError,
    describe,
    warn_if_costly,
)

# Affine and Rotate hold an interpolator, which loader workers need and pickle does not support.
copyreg.pickle(pyvips.Interpolate, lambda kernel: (pyvips.Interpolate.new, (kernel.get("nickname"),)))


@contextmanager
def seeded_globals(rng: np.random.Generator) -> Iterator[None]:
    """Seed the global generators of `random`, NumPy and torch (CPU) from `rng`, and restore them at the end."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seeds = rng.integers(2**32, size=3)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    torch.default_generator.manual_seed(int(seeds[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@dataclass(frozen=True)
class ForeignCall(Operation):
    """A call of foreign code, of which the record holds the seed alone.

    Attributes:
        name: Name of the function or pipeline, for messages.
        seed: Seed of the global generators.
    """

    name: str
    seed: int

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Raises `TransformError`: the function is not part of the record."""
        raise TransformError(f"'{self.name}' is not ours and can only be repeated by Record.replay(foreign=[...]).")


class Foreign(Transform):
    """A transform that calls foreign code."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the function or pipeline."""

    @abstractmethod
    def call(self, sample: Sample, operation: ForeignCall) -> Sample:
        """Make the call that `operation` describes."""

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> ForeignCall:
        """Draw the call's seed."""
        return ForeignCall(self.name, int(rng.integers(2**63)))

    def step(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and call."""
        return self.call(sample, self.draw(sample.image, rng))


class FunctionTransform(Foreign):
    """Any callable on a pyvips image, with its global randomness seeded per sample.

    Args:
        function: Takes a pyvips image; returns a pyvips image, an (H, W, C) array or a (C, H, W) tensor.
        colors_only: Whether the function moves no pixel, so that masks and points still fit.
        colours_only: The same, as it was spelled before.
    """

    def __init__(
        self, function: Callable[[pyvips.Image], ImageLike], colors_only: bool = False, *, colours_only: bool = False
    ) -> None:
        self.function = function
        self.colors_only = colors_only or colours_only

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    def call(self, sample: Sample, operation: ForeignCall) -> Sample:
        """Call the function.

        Raises:
            TransformError: if the sample has masks or points, unless the function keeps pixels where they are.
        """
        if (sample.masks or sample.points is not None) and not self.colors_only:
            raise TransformError(
                f"'{self.name}' changes the image, and its masks and points would stay. If it moves no pixel, pass "
                "FunctionTransform(function, colors_only=True); else build it of wsidata.transforms."
            )
        with seeded_globals(np.random.default_rng(operation.seed)):
            image = self.function(sample.image)
        _warn_if_materialized(self.name, sample.image, image)
        if self.colors_only and isinstance(image, pyvips.Image) and describe(image)[:2] != describe(sample.image)[:2]:
            raise TransformError(f"'{self.name}' has colors_only=True, and yet it changed the image's size.")
        return sample.with_image(image, operation)


class AlbumentationsXL(Foreign):
    """An albumentationsxl pipeline, checked for members that are known to be wrong.

    Masks of one band go through it together with the image; points raise `TransformError`.

    Args:
        pipeline: A Compose, or a single transform.

    Raises:
        TransformError: naming the first broken member, the fault and a replacement.
    """

    def __init__(self, pipeline: Any) -> None:
        check_pipeline(pipeline)
        self.pipeline = pipeline

    @property
    def name(self) -> str:
        """The outermost class."""
        return f"albumentationsxl.{type(self.pipeline).__name__}"

    def call(self, sample: Sample, operation: ForeignCall) -> Sample:
        """Run the pipeline on an RGB or gray uint8 image, and once more, with the same seed, for each further mask.

        Raises:
            TransformError: for an image on which a member would be wrong, or points.
        """
        check_image(self.pipeline, sample.image)
        warn_if_costly(*slowest_member(self.pipeline), sample.image)
        if sample.points is not None:
            raise TransformError("albumentationsxl moves points wrongly or not at all. Use wsidata.transforms instead.")
        masks = [self._run(operation.seed, image=sample.image, mask=mask)["mask"] for mask in sample.masks]
        if masks and sample.mask_fill and isinstance(masks[0], pyvips.Image):
            # Members pad masks with 0, which may be a class.
            whole = (sample.masks[0].extract_band(0) * 0 + 255).cast("uchar")
            inside = self._run(operation.seed, image=sample.image, mask=whole)["mask"]
            masks = [(inside == 0).ifthenelse(sample.mask_fill, mask).cast(mask.format) for mask in masks]
        image = self._run(operation.seed, image=sample.image)["image"]
        _warn_if_materialized(self.name, sample.image, image)
        return sample.with_image(image, operation, masks=tuple(masks))

    def _run(self, seed: int, **targets: pyvips.Image) -> dict[str, Any]:
        with seeded_globals(np.random.default_rng(seed)):
            result: dict[str, Any] = self.pipeline(**targets)
        return result


def as_transform(transform: Any) -> Transform:
    """A `Transform` from one, an albumentationsxl pipeline, or a callable on a pyvips image.

    Raises:
        TransformError: if it is none of these, or a broken member of albumentationsxl.
    """
    if isinstance(transform, type):
        raise TransformError(f"{transform.__name__} is a class. Make one of it: {transform.__name__}(...).")
    return transform if isinstance(transform, Transform) else as_foreign(transform)


def as_foreign(transform: Any) -> Foreign:
    """A transform from an albumentationsxl pipeline, or a callable on a pyvips image.

    Raises:
        TransformError: if it is neither, or a broken member of albumentationsxl.
    """
    if isinstance(transform, Foreign):
        return transform
    if names_of(transform):
        return AlbumentationsXL(transform)
    if callable(transform) and not isinstance(transform, Transform):
        return FunctionTransform(transform)
    raise TransformError(
        f"{transform!r} is no transform. Pass one of wsidata.transforms, an albumentationsxl Compose, or a callable "
        "that takes a pyvips image."
    )


def _warn_if_materialized(name: str, before: pyvips.Image, after: ImageLike) -> None:
    if isinstance(after, pyvips.Image) or before.width * before.height < GIGAPIXEL_PX:
        return
    gigabytes = getattr(after, "nbytes", 0) / 1e9
    warnings.warn(
        f"'{name}' made a {type(after).__name__} of {gigabytes:.1f} GB of an image of {before.width} x "
        f"{before.height} pixels, which holds all of it in memory. Return a pyvips image, which stays lazy.",
        GigapixelWarning,
        stacklevel=4,
    )
