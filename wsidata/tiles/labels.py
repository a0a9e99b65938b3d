"""Labels of tiles from the annotations that lie under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsidata.annotations.annotations import Annotations
from wsidata.annotations.grid import Grid
from wsidata.annotations.masks import OutlineMask
from wsidata.annotations.outline import Area, only_areas
from wsidata.slides.outline_masks import named_classes
from wsidata.tiles.tissue import DECIMALS

BACKGROUND = "background"
"""Default name of class 0, what no annotation covers."""

NO_LABEL = -100
"""Of tiles at the border of an annotation, which are left out; PyTorch's losses ignore it."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class LabelRule:
    """From what annotations cover of a tile to its class.

    Attributes:
        low: A tile of which annotations cover no more than this share is of class 0.
        high: A tile of which one class covers at least this share is of that class; of the largest, if it is several.
            What lies in between has no label, and is left out.
        ignored: Number of the class whose tiles are left out, too; 0 for none.
    """

    low: float
    high: float
    ignored: int = 0

    @classmethod
    def of(cls, share: float | tuple[float, float], ignored: int = 0) -> LabelRule:
        """From one share, below which a tile is of class 0; or from two, with tiles between them left out.

        Raises:
            ValueError: for shares that are not 0 to 1, in this order; the upper one has to be above 0.
        """
        low, high = share if isinstance(share, (tuple, list)) else (share, share)
        if not (0 <= low <= high <= 1 and high > 0):
            raise ValueError(f"annotation_share={share!r} must be a share above 0 and up to 1, or (low, high) of them.")
        return cls(float(low), float(high), ignored)

    def labels(self, shares: Numbers) -> NDArray[np.int16]:
        """Classes of tiles, 0 or 1, 2, ..., and `NO_LABEL`.

        Args:
            shares: (classes, n) of the area of each that is covered by the class; together at most 1.
        """
        covered = np.round(shares.sum(axis=0), DECIMALS)
        is_background = covered < self.high if self.low == self.high else covered <= self.low
        found = np.where(is_background, 0, NO_LABEL).astype(np.int16)
        sure = shares.max(axis=0) >= self.high
        found[sure] = shares.argmax(axis=0)[sure] + 1
        if self.ignored:
            found[found == self.ignored] = NO_LABEL
        return found


class OutlinedAreas:
    """What the classes of a slide's annotations cover, none twice.

    Args:
        areas: Of each class, valid; a later one lies on top of those before it.
    """

    def __init__(self, areas: Sequence[Area]) -> None:
        self.areas = [only_areas(shapely.difference(area, shapely.union_all(areas[number + 1 :])))
                      for number, area in enumerate(areas)]  # fmt: skip
        self._parts = [shapely.get_parts(area) for area in self.areas]
        self._trees = [shapely.STRtree(parts) for parts in self._parts]

    @classmethod
    def of(
        cls, annotations: Annotations | None, size_lv0: tuple[int, int], classes: Mapping[str, int], count: int
    ) -> OutlinedAreas:
        """Of annotations of a slide, with a number up to `count` for each class of outlines; 0 is background.

        As in masks, the class named last lies on top where outlines overlap. None covers nothing.

        Raises:
            AnnotationError: if there are outlines of another class, or all lie beside the slide.
        """
        there = {} if annotations is None else named_classes(annotations, classes)
        empty: dict[int, Area] = {number: shapely.Polygon() for number in range(1, count + 1)}
        found = OutlineMask(annotations, Grid(*size_lv0), there).areas if annotations is not None and there else {}
        return cls([found.get(number, nothing) for number, nothing in empty.items()])

    def shares(self, left: Numbers, top: Numbers, right: Numbers, bottom: Numbers) -> Numbers:
        """(classes, n) share of the area of each rectangle (level-0 pixels) that each class covers, to 1e-9."""
        boxes = shapely.box(left, top, right, bottom)
        covered = np.zeros((len(self.areas), len(boxes)))
        for number, (parts, tree) in enumerate(zip(self._parts, self._trees, strict=True)):
            box, part = tree.query(boxes, predicate="intersects")
            shapely.prepare(parts)
            inside = shapely.contains_properly(parts[part], boxes[box])
            area = shapely.area(boxes)[box]
            area[~inside] = shapely.area(shapely.intersection(parts[part[~inside]], boxes[box[~inside]]))
            covered[number] = np.bincount(box, area, len(boxes))
        return np.round(covered / ((right - left) * (bottom - top)), DECIMALS)

    def draw(self, number: int, rng: np.random.Generator) -> tuple[float, float]:
        """A point (x, y) in level-0 pixels, uniformly over what class `number` (1, 2, ...) covers."""
        parts = self._parts[number - 1]
        areas = shapely.area(parts).cumsum()
        part = parts[min(int(np.searchsorted(areas, rng.random() * areas[-1], side="right")), len(parts) - 1)]
        shapely.prepare(part)
        left, top, right, bottom = part.bounds
        while True:
            x, y = rng.random(2)
            point = left + x * (right - left), top + y * (bottom - top)
            if shapely.contains_xy(part, *point):
                return point

    def __getstate__(self) -> dict[str, Any]:
        return {"areas": self.areas}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.areas = state["areas"]
        self._parts = [shapely.get_parts(area) for area in self.areas]
        self._trees = [shapely.STRtree(parts) for parts in self._parts]
