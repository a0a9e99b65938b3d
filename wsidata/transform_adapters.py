"""Pipelines in albumentationsxl and plain functions become transforms that obey the sample's generator.

Foreign code draws from the global generators of `random`, NumPy and torch. They are seeded from the sample's generator
for the length of the call and put back afterwards.

Some members of albumentationsxl 0.1.2 give wrong pictures without an error or kill the process. They are refused by
name here, each with its reason and a replacement (all of it measured; see `REFUSED`).
"""

from __future__ import annotations

import copyreg
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyvips
import torch

from wsidata.transform_base import Picture, Transform, TransformError

_PACKAGE = "albumentationsxl"

REFUSED = {
    "RandomRotate90": ("raises IndexError in a quarter of its calls", "wsidata.transforms.RandomRotate90()"),
    "Transpose": ("rotates by 90 degrees instead of transposing", "wsidata.transforms.RandomD4()"),
    "ElasticTransform": ("mixes degrees and radians, shifts the picture and cannot be seeded", "A.Affine(shear=...)"),
    "AdvancedBlur": ("kills the process with a division by zero in 0.6 % of calls", "A.GaussianBlur(sigma_limit=...)"),
    "GaussNoise": ("adds its noise twice and cannot be seeded", "a function of your own on the pyvips image"),
    "GridDropout": ("raises on most image sizes and takes minutes on large ones", "A.CoarseDropout(fill_value=...)"),
    "Emboss": ("prints on every call and is not usable on floats", "A.Sharpen()"),
    "Lambda": ("cannot be constructed", "the function itself, in wsidata.transforms.Compose([...])"),
    "PerChannel": ("raises on every call", "a function of your own on the pyvips image"),
}
"""Members of albumentationsxl 0.1.2 that are broken: what they do, and what to use."""

_ONLY_BEFORE_FLOAT = {
    **dict.fromkeys(("HueSaturationValue", "HEDShift", "Sharpen"), "gives a black picture"),
    **dict.fromkeys(("CropOrPad", "PadIfNeeded", "Affine", "Rotate", "CoarseDropout"), "fills with 255"),
}
"""Members that take a float picture without an error and treat it as if it were 0..255."""

# Affine and Rotate hold an interpolator, which pickle does not know and loader workers need.
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


class FunctionTransform(Transform):
    """Any callable on a pyvips image, with its global randomness seeded per sample.

    Args:
        function: Takes a pyvips image; returns a pyvips image, an (H, W, C) array or a (C, H, W) tensor.
    """

    def __init__(self, function: Callable[[pyvips.Image], Picture]) -> None:
        self.function = function

    def apply(self, image: pyvips.Image, rng: np.random.Generator) -> Picture:
        """Call the function."""
        with seeded_globals(rng):
            return self.function(image)


class AlbumentationsXL(Transform):
    """An albumentationsxl pipeline, checked for members that are known to be wrong.

    Args:
        pipeline: A Compose, or a single transform.

    Raises:
        TransformError: naming the first member that is refused, why, and what to use.
    """

    def __init__(self, pipeline: Any) -> None:
        check_pipeline(pipeline)
        self.pipeline = pipeline

    def apply(self, image: pyvips.Image, rng: np.random.Generator) -> Picture:
        """Run the pipeline on an RGB or grey uint8 image."""
        if image.format != "uchar":
            raise TransformError(
                f"albumentationsxl is right on 8-bit pictures only, and this one is '{image.format}'. "
                "Put the pipeline before steps that change the number format."
            )
        with seeded_globals(rng):
            return self.pipeline(image=image)["image"]


def as_transform(transform: Any) -> Transform:
    """Make a `Transform` of one of ours, an albumentationsxl pipeline, or a callable on a pyvips image.

    Raises:
        TransformError: if it is none of these, or a refused member of albumentationsxl.
    """
    if isinstance(transform, Transform):
        return transform
    if _names(transform):
        return AlbumentationsXL(transform)
    if callable(transform):
        return FunctionTransform(transform)
    raise TransformError(
        f"{transform!r} is no transform. Pass one of wsidata.transforms, an albumentationsxl Compose, or a callable "
        "that takes a pyvips image."
    )


def check_pipeline(pipeline: Any) -> None:
    """Walk a pipeline with everything nested in it, in order, and refuse what is known to be wrong.

    Raises:
        TransformError: naming the member, the reason and the replacement.
    """
    is_float = False
    for member in _members(pipeline):
        names = _names(member)
        for name in names & REFUSED.keys():
            reason, replacement = REFUSED[name]
            raise TransformError(f"albumentationsxl.{name} {reason} (release 0.1.2). Use {replacement} instead.")
        _check_arguments(member, names)
        for name in names & _ONLY_BEFORE_FLOAT.keys():
            if is_float:
                raise TransformError(
                    f"albumentationsxl.{name} {_ONLY_BEFORE_FLOAT[name]} after ToDtype('float'). Put it before ToDtype."
                )
        is_float = is_float or "ToDtype" in names


def _check_arguments(member: Any, names: set[str]) -> None:
    """Refuse arguments with which a sound member goes wrong."""
    if "Rotate" in names and getattr(member, "crop_border", False):
        raise TransformError(
            "albumentationsxl.Rotate(crop_border=True) leaves up to half of the picture as background (release 0.1.2). "
            "Use A.Rotate(...) followed by A.CropOrPad(...), or A.Affine(rotate=...)."
        )
    if "PadIfNeeded" in names and getattr(member, "value", 0) is None:
        raise TransformError("albumentationsxl.PadIfNeeded raises without value=. Pass value=[255, 255, 255].")
    if "Normalize" in names and not (isinstance(member.mean, list) and isinstance(member.std, list)):
        raise TransformError(
            "albumentationsxl.Normalize works with lists only, after ToDtype. Leave it out if the model normalises "
            "(StreamingResNet does); else pass mean=[...], std=[...]."
        )


def _members(pipeline: Any) -> Iterator[Any]:
    """The pipeline and everything nested in it, in the order of application."""
    yield pipeline
    for member in getattr(pipeline, "transforms", ()):
        yield from _members(member)


def _names(transform: Any) -> set[str]:
    """Names of the albumentationsxl classes that `transform` is an instance of; none if it is foreign to it."""
    return {cls.__name__ for cls in type(transform).__mro__ if cls.__module__.split(".")[0] == _PACKAGE}
