"""Segmentation masks, read or drawn on the pixel grid that their slide is read on.

A mask shifted by a pixel, or resampled like a photo, teaches the wrong class along every border. So each pixel is the
one of the mask file under the center of the image's pixel. Values are never mixed, and unknown ones raise an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pyvips
import torch
from torch import Tensor

from wsidata.errors import SlideError, SpacingConflictWarning
from wsidata.formats.levels import Level
from wsidata.slides.file_facts import FileFacts, fact_name
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.slide import Slide
from wsidata.tables.find_slides import OUTLINE_SUFFIXES
from wsidata.utils.messages import describe_problems
from wsidata.utils.processes import raise_system_fault

IGNORE = 255
"""Class number of pixels without a class in mask images; what transforms pad with (`mask_fill=255`)."""

IGNORE_INDEX = -100
"""The same in tensors; `torch.nn.functional.cross_entropy` leaves it out by default."""

UNKNOWN = 254
"""Class number in mask images of values that are no class, which raise an error in the end (see `mask_tensor`)."""

MaskClasses: TypeAlias = Mapping[Any, int]
"""Class number of each pixel value of mask images (int), and of each class of outlines (str)."""

_CENTER = 0.5 + 1e-7  # of a pixel; a center on the border of two mask pixels takes the second, whatever is rounded
_MAX_CLASSES = 254
_FILES_AT_ONCE = 8


class MaskError(ValueError):
    """A mask does not fit its slide, or contains values that are no class."""


def mask_classes(class_count: int, values: Sequence[int] | None = None) -> dict[int, int]:
    """Class number of each pixel value.

    Args:
        class_count: Number of classes.
        values: Pixel value of class 0, 1, ...; None: the value is the class number.

    Raises:
        MaskError: if the values are not distinct and from 0 to 255, one per class.
    """
    pixel_values = list(range(class_count)) if values is None else [int(value) for value in values]
    distinct = set(pixel_values) <= set(range(256)) and len(set(pixel_values)) == len(pixel_values)
    if len(pixel_values) != class_count or not distinct or class_count > _MAX_CLASSES:
        raise MaskError(f"mask_values={pixel_values} must be {class_count} distinct values from 0 to 255, one a class.")
    return {value: number for number, value in enumerate(pixel_values)}


def outlined_classes(class_names: Sequence[str], outlined: Mapping[str, str | None] | None = None) -> dict[str, int]:
    """Class number of each class of outlines.

    Args:
        class_names: The classes.
        outlined: Class of each class of outlines, in the order in which they are drawn: the last lies on top. None for
            those whose pixels do not count. None: outlines are named as the classes.

    Raises:
        MaskError: if one is none of the classes.
    """
    number_of: dict[str | None, int] = {name: number for number, name in enumerate(class_names)} | {None: IGNORE}
    given: Mapping[str, str | None] = {name: name for name in class_names} if outlined is None else outlined
    if unknown := [name for name in given.values() if name not in number_of]:
        raise MaskError(f"outline_classes= names {unknown}, which are none of the classes {list(class_names)}.")
    return {str(name): number_of[one] for name, one in given.items()}


def read_mask(
    path: str | Path,
    slide: Slide,
    resolution: Mapping[str, Any],
    classes: MaskClasses,
    *,
    keep_tiles: bool = False,
) -> pyvips.Image:
    """The mask of a slide, on the grid of `slide.image(**resolution)`.

    Masks may be coarser or finer than their slide, as long as they cover all of it. With more than two classes the
    finest level of a mask pyramid is read: coarser ones may have been averaged, which makes class 1 of 0 and 2.

    Args:
        path: Image of one band, or of three equal ones; any format `Slide` reads. Or a file of annotations, which is
            drawn; or "", where nothing is outlined.
        slide: The slide.
        resolution: The resolution it is read at.
        classes: Class number of each pixel value, and of each class of outlines; see `mask_classes`,
            `outlined_classes`.
        keep_tiles: Keep decoded tiles between requests: for a mask read in strips.

    Returns:
        A lazy image, uchar, one band: class numbers, and `UNKNOWN` for values that are no class.

    Raises:
        MaskError: if the mask has another shape than the slide.
        AnnotationError: if annotations are malformed, lie beside the slide, or have outlines of another class.
    """
    if not str(path):
        return pyvips.Image.black(*slide.size_at(**resolution))
    if is_outlines(path):
        from wsidata.slides.outline_masks import outline_image

        return outline_image(str(path), slide, resolution, outlined_in(classes), keep_tiles=keep_tiles)
    width, height = slide.size_at(**resolution)
    with Slide(path) as mask:
        step_x, step_y = _mask_pixels(mask, slide, slide.downsample_at(**resolution))
        level = _coarse_enough(mask.levels, step_x, step_y) if len(values_in(classes)) <= 2 else mask.levels[0]
        pixels = mask.image(level=level.index, keep_tiles=keep_tiles)
    step = step_x / level.downsample_x, step_y / level.downsample_y
    nearest = pixels.affine(
        [1 / step[0], 0, 0, 1 / step[1]],
        interpolate=pyvips.Interpolate.new("nearest"),
        oarea=[0, 0, width, height],
        odx=-_CENTER,
        ody=-_CENTER,
        extend="copy",
    )
    return _as_classes(nearest, classes)


def is_outlines(path: str | Path) -> bool:
    """Whether a file is one of annotations, by its name."""
    return Path(path).suffix.lower() in OUTLINE_SUFFIXES


def values_in(classes: MaskClasses) -> dict[int, int]:
    """Class number of each pixel value."""
    return {value: number for value, number in classes.items() if not isinstance(value, str)}


def outlined_in(classes: MaskClasses) -> dict[str, int]:
    """Class number of each class of outlines."""
    return {name: number for name, number in classes.items() if isinstance(name, str)}


def mask_problems(
    table: pd.DataFrame,
    options: SlideOptions = AS_STORED,
    level_0: Mapping[str, tuple[int, int]] | None = None,
    classes: MaskClasses | None = None,
) -> dict[str, str]:
    """Problems of masks that do not fit their slide; every mask is opened, unless it is known, and no pixel decoded.

    Files of annotations are read.

    Args:
        table: Columns `image_id`, `path` and `mask`.
        options: How slides are opened.
        level_0: (width, height) of level 0 of the slides, by `image_id`; slides that it lacks have a problem of their
            own. None: they are opened, too.
        classes: Those of outlines; see `outlined_classes`.

    Returns:
        The problems, by `image_id`.
    """
    if any(map(is_outlines, table["mask"])):
        from wsidata.slides.outline_masks import check_outlines

    def problem(row: tuple[str, str, str]) -> str:
        image_id, path, mask_path = row
        if not mask_path or (level_0 is not None and image_id not in level_0):
            return ""
        try:
            size = _size(path, options) if level_0 is None else level_0[image_id]
            if is_outlines(mask_path):
                check_outlines(mask_path, size, outlined_in(classes or {}))
                return ""
            _mask_pixels(_Sized(Path(mask_path), *_size(mask_path, AS_STORED)), _Sized(Path(path), *size), (1.0, 1.0))
        except (SlideError, OSError, ValueError) as error:
            raise_system_fault(error, path)
            return f"{mask_path}: {type(error).__name__}: {error}"
        return ""

    rows = list(zip(table["image_id"], table["path"], table["mask"], strict=True))
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return {row[0]: found for row, found in zip(rows, pool.map(problem, rows), strict=True) if found}


def check_masks(
    table: pd.DataFrame,
    options: SlideOptions = AS_STORED,
    level_0: Mapping[str, tuple[int, int]] | None = None,
    classes: MaskClasses | None = None,
) -> None:
    """Check that masks fit their slides; for the arguments see `mask_problems`.

    Raises:
        MaskError: naming every mask that cannot be opened or has another shape.
    """
    problems = list(mask_problems(table, options, level_0, classes).values())
    if problems:
        remedy = "Repair these masks, take their slides out of the table, or go on without them with on_error='skip'."
        raise MaskError(describe_problems("masks", problems, remedy))


class _Sized(NamedTuple):
    """A slide or mask, by its size."""

    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class _SizeFact:
    size: tuple[int, int]
    conflicts: tuple[str, ...]


def _size(path: str, options: SlideOptions) -> tuple[int, int]:
    """(width, height) of level 0 of a file, which is opened unless that is known."""
    kept, name = FileFacts(path), fact_name("size", vars(options))
    fact = kept.get(_SizeFact, name)
    if fact is not None:
        for conflict in fact.conflicts:  # as if it had been opened
            warnings.warn(conflict, SpacingConflictWarning, stacklevel=2)
        return fact.size
    with Slide.from_options(path, options) as slide:
        fact = _SizeFact((slide.width, slide.height), slide.conflicts)
        if slide.is_one_file:
            kept.put(name, fact)
    kept.save()
    return fact.size


def _mask_pixels(mask: Slide | _Sized, slide: Slide | _Sized, downsample: tuple[float, float]) -> tuple[float, float]:
    """Pixels of the mask's finest level per pixel of the image, which has so many level-0 pixels, along x and y."""
    sides = ((slide.width, mask.width), (slide.height, mask.height))
    (x, slack_x), (y, slack_y) = ((full / part, full / part**2) for full, part in sides)
    if abs(x - y) > slack_x + slack_y:  # more than rounding of the mask's size explains
        raise MaskError(
            f"mask '{mask.path.name}' ({mask.width} x {mask.height} px) has another shape than slide "
            f"'{slide.path.name}' ({slide.width} x {slide.height} px). Export it over the whole slide."
        )
    return downsample[0] / _whole(x, *sides[0]), downsample[1] / _whole(y, *sides[1])


def _whole(ratio: float, slide_px: int, mask_px: int) -> float:
    """The whole number a mask was shrunk by, if only its size was rounded; else the ratio of the sizes."""
    whole = max(1, round(ratio))
    return float(whole) if abs(slide_px / whole - mask_px) < 1 else ratio


def _coarse_enough(levels: Sequence[Level], step_x: float, step_y: float) -> Level:
    """The coarsest level that is at least as fine as the image."""
    fine = [level for level in levels if level.downsample_x <= step_x * 1.001 and level.downsample_y <= step_y * 1.001]
    return fine[-1] if fine else levels[0]


def _as_classes(pixels: pyvips.Image, classes: MaskClasses) -> pyvips.Image:
    """Class numbers of pixel values."""
    table = np.full((1, 256, 1), UNKNOWN, dtype=np.uint8)
    for value, number in values_in(classes).items():
        table[0, value] = number
    found = pixels[0].maplut(pyvips.Image.new_from_array(table))
    for band in range(1, pixels.bands):
        found = (pixels[band] == pixels[0]).ifthenelse(found, UNKNOWN)
    return found.cast("uchar")


def mask_tensor(mask: pyvips.Image, name: str, classes: MaskClasses) -> Tensor:
    """A mask, after the transforms, as a target for a loss.

    Args:
        mask: Class numbers, and 255 for no class; one band.
        name: Name for the message.
        classes: Class number of each pixel value, as for `read_mask`.

    Returns:
        (H, W) int64, with -100 for no class.

    Raises:
        MaskError: if a pixel has a value that is no class.
    """
    if not isinstance(mask, pyvips.Image):
        raise MaskError(
            f"mask '{name}' came out of the transforms as a {type(mask).__name__}: leave out ToTensor, tensors are "
            "made here."
        )
    pixels = np.array(mask.numpy(), dtype=np.uint8).reshape(mask.height, mask.width)
    return class_numbers(torch.from_numpy(pixels), name, classes)


def class_numbers(pixels: Tensor, name: str, classes: MaskClasses) -> Tensor:
    """Pixels of a mask, or of some of its rows, as a target for a loss.

    Args:
        pixels: (H, W) uint8 class numbers, and 255 for no class.
        name: Name of the mask for the message.
        classes: Class number of each pixel value, as for `read_mask`.

    Returns:
        (H, W) int64, with -100 for no class.

    Raises:
        MaskError: if a pixel has a value that is no class.
    """
    if bool((pixels == UNKNOWN).any()):
        share = float((pixels == UNKNOWN).float().mean())
        raise MaskError(
            f"mask '{name}' holds other values than {sorted(values_in(classes))} (in {100 * share:.2g} % of it). Name "
            "them with class_names= and mask_values=, and save masks as one band without lossy compression."
        )
    numbers = pixels.long()
    numbers[numbers == IGNORE] = IGNORE_INDEX
    return numbers
