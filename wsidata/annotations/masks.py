"""Masks of outlines on a grid, whole or by rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray

from wsidata.annotations.annotations import Annotations
from wsidata.annotations.coverage import Edges
from wsidata.annotations.grid import Grid
from wsidata.annotations.outline import AnnotationError, Area, only_areas


class OutlineMask:
    """The classes of outlines in the pixels of a grid, computed on request.

    Where classes overlap, the one that is named last lies on top and hides the others.

    Args:
        annotations: The outlines.
        grid: The pixels.
        classes: Names of classes; the first has value 1, the next 2, and what none covers 0. Or the value of each name,
            0 to 255; several may have the same. See `Annotations.area` for what a class covers.

    Attributes:
        areas: What each value covers and no later class hides, in pixels of level 0.

    Raises:
        AnnotationError: if there is no such class, or all of the area lies beside the grid.

    Example:
        >>> mask = OutlineMask(annotations, Grid.of(slide, mpp=8.0), ["Tumor"])
        >>> mask.labels().shape
        (1408, 752)
        >>> mask.shares(0, 128).shape
        (1, 128, 752)
    """

    def __init__(self, annotations: Annotations, grid: Grid, classes: Sequence[str] | Mapping[str, int]) -> None:
        if isinstance(classes, str):
            raise AnnotationError(f"classes='{classes}' is one name. Pass a list of names, such as ['{classes}'].")
        value_of = dict(classes) if isinstance(classes, Mapping) else {name: k for k, name in enumerate(classes, 1)}
        if not value_of or not all(0 <= value <= 255 for value in value_of.values()):
            raise AnnotationError(f"classes={classes!r} must name classes, with values from 0 to 255.")
        self.grid = grid
        self.values = tuple(sorted({value for value in value_of.values() if value}))
        self.areas = _on_top(annotations, value_of)
        _check_place(annotations, grid, shapely.union_all(list(self.areas.values())))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the grid."""
        return self.grid.height, self.grid.width

    def labels(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Value of the class that each pixel's center lies in.

        A center on the border of two classes that touch is in one of them.

        Args:
            start: First row.
            stop: First row beyond; None: to the last.

        Returns:
            (stop - start, width), the same numbers whether read whole or by rows.
        """
        first, rows = self._rows(start, stop)
        found = np.zeros((rows, self.grid.width), np.uint8)
        for value, edges in self._edges.items():
            found[edges.centers(first, rows, self.grid.width)] = value
        return found

    def shares(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Share of each pixel's area that each class covers.

        Args:
            start: First row.
            stop: First row beyond; None: to the last.

        Returns:
            (values, stop - start, width), 0 to 1, in the order of `values`; the same numbers whether read whole or by
            rows. The classes of a pixel sum up to at most 1.
        """
        first, rows = self._rows(start, stop)
        return np.stack([self._edges[value].shares(first, rows, self.grid.width) for value in self.values])

    @cached_property
    def _edges(self) -> dict[int, Edges]:
        return {value: Edges.of(self.areas[value], self.grid) for value in self.values}

    def _rows(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = self.grid.height if stop is None else stop
        if not 0 <= start < stop <= self.grid.height:
            raise IndexError(f"rows {start} to {stop} are none of the {self.grid.height} rows of the mask.")
        return start, stop - start


def _on_top(annotations: Annotations, value_of: Mapping[str, int]) -> dict[int, Area]:
    """The area of each value that no later class hides."""
    areas: dict[int, Area] = {value: shapely.Polygon() for value in value_of.values()}
    for name, value in value_of.items():
        new = annotations.area(name)
        for other in areas:
            areas[other] = only_areas(areas[other].union(new) if other == value else areas[other].difference(new))
    return areas


def _check_place(annotations: Annotations, grid: Grid, area: Area) -> None:
    right, lower = grid.x_lv0 + grid.width * grid.downsample_x, grid.y_lv0 + grid.height * grid.downsample_y
    if not area.is_empty and not area.intersects(shapely.box(grid.x_lv0, grid.y_lv0, right, lower)):
        raise AnnotationError(
            f"'{annotations.path or 'annotations'}' lies at {', '.join(f'{number:.0f}' for number in area.bounds)} "
            f"(left, top, right, bottom), beside the grid, which reaches to x={right:.0f}, y={lower:.0f}. "
            "Are they those of this slide, and in pixels of level 0 rather than um?"
        )
