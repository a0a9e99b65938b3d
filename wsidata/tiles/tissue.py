"""The share of rectangles of a slide that is tissue, as exact areas of the mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsidata.slides.tissue.mask import TissueMask

Numbers = NDArray[np.float64]

DECIMALS = 9
"""Shares are rounded to this, so that a rectangle wholly in tissue has exactly 1."""


def tissue_shares(mask: TissueMask, left: Numbers, top: Numbers, right: Numbers, bottom: Numbers) -> Numbers:
    """Share of the area of each rectangle that is tissue, 0 to 1; what lies beyond the slide is none.

    The area below and left of a point, over a mask of zeros and ones, is linear within each pixel along both axes. So
    interpolation of the mask's cumulative sums gives the area of rectangles exactly, wherever they begin and end.

    Args:
        mask: The tissue. Its last row and column reach to the edge of the slide.
        left: (n,) left edges in pixels of level 0.
        top: Upper edges.
        right: Right edges, each above its left one.
        bottom: Lower edges.
    """
    height, width = mask.pixels.shape
    x_borders = np.append(np.arange(width) * mask.downsample_x, mask.width_lv0)
    y_borders = np.append(np.arange(height) * mask.downsample_y, mask.height_lv0)
    areas = np.zeros((height + 1, width + 1))
    areas[1:, 1:] = (mask.pixels * np.diff(x_borders) * np.diff(y_borders)[:, None]).cumsum(axis=0).cumsum(axis=1)
    x, y = (
        (_places(edges, x_borders) for edges in (left, right)),
        (_places(edges, y_borders) for edges in (top, bottom)),
    )
    (at_left, at_right), (at_top, at_bottom) = x, y
    found = _area(areas, at_right, at_bottom) - _area(areas, at_left, at_bottom)
    found += _area(areas, at_left, at_top) - _area(areas, at_right, at_top)
    return np.round(found / ((right - left) * (bottom - top)), DECIMALS).clip(0, 1)


Place = tuple[NDArray[np.int64], Numbers]
"""Pixels, and how far inside them, 0 to 1."""


def _places(edges: Numbers, borders: Numbers) -> Place:
    where = np.interp(edges, borders, np.arange(len(borders)))
    pixel = np.minimum(where.astype(np.int64), len(borders) - 2)
    return pixel, where - pixel


def _area(areas: Numbers, x: Place, y: Place) -> Numbers:
    (column, right), (row, down) = x, y
    upper = areas[row, column] * (1 - right) + areas[row, column + 1] * right
    lower = areas[row + 1, column] * (1 - right) + areas[row + 1, column + 1] * right
    found: Numbers = upper * (1 - down) + lower * down
    return found
