"""Tissue detection on a coarse view of a slide, by saturation or by optical density.

Both methods are Otsu's threshold (IEEE Transactions on Systems, Man, and Cybernetics 9, 1979, p. 62) on one number per
pixel, with its known pitfall handled: Otsu splits everything in two, also a slide without tissue, and tissue that fills
the view. So where the means of the two classes are nearly the same, nothing counts as tissue - except, always, pixels
above a value that glass never has.

1. `otsu_saturation`: max(R, G, B) - min(R, G, B). Glass, shadows, black borders and unscanned white are gray, H&E is
   not. (The saturation of HSV divides this by max(R, G, B), which makes noise in black pixels look colorful.)
2. `otsu_density`: the largest of the optical densities of R, G and B, log10(glass / pixel), with the color of the glass
   estimated from the view. It sees pale and gray stains, such as the hematoxylin of immunohistochemistry (bluish gray,
   hardly more saturated than tinted glass) and dark brown DAB. Shadows and pen marks count as tissue.
3. `find_tissue`, the default, takes the saturation where that finds nearly all that the density does, else the density.
   Both leave areas out of the histogram that were never scanned: filled with white, they are no glass.

Cleaning, the same in all: a median filter removes single pixels; gaps narrower than `close_px` are closed, holes
smaller than `max_hole_px` filled, pieces smaller than `min_piece_px` dropped. The defaults suit 8 um per pixel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.slides.protocol import SlideLike


class SlideMethod(ABC):
    """A way to find tissue that needs more of a slide than its coarse view: finer pixels, or a file beside it."""

    goes_by_color = True

    @abstractmethod
    def __call__(self, slide: SlideLike, resolution: Mapping[str, Any]) -> NDArray[np.bool_]:
        """The tissue of an open slide, (height, width) booleans of the size of `slide.image(**resolution)`."""


TissueMethod = Callable[[NDArray[np.uint8]], NDArray[np.bool_]] | SlideMethod
"""From (height, width, 3) uint8 RGB to a (height, width) boolean mask; or from a slide."""

CLOSE_PX, MAX_HOLE_PX, MIN_PIECE_PX = 5, 256, 24

MIN_CONTRAST = 10.0
"""Smallest difference between the mean saturations (0..255) of glass and tissue."""

CERTAIN_SATURATION = 40
"""Saturation (0..255) above which a pixel is always tissue."""

MIN_DENSITY_CONTRAST = 0.03
"""Smallest difference between the mean optical densities of glass and tissue: 7 % of the light."""

CERTAIN_DENSITY = 0.05
"""Optical density above which a pixel is always tissue: 11 % of the light. Stroma in pale hematoxylin has about 0.1."""

DENSITY_STEPS = 500
"""Steps of the histogram per unit of optical density: 255 is a density of 0.51, and the darkest are the same."""

MAX_MISSED = 0.15
"""Share of the tissue found by density that saturation may miss.

Real slides at 8 um per pixel: H&E 0.01 and 0.10 (its gray fibers), immunohistochemistry 0.18 to 0.37, paler ones 1."""

GLASS_MIN, GLASS_MAX_SATURATION, GLASS_MAX_CHANGE, GLASS_MIN_SHARE = 150, 40, 16, 0.01
"""Glass is at least so bright, at most so tinted and uneven from pixel to pixel, and fills this share of the view."""

WHITE = np.full(3, 255.0)

BLACK, BORDER_PX = 40, 9
"""Areas darker than this that a square of so many pixels fits into are borders."""


def find_tissue(
    pixels: NDArray[np.uint8],
    *,
    close_px: int = CLOSE_PX,
    max_hole_px: int = MAX_HOLE_PX,
    min_piece_px: int = MIN_PIECE_PX,
) -> NDArray[np.bool_]:
    """Tissue by saturation, or by optical density where saturation misses more than `MAX_MISSED` of what that finds.

    Without glass in view (dark field, or tissue everywhere) density has no reference, and saturation decides.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        close_px: Gaps up to this wide are closed; 1 or less closes none.
        max_hole_px: Holes of fewer pixels are filled.
        min_piece_px: Pieces of fewer pixels are dropped.

    Returns:
        (height, width) booleans.

    Raises:
        ValueError: for other pixels.
    """
    _check_rgb(pixels)
    glass = _find_glass(pixels)
    scanned = None if glass is None else glass.scanned
    saturated = _cleaned(_saturated(pixels, scanned), close_px, max_hole_px, min_piece_px)
    if glass is None:
        return saturated
    dense = _cleaned(_dense(pixels, glass.color, scanned), close_px, max_hole_px, min_piece_px)
    return dense if (dense & ~saturated).sum() > MAX_MISSED * dense.sum() else saturated


def otsu_saturation(
    pixels: NDArray[np.uint8],
    *,
    close_px: int = CLOSE_PX,
    max_hole_px: int = MAX_HOLE_PX,
    min_piece_px: int = MIN_PIECE_PX,
) -> NDArray[np.bool_]:
    """Tissue by Otsu's threshold on saturation; arguments, result and errors as `find_tissue`."""
    _check_rgb(pixels)
    return _cleaned(_saturated(pixels), close_px, max_hole_px, min_piece_px)


def otsu_density(
    pixels: NDArray[np.uint8],
    *,
    close_px: int = CLOSE_PX,
    max_hole_px: int = MAX_HOLE_PX,
    min_piece_px: int = MIN_PIECE_PX,
) -> NDArray[np.bool_]:
    """Tissue by Otsu's threshold on optical density; arguments, result and errors as `find_tissue`.

    Where no glass is in view, white is taken for it.
    """
    _check_rgb(pixels)
    glass = _find_glass(pixels)
    found = _dense(pixels, WHITE) if glass is None else _dense(pixels, glass.color, glass.scanned)
    return _cleaned(found, close_px, max_hole_px, min_piece_px)


def glass_color(pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """RGB of the glass in a view, its brightest frequent color that is nearly gray and even; None where there is none.

    Areas of one value to the last bit, and full white, are left out, unless there is nothing else: unscanned parts are
    filled with a white brighter than the glass.
    """
    glass = _find_glass(pixels)
    return None if glass is None else glass.color


class _Glass(NamedTuple):
    """RGB of the glass, and which pixels were scanned; None for all."""

    color: NDArray[np.float64]
    scanned: NDArray[np.bool_] | None


def _find_glass(pixels: NDArray[np.uint8]) -> _Glass | None:
    low, high = _extremes(pixels)
    square = np.ones((3, 3), dtype=np.uint8)
    _, change = _extremes(np.asarray(cv2.dilate(pixels, square) - cv2.erode(pixels, square), dtype=np.uint8))
    is_glass = (high - low <= GLASS_MAX_SATURATION) & (low >= GLASS_MIN) & (change <= GLASS_MAX_CHANGE)
    is_fill = is_glass & ((change == 0) | (low == 255))
    least = max(1, GLASS_MIN_SHARE * is_glass.size)
    has_both = (is_glass & ~is_fill).sum() >= least
    if has_both:
        is_glass &= ~is_fill
    if is_glass.sum() < least:
        return None
    colors = pixels[is_glass]
    brightness = colors.sum(axis=1, dtype=np.int64) // 3
    counts = np.convolve(np.bincount(brightness, minlength=256), np.ones(5), mode="same")
    peak = int(np.flatnonzero(counts >= counts.max() / 10)[-1])
    while peak > 0 and counts[peak - 1] >= counts[peak]:
        peak -= 1
    color = np.median(colors[np.abs(brightness - peak) <= 2], axis=0)
    return _Glass(np.asarray(color, dtype=np.float64), ~is_fill if has_both else None)


def _saturated(pixels: NDArray[np.uint8], scanned: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    low, high = _extremes(pixels)
    saturation = np.asarray(cv2.medianBlur(high - low, 3), dtype=np.uint8)
    return saturation > _threshold(saturation, scanned, MIN_CONTRAST, CERTAIN_SATURATION)


def _dense(
    pixels: NDArray[np.uint8], glass: NDArray[np.float64], scanned: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    levels = np.arange(256)[:, None]
    table = np.clip(np.rint(DENSITY_STEPS * np.log10((glass + 1) / (levels + 1))), 0, 255).astype(np.uint8)
    _, densest = _extremes(np.asarray(cv2.LUT(pixels, table[:, None]), dtype=np.uint8))
    density = np.asarray(cv2.medianBlur(densest, 3), dtype=np.uint8)
    density[_borders(pixels)] = 0
    contrast, certain = DENSITY_STEPS * MIN_DENSITY_CONTRAST, DENSITY_STEPS * CERTAIN_DENSITY
    return density > _threshold(density, scanned, contrast, certain)


def _check_rgb(pixels: NDArray[np.uint8]) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"tissue by color needs (height, width, 3) uint8 RGB, not {pixels.shape} {pixels.dtype}. Open the slide "
            "without channels=, or pass a tissue method of your own."
        )


def _extremes(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The smallest and the largest of the three samples of each pixel."""
    red, green, blue = cv2.split(pixels)  # ten times as fast as numpy along the last axis
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    return np.asarray(low, dtype=np.uint8), np.asarray(high, dtype=np.uint8)


def _threshold(
    values: NDArray[np.uint8], scanned: NDArray[np.bool_] | None, min_contrast: float, certain: float
) -> float:
    """Pixels above it are tissue."""
    values = values.ravel() if scanned is None else values[scanned]
    otsu, _ = cv2.threshold(values[None], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above = values > otsu
    if not above.any() or above.all() or values[above].mean() - values[~above].mean() < min_contrast:
        return certain
    return min(otsu, certain)


def _borders(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Black areas larger than any nucleus, and the ramp around them."""
    black = (_extremes(pixels)[1] < BLACK).astype(np.uint8)
    large = cv2.morphologyEx(black, cv2.MORPH_OPEN, np.ones((BORDER_PX, BORDER_PX), dtype=np.uint8))
    return np.asarray(cv2.dilate(large, np.ones((5, 5), dtype=np.uint8)), dtype=np.bool_)


def _cleaned(mask: NDArray[np.bool_], close_px: int, max_hole_px: int, min_piece_px: int) -> NDArray[np.bool_]:
    closed: NDArray[Any] = mask.astype(np.uint8)
    if close_px > 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (close_px, close_px))
        padded = cv2.copyMakeBorder(closed, close_px, close_px, close_px, close_px, cv2.BORDER_REPLICATE)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[close_px:-close_px, close_px:-close_px]
    filled = ~_without_small_pieces(closed == 0, max_hole_px, connectivity=4)
    return _without_small_pieces(filled, min_piece_px, connectivity=8)


def _without_small_pieces(mask: NDArray[np.bool_], min_px: int, connectivity: int) -> NDArray[np.bool_]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    keep[0] = False  # what was not in the mask
    return np.asarray(keep[labels], dtype=np.bool_)
