"""Masks of the artifacts of a slide, all on the grid of its tissue mask."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from wsidata.errors import SpacingUnknownError, UnsupportedImageError
from wsidata.formats.vips import pixels_of
from wsidata.slides.artifacts.bubbles import find_bubbles
from wsidata.slides.artifacts.density import Mask
from wsidata.slides.artifacts.focus import FOCUS_MPP, SQUARE_PX, find_blur
from wsidata.slides.artifacts.folds import find_folds
from wsidata.slides.artifacts.pen import find_pen
from wsidata.slides.protocol import SlideLike
from wsidata.slides.tissue.mask import MASK_MPP, TissueMask
from wsidata.slides.tissue.methods import glass_color
from wsidata.slides.tissue.packing import WHITE
from wsidata.utils.messages import check_choice
from wsidata.utils.rectangle import Pixels

ARTIFACTS = ("pen", "fold", "bubble", "blur")

NEARLY_BLACK = 40
"""Pixels are nearly black if the mean of red, green and blue is below it. Glass and stains are brighter."""

MAX_BLACK = 0.5
"""A slide of which more is nearly black has a dark ground, unless glass is in view that is no mere white fill."""


def find_artifacts(slide: SlideLike, tissue: TissueMask, kinds: Collection[str] = ARTIFACTS) -> dict[str, TissueMask]:
    """Masks of artifacts, on the grid of the tissue mask.

    "pen" and "bubble" also lie on glass; "fold" and "blur" are parts of the tissue that no pen lies on. Pen, folds and
    bubbles are found at 8 um per pixel, blur at 1 um per pixel of what holds tissue.

    Args:
        slide: An open slide, in color.
        tissue: Its tissue.
        kinds: Of "pen", "fold", "bubble" and "blur".

    Raises:
        SpacingUnknownError: if the slide does not state its um per pixel, which all of them need.
        ResolutionUnavailableError: if it is coarser than they need.
        UnsupportedImageError: for fluorescence and dark field: chosen channels, or a dark ground.
        ValueError: for another kind.
    """
    check_artifacts(kinds)
    _check_spacing(slide)
    image = slide.image(mpp=MASK_MPP)
    pixels, downsample = pixels_of(image), slide.downsample_at(mpp=MASK_MPP)
    _check_bright(slide, pixels)
    size_lv0 = tissue.width_lv0, tissue.height_lv0
    inside = on_grid(tissue, pixels.shape[:2], downsample)

    def placed(mask: Mask, step: tuple[float, float] = downsample) -> TissueMask:
        found = on_grid(TissueMask(mask, *step, *size_lv0), tissue.pixels.shape, _steps(tissue))
        return TissueMask(found, *_steps(tissue), *size_lv0)

    found: dict[str, TissueMask] = {}
    pen = find_pen(pixels, MASK_MPP)
    bubbles = find_bubbles(pixels, inside, pen, MASK_MPP) if {"bubble", "fold"} & set(kinds) else np.zeros_like(inside)
    for kind in kinds:
        if kind == "pen":
            found[kind] = placed(pen)
        elif kind == "bubble":
            found[kind] = placed(bubbles)
        elif kind == "fold":  # rims of bubbles are dark lines, too
            found[kind] = placed(find_folds(pixels, inside & ~pen, MASK_MPP) & ~bubbles)
        else:
            fine = slide.downsample_at(mpp=FOCUS_MPP)
            judged = TissueMask(inside & ~pen, *downsample, *size_lv0)
            blurred, _ = find_blur(slide.image(mpp=FOCUS_MPP, keep_tiles=True), judged, fine)
            squares = placed(blurred, (fine[0] * SQUARE_PX, fine[1] * SQUARE_PX))
            found[kind] = TissueMask(squares.pixels & placed(judged.pixels).pixels, *_steps(tissue), *size_lv0)
    return found


def check_artifacts(kinds: Collection[str]) -> None:
    """Raise for one that is unknown, or none at all."""
    for kind in kinds:
        check_choice("exclude", kind, ARTIFACTS)
    if not kinds:
        raise ValueError(f"exclude= names no artifact. Name some of {', '.join(ARTIFACTS)}, or leave it out.")


def on_grid(mask: TissueMask, shape: tuple[int, ...], downsample: tuple[float, float]) -> Mask:
    """A mask on another grid over the same slide: its pixel under the center of each of those.

    Args:
        mask: The mask.
        shape: (height, width) of the grid.
        downsample: Level-0 pixels per pixel of the grid, (x, y).
    """
    rows, columns = shape
    down, across = mask.pixels.shape
    row = ((np.arange(rows) + 0.5) * downsample[1] / mask.downsample_y).astype(np.int64).clip(0, down - 1)
    column = ((np.arange(columns) + 0.5) * downsample[0] / mask.downsample_x).astype(np.int64).clip(0, across - 1)
    return np.asarray(mask.pixels[np.ix_(row, column)], dtype=np.bool_)


def _steps(mask: TissueMask) -> tuple[float, float]:
    return mask.downsample_x, mask.downsample_y


def _check_spacing(slide: SlideLike) -> None:
    try:
        slide.size_at(mpp=MASK_MPP)
    except SpacingUnknownError as error:
        raise SpacingUnknownError(
            f"artifacts are found by their sizes in um: {error} Or leave out exclude= for such slides."
        ) from error


def _check_bright(slide: SlideLike, pixels: Pixels) -> None:
    """Raise for pixels that are not those of stains on bright glass."""
    black = float((pixels.mean(axis=2) < NEARLY_BLACK).mean())
    if slide.background != WHITE:
        why = "its channels were chosen"
    elif black > MAX_BLACK and ((glass := glass_color(pixels)) is None or glass.min() >= WHITE - 1):
        why = f"{black:.0%} of it is nearly black, and no glass is in view"
    else:
        return
    raise UnsupportedImageError(
        f"'{slide.path}': {why}, as of fluorescence or dark field. Artifacts are found on stained tissue on bright "
        "glass. Leave such slides out, or exclude no artifacts from them."
    )
