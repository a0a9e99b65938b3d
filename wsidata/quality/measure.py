"""The quality of one slide, in numbers of its tissue, artifacts, colors and stains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wsidata.errors import ResolutionUnavailableError
from wsidata.slides.artifacts.find import ARTIFACTS, find_artifacts
from wsidata.slides.artifacts.focus import FOCUS_MPP
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.mask import MASK_MPP
from wsidata.slides.tissue.methods import TissueMethod, find_tissue, glass_color
from wsidata.transforms.color.stain_normalize import BlankImageError, fit_macenko

METHOD = 2
"""Version of the numbers, to be incremented whenever a slide has other ones: tables are not continued across it."""

STAIN_MPP = 2.0
"""um per pixel at which stains are fitted."""

NAN = math.nan


@dataclass(frozen=True)
class SlideQuality:
    """Quality of a slide. Shares are 0 to 1; NaN where there is nothing to measure.

    Attributes:
        mpp: um per pixel of level 0, along x.
        tissue_mm2: Area of the tissue, and of pen strokes that are taken for tissue.
        tissue_share: Share of the slide that is tissue.
        lost_share: Share of the tissue that is under pen, in a fold or bubble, or blurred; 1 without tissue.
        pen_share: Share of the slide under pen strokes.
        bubble_share: Share of the slide in air bubbles.
        fold_share: Share of the tissue in folds.
        blurred_share: Share of the tissue out of focus at 1 um per pixel; NaN where level 0 is coarser.
        saturation: Mean of (largest - smallest of red, green, blue) / 255 over the tissue.
        clipped_share: Share of the tissue with a color at 0 or 255, at 8 um per pixel.
        glass_red: Red of the glass, 0 to 255; 255 in all three is white.
        glass_green: Green of the glass.
        glass_blue: Blue of the glass.
        hematoxylin_red: Density in red of the unit vector of hematoxylin, after Macenko; NaN with pen strokes.
        hematoxylin_green: The same in green.
        hematoxylin_blue: The same in blue.
        eosin_red: The same of eosin (of DAB, on slides with that).
        eosin_green: The same in green.
        eosin_blue: The same in blue.
    """

    mpp: float
    tissue_mm2: float
    tissue_share: float
    lost_share: float
    pen_share: float
    bubble_share: float
    fold_share: float
    blurred_share: float
    saturation: float
    clipped_share: float
    glass_red: float
    glass_green: float
    glass_blue: float
    hematoxylin_red: float
    hematoxylin_green: float
    hematoxylin_blue: float
    eosin_red: float
    eosin_green: float
    eosin_blue: float


def measure_quality(slide: Slide, method: TissueMethod = find_tissue) -> SlideQuality:
    """Measure the quality of a slide; its tissue is decoded at 1 um per pixel, once.

    Args:
        slide: An open slide, in color.
        method: Finds the tissue.

    Raises:
        SpacingUnknownError: if the slide does not state its um per pixel.
        ResolutionUnavailableError: if level 0 is coarser than 8 um per pixel.
        UnsupportedImageError: for fluorescence and dark field.
        UnreadableImageError: if its tiles are damaged.
    """
    tissue = slide.tissue_mask(method)
    kinds = ARTIFACTS if _has_detail(slide) else tuple(kind for kind in ARTIFACTS if kind != "blur")
    found = {kind: mask.pixels for kind, mask in find_artifacts(slide, tissue, kinds).items()}
    pixels, inside = slide.numpy(mpp=MASK_MPP), tissue.pixels
    assert slide.mpp is not None  # find_artifacts raises without
    colors = pixels[inside].astype(np.float64) if pixels.shape[:2] == inside.shape else np.zeros((0, 3))
    count, lost = int(inside.sum()), np.logical_or.reduce([inside & mask for mask in found.values()])
    area_um2 = count * tissue.downsample_x * tissue.downsample_y * slide.mpp[0] * slide.mpp[1]
    glass = glass_color(pixels)

    def share(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
        return float(mask.sum() / count) if count else NAN

    return SlideQuality(
        slide.mpp[0],
        area_um2 / 1e6,
        tissue.fraction,
        share(lost) if count else 1.0,
        float(found["pen"].mean()),
        float(found["bubble"].mean()),
        share(found["fold"] & inside),
        share(found["blur"] & inside) if "blur" in found else NAN,
        float(np.ptp(colors, axis=1).mean() / 255) if len(colors) else NAN,
        float(((colors == 0) | (colors == 255)).any(axis=1).mean()) if len(colors) else NAN,
        *((NAN,) * 3 if glass is None else map(float, glass)),
        *((NAN,) * 6 if found["pen"].any() else _stains(slide)),
    )


def _has_detail(slide: Slide) -> bool:
    try:
        slide.size_at(mpp=FOCUS_MPP)
    except ResolutionUnavailableError:
        return False
    return True


def _stains(slide: Slide) -> tuple[float, ...]:
    """The unit vectors of the stains; NaN where there is too little tissue, or only one."""
    try:
        fit = fit_macenko(slide.image(mpp=STAIN_MPP, keep_tiles=True))
    except (BlankImageError, ResolutionUnavailableError):
        return (NAN,) * 6
    return *fit.haematoxylin, *fit.eosin
