"""Outlines of the tumor on synthetic slides, as in the annotations of Camelyon16."""

from __future__ import annotations

import shapely

from wsidata.annotations.annotations import Annotations
from wsidata.annotations.grid import Grid
from wsidata.annotations.outline import Area, Outline, OutlineClass
from wsidata.annotations.tracing import rings_of, trace
from wsidata.synthetic.tissue import tumor_mask


def tumor_outlines(
    width: int, height: int, *, seed: int, groups: tuple[str, str] = ("Tumor", "Exclusion")
) -> Annotations:
    """Outlines of what `write_slide(..., tumor=True, seed=seed)` paints, exact to the pixel of level 0.

    Args:
        width: Columns of level 0.
        height: Rows of level 0.
        seed: Of the slide.
        groups: Class of tumor, and class of what is cut out of it.
    """
    inside, outside = groups
    outlines = list[Outline]()
    pieces = trace(tumor_mask(width, height, seed=seed), Grid(width, height))
    for piece in pieces:
        for part in _open_around_islands(piece, [one for one in pieces if one is not piece]):
            outer, *holes = rings_of(part)
            outlines.append(Outline(((outer,),), inside, f"Annotation {len(outlines)}"))
            for hole in holes:
                outlines.append(Outline(((hole,),), outside, f"Annotation {len(outlines)}", removes="all"))
    return Annotations(tuple(outlines), (OutlineClass(inside, (244, 250, 88)), OutlineClass(outside, (0, 0, 0))))


def _open_around_islands(piece: Area, others: list[Area]) -> list[Area]:
    """A polygon, cut in two wherever a hole of it holds another: what ASAP cuts out is cut out of all outlines."""
    for ring in piece.interiors:
        hole = shapely.Polygon(ring)
        if any(hole.intersects(one.representative_point()) for one in others):
            left, top, right, bottom = piece.bounds
            middle = (hole.bounds[0] + hole.bounds[2]) // 2
            halves = (shapely.box(left, top, middle, bottom), shapely.box(middle, top, right, bottom))
            parts = [part for half in halves for part in shapely.get_parts(piece.intersection(half))]
            return [one for part in parts if part.area for one in _open_around_islands(part, others)]
    return [piece]
