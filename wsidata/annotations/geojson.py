"""Annotations as GeoJSON, as QuPath writes and reads it.

See https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from wsidata.annotations.outline import AnnotationError, Color, Kind, Outline, OutlineClass, Removes, Ring, ring_of

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("Polygon", "MultiPolygon"), "polygon"),
    **dict.fromkeys(("LineString", "MultiLineString"), "line"),
    **dict.fromkeys(("Point", "MultiPoint"), "points"),
}
_TYPE, _REMOVES = "wsidata type", "wsidata removes"  # what QuPath has no field for, in its metadata


def read_geojson(content: bytes) -> tuple[list[Outline], list[OutlineClass]]:
    """The features of a Feature, a FeatureCollection or a list of features, in its order, and their classes.

    Raises:
        AnnotationError: naming a line, or the number of a feature (the first is 1).
    """
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise AnnotationError(f"byte {error.start}: this is no UTF-8") from None
    except json.JSONDecodeError as error:
        raise AnnotationError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deep; numbers of thousands of digits
        raise AnnotationError(f"this is no JSON that can be read ({error})") from None
    kind = found.get("type") if isinstance(found, dict) else None
    features = found.get("features") if kind == "FeatureCollection" else [found] if kind == "Feature" else found
    if not isinstance(features, list):
        raise AnnotationError("there is no Feature, no FeatureCollection with a list of features, and no list of them")
    outlines, classes, planes = list[Outline](), dict[str, OutlineClass](), set[tuple[Any, Any]]()
    for one in found.get("classes", ()) if isinstance(found, dict) and isinstance(found.get("classes"), list) else ():
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            parent = one.get("parent")
            kept = OutlineClass(one["name"], _color(one), parent if isinstance(parent, str) else "")
            classes[kept.name] = kept
    for number, feature in enumerate(features, start=1):
        outline, found_class, plane = _outline(feature, f"feature {number}")
        outlines.append(outline)
        planes.add(plane)
        if found_class.name and classes.get(found_class.name, OutlineClass("")).color is None:
            known = classes.get(found_class.name, found_class)
            classes[found_class.name] = OutlineClass(found_class.name, found_class.color, known.parent)
    if len(planes) > 1:
        raise AnnotationError(f"the features lie on {len(planes)} planes (z, t) of a stack; export those of one plane")
    return outlines, list(classes.values())


def _outline(feature: Any, place: str) -> tuple[Outline, OutlineClass, tuple[Any, Any]]:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise AnnotationError(f"{place}: this is no Feature")
    geometry, properties = feature.get("geometry"), feature.get("properties") or {}
    if not isinstance(geometry, dict) or geometry.get("type") not in _KINDS:
        stated = geometry.get("type") if isinstance(geometry, dict) else geometry
        raise AnnotationError(f"{place}: geometry {stated!r} is none of {', '.join(_KINDS)}")
    if not isinstance(properties, dict):
        raise AnnotationError(f"{place}: its properties are no object")
    kind = _KINDS[geometry["type"]]
    metadata = properties.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    found = _class(properties.get("classification"))
    removes = metadata.get(_REMOVES)
    plane = geometry.get("plane")
    plane = plane if isinstance(plane, dict) else {}
    outline = Outline(
        parts=_parts(geometry["type"], geometry.get("coordinates"), place),
        class_name=found.name,
        name=_text(properties.get("name")),
        kind=kind,
        color=_color(properties),
        removes=_removes(removes),
        object_type=_text(properties.get("objectType", properties.get("object_type", "annotation"))),
        is_locked=properties.get("isLocked", properties.get("locked", False)) is True,
        stored_type=_text(metadata.get(_TYPE)),
        place=place,
    )
    return outline, found, (plane.get("z", 0), plane.get("t", 0))


def _removes(stated: Any) -> Removes:
    return "class" if stated == "class" else "all" if stated == "all" else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _parts(stored: str, coordinates: Any, place: str) -> tuple[tuple[Ring, ...], ...]:
    if stored in ("Point", "LineString", "MultiPoint"):
        ring = ring_of([coordinates] if stored == "Point" else coordinates, place)
        return ((ring,),)
    polygons = [coordinates] if stored == "Polygon" else coordinates
    if not isinstance(polygons, list):
        raise AnnotationError(f"{place}: it has no coordinates")
    if stored == "MultiLineString":
        return tuple((ring_of(line, place),) for line in polygons)
    if not polygons or not all(isinstance(rings, list) and rings for rings in polygons):
        raise AnnotationError(f"{place}: a polygon has no ring")
    return tuple(tuple(_opened(ring_of(ring, place)) for ring in rings) for rings in polygons)


def _opened(ring: Ring) -> Ring:
    """A ring without its last vertex, if that is the first again."""
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring


def _class(stated: Any) -> OutlineClass:
    if not isinstance(stated, dict):
        return OutlineClass("")
    names = stated.get("names")
    name = ": ".join(map(str, names)) if isinstance(names, list) else _text(stated.get("name"))
    return OutlineClass(name, _color(stated))


def _color(stated: Mapping[str, Any]) -> Color | None:
    """A color as [red, green, blue], or, before QuPath 0.4, packed in a signed number."""
    packed, color = stated.get("colorRGB"), stated.get("color")
    if isinstance(color, list) and len(color) >= 3 and all(isinstance(one, int) and 0 <= one < 256 for one in color):
        return color[0], color[1], color[2]
    if isinstance(packed, int):
        return packed >> 16 & 255, packed >> 8 & 255, packed & 255
    return None


def geojson_text(outlines: Sequence[Outline], classes: Sequence[OutlineClass]) -> str:
    """A FeatureCollection of outlines, which QuPath imports."""
    color_of = {one.name: one.color for one in classes}
    content = {
        "type": "FeatureCollection",
        "features": [_feature(one, color_of.get(one.class_name)) for one in outlines],
        "classes": [_without_none(name=one.name, color=one.color, parent=one.parent or None) for one in classes],
    }
    return json.dumps(content, allow_nan=False, ensure_ascii=False)


def _feature(one: Outline, class_color: Color | None) -> dict[str, Any]:
    classification = _without_none(name=one.class_name, color=class_color) if one.class_name else None
    metadata = {_TYPE: one.stored_type, _REMOVES: one.removes}
    properties = _without_none(
        objectType=one.object_type or "annotation",
        name=one.name or None,
        color=one.color,
        classification=classification,
        isLocked=one.is_locked or None,
        metadata={key: value for key, value in metadata.items() if value} or None,
    )
    return {"type": "Feature", "geometry": _geometry(one), "properties": properties}


def _geometry(one: Outline) -> dict[str, Any]:
    if one.kind == "polygon":
        polygons = [[[*ring.tolist(), ring[0].tolist()] for ring in part] for part in one.parts]
        if len(polygons) == 1:
            return {"type": "Polygon", "coordinates": polygons[0]}
        return {"type": "MultiPolygon", "coordinates": polygons}
    vertices = [part[0].tolist() for part in one.parts]
    if one.kind == "points":
        together = [point for points in vertices for point in points]
        if len(together) == 1:
            return {"type": "Point", "coordinates": together[0]}
        return {"type": "MultiPoint", "coordinates": together}
    if len(vertices) == 1:
        return {"type": "LineString", "coordinates": vertices[0]}
    return {"type": "MultiLineString", "coordinates": vertices}


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
