"""Checks of all slides before training, from their headers and the crops planned on them.

Every slide must be readable as requested (see `survey`). Slides must also be alike: the same channels, samples of one
type.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wsidata.datamodules.survey import Survey, survey_slides
from wsidata.formats.resolution import MEASURES, Resolution
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.tissue.crop import CropKind, TissueCrop
from wsidata.stats.result import ChannelStats
from wsidata.transforms.to_tensor import DType
from wsidata.utils.messages import describe_problems


class SlideCheckError(ValueError):
    """Some slides cannot be read as requested; the message names each with the reason."""


class ChannelNamesWarning(UserWarning):
    """Channels chosen by number have other names on other slides."""


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


def check_statistics(
    stats: ChannelStats, resolution: Resolution, crop: CropKind | None, channels: Sequence[str]
) -> None:
    """Check that statistics are of the same number of channels, resolution and crop as the slides.

    Those without a resolution are the user's own, of anything.
    """
    if len(stats.mean) != len(channels):
        raise SlideCheckError(
            f"stats= are of {len(stats.mean)} channels, and slides are read with {len(channels)} "
            f"({', '.join(channels)}). Leave stats= out, and they are computed."
        )
    ours = json.loads(json.dumps(dict(resolution))), crop
    if stats.resolution and (stats.resolution, stats.crop) != ours:
        raise SlideCheckError(
            f"stats= are of slides read at {stats.resolution} with crop={stats.crop!r}, and here they are read at "
            f"{ours[0]} with crop={crop!r}: other pixels. Leave stats= out, and they are computed; to use them all the "
            "same, pass dataclasses.replace(stats, resolution={})."
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
