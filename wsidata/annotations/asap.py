"""Annotations of ASAP, the format of Camelyon16 and 17.

See https://computationalpathologygroup.github.io/ASAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from PIL import ImageColor

from wsidata.annotations.outline import AnnotationError, Color, Kind, Outline, OutlineClass, Ring, ring_of
from wsidata.annotations.safe_xml import Element, parse

EXCLUSIONS = ("_2", "Exclusion")
"""Groups of Camelyon16 whose areas were cut out of the tumors: `_2` in its training, `Exclusion` in its test set."""

_NO_GROUP = "None"
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("Polygon", "Spline", "Rectangle"), "polygon"),
    **dict.fromkeys(("Dot", "PointSet"), "points"),
    "Measurement": "line",
}
_TYPES: dict[Kind, str] = {"polygon": "Polygon", "line": "Measurement", "points": "PointSet"}


def read_asap(root: Element) -> tuple[list[Outline], list[OutlineClass]]:
    """The outlines and groups of an ASAP file, in its order.

    Splines are read as the polygons of their vertices, as ASAP itself makes masks of them.

    Args:
        root: The element `ASAP_Annotations`.

    Raises:
        AnnotationError: naming a line.
    """
    groups = [
        OutlineClass(_attribute(one, "Name"), _color(one), _group(one))
        for one in root.below("AnnotationGroups", "Group")
    ]
    return [_outline(one) for one in root.below("Annotations", "Annotation")], groups


def _outline(one: Element) -> Outline:
    stored, group = _attribute(one, "Type"), _group(one)
    if stored not in _KINDS:
        raise AnnotationError(f"line {one.line}: type '{stored}' is none of {', '.join(_KINDS)}")
    place = f"line {one.line}"
    placed: dict[float, tuple[float, float]] = {}
    for vertex in one.below("Coordinates", "Coordinate"):
        order = vertex.number("Order")
        if order in placed:
            raise AnnotationError(f"line {vertex.line}: order {order:g} is that of another vertex")
        placed[order] = vertex.number("X"), vertex.number("Y")
    if not placed:
        raise AnnotationError(f"{place}: '{one.attributes.get('Name', '')}' has no vertices")
    return Outline(
        parts=((ring_of([placed[order] for order in sorted(placed)], place),),),
        class_name=group,
        name=one.attributes.get("Name", ""),
        kind=_KINDS[stored],
        color=_color(one),
        stored_type=stored,
        place=place,
    )


def _attribute(one: Element, name: str) -> str:
    if name not in one.attributes:
        raise AnnotationError(f"line {one.line}: <{one.tag}> has no {name}")
    return one.attributes[name]


def _group(one: Element) -> str:
    name = one.attributes.get("PartOfGroup", _NO_GROUP)
    return "" if name == _NO_GROUP else name


def _color(one: Element) -> Color | None:
    try:
        red, green, blue = ImageColor.getrgb(one.attributes.get("Color", ""))[:3]
    except ValueError:
        return None
    return red, green, blue


def asap_text(outlines: Sequence[Outline], classes: Sequence[OutlineClass]) -> str:
    """An ASAP file of outlines.

    It has neither holes nor areas that are taken away from one class alone. These become annotations of the group
    Exclusion, whose areas are taken away from all classes, if that is the same.

    Raises:
        AnnotationError: if it is not, or a name holds characters that XML has not.
    """
    written, exclusions = list[tuple[Outline, Ring, str]](), list[tuple[Outline, Ring, str]]()
    for one in outlines:
        rings = [(number, ring) for part in one.parts for number, ring in enumerate(part)]
        outer = sum(number == 0 for number, _ in rings)
        for count, (number, ring) in enumerate(rings):
            if number:
                exclusions.append((one, ring, f"{one.name} hole {count}".strip()))
            else:
                written.append((one, ring, one.name if outer == 1 else f"{one.name} {count + 1}".strip()))
    _check_removals(outlines)
    known = [one.name for one in classes]
    needed = dict.fromkeys([one.class_name for one in outlines if one.class_name])
    groups = [*classes, *(OutlineClass(name) for name in needed if name not in known)]
    if (exclusions or any(one.removes == "class" for one in outlines)) and "Exclusion" not in {g.name for g in groups}:
        groups.append(OutlineClass("Exclusion"))
    root = ElementTree.Element("ASAP_Annotations")
    listed = ElementTree.SubElement(root, "Annotations")
    for one, ring, name in written:
        group = "Exclusion" if one.removes == "class" else one.class_name
        if one.removes == "all" and group not in EXCLUSIONS:
            group = "Exclusion"
        _add(listed, name, _stored_type(one), group, one.color, ring)
    for one, ring, name in exclusions:
        _add(listed, name, "Polygon", "Exclusion", one.color, ring)
    below = ElementTree.SubElement(root, "AnnotationGroups")
    for group_ in groups:
        attributes = {"Name": group_.name, "PartOfGroup": group_.parent or _NO_GROUP, "Color": _hex(group_.color)}
        ElementTree.SubElement(ElementTree.SubElement(below, "Group", attributes), "Attributes")
    ElementTree.indent(root, "\t")
    text = '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
    try:
        parse(text.encode())
    except AnnotationError as error:
        raise AnnotationError(f"a name holds characters that XML has not ({error}). Rename these outlines.") from None
    return text


def _check_removals(outlines: Sequence[Outline]) -> None:
    """Raise where an area that one outline or class leaves out is covered by another, which ASAP cannot say."""
    areas = [one for one in outlines if one.kind == "polygon" and not one.removes]
    for one in outlines:
        if one.removes == "class":
            left_out = [one.shape]
        else:
            left_out = [Outline(((hole,),)).shape for part in one.parts for hole in part[1:]]
        for hole in left_out if one.removes != "all" else ():
            for other in areas:
                same_class = one.removes == "class" and other.class_name == one.class_name
                if other is not one and not same_class and hole.intersection(other.shape).area > 0:
                    raise AnnotationError(
                        f"outline {one.label} leaves out an area that outline {other.label} covers. ASAP's files have "
                        "no holes, only areas cut out of all outlines: write GeoJSON instead."
                    )


def _stored_type(one: Outline) -> str:
    return one.stored_type if _KINDS.get(one.stored_type) == one.kind else _TYPES[one.kind]


def _hex(color: Color | None) -> str:
    return "#64fe2e" if color is None else "#{:02x}{:02x}{:02x}".format(*color)


def _add(listed: ElementTree.Element, name: str, stored: str, group: str, color: Color | None, ring: Ring) -> None:
    attributes = {"Name": name, "Type": stored, "PartOfGroup": group or _NO_GROUP, "Color": _hex(color)}
    vertices = ElementTree.SubElement(ElementTree.SubElement(listed, "Annotation", attributes), "Coordinates")
    for order, (x, y) in enumerate(ring.tolist()):
        ElementTree.SubElement(vertices, "Coordinate", {"Order": str(order), "X": repr(x), "Y": repr(y)})
