"""Packing of rectangles on a small canvas without overlap.

Skyline heuristic: pieces by decreasing height, each as high up as it fits, then as far left; a few widths of the canvas
are tried, and the smallest area wins (Jylänki, "A thousand ways to pack the bin", 2010, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CANVAS_WIDTHS = (4, 24)
"""Fewest (for many pieces) and most canvas widths that are tried."""

MAX_ASPECT = 4.0
"""Largest ratio of the canvas' longer to its shorter side, where the pieces allow."""


def unite_overlapping(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Replace overlapping boxes by the box around both, until none overlap.

    Args:
        boxes: (n, 4): left, top, right, bottom; right and bottom are the first beyond.

    Returns:
        The disjoint boxes, ordered by top, then left.
    """
    done = np.empty((0, 4), dtype=np.int64)
    waiting = list(boxes)
    while waiting:
        box = waiting.pop()
        overlaps = ((box[:2] < done[:, 2:]) & (done[:, :2] < box[2:])).all(axis=1)
        group, done = np.vstack([box, done[overlaps]]), done[~overlaps]
        around = np.concatenate([group[:, :2].min(axis=0), group[:, 2:].max(axis=0)])
        if len(group) > 1:
            waiting.append(around)  # may overlap others now
        else:
            done = np.vstack([done, around])
    return done[np.lexsort((done[:, 0], done[:, 1]))]


def place(sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Place rectangles on a small canvas without overlap.

    Args:
        sizes: (width, height) of each, at least one.

    Returns:
        The (x, y) of each, in their order, and the (width, height) of the canvas.
    """
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index][1], -sizes[index][0], index))
    side = math.sqrt(sum(width * height for width, height in sizes))
    widest, in_one_row = max(width for width, _ in sizes), sum(width for width, _ in sizes)
    low, high = max(widest, side / math.sqrt(MAX_ASPECT)), min(in_one_row, side * math.sqrt(MAX_ASPECT))
    tries = min(max(CANVAS_WIDTHS[0], 1000 // len(sizes)), CANVAS_WIDTHS[1])
    widths = {widest, *(math.ceil(width) for width in np.geomspace(low, max(low, high), tries))}
    best: tuple[tuple[int, int, int], list[tuple[int, int]], tuple[int, int]] | None = None
    for limit in sorted(widths):
        places = _skyline([sizes[index] for index in order], limit)
        width = max(x + sizes[index][0] for (x, _), index in zip(places, order, strict=True))
        height = max(y + sizes[index][1] for (_, y), index in zip(places, order, strict=True))
        is_long = max(width, height) > MAX_ASPECT * min(width, height)
        score = (int(is_long), width * height, max(width, height))
        if best is None or score < best[0]:
            best = score, places, (width, height)
    assert best is not None
    in_order = dict(zip(order, best[1], strict=True))
    return [in_order[index] for index in range(len(sizes))], best[2]


def _skyline(sizes: Sequence[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """Place rectangles in this order under a skyline that grows downwards, `limit` wide (none is wider).

    The skyline is a list of (x, y): from x on, up to the next entry, everything above y is taken.
    """
    skyline = [(0, 0)]
    places: list[tuple[int, int]] = []
    for width, height in sizes:
        starts = [index for index, (left, _) in enumerate(skyline) if left + width <= limit]
        top, left = min((_top(skyline, index, width), skyline[index][0]) for index in starts)
        places.append((left, top))
        skyline = _raised(skyline, left, left + width, top + height, limit)
    return places


def _top(skyline: list[tuple[int, int]], start: int, width: int) -> int:
    """The lowest point of the skyline over `width` columns from the left edge of entry `start` on."""
    right, top = skyline[start][0] + width, 0
    for x, y in skyline[start:]:
        if x >= right:
            break
        top = max(top, y)
    return top


def _raised(skyline: list[tuple[int, int]], left: int, right: int, height: int, limit: int) -> list[tuple[int, int]]:
    """The skyline once all columns from `left` to `right` are taken down to `height`."""
    behind = [(x, y) for x, y in skyline if x <= right][-1][1]  # what continues to the right of the new rectangle
    raised = [(x, y) for x, y in skyline if x < left] + [(left, height)]
    if right < limit and all(x != right for x, _ in skyline):
        raised.append((right, behind))
    return raised + [(x, y) for x, y in skyline if x >= right]
