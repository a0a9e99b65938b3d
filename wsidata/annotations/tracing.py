"""Outlines of masks, along the borders of their pixels."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from wsidata.annotations.grid import Grid
from wsidata.annotations.outline import Area


def trace(mask: NDArray[np.bool_], grid: Grid, size_lv0: tuple[float, float] | None = None) -> list[Area]:
    """The pieces of a mask as polygons along the borders of its pixels, so that their area is exactly that of the mask.

    Pixels that touch at a corner only are of different pieces. Vertices in the middle of straight lines are left out.

    Args:
        mask: (height, width) booleans, the pixels of `grid`.
        grid: Where they lie.
        size_lv0: Width and height of the slide, which the last column and row reach to. None: what the grid says.

    Returns:
        Valid polygons in pixels of level 0, those that begin further up first.

    Raises:
        ValueError: if the mask is no array of booleans, or of another size than the grid.
    """
    if mask.dtype != np.bool_ or mask.shape != (grid.height, grid.width):
        raise ValueError(
            f"the mask is {mask.dtype} {mask.shape}; it must be booleans of the grid's {(grid.height, grid.width)}."
        )
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    (row, left), right = np.nonzero(edges == 1), np.nonzero(edges == -1)[1]
    area = shapely.simplify(shapely.union_all(shapely.box(left, row, right, row + 1)), 0)
    right_lv0, lower_lv0 = size_lv0 or (np.inf, np.inf)

    def placed(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x = grid.x_lv0 + points[:, 0] * grid.downsample_x
        y = grid.y_lv0 + points[:, 1] * grid.downsample_y
        at_edge = points == (grid.width, grid.height) if size_lv0 else np.zeros(points.shape, np.bool_)
        return np.stack([np.where(at_edge[:, 0], right_lv0, x), np.where(at_edge[:, 1], lower_lv0, y)], axis=1)

    pieces = [one for one in shapely.get_parts(shapely.transform(area, placed)) if not one.is_empty]
    return sorted(pieces, key=lambda one: (one.bounds[1], one.bounds[0]))


def rings_of(area: Area) -> list[NDArray[np.float64]]:
    """The rings of a polygon, (N, 2) each, the outer one first; the last vertex is not the first again."""
    return [shapely.get_coordinates(ring)[:-1] for ring in (area.exterior, *area.interiors)]
