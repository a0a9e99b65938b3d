"""Exact areas of polygons in the pixels of a grid, and which centers of pixels they hold.

A polygon is the sum of its edges: each edge adds the area to its right, with the sign of its direction along y. Edges
are cut where they cross borders of pixels. A piece within one pixel, that goes down by dy at a mean distance f from the
left border of its pixel, adds dy * (1 - f) to this pixel and dy to all on its right. So the cost is that of the border
alone, the sums over a row need no other row, and no area is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import shapely
from numpy.typing import NDArray

from wsidata.annotations.grid import Grid
from wsidata.annotations.outline import Area

Numbers = NDArray[np.float64]

_ROUNDING = 1e-10  # of a pixel; sums in pixels without a border differ from 0 and 1 by less


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges of polygons in the pixels of a grid, ring by ring; outer rings turn one way, holes the other.

    Attributes:
        start: (edges, 2) x and y.
        end: (edges, 2) x and y.
    """

    start: Numbers
    end: Numbers

    @classmethod
    def of(cls, area: Area, grid: Grid) -> Self:
        """The edges of a valid area (level-0 pixels) that go up or down."""
        rings = shapely.get_rings(shapely.orient_polygons(shapely.get_parts(area)))  # outer rings up on their left
        coordinates, ring = shapely.get_coordinates(rings, return_index=True)
        points = (coordinates - (grid.x_lv0, grid.y_lv0)) / (grid.downsample_x, grid.downsample_y)
        joined = (ring[:-1] == ring[1:]) & (points[:-1, 1] != points[1:, 1])
        return cls(points[:-1][joined], points[1:][joined])

    def shares(self, first: int, rows: int, width: int) -> Numbers:
        """Share of each pixel inside, 0 to 1: (rows, width) from row `first` on."""
        start, end = self._at_rows(first, first + rows)
        piece_start, piece_end = _cut(start, end, first, first + rows, width)
        x, y = ((piece_start + piece_end) / 2).T
        row, column = np.floor(y).astype(np.int64) - first, np.floor(x).astype(np.int64)
        inside = (row >= 0) & (row < rows) & (column < width)
        row, column, x = row[inside], column[inside], x[inside]
        down = (piece_end - piece_start)[inside, 1]
        right = np.where(column < 0, 0.0, x - column)  # what lies left of the grid covers its whole row
        place = row * (width + 1) + np.maximum(column, 0)
        cells = rows * (width + 1)
        added = np.bincount(place, down * (1 - right), cells) + np.bincount(place + 1, down * right, cells + 1)[:cells]
        found = -np.cumsum(added.astype(np.float64).reshape(rows, width + 1)[:, :width], axis=1)
        found[np.abs(found) < _ROUNDING] = 0
        found[np.abs(found - 1) < _ROUNDING] = 1
        return found

    def centers(self, first: int, rows: int, width: int) -> NDArray[np.bool_]:
        """Whether the center of each pixel is inside: (rows, width) from row `first` on.

        Centers on a left or upper border are inside, on a right or lower one outside, so that of two polygons that
        touch exactly one has it.
        """
        start, end = self._at_rows(first, first + rows)
        lowest = np.ceil(np.minimum(start[:, 1], end[:, 1]) - 0.5).astype(np.int64).clip(first, first + rows)
        beyond = np.ceil(np.maximum(start[:, 1], end[:, 1]) - 0.5).astype(np.int64).clip(first, first + rows)
        edge, row = _ranges(lowest, beyond)
        start, end = start[edge], end[edge]
        down = end[:, 1] - start[:, 1]
        x = start[:, 0] + (row + 0.5 - start[:, 1]) * ((end[:, 0] - start[:, 0]) / down)
        column = np.ceil(x.clip(0, width) - 0.5).astype(np.int64).clip(0, width)
        place = (row - first) * (width + 1) + column
        turns = np.bincount(place, np.sign(down), rows * (width + 1)).reshape(rows, width + 1)
        inside: NDArray[np.bool_] = np.cumsum(turns[:, :width], axis=1) != 0
        return inside

    def _at_rows(self, first: int, beyond: int) -> tuple[Numbers, Numbers]:
        low, high = np.minimum(self.start[:, 1], self.end[:, 1]), np.maximum(self.start[:, 1], self.end[:, 1])
        chosen = (high > first) & (low < beyond)
        return self.start[chosen], self.end[chosen]


def _cut(start: Numbers, end: Numbers, first: int, beyond: int, width: int) -> tuple[Numbers, Numbers]:
    """Edges in pieces, none of which crosses a border of pixels within these rows and columns."""
    count = np.arange(len(start))
    cuts = [(count, np.zeros(len(start))), (count, np.ones(len(start)))]
    for axis, low, high in ((0, 0, width), (1, first, beyond)):
        one, other = start[:, axis], end[:, axis]
        lowest = np.floor(np.minimum(one, other).clip(low - 1, high)).astype(np.int64) + 1
        last = np.ceil(np.maximum(one, other).clip(low, high + 1)).astype(np.int64)
        edge, border = _ranges(lowest, np.maximum(last, lowest))
        cuts.append((edge, (border - one[edge]) / (other - one)[edge]))
    edge, along = (np.concatenate(part) for part in zip(*cuts, strict=True))
    order = np.lexsort((along, edge))
    edge, along = edge[order], along[order].clip(0, 1)[:, None]
    points = np.where(along == 1, end[edge], start[edge] + along * (end - start)[edge])
    same = edge[:-1] == edge[1:]
    return points[:-1][same], points[1:][same]


def _ranges(low: NDArray[np.int64], beyond: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers from low[i] to beyond[i], the last excluded, for all i, and the i of each."""
    counts = beyond - low
    owner = np.repeat(np.arange(len(low)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts) + low[owner]
