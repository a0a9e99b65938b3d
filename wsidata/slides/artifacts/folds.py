"""Folds of tissue on a coarse view, where the density of the tissue around is added once more.

Two layers of the same tissue absorb twice as much in every color (Beer-Lambert). So what a fold adds to the mean
density of the tissue around has the direction of that in the space of red, green and blue, and about its length. A band
of crowded nuclei or an island of tumor adds hematoxylin, which is another direction. Thresholds on darkness and
saturation of the whole slide (such as Kothari et al., "Eliminating tissue-fold artifacts in histopathological
whole-slide images for improved image-based prediction of cancer grade", J. Pathol. Inform. 4, 2013, who set them by the
connectivity of what they find) take dense tissue for folds, and miss folds in pale tissue.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.slides.artifacts.density import Density, Mask, closed, connected_to, densities, disk, smoothed, widened

STRONG, WEAK = 0.42, 0.28
"""Density that is added, by that of the tissue around: inside folds and at their edges."""

ALIKE_STRONG, ALIKE_WEAK = 0.95, 0.9
"""Cosine of the angle between the two."""

AROUND_UM = 480.0
"""Side of the square that is "around"."""

LEAST_DENSITY = 0.2
"""Density that a fold has at least, in one color."""

WIDTH_UM, LENGTH_UM, SLENDER = 100.0, 150.0, 4.0
"""Folds are at most so wide, at least so long, and so many times as long as wide."""


def find_folds(pixels: NDArray[np.uint8], tissue: Mask, mpp: float) -> Mask:
    """Folds of the tissue.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        tissue: (height, width) booleans.
        mpp: um per pixel, 4 to 16.
    """
    density = smoothed(densities(pixels), 10 / mpp)
    around = _around(density, tissue, AROUND_UM / mpp)
    added = density - around
    along, length = (added * around).sum(axis=2), np.maximum((around * around).sum(axis=2), 1e-4)
    share = along / length
    alike = along / np.sqrt(length * np.maximum((added * added).sum(axis=2), 1e-6))
    ridge = _ridge(density.sum(axis=2), around.sum(axis=2), tissue, WIDTH_UM / mpp)
    dense = tissue & (density.max(axis=2) > LEAST_DENSITY)
    strong = dense & (share > STRONG) & (alike > ALIKE_STRONG) & (ridge > STRONG)
    weak = dense & (share > WEAK) & (alike > ALIKE_WEAK) & (ridge > WEAK)
    found = _slender(closed(connected_to(weak, strong, 40 * LENGTH_UM / 8 / mpp**2), 24 / mpp), mpp)
    return widened(found, 8 / mpp) & tissue


def _around(density: Density, tissue: Mask, side_px: float) -> Density:
    """Mean density of the tissue in a square around each pixel."""
    side = (max(3, round(side_px)) | 1,) * 2
    area = cv2.boxFilter(tissue.astype(np.float32), -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
    total = cv2.boxFilter(density * tissue[..., None], -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(total / np.maximum(area, 1.0)[..., None], dtype=np.float32)


def _ridge(density: Density, around: Density, tissue: Mask, width_px: float) -> Density:
    """Density above that of wider structures (the top-hat), by that of the tissue around; glass counts as tissue."""
    filled = np.where(tissue, density, np.maximum(density, around)).astype(np.float32)
    hat = cv2.morphologyEx(filled, cv2.MORPH_TOPHAT, disk(width_px))
    return np.asarray(hat / np.maximum(around, 0.01), dtype=np.float32)


def _slender(mask: Mask, mpp: float) -> Mask:
    """Pieces that are long, and long for their width."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    keep = np.zeros(count, dtype=np.bool_)
    for piece in range(1, count):
        left, top, width, height, area = stats[piece]
        window = np.s_[top : top + height, left : left + width]
        own = labels[window] == piece
        wide = 2 * float(inside[window][own].max())
        long = area / wide  # of a band
        keep[piece] = long * mpp >= LENGTH_UM and long >= SLENDER * wide
    return np.asarray(keep[labels], dtype=np.bool_)
