from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely

from wsidata.annotations import AnnotationError, AnnotationRepairWarning, Annotations, Outline, OutlineClass
from wsidata.errors import LimitExceededError

Read = Callable[..., Annotations]

# As ASAP 2.1 writes it: tabs, orders of its own, groups at the end.
ASAP = """<?xml version="1.0"?>
<ASAP_Annotations>
	<Annotations>
		<Annotation Name="Annotation 0" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58">
			<Coordinates>
				<Coordinate Order="0" X="100" Y="100" />
				<Coordinate Order="2" X="300.25" Y="300" />
				<Coordinate Order="1" X="300.25" Y="100" />
				<Coordinate Order="3" X="100" Y="300" />
			</Coordinates>
		</Annotation>
		<Annotation Name="Annotation 1" Type="Spline" PartOfGroup="Micro" Color="#f4fa58">
			<Coordinates>
				<Coordinate Order="0" X="400" Y="0.1" />
				<Coordinate Order="1" X="500" Y="0" />
				<Coordinate Order="2" X="500" Y="33.3333333333333357" />
			</Coordinates>
		</Annotation>
		<Annotation Name="hole" Type="Rectangle" PartOfGroup="Exclusion" Color="#000000">
			<Coordinates>
				<Coordinate Order="0" X="150" Y="150" />
				<Coordinate Order="1" X="200" Y="150" />
				<Coordinate Order="2" X="200" Y="350" />
				<Coordinate Order="3" X="150" Y="350" />
			</Coordinates>
		</Annotation>
		<Annotation Name="mitosis &amp; co" Type="Dot" PartOfGroup="None" Color="#F4FA58">
			<Coordinates>
				<Coordinate Order="0" X="7" Y="8" />
			</Coordinates>
		</Annotation>
	</Annotations>
	<AnnotationGroups>
		<Group Name="Tumor" PartOfGroup="None" Color="#ff0000">
			<Attributes />
		</Group>
		<Group Name="Micro" PartOfGroup="Tumor" Color="#aa0000">
			<Attributes />
		</Group>
		<Group Name="Exclusion" PartOfGroup="None" Color="#64FE2E">
			<Attributes />
		</Group>
	</AnnotationGroups>
</ASAP_Annotations>
"""

# As ImageScope 12 writes it.
APERIO = """<Annotations MicronsPerPixel="0.252000">
<Annotation Id="1" Name="" ReadOnly="0" Incremental="0" Type="4" LineColor="65280" Visible="1" Selected="1">
<Attributes><Attribute Name="Description" Id="0" Value="Tumor"/></Attributes>
<Regions><RegionAttributeHeaders><AttributeHeader Id="9999" Name="Region" ColumnWidth="-1"/></RegionAttributeHeaders>
<Region Id="1" Type="0" Zoom="0.1" Selected="0" Text="big" NegativeROA="0" InputRegionId="0" Analyze="1" DisplayId="1">
<Attributes/><Vertices><Vertex X="0" Y="0" Z="0"/><Vertex X="100" Y="0" Z="0"/><Vertex X="100" Y="100" Z="0"/>
<Vertex X="0" Y="100" Z="0"/></Vertices></Region>
<Region Id="2" Type="1" Text="" NegativeROA="1">
<Vertices><Vertex X="20" Y="20"/><Vertex X="40" Y="20"/><Vertex X="40" Y="40"/><Vertex X="20" Y="40"/>
</Vertices></Region>
<Region Id="3" Type="2" Text="" NegativeROA="0">
<Vertices><Vertex X="200" Y="0"/><Vertex X="400" Y="100"/></Vertices></Region>
<Region Id="4" Type="4" Text="" NegativeROA="0">
<Vertices><Vertex X="0" Y="0"/><Vertex X="9" Y="9"/></Vertices></Region>
</Regions><Plots/></Annotation>
<Annotation Id="2" Name="Stroma" LineColor="255"><Regions>
<Region Id="1" Type="0"><Vertices><Vertex X="0" Y="0"/><Vertex X="100" Y="0"/><Vertex X="0" Y="100"/></Vertices>
</Region></Regions></Annotation>
</Annotations>
"""


def feature(kind: str, coordinates: object, **properties: object) -> dict[str, object]:
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "id": "5c6b", "geometry": geometry, "properties": properties}


def square(left: float, top: float, side: float) -> list[list[float]]:
    right, bottom = left + side, top + side
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


TUMOR = {"name": "Tumor", "color": [200, 0, 0]}
QUPATH = {
    "type": "FeatureCollection",
    "features": [
        feature("Polygon", [square(0, 0, 100), square(10, 10, 20)], objectType="annotation", classification=TUMOR),
        feature("MultiPolygon", [[square(200, 0, 10)], [square(300, 0, 10), square(302, 2, 2)]], name="two",
                objectType="annotation", classification={"name": "Stroma", "colorRGB": -3670016}, isLocked=True),
        feature("LineString", [[0, 0], [5.5, 5]], objectType="annotation"),
        feature("Point", [3, 4], objectType="annotation", classification={"names": ["Tumor", "Positive"]}),
    ],
}  # fmt: skip


def test_groups_of_asap_are_read_with_exclusions_taken_away(read: Read) -> None:
    found = read("tumor_001.xml", ASAP)
    assert found.classes == (
        OutlineClass("Tumor", (255, 0, 0)),
        OutlineClass("Micro", (170, 0, 0), "Tumor"),
        OutlineClass("Exclusion", (100, 254, 46)),
    )
    assert [one.kind for one in found.outlines] == ["polygon", "polygon", "polygon", "points"]
    assert found.outlines[0].parts[0][0].tolist() == [[100, 100], [300.25, 100], [300.25, 300], [100, 300]]
    assert (found.outlines[0].place, found.outlines[3].name) == ("line 4", "mitosis & co")
    micro = shapely.Polygon([(400, 0.1), (500, 0), (500, 33.3333333333333357)]).area
    assert found.area("Micro").area == pytest.approx(micro)
    assert found.area("Tumor").area == pytest.approx(200.25 * 200 - 50 * 150 + micro)  # with the group that is part
    assert found.area().equals(found.area("Tumor"))
    assert read("all.xml", ASAP, exclusions=()).area("Exclusion").area == 50 * 200


def test_layers_of_imagescope_are_read_with_negative_regions_taken_away(read: Read) -> None:
    found = read("slide.xml", APERIO)
    assert found.classes == (OutlineClass("Tumor", (0, 255, 0)), OutlineClass("Stroma", (255, 0, 0)))
    assert [one.kind for one in found.outlines] == ["polygon", "polygon", "polygon", "line", "polygon"]
    assert found.area("Tumor").area == pytest.approx(100 * 100 - 20 * 20 + np.pi * 100 * 50, rel=1e-4)
    assert found.area("Stroma").area == 5000  # of which negative regions of another layer take nothing


@pytest.mark.parametrize("content", [QUPATH, QUPATH["features"], {**QUPATH, "features": QUPATH["features"][:2]}])
def test_features_of_qupath_are_read_with_holes(read: Read, content: object) -> None:
    found = read("slide.geojson", json.dumps(content))
    assert found.classes[:2] == (OutlineClass("Tumor", (200, 0, 0)), OutlineClass("Stroma", (200, 0, 0)))
    assert found.area("Tumor").area == 100 * 100 - 20 * 20
    assert found.area("Stroma").area == 100 + 100 - 4
    assert found.outlines[1].is_locked
    assert [one.class_name for one in found.outlines][2:] in ([], ["", "Tumor: Positive"])


def test_single_feature_with_byte_order_mark_is_read(read: Read) -> None:
    content = b"\xef\xbb\xbf " + json.dumps(feature("Polygon", [square(0, 0, 2)])).encode()
    found = read("one.json", content)
    assert found.area("").area == 4
    assert found.class_names == ()


def vertices(found: Annotations) -> list[tuple[object, ...]]:
    rings = [[ring.tolist() for part in one.parts for ring in part] for one in found.outlines]
    kept = [(one.class_name, one.name, one.kind, one.color, one.stored_type, one.removes) for one in found.outlines]
    return [*zip(rings, kept, strict=True), found.classes]


def test_asap_to_geojson_and_back_loses_nothing(read: Read, tmp_path: Path) -> None:
    found = read("a.xml", ASAP)
    found.write(tmp_path / "b.geojson")
    between = Annotations.read(tmp_path / "b.geojson")
    between.write(tmp_path / "c.xml")
    again = Annotations.read(tmp_path / "c.xml")
    assert vertices(found) == vertices(between) == vertices(again)
    again.write(tmp_path / "d.xml")
    assert (tmp_path / "c.xml").read_bytes() == (tmp_path / "d.xml").read_bytes()


def test_holes_become_exclusions_in_asap_only_where_that_means_the_same(read: Read, tmp_path: Path) -> None:
    found = read("a.geojson", json.dumps(QUPATH))
    found.write(tmp_path / "b.geojson")
    found.write(tmp_path / "b.xml")
    assert vertices(Annotations.read(tmp_path / "b.geojson")) == vertices(found)
    again = Annotations.read(tmp_path / "b.xml")
    for name in ("Tumor", "Stroma"):
        assert again.area(name).equals(found.area(name))
    island = {"type": "FeatureCollection", "features": [*QUPATH["features"], feature("Polygon", [square(12, 12, 5)])]}
    with pytest.raises(AnnotationError, match="outline feature 1 leaves out an area that outline feature 5 covers"):
        read("c.geojson", json.dumps(island)).write(tmp_path / "c.xml")
    assert not (tmp_path / "c.xml").exists()
    with pytest.raises(AnnotationError, match="no suffix of annotations"):
        found.write(tmp_path / "d.svg")


def test_polygons_that_cross_themselves_are_repaired_with_a_warning(read: Read) -> None:
    bow = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    said = r"1 polygon not valid:\n  - feature 1 'bow': Self-intersection\[5 5\], repaired"
    with pytest.warns(AnnotationRepairWarning, match=said):
        found = read("a.geojson", json.dumps(feature("Polygon", [bow], name="bow")))
    assert found.area().is_valid
    assert found.area().area == 50
    assert found.outlines[0].parts[0][0].tolist() == bow[:-1]  # as drawn


def test_polygons_without_area_are_named_or_left_out(read: Read) -> None:
    click = '<Annotation Name="click" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates><Coordinate Order'
    content = ASAP.replace("<Annotations>", f'<Annotations>{click}="0" X="1" Y="1"/></Coordinates></Annotation>', 1)
    said = r"a.xml' has 1 polygon without area:\n  - line 3 'click'[\s\S]*skip_empty=True"
    with pytest.raises(AnnotationError, match=said):
        read("a.xml", content)
    with pytest.warns(AnnotationRepairWarning, match="line 3 'click': has no area, left out"):
        found = read("a.xml", content, skip_empty=True)
    assert len(found.outlines) == 4


def test_classes_that_are_not_there_or_cover_nothing_are_refused(read: Read) -> None:
    found = read("a.xml", ASAP)
    with pytest.raises(AnnotationError, match="no class 'tumor', but 'Tumor', 'Micro'"):
        found.area("tumor")
    with pytest.raises(AnnotationError, match="'Exclusion' is taken away from the other classes"):
        found.area("Exclusion")
    ring = np.array([(0.0, 0), (4, 0), (4, 4)])
    made = Annotations((Outline(((ring,),), "Tumor"),))
    assert made.area("Tumor").area == 8


MALFORMED = {
    "no annotations": ("<svg/>", "line 1: <svg> is neither"),
    "cut": (ASAP[:900], r"line \d+: .*"),
    "empty": ("", "line 1: no element found"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "line 1: a document type is declared"),
    "deep": ("<a>" * 100, "nested more than 50 deep"),
    "encoding": ('<?xml version="1.0" encoding="klingon"?><a/>', "line 1: .*encoding"),
    "comma": (ASAP.replace("300.25", "300,25"), "line 7: X of <Coordinate> is '300,25', which is no number"),
    "not finite": (ASAP.replace("300.25", "nan"), "line 4: a vertex is not finite"),
    "far": (ASAP.replace("300.25", "3e12"), "line 4: a vertex lies at 3e.12 px"),
    "twice": (ASAP.replace('Order="2" X="300.25"', 'Order="0" X="300.25"'), "line 7: order 0 is that of another"),
    "no x": (ASAP.replace('X="7"', ""), "line 29: X of <Coordinate> is missing"),
    "no vertices": (ASAP.replace('<Coordinate Order="0" X="7" Y="8" />', ""), "line 27: .* has no vertices"),
    "type": (ASAP.replace("Spline", "Bezier"), "line 12: type 'Bezier' is none of Polygon"),
    "region": (APERIO.replace('"2" Type="1"', '"2" Type="7"'), "line 8: type '7' of a region is none of 0 to 4"),
    "negative": (APERIO.replace('NegativeROA="1"', 'NegativeROA="yes"'), "line 8: NegativeROA is 'yes'"),
    "json": ('{"type": "FeatureCollection",\n "features": [}', "line 2, column 15"),
    "latin": (b'{"\xe4": 1}', "byte 2: this is no UTF-8"),
    "nested": ("[" * 100_000, "no JSON that can be read"),
    "no features": ("{}", "no Feature, no FeatureCollection"),
    "circle": (json.dumps([feature("Point", [0, 0]), feature("Circle", [])]), "feature 2: geometry 'Circle'"),
    "text": (json.dumps(feature("Polygon", [[["a", 1]]])), "feature 1: the vertices are no list of pairs"),
    "flat": (json.dumps(feature("Polygon", [[0, 1, 2]])), "feature 1: the vertices are no list of pairs"),
    "no ring": (json.dumps(feature("MultiPolygon", [[]])), "feature 1: a polygon has no ring"),
    "nan": ('{"type": "Feature", "geometry": {"type": "Point", "coordinates": [NaN, 1]}}', "feature 1: .* not finite"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files_are_refused_by_place(read: Read, kind: str) -> None:
    content, message = MALFORMED[kind]
    with pytest.raises(AnnotationError, match=rf"slide.any', .*{message}.*\. Correct it there"):
        read("slide.any", content)


def test_files_larger_than_the_limit_are_refused(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSIDATA_MAX_ANNOTATION_BYTES", "1000")
    with pytest.raises(LimitExceededError, match="of annotations, more than 1,000"):
        read("a.xml", ASAP)
