"""Checks for members of albumentationsxl 0.1.2 that silently give wrong images, or kill the process.

These raise `TransformError`, with the reason and a replacement; members that are right on some images only are checked
against the pipeline and the image. All of it was measured against NumPy, scikit-image and OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyvips

from wsidata.transforms.base import TransformError

_PACKAGE = "albumentationsxl"

BROKEN = {
    "RandomRotate90": ("raises IndexError in a quarter of its calls", "wsidata.transforms.RandomRotate90()"),
    "Transpose": ("rotates by 90 degrees instead of transposing", "wsidata.transforms.RandomD4()"),
    "ElasticTransform": (
        "mixes degrees and radians, shifts the image, and moves masks otherwise",
        "wsidata.transforms.Elastic(alpha_px=..., cell_px=...)",
    ),
    "AdvancedBlur": (
        "kills the process with a division by zero in 0.6 % of calls",
        "wsidata.transforms.Blur(sigma_px=...)",
    ),
    "GaussNoise": ("adds its noise twice and cannot be seeded", "a function of your own on the pyvips image"),
    "GridDropout": (
        "raises on most image sizes and takes minutes on large ones",
        "wsidata.transforms.CoarseDropout(count=..., size_px=...)",
    ),
    "Emboss": ("prints on every call and is not usable on floats", "A.Sharpen()"),
    "Lambda": ("cannot be constructed", "the function itself, in wsidata.transforms.Compose([...])"),
    "PerChannel": ("raises on every call", "a function of your own on the pyvips image"),
}
"""Broken members of albumentationsxl 0.1.2: the fault, and a replacement."""

_ONLY_BEFORE_FLOAT = {
    **dict.fromkeys(("HueSaturationValue", "HEDShift", "Sharpen"), "gives a black image"),
    **dict.fromkeys(("CropOrPad", "PadIfNeeded", "Affine", "Rotate", "CoarseDropout"), "fills with 255"),
}
"""Members that take a float image without an error and treat it as if it were 0..255."""

_ONLY_RGB = frozenset(("HueSaturationValue", "HEDShift", "RandomBrightnessContrast", "ChannelDropout", "Normalize"))
"""Members that fail on a gray image, or make three bands of it."""

_COSTS = {"MedianBlur": 25.0, "HEDShift": 12.0, "HueSaturationValue": 3.5, "Sharpen": 3.0}
"""CPU time in decodings (see `Operation.cost`), where it is more than two."""


def check_pipeline(pipeline: Any) -> None:
    """Raise if a pipeline, with everything nested in it, has a member that is known to be wrong.

    Raises:
        TransformError: naming the member, the reason and the replacement.
    """
    is_float = False
    for member in members_of(pipeline):
        names = names_of(member)
        for name in names & BROKEN.keys():
            reason, replacement = BROKEN[name]
            raise TransformError(f"albumentationsxl.{name} {reason} (release 0.1.2). Use {replacement} instead.")
        _check_arguments(member, names)
        if "Normalize" in names and not is_float:
            raise TransformError(
                "albumentationsxl.Normalize before ToDtype('float') takes pixels of 0..255 for 0..1. Put "
                "A.ToDtype('float', scale=True) before it, or leave it out if the model normalizes."
            )
        for name in names & _ONLY_BEFORE_FLOAT.keys():
            if is_float:
                raise TransformError(
                    f"albumentationsxl.{name} {_ONLY_BEFORE_FLOAT[name]} after ToDtype('float'). Put it before ToDtype."
                )
        is_float = is_float or "ToDtype" in names


def check_image(pipeline: Any, image: pyvips.Image) -> None:
    """Raise for an image on which a member of the pipeline would be wrong.

    Raises:
        TransformError: naming the member, and what is wrong.
    """
    if image.format != "uchar":
        raise TransformError(
            f"albumentationsxl is right on 8-bit images only, and this one is '{image.format}'. "
            "Put the pipeline before steps that change the number format, or use wsidata.transforms."
        )
    if image.bands not in (1, 3):
        raise TransformError(
            f"albumentationsxl is right on gray and RGB images only, and this one has {image.bands} channels. "
            "Use wsidata.transforms."
        )
    resized = False
    for member in members_of(pipeline):
        names = names_of(member)
        if image.bands != 3 and (wrong := sorted(names & _ONLY_RGB)):
            raise TransformError(f"albumentationsxl.{wrong[0]} needs 3 channels, and this image has {image.bands}.")
        if "RandomCrop" in names and not resized and (image.height < member.height or image.width < member.width):
            raise TransformError(
                f"albumentationsxl.RandomCrop({member.height}, {member.width}) of an image of {image.height} x "
                f"{image.width} would give a smaller one without saying so. Use "
                "wsidata.transforms.CropOrPad(..., position='random'), which pads."
            )
        resized = resized or (hasattr(member, "apply") and not names & _SAME_SIZE)


_SAME_SIZE = frozenset(("NoOp", "HorizontalFlip", "VerticalFlip", "Flip", "ImageOnlyTransform", "Affine"))
"""Classes whose members keep the size; after any other, the size at `RandomCrop` is not known beforehand."""


def slowest_member(pipeline: Any) -> tuple[str, float]:
    """Name and cost, in decodings, of the most expensive member."""
    costs = [("", 0.0)]
    for member in members_of(pipeline):
        costs += [(f"albumentationsxl.{name}", _COSTS[name]) for name in names_of(member) & _COSTS.keys()]
    return max(costs, key=lambda one: one[1])


def _check_arguments(member: Any, names: set[str]) -> None:
    """Raise for arguments with which a member goes wrong."""
    if "Rotate" in names and getattr(member, "crop_border", False):
        raise TransformError(
            "albumentationsxl.Rotate(crop_border=True) leaves up to half of the image as background (release 0.1.2). "
            "Use A.Rotate(...) followed by A.CropOrPad(...), or wsidata.transforms.RandomAffine(degrees=...)."
        )
    if "PadIfNeeded" in names and getattr(member, "value", 0) is None:
        raise TransformError("albumentationsxl.PadIfNeeded raises without value=. Pass value=[255, 255, 255].")
    if "Normalize" in names and not (isinstance(member.mean, list) and isinstance(member.std, list)):
        raise TransformError(
            "albumentationsxl.Normalize works with lists only, after ToDtype. Leave it out if the model normalizes "
            "(StreamingResNet does); else pass mean=[...], std=[...]."
        )
    if "GaussianBlur" in names and getattr(member, "min_amplitude", 0.2) < 0.2:
        raise TransformError(
            "albumentationsxl.GaussianBlur with min_amplitude below 0.2 changes the brightness of the image. "
            "Use wsidata.transforms.Blur(sigma_px=...), which is exact."
        )
    if "HueSaturationValue" in names and np.any(getattr(member, "hue_shift_limit", 0)):
        raise TransformError(
            "albumentationsxl.HueSaturationValue clips the hue at red, just where eosin is, instead of going on to "
            "violet (release 0.1.2). Pass hue_shift_limit=0, or use wsidata.transforms.StainJitter() or "
            "ToneJitter(per_band=True)."
        )
    if "RandomBrightnessContrast" in names and not getattr(member, "brightness_by_max", True):
        raise TransformError(
            "albumentationsxl.RandomBrightnessContrast(brightness_by_max=False) decodes the whole image once more to "
            "average it, and is off by a factor. Leave brightness_by_max=True, or use wsidata.transforms.ToneJitter()."
        )


def members_of(pipeline: Any) -> Iterator[Any]:
    """The pipeline and everything nested in it, in the order of application."""
    yield pipeline
    for member in getattr(pipeline, "transforms", ()):
        yield from members_of(member)


def names_of(transform: Any) -> set[str]:
    """Names of the albumentationsxl classes that `transform` is an instance of."""
    return {cls.__name__ for cls in type(transform).__mro__ if cls.__module__.split(".")[0] == _PACKAGE}
