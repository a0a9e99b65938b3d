"""Random points of tissue and of outlines, and labels by shares."""

import json

import numpy as np
import pytest
import shapely

from wsidata.annotations import Annotations
from wsidata.annotations.outline import AnnotationError
from wsidata.slides.tissue.mask import TissueMask
from wsidata.tiles.labels import LabelRule, OutlinedAreas
from wsidata.tiles.tissue import PackedTissue, TissuePlaces, tissue_shares


def test_points_are_uniform_over_tissue_to_the_edge_of_the_slide():
    pixels = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]], bool)
    mask = PackedTissue.of(TissueMask(pixels, 10.0, 8.0, 36, 21)).mask()  # the last column is 6 wide, the last row 5
    assert np.array_equal(mask.pixels, pixels)
    places, rng = TissuePlaces(mask), np.random.default_rng(0)
    points = np.array([places.draw(rng) for _ in range(6000)])
    found, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=([0, 8, 16, 21], [0, 10, 20, 30, 36]))
    areas = pixels * np.outer([8, 8, 5], [10, 10, 10, 6])
    assert places.area_lv0 == areas.sum()
    assert found / 6000 == pytest.approx(areas / areas.sum(), abs=0.02)
    assert not found[~pixels].any()
    corners = rng.uniform(-5, 40, (50, 2, 2))
    low, high = corners.min(axis=1), corners.max(axis=1)
    shares = tissue_shares(mask, low[:, 0], low[:, 1], high[:, 0], high[:, 1])
    assert [places.share(*a, *b) for a, b in zip(low, high, strict=True)] == pytest.approx(shares, abs=2e-9)


def test_shares_of_outlines_and_points_in_them():
    ring = shapely.Polygon([(0, 0), (20, 0), (20, 20), (0, 20)], [[(5, 5), (15, 5), (15, 15), (5, 15)]])
    island = shapely.box(18, 0, 40, 10)  # lies on top of the ring
    areas = OutlinedAreas([ring, island])
    left, top = np.array([0.0, 8.0, 15.0, 30.0]), np.array([0.0, 8.0, -5.0, 30.0])
    shares = areas.shares(left, top, left + 10, top + 10)
    assert shares == pytest.approx(np.array([[0.75, 0.51, 0.15, 0], [0, 0, 0.35, 0]]))
    rng = np.random.default_rng(1)
    points = np.array([areas.draw(1, rng) for _ in range(2000)])
    assert shapely.contains_xy(ring, points).all()
    assert not shapely.contains_xy(island, points).any()
    assert np.mean(points[:, 1] > 10) == pytest.approx(150 / 280, abs=0.04)


def test_background_may_be_outlined_and_outlines_of_other_slides_are_refused(tmp_path):
    path = tmp_path / "a.geojson"
    write_boxes(path, {"Tumor": (0, 0, 20, 20), "normal": (10, 0, 40, 20)})
    classes = {"Tumor": 1, "normal": 0}
    areas = OutlinedAreas.of(Annotations.read(path), (40, 20), classes, 1)
    assert [area.bounds for area in areas.areas] == [(0, 0, 10, 20)]
    areas = OutlinedAreas.of(Annotations.read(path), (40, 20), dict(reversed(classes.items())), 1)
    assert [area.bounds for area in areas.areas] == [(0, 0, 20, 20)]
    write_boxes(path, {"Tumor": (100, 100, 120, 120)})
    with pytest.raises(AnnotationError, match="beside the grid"):
        OutlinedAreas.of(Annotations.read(path), (40, 20), classes, 1)


def write_boxes(path, boxes):
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": shapely.geometry.mapping(shapely.box(*box)),
        }
        for name, box in boxes.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_labels_by_shares():
    shares = np.array([[0.0, 0.1, 0.2, 0.5, 0.3, 0.0], [0.0, 0.0, 0.0, 0.5, 0.6, 1.0]])
    assert LabelRule.of((0.1, 0.5)).labels(shares).tolist() == [0, 0, -100, 1, 2, 2]
    assert LabelRule.of(0.5).labels(shares).tolist() == [0, 0, 0, 1, 2, 2]
    assert LabelRule.of((0.1, 0.5), ignored=2).labels(shares).tolist() == [0, 0, -100, 1, -100, -100]
