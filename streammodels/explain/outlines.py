"""Outlines of regions of cells as rings of corner points.

The boundary is followed from corner to corner, with the region on the right-hand side (y points down). Where two cells
touch only at a corner, the ring goes over to the other cell; rings then never touch themselves, as polygons require.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int64]
"""(n, 2) corners (x, y); the first is the last. Cell (row, column) has the corners (column, row), (column + 1, ...)."""

_Corner = tuple[int, int]


def outline(region: NDArray[np.bool_]) -> list[Ring]:
    """The outer ring of a region, then the rings of its holes.

    Args:
        region: (rows, columns), True in a region whose cells are connected by their edges.
    """
    onward = _edges(region)
    rings = []
    while onward:
        start = next(iter(onward))
        rings.append(_follow(onward, start))
    rings.sort(key=_area, reverse=True)  # holes run the other way round: their area is negative
    return rings


def _edges(region: NDArray[np.bool_]) -> dict[_Corner, list[_Corner]]:
    """Steps (dx, dy) along the boundary from each of its corners."""
    inside = np.pad(region, 1)
    middle = inside[1:-1, 1:-1]
    sides = {  # of a cell whose neighbor there is outside: the corner where the step begins, and the step
        (1, 0): (middle & ~inside[:-2, 1:-1], (0, 0)),  # top
        (0, 1): (middle & ~inside[1:-1, 2:], (1, 0)),  # right
        (-1, 0): (middle & ~inside[2:, 1:-1], (1, 1)),  # bottom
        (0, -1): (middle & ~inside[1:-1, :-2], (0, 1)),  # left
    }
    onward: dict[_Corner, list[_Corner]] = {}
    for step, (cells, (x, y)) in sides.items():
        for row, column in np.argwhere(cells).tolist():
            onward.setdefault((column + x, row + y), []).append(step)
    return onward


def _follow(onward: dict[_Corner, list[_Corner]], start: _Corner) -> Ring:
    """Take one ring from the steps."""
    corner, before, ring = start, (0, 0), []
    while corner in onward:
        steps = onward[corner]
        left = (before[1], -before[0])
        step = left if left in steps else steps[0]
        steps.remove(step)
        if not steps:
            del onward[corner]
        if step != before:
            ring.append(corner)
        corner, before = (corner[0] + step[0], corner[1] + step[1]), step
        if corner == start and (corner not in onward or (before[1], -before[0]) not in onward[corner]):
            break
    return np.array([*ring, ring[0]], dtype=np.int64)


def _area(ring: Ring) -> float:
    x, y = ring.T.astype(np.float64)
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)
