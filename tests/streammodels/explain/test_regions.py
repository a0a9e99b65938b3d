"""Hot regions are outlined exactly, and written as QuPath reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon

from streammodels.explain.outlines import outline
from streammodels.explain.placement import PlacedMap
from streammodels.explain.regions import hottest_places, hottest_regions, write_geojson


def _placed(values: np.ndarray, cell: int = 10) -> PlacedMap:
    rows, columns = values.shape
    return PlacedMap(values.astype(np.float32), (columns * cell, rows * cell), None, "Grad-CAM", "logit")


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_polygons_hold_exactly_the_hot_cells(seed: int, rows: int, columns: int) -> None:
    """By the crossing number of matplotlib; no ring visits a corner twice."""
    values = np.random.default_rng(seed).random((rows, columns))
    regions = hottest_regions(_placed(values), threshold=0.4, count=None)
    centers = (np.argwhere(np.ones_like(values))[:, ::-1] + 0.5) * 10
    hit = np.zeros(len(centers), dtype=int)
    for region in regions:
        inside = np.zeros(len(centers), dtype=int)
        for ring in region.rings:
            inside += Polygon(ring).contains_points(centers)
            assert len(np.unique(ring[:-1], axis=0)) == len(ring) - 1
        hit += inside == 1  # in the outer ring and in no hole
        assert region.area_lv0 == 100 * (inside == 1).sum()
        assert region.largest == pytest.approx(values.ravel()[inside == 1].max())
        assert region.mean == pytest.approx(values.ravel()[inside == 1].mean())
    np.testing.assert_array_equal(hit == 1, values.ravel() >= np.float32(0.4))
    assert [one.largest for one in regions] == sorted((one.largest for one in regions), reverse=True)


def test_a_hole_that_touches_the_outline_is_a_ring_of_its_own() -> None:
    region = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
    outer, hole = outline(region)
    assert {tuple(corner) for corner in hole.tolist()} == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert len(outer) == 7  # six corners, the first again


def test_the_hottest_come_first_and_no_more_than_requested() -> None:
    values = np.zeros((9, 9))
    values[1, 1], values[4, 4], values[7, 7] = 2, 3, 1
    assert [one.largest for one in hottest_regions(_placed(values), threshold=0.5, count=2)] == [3, 2]
    places = hottest_places(_placed(values), 3, 20)
    assert [(one.x_lv0, one.y_lv0, one.value) for one in places] == [(45, 45, 3), (15, 15, 2), (75, 75, 1)]


def test_places_are_apart() -> None:
    places = hottest_places(_placed(np.random.default_rng(0).random((40, 30))), 12, (60.0, 90.0))
    assert len(places) == 12
    for index, one in enumerate(places):
        for other in places[:index]:
            assert abs(one.x_lv0 - other.x_lv0) >= 50 or abs(one.y_lv0 - other.y_lv0) >= 80
    assert len(hottest_places(_placed(np.random.default_rng(0).random((3, 3))), 12, 1000)) == 1


def test_a_map_without_differences_or_values_has_no_regions() -> None:
    assert hottest_regions(_placed(np.ones((4, 4)))) == []
    assert hottest_regions(_placed(np.full((4, 4), np.nan))) == []
    for same in (1.0, np.nan):
        assert hottest_places(_placed(np.full((4, 4), same)), 3, 1) == []


@pytest.mark.parametrize("quantile", [0.0, 1.0, 98.0])
def test_impossible_quantile_is_refused(quantile: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        hottest_regions(_placed(np.ones((4, 4))), quantile=quantile)


def test_geojson_is_what_qupath_imports(tmp_path: Path) -> None:
    values = np.zeros((4, 4))
    values[1:3, 1] = 5, 7
    path = write_geojson(
        tmp_path / "hot.geojson", hottest_regions(_placed(values), quantile=0.9), class_name="Tumor:\nhöchst ",
        value_name="logit", boxes=[(1, 2, 30, 40)],
    )  # fmt: skip
    content = json.loads(path.read_text(encoding="utf-8"))
    region, crop = content["features"]
    assert content["type"] == "FeatureCollection"
    (ring,) = region["geometry"]["coordinates"]
    assert region["geometry"]["type"] == "Polygon"
    assert ring[0] == ring[-1]
    assert sorted(map(tuple, ring[:-1])) == [(10, 10), (10, 30), (20, 10), (20, 30)]
    assert region["properties"] == {
        "objectType": "annotation",
        "name": "region 1",
        "classification": {"name": "Tumor höchst", "color": [200, 30, 30]},
        "measurements": {"max logit": 7.0, "mean logit": 6.0},
    }
    assert crop["properties"]["classification"]["name"] == "Tumor höchst crop"
    assert crop["geometry"]["coordinates"] == [[[1, 2], [31, 2], [31, 42], [1, 42], [1, 2]]]
