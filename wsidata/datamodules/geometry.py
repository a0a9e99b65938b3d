"""How images are read for a model, remembered in its checkpoint and compared when it is used again.

A network predicts at any resolution, crop or color it is given, and is right only at those it was trained with. What is
compared is what was requested, in one form for all data modules: `mpp=0.5` and `level=1` differ, even where a slide's
level 1 has 0.5 um per pixel.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from wsidata.datamodules.checkpoint import plain_values
from wsidata.slides.options import SlideOptions
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.describe import described
from wsidata.utils.messages import check_choice

Setting = Literal[
    "kind", "resolution", "mpp_override", "crop", "channels", "scale_to_8bit", "apply_icc", "series", "z", "t",
    "resize_px", "image_size", "dtype", "normalize", "eval_transform", "train_transform", "features", "cases",
    "tissue_method", "stride", "border", "min_tissue",
]  # fmt: skip
"""What is remembered: the arguments of data modules, and `kind`, slides or photos, which have some of them each."""

OF_TRAINING = ("mpp_override", "train_transform")
"""Settings that are compared only when training resumes: other slides may lack a resolution, and are not augmented."""

ONE_SLIDE = "one image a sample"
"""The setting `cases` of data modules without cases, which is not stored."""

OF_PLANES = ("series", "z", "t")
"""Settings that a checkpoint of an earlier version lacks: its slides had one image of one plane."""

Geometry = dict[str, Any]
"""The value of each `Setting` that a kind of images has, as plain values."""

_LONGEST = 160


class GeometryError(ValueError):
    """Images would be read otherwise than those a model was trained on; the message names both values."""


class GeometryWarning(UserWarning):
    """A checkpoint of an earlier version does not say how the images of its model were read."""


def slide_geometry(
    resolution: Mapping[str, Any], options: SlideOptions, crop: TissueCrop | Mapping[str, Any] | None, **others: Any
) -> Geometry:
    """The settings of slides.

    Args:
        resolution: The resolution, by one of its measures.
        options: How slides are opened.
        crop: The crop, or its settings by name.
        **others: `image_size`, `dtype`, `train_transform` and `eval_transform`; a transform is None for the default.
    """
    request = options.request
    return _geometry(
        "slides",
        resolution={name: _one(value) for name, value in resolution.items()},
        mpp_override=_one(options.override),
        crop=crop_settings(crop),
        channels=request.channels,
        scale_to_8bit=request.scale_to_8bit,
        apply_icc=options.apply_icc,
        series=options.series,
        z=options.z,
        t=options.t,
        **others,
    )


def photo_geometry(**settings: Any) -> Geometry:
    """The settings of photos.

    Args:
        **settings: `resize_px` (a number or None), `image_size`, `apply_icc`, `dtype`, `normalize`, `train_transform`
            and `eval_transform`; a transform is None for the default.
    """
    return _geometry("photos", **settings)


def check_geometry(
    saved: Mapping[str, Any] | None, here: Geometry, allowed: Collection[str], *, resuming: bool
) -> None:
    """Compare with the settings of a checkpoint.

    Args:
        saved: The settings it remembers; None for one of an earlier version. What it lacks is not compared.
        here: The settings of this data module.
        allowed: Settings that may differ.
        resuming: Whether training goes on, and the settings `OF_TRAINING` are compared as well.

    Raises:
        GeometryError: naming each setting that differs, with both values.

    Warns:
        GeometryWarning: if `saved` is None.
    """
    if saved is None:
        warnings.warn(
            "this checkpoint was written by an earlier version and does not remember how images were read for its "
            f"model. Make sure that it was trained with what is used here: {_shown(here, here)}.",
            GeometryWarning,
            stacklevel=3,
        )
        return
    # Before they could be chosen, files had one image of one plane.
    saved, here = {"cases": ONE_SLIDE, **dict.fromkeys(OF_PLANES), **saved}, {"cases": ONE_SLIDE, **here}
    known = [name for name in here if name in saved and (resuming or name not in OF_TRAINING)]
    other = [name for name in known if name not in allowed and not _equal(name, saved[name], here[name])]
    if other:
        raise GeometryError(
            f"the model was trained on images read with {_shown(saved, other)}, and here they are read with "
            f"{_shown(here, other)}: its results would be of images it does not know. Pass the arguments of the "
            f"training run; or, if the difference is meant, allow_changed={other}."
        )


def check_allowed(names: Collection[str]) -> tuple[str, ...]:
    """The argument `allow_changed`, checked.

    Raises:
        ValueError: for an unknown setting.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        check_choice("allow_changed", name, get_args(Setting))
    return names


def crop_settings(crop: TissueCrop | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Settings of a tissue crop that change pixels, its method by name."""
    if crop is None:
        return None
    settings = (
        dict(crop) if isinstance(crop, Mapping) else {**vars(crop), "method": described(crop.method, digests=True)}
    )
    settings.pop("on_empty", None)
    return settings


def _geometry(kind: str, **settings: Any) -> Geometry:
    for name in ("train_transform", "eval_transform"):
        given = settings[name]
        settings[name] = None if given is None else described(as_transform(given), digests=True)
    plain: Geometry = json.loads(json.dumps(plain_values({"kind": kind, **settings})))  # tuples become lists
    return plain


def _one(value: Any) -> Any:
    """A pair of equal numbers as one number."""
    return value[0] if isinstance(value, (tuple, list)) and len(value) == 2 and value[0] == value[1] else value


def _equal(name: str, saved: Any, here: Any) -> bool:
    """Whether two values are equal; of crops, the settings that both have, as later versions may add some."""
    if name == "crop" and saved is not None and here is not None:
        return all(saved[key] == here[key] for key in saved.keys() & here.keys())
    return bool(saved == here)


def _shown(geometry: Mapping[str, Any], names: Collection[str]) -> str:
    """Settings as arguments of a data module."""
    texts = []
    for name in names:
        value = geometry[name]
        if name == "resolution":
            texts += [f"{measure}={number}" for measure, number in value.items()]
        else:
            text = "the default" if value is None and name.endswith("_transform") else repr(value)
            texts.append(f"{name}={text if len(text) <= _LONGEST else text[:_LONGEST] + '...'}")
    return ", ".join(texts)
