"""Annotations of Aperio ImageScope."""

from __future__ import annotations

import numpy as np

from wsidata.annotations.outline import AnnotationError, Color, Kind, Outline, OutlineClass, Ring, ring_of
from wsidata.annotations.safe_xml import Element

_TYPES = ("polygon", "rectangle", "ellipse", "arrow", "ruler")
"""Types of regions, 0 to 4."""

_ELLIPSE_VERTICES = 360


def read_aperio(root: Element) -> tuple[list[Outline], list[OutlineClass]]:
    """The regions and layers of an ImageScope file, in its order.

    A layer's class is its name, else its description, else its number; a region's name is its text. Ellipses, which
    are stored as the corners of the box around them, become polygons of 360 vertices on them.

    Args:
        root: The element `Annotations`.

    Raises:
        AnnotationError: naming a line.
    """
    outlines, classes = list[Outline](), list[OutlineClass]()
    for number, layer in enumerate(root.all("Annotation"), start=1):
        described = [
            one.attributes.get("Value", "")
            for one in layer.below("Attributes", "Attribute")
            if one.attributes.get("Name") == "Description"
        ]
        name = layer.attributes.get("Name", "").strip() or next((text for text in described if text.strip()), "")
        name = name or f"layer {layer.attributes.get('Id', number)}"
        color = _color(layer)
        classes.append(OutlineClass(name, color))
        outlines += [_outline(region, name, color) for region in layer.below("Regions", "Region")]
    return outlines, classes


def _outline(region: Element, layer: str, color: Color | None) -> Outline:
    place, stored = f"line {region.line}", region.attributes.get("Type", "0")
    if stored not in ("0", "1", "2", "3", "4"):
        raise AnnotationError(f"{place}: type '{stored}' of a region is none of 0 to 4 ({', '.join(_TYPES)})")
    kind: Kind = "polygon" if int(stored) < 3 else "line"
    negative = region.attributes.get("NegativeROA", "0")
    if negative not in ("0", "1"):
        raise AnnotationError(f"{place}: NegativeROA is '{negative}', neither 0 nor 1")
    vertices = [(one.number("X"), one.number("Y")) for one in region.below("Vertices", "Vertex")]
    if not vertices:
        raise AnnotationError(f"{place}: the region has no vertices")
    ring = ring_of(vertices, place)
    if _TYPES[int(stored)] == "ellipse" or (_TYPES[int(stored)] == "rectangle" and len(ring) == 2):
        ring = ring_of(_from_box(ring, is_ellipse=stored == "2"), place)
    return Outline(
        parts=((ring,),),
        class_name=layer,
        name=region.attributes.get("Text", ""),
        kind=kind,
        color=color,
        removes="class" if negative == "1" else "",
        stored_type=_TYPES[int(stored)],
        place=place,
    )


def _from_box(corners: Ring, *, is_ellipse: bool) -> Ring:
    """Vertices of the ellipse in a box, or of the box."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    if not is_ellipse:
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    angle = np.arange(_ELLIPSE_VERTICES) * (2 * np.pi / _ELLIPSE_VERTICES)
    across = (left + right) / 2 + (right - left) / 2 * np.cos(angle)
    return np.stack([across, (top + bottom) / 2 + (bottom - top) / 2 * np.sin(angle)], axis=1)


def _color(layer: Element) -> Color | None:
    """The color of a layer, of which red is the lowest byte."""
    text = layer.attributes.get("LineColor", "")
    if not text.isdecimal():
        return None
    number = int(text)
    return number & 255, number >> 8 & 255, number >> 16 & 255
