"""A run that fails on its 200th slide after three hours could have failed in its first minute.

Every slide's header is opened once, and the asked-for resolution is planned on it, before training starts. No pixel is
decoded.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyvips

from wsidata.datasets import Resolution
from wsidata.errors import SlideError
from wsidata.slide import Slide
from wsidata.table_files import describe_problems

RESOLUTION_NAMES = ("level", "mpp", "magnification", "downsample", "max_side")


class SlideCheckError(ValueError):
    """Some slides cannot be read as asked; the message names each of them with its reason."""


def one_resolution(**given: float | None) -> dict[str, Any]:
    """The one argument that is not None.

    Raises:
        ValueError: if there is none, or more than one.
    """
    resolution = {name: value for name, value in given.items() if value is not None}
    if len(resolution) != 1:
        got = ", ".join(f"{name}={value}" for name, value in resolution.items()) or "none"
        raise ValueError(f"pass exactly one of {', '.join(f'{name}=' for name in RESOLUTION_NAMES)} (got {got}).")
    return resolution


def check_slides(
    table: pd.DataFrame, resolution: Resolution, mpp_override: float | tuple[float, float] | None = None
) -> pd.DataFrame:
    """Open every slide and plan the reading of it.

    Args:
        table: Slides, with the columns `image_id` and `path`.
        resolution: The resolution to read at.
        mpp_override: Spacing to believe.

    Returns:
        `image_id`, `height_px`, `width_px` at that resolution, row by row.

    Raises:
        SlideCheckError: naming every slide that cannot be opened, or lacks the level or the spacing.
    """
    problems: list[str] = []
    sizes: list[tuple[str, int, int]] = []
    for image_id, path in zip(table["image_id"], table["path"], strict=True):
        try:
            with Slide(path, mpp_override=mpp_override) as slide:
                image = slide.image(**resolution, keep_tiles=True)  # decodes nothing
                sizes.append((image_id, image.height, image.width))
        except (SlideError, OSError, pyvips.Error, ValueError) as error:
            problems.append(f"{path}: {type(error).__name__}: {error}")
    if problems:
        asked = ", ".join(f"{name}={value}" for name, value in resolution.items())
        remedy = "Repair or replace these files, take them out of the table, or choose another resolution."
        raise SlideCheckError(describe_problems(f"slides read at {asked}", problems, remedy))
    return pd.DataFrame(sizes, columns=["image_id", "height_px", "width_px"])


def check_batchable(sizes: pd.DataFrame, batch_size: int) -> None:
    """Refuse batches of slides that are turned, but not cropped or padded, and so differ in size.

    Raises:
        SlideCheckError: naming two slides.
    """
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
            "squares keep their shape). Pass image_size= (crops or pads in white), or batch_size=1."
        )
