"""Outlines of regions on a slide, as they are stored, and the valid polygons they enclose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""(N, 2) x and y of vertices in pixels of level 0; the last is not the first again."""

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

Area: TypeAlias = shapely.Polygon | shapely.MultiPolygon

Kind = Literal["polygon", "line", "points"]

Removes = Literal["", "class", "all"]

_FARTHEST = 1e9


class AnnotationError(ValueError):
    """A file of annotations is malformed, or its outlines do not suit what they are used for."""


class AnnotationRepairWarning(UserWarning):
    """Outlines that cross themselves were repaired, or outlines without area left out."""


@dataclass(frozen=True)
class OutlineClass:
    """A class of outlines.

    Attributes:
        name: Its name, such as "Tumor"; in ASAP that of a group, in ImageScope that of a layer.
        color: Its color, if the file states one.
        parent: In ASAP, the group that this one is part of; else empty.
    """

    name: str
    color: Color | None = None
    parent: str = ""


@dataclass(frozen=True, eq=False)
class Outline:
    """One annotation, with its vertices as they are stored.

    Attributes:
        parts: Polygons of (ring, hole, hole, ...); for lines and points one ring a part, which is not closed.
        class_name: Its class; empty for none.
        name: Its own name.
        kind: "polygon", "line" or "points".
        color: Its own color, if the file states one.
        removes: What its area is taken away from: "" nothing, "class" its own class (negative regions of ImageScope),
            "all" every class (exclusions of ASAP).
        object_type: As in QuPath: "annotation", "detection", "cell", ...
        is_locked: Whether QuPath is to keep it from being moved.
        stored_type: Its type in the file, such as "Spline".
        place: Where it stands in the file, such as "line 12".
    """

    parts: tuple[tuple[Ring, ...], ...]
    class_name: str = ""
    name: str = ""
    kind: Kind = "polygon"
    color: Color | None = None
    removes: Removes = ""
    object_type: str = "annotation"
    is_locked: bool = False
    stored_type: str = ""
    place: str = ""

    @cached_property
    def shape(self) -> Area:
        """The area it encloses, valid; empty for lines and points, and for polygons without area.

        Where it crosses itself, loops and what is enclosed twice are inside.
        """
        drawn = self._drawn
        return drawn if drawn.is_valid else only_areas(_valid(drawn))

    @property
    def fault(self) -> str:
        """What is wrong with the polygons as stored, with the place in level-0 pixels; empty if nothing is."""
        return "" if self._drawn.is_valid else str(shapely.is_valid_reason(self._drawn))

    @cached_property
    def _drawn(self) -> Area:
        parts = self.parts if self.kind == "polygon" else ()
        polygons = [
            shapely.Polygon(ring, [hole for hole in holes if len(hole) > 2]) for ring, *holes in parts if len(ring) > 2
        ]
        return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)

    @property
    def label(self) -> str:
        """Its place and name, for messages."""
        return " ".join(filter(None, (self.place, self.name and f"'{self.name}'"))) or "of no name"


def _valid(drawn: shapely.Geometry) -> shapely.Geometry:
    return shapely.make_valid(drawn, method="structure", keep_collapsed=False)


def only_areas(geometry: shapely.Geometry) -> Area:
    """The polygons of a geometry, without the lines and points that overlays may leave."""
    if isinstance(geometry, shapely.Polygon | shapely.MultiPolygon):
        return geometry
    polygons = [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon"]
    return shapely.MultiPolygon(polygons)


def ring_of(vertices: Sequence[Sequence[float]] | NDArray[np.float64], place: str) -> Ring:
    """Vertices as a read-only array of doubles.

    Raises:
        AnnotationError: naming the place, if one is no pair of finite numbers.
    """
    try:
        ring = np.array(vertices, dtype=np.float64)
        if ring.ndim != 2 or ring.shape[1] < 2:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise AnnotationError(f"{place}: the vertices are no list of pairs of numbers") from None
    ring = np.ascontiguousarray(ring[:, :2])
    if not np.isfinite(ring).all():
        raise AnnotationError(f"{place}: a vertex is not finite")
    if np.abs(ring).max(initial=0) > _FARTHEST:
        raise AnnotationError(f"{place}: a vertex lies at {np.abs(ring).max():.3g} px, which no slide is wide")
    ring.flags.writeable = False
    return ring
