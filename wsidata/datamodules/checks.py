"""Checks of all slides before training, from their headers and the crops planned on them.

Every slide must be readable as requested (see `survey`). Slides must also be alike: the same channels, samples of one
type, and pixels of one size on the glass.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.datamodules.survey import Survey, survey_slides
from wsidata.formats.levels import TOLERANCE
from wsidata.formats.resolution import MEASURES, Resolution
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.tissue.crop import CropKind, TissueCrop
from wsidata.stats.result import ChannelStats
from wsidata.transforms.to_tensor import DType
from wsidata.utils.messages import describe_problems, name_some


class SlideCheckError(ValueError):
    """Some slides cannot be read as requested; the message names each with the reason."""


class ChannelNamesWarning(UserWarning):
    """Channels chosen by number have other names on other slides."""


class MixedSpacingWarning(UserWarning):
    """Slides of one table, or of training and evaluation, have pixels of different sizes at the resolution read."""


def one_resolution(**arguments: float | None) -> Resolution:
    """The resolution, which must be given by exactly one argument."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if len(given) != 1:
        got = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
        raise ValueError(f"pass exactly one of {', '.join(f'{name}=' for name in MEASURES)} (got {got}).")
    level = given.get("level", 0)
    if isinstance(level, bool) or not isinstance(level, (int, np.integer)):
        raise ValueError(f"level={level!r} must be a whole number: 0 is the finest level.")
    return Resolution.of(given)


def check_slides(
    table: pd.DataFrame,
    resolution: Mapping[str, Any],
    options: SlideOptions = AS_STORED,
    crop: TissueCrop | None = None,
) -> pd.DataFrame:
    """The rows of `survey_slides`; raises `SlideCheckError` naming every slide that cannot be read as requested."""
    survey = survey_slides(table, resolution, options, crop)
    check_survey(survey, resolution)
    return survey.sizes


def check_survey(survey: Survey, resolution: Mapping[str, Any]) -> None:
    """Raise `SlideCheckError` naming every slide that cannot be read as requested."""
    if survey.problems:
        remedy = (
            "Repair or replace these files, take them out of the table, choose another resolution, or go on without "
            "them with on_error='skip'."
        )
        what = f"slides read at {Resolution.of(resolution)}"
        raise SlideCheckError(describe_problems(what, list(survey.problems.values()), remedy))


def check_one_kind(sizes: pd.DataFrame, dtype: DType) -> None:
    """Check that samples are of one type on all slides, and one that batches of `dtype` can hold.

    Warns:
        ChannelNamesWarning: if bands of one number have different names.
    """
    if sizes.empty:
        return
    examples = sizes.groupby("samples")["image_id"].first()
    shown = ", ".join(f"'{image_id}' has {samples}" for samples, image_id in examples.items())
    scale = "Say which stored values are black and white: scale_to_8bit=(low, high)."
    if len(examples) > 1:
        raise SlideCheckError(f"slides have samples of different types ({shown}), which are no one scale. {scale}")
    if "float" in examples:
        raise SlideCheckError(f"slides hold floats ({shown}), for which 0 to 1 may mean anything. {scale}")
    if "ushort" in examples and dtype != "float":
        raise SlideCheckError(
            f"slides have 16-bit samples ({shown}), and dtype='uint8' was requested. Pass dtype='float' (divides by "
            f"65535), or scale them. {scale}"
        )
    _warn_of_other_names(sizes)


def check_spacings(sizes: pd.DataFrame, resolution: Resolution) -> None:
    """Warn of slides whose um per pixel differ by more than the tolerance at the resolution, or are not all stated.

    Nothing is said of `mpp=`, with which they are equal, and of `max_side=`, which asks for one size of any slide.

    Args:
        sizes: The columns `image_id` and `mpp` of a `Survey`.
        resolution: What they are read at.

    Warns:
        MixedSpacingWarning: naming two slides with their um per pixel.
    """
    names, spacings = _spacings(sizes, resolution)
    if not names:
        return
    ratios = spacings.max(axis=0) / spacings.min(axis=0)
    said = []
    if ratios.max() > 1 + TOLERANCE:
        values = spacings[:, ratios.argmax()]
        least, most = int(values.argmin()), int(values.argmax())
        said.append(f"'{names[least]}' has {values[least]:.4g} um/px, '{names[most]}' has {values[most]:.4g}")
    stating = {*names}
    unstated = [name for name in sizes["image_id"] if name not in stating]
    if unstated:
        stated = "" if said else f", and '{names[0]}' has {spacings[0, 0]:.4g} um/px"
        said.append(f"{len(unstated)} of {len(sizes)} state none ({name_some(unstated)}){stated}")
    if said:
        apart = ", and read those that state none by themselves, with mpp_override=" if unstated else ""
        warnings.warn(
            f"slides read at {resolution} are not of one um/px: {'; '.join(said)}. To a network tissue then looks "
            f"larger on some slides than on others. Pass mpp= instead{apart}.",
            MixedSpacingWarning,
            stacklevel=3,
        )


def spacing_range(sizes: pd.DataFrame, resolution: Resolution) -> list[float] | None:
    """The least and the largest um per pixel of slides; None if they state none, or are not compared."""
    _, spacings = _spacings(sizes, resolution)
    return [float(spacings.min()), float(spacings.max())] if spacings.size else None


def check_trained_spacing(sizes: pd.DataFrame, resolution: Resolution, trained: Sequence[float] | None) -> None:
    """Warn of slides whose um per pixel are not those of the training slides.

    Args:
        sizes: As for `check_spacings`.
        resolution: What they are read at, as the training slides were.
        trained: The least and the largest um per pixel of the training slides; None if these are unknown.

    Warns:
        MixedSpacingWarning: naming the slide that is furthest off.
    """
    names, spacings = _spacings(sizes, resolution)
    if not trained or not names:
        return
    off = np.maximum(spacings.max(axis=1) / trained[1], trained[0] / spacings.min(axis=1))
    if off.max() > 1 + TOLERANCE:
        worst = int(off.argmax())
        warnings.warn(
            f"the model was trained on slides of {_range(*trained)} um/px at {resolution}, and "
            f"{(off > 1 + TOLERANCE).sum()} of {len(sizes)} slides differ, most of all '{names[worst]}' with "
            f"{_range(spacings[worst].min(), spacings[worst].max())}: it sees them enlarged or shrunk. Train with mpp= "
            "instead, which reads all slides alike; or read these at the same um/px: mpp=..., "
            "allow_changed=['resolution'].",
            MixedSpacingWarning,
            stacklevel=3,
        )


def _spacings(sizes: pd.DataFrame, resolution: Resolution) -> tuple[list[str], NDArray[np.float64]]:
    """The slides that state um per pixel, and (n, 2) of them along x and y; none where they are not compared."""
    is_compared = {"mpp", "max_side"}.isdisjoint(resolution)
    found = {name: mpp for name, mpp in zip(sizes["image_id"], sizes["mpp"], strict=True) if mpp and is_compared}
    return list(found), np.array(list(found.values()), np.float64).reshape(-1, 2)


def _range(least: float, most: float) -> str:
    low, high = f"{least:.4g}", f"{most:.4g}"
    return low if low == high else f"{low} to {high}"


def check_statistics(
    stats: ChannelStats,
    resolution: Resolution,
    crop: CropKind | None,
    channels: Sequence[str],
    reading: Mapping[str, Any] = MappingProxyType({}),
    allowed: Collection[str] = (),
) -> None:
    """Check that statistics are of slides that were read as these, in channels, resolution, crop, image and plane.

    Those without a resolution are the user's own, of anything.

    Args:
        stats: The statistics.
        resolution: The resolution of the slides.
        crop: Their crop.
        channels: Names of their channels.
        reading: How else they are read; see `SlideOptions.reading`. Not compared with files of earlier versions.
        allowed: What of `reading` may differ.

    Raises:
        SlideCheckError: if they differ.
    """
    if len(stats.mean) != len(channels):
        raise SlideCheckError(
            f"stats= are of {len(stats.mean)} channels, and slides are read with {len(channels)} "
            f"({', '.join(channels)}). Leave stats= out, and they are computed."
        )
    known = reading if stats.reading is None else stats.reading
    theirs, ours = (
        {"crop": kind, **{name: one for name, one in found.items() if name not in allowed}}
        for kind, found in ((stats.crop, known), (crop, reading))
    )
    here = json.loads(json.dumps(dict(resolution)))
    if stats.resolution and (stats.resolution, theirs) != (here, ours):
        was, now = (", ".join(f"{name}={one.get(name)!r}" for name in theirs | ours) for one in (theirs, ours))
        raise SlideCheckError(
            f"stats= are of slides read at {stats.resolution} with {was}, and here they are read at {here} with {now}: "
            "other pixels. Leave stats= out, and they are computed; to use them all the same, pass "
            "dataclasses.replace(stats, resolution={})."
        )


def _warn_of_other_names(sizes: pd.DataFrame) -> None:
    first = sizes.iloc[0]
    others = sizes[sizes["channels"] != first["channels"]]
    if len(others):
        other = others.iloc[0]
        warnings.warn(
            f"the chosen channels have other names on {len(others)} of {len(sizes)} slides: '{first['image_id']}' has "
            f"{', '.join(first['channels'])}, '{other['image_id']}' has {', '.join(other['channels'])}. If these are "
            "other stains, choose channels by name.",
            ChannelNamesWarning,
            stacklevel=3,
        )


def check_batchable(sizes: pd.DataFrame, batch_size: int) -> None:
    """Check that slides form batches when they are rotated, but neither cropped nor padded."""
    if batch_size == 1 or sizes.empty:
        return
    first = sizes.iloc[0]
    other = (sizes["height_px"] != first["height_px"]) | (sizes["width_px"] != first["height_px"])
    if other.any():
        worst = sizes[other].iloc[0]
        raise SlideCheckError(
            f"batch_size={batch_size} needs images of one size, and without image_size= they keep their own: "
            f"'{first['image_id']}' is {first['height_px']} x {first['width_px']} px, "
            f"'{worst['image_id']}' is {worst['height_px']} x {worst['width_px']} px (turned by right angles, only "
            "squares keep their shape). Pass image_size= (crops or pads), or batch_size=1."
        )
