"""Air bubbles on a coarse view, by their gray rims on glass.

The rim of a bubble bends light out of the objective: a thin dark line without color, an arc of an ellipse. Two ways
find it. What rims enclose, together with tissue and the border of the slide, is a bubble where it is large and nearly
convex; and a rim that lies on an ellipse is that of a bubble, if most of the ellipse that is seen on glass is rim. Over
tissue rims have its color, and are not seen. Bubbles of other forms, or wholly over tissue, are missed.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.slides.artifacts.density import Mask, closed, densities, opened, widened

Ellipse = tuple[Sequence[float], Sequence[float], float]
"""Center, axes and angle, as OpenCV has them."""

LEAST_DENSITY, MOST_DENSITY = 0.06, 0.7
"""Mean density of rims."""

SPREAD = 0.045
"""Difference of the largest and the smallest density in rims, beyond a tenth of their mean."""

THICK_UM, LENGTH_UM = 90.0, 300.0
"""Rims are at most so thick, and at least so long."""

LEAST_MM2, CONVEX, RIM_SHARE, ARC_SHARE = 0.03, 0.85, 0.5, 0.6
"""Bubbles are at least so large; share of the glass in their convex hull that rims enclose; share of the edge of that
which is rim, and not tissue; share of the ellipse on glass that is rim."""

ON_ELLIPSE, LEAST_SEEN = 0.85, 0.4
"""Share of a rim that lies on its ellipse; share of the ellipse in the view that tissue does not hide."""


def find_bubbles(pixels: NDArray[np.uint8], tissue: Mask, pen: Mask, mpp: float) -> Mask:
    """Bubbles whose rim is seen on glass, with the rim.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        tissue: (height, width) booleans.
        pen: The same, of pen strokes, which hide rims as tissue does.
        mpp: um per pixel, 4 to 16.
    """
    density = densities(pixels)
    mean, spread = density.mean(axis=2), density.max(axis=2) - density.min(axis=2)
    rim = (mean > LEAST_DENSITY) & (mean < MOST_DENSITY) & (spread < SPREAD + 0.1 * mean)
    rim = closed(rim, 24 / mpp)
    rim &= ~widened(opened(closed(rim, THICK_UM / 2 / mpp), THICK_UM / mpp), 2) & ~widened(pen, 32 / mpp)
    hidden = opened(tissue, THICK_UM / mpp) | pen  # what is thinner may be rim that was taken for tissue
    return _enclosed(rim, hidden, mpp) | _on_ellipses(rim & ~hidden, hidden, mpp)


def _enclosed(rim: Mask, hidden: Mask, mpp: float) -> Mask:
    """What rims enclose, with the border of the view and what hides them."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~rim & ~hidden).astype(np.uint8), connectivity=4)
    found = np.zeros(rim.shape, dtype=np.bool_)
    reach = round(48 / mpp) + 1
    for piece in range(1, count):
        left, top, width, height, area = stats[piece]
        if area * mpp**2 < LEAST_MM2 * 1e6 or area > 0.25 * rim.size:
            continue
        upper, before = max(0, top - reach), max(0, left - reach)
        window = np.s_[upper : top + height + reach, before : left + width + reach]
        own = labels[window] == piece
        edge = widened(own, 1) & ~own
        hull = _hull(own)
        is_convex = area >= CONVEX * (hull & ~hidden[window]).sum() and area >= hull.sum() / 2
        if edge.any() and rim[window][edge].mean() >= RIM_SHARE and is_convex:
            found[window] |= _hull(own | (rim[window] & widened(own, reach)))
    return found


def _on_ellipses(rim: Mask, hidden: Mask, mpp: float) -> Mask:
    """Ellipses on which rims lie."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(rim.astype(np.uint8), connectivity=8)
    found = np.zeros(rim.shape, dtype=np.bool_)
    for piece in range(1, count):
        left, top, width, height, area = stats[piece]
        if max(width, height) * mpp < LENGTH_UM or area < 20:
            continue
        rows, columns = np.nonzero(labels[top : top + height, left : left + width] == piece)
        points = np.stack([columns + left, rows + top], axis=1).astype(np.float32)
        for fit in (cv2.fitEllipse, cv2.fitEllipseAMS, cv2.fitEllipseDirect):  # none of them suits all arcs
            ellipse = fit(points)
            if _is_bubble(ellipse, points, rim, hidden, mpp):
                found |= _drawn(rim.shape, ellipse, -1)
                found[points[:, 1].astype(int), points[:, 0].astype(int)] = True
                break
    return found


def _is_bubble(ellipse: Ellipse, points: NDArray[np.float32], rim: Mask, hidden: Mask, mpp: float) -> bool:
    """Whether the pixels of a rim lie on an ellipse, and enough of that is rim."""
    center, axes, angle = ellipse
    if not np.isfinite([*center, *axes, angle]).all() or min(axes) <= 0 or max(axes) > 2 * max(rim.shape):
        return False
    if np.pi / 4 * axes[0] * axes[1] * mpp**2 < LEAST_MM2 * 1e6:
        return False
    length = float(np.ptp(points, axis=0).max())
    line = _drawn(rim.shape, ellipse, round(2 * len(points) / (np.pi * length)) + 3)
    arc = _drawn(rim.shape, ellipse, 1)
    seen = arc & ~hidden
    if line[points[:, 1].astype(int), points[:, 0].astype(int)].mean() < ON_ELLIPSE:
        return False
    return bool(seen.sum() >= max(1.0, LEAST_SEEN * arc.sum()) and widened(rim, 1)[seen].mean() >= ARC_SHARE)


def _drawn(shape: tuple[int, ...], ellipse: Ellipse, thickness: int) -> Mask:
    out = np.zeros(shape, dtype=np.uint8)
    cv2.ellipse(out, ellipse, (1.0,), thickness)
    return out > 0


def _hull(mask: Mask) -> Mask:
    """The convex hull of a mask."""
    out = np.zeros(mask.shape, dtype=np.uint8)
    rows, columns = np.nonzero(mask)
    hull = cv2.convexHull(np.stack([columns, rows], axis=1).astype(np.int32))
    cv2.fillConvexPoly(out, hull, 1)
    return out > 0
