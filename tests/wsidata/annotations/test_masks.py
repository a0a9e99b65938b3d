from __future__ import annotations

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from wsidata.annotations import AnnotationError, Annotations, Grid, Outline, OutlineMask


def outline(polygon: shapely.Polygon, name: str) -> Outline:
    rings = [polygon.exterior, *polygon.interiors]
    return Outline((tuple(shapely.get_coordinates(ring)[:-1] for ring in rings),), name)


def star(x: float, y: float, radius: float, vertices: int, seed: int = 0) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    angle = np.sort(random.uniform(0, 2 * np.pi, vertices))
    length = radius * random.uniform(0.5, 1, vertices)
    return np.stack([x + length * np.cos(angle), y + length * np.sin(angle)], axis=1)


def boxes(grid: Grid) -> NDArray[np.object_]:
    column, row = np.meshgrid(np.arange(grid.width), np.arange(grid.height))
    left, top = grid.x_lv0 + column * grid.downsample_x, grid.y_lv0 + row * grid.downsample_y
    found: NDArray[np.object_] = shapely.box(left, top, left + grid.downsample_x, top + grid.downsample_y)
    return found


GRIDS = {
    "coarse": Grid(20, 16, 64.0, 64.0),
    "uneven": Grid(31, 27, 40.3, 51.7),
    "inside": Grid(9, 12, 33.3, 33.3, 301.5, 222.25),
    "overhanging": Grid(20, 30, 70.0, 50.0, -200.0, -123.0),
    "one pixel": Grid(1, 1, 2000.0, 1500.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_shares_are_the_areas_of_intersections(grid: Grid) -> None:
    tumor = shapely.Polygon(
        star(600, 500, 480, 900), [star(600, 500, 150, 40, 1), shapely.box(610, 740, 640, 768).exterior.coords]
    )
    tumor = shapely.make_valid(tumor, method="structure", keep_collapsed=False)
    island, far = shapely.Polygon(star(600, 500, 60, 9, 2)), shapely.box(1024, 64, 1100, 640)
    touching = shapely.box(1100, 64, 1152, 640.5)
    pieces = [outline(one, "Tumor") for one in [*shapely.get_parts(tumor), far]]
    annotations = Annotations((*pieces, outline(touching, "Stroma"), outline(island, "Stroma")))
    mask = OutlineMask(annotations, grid, ["Tumor", "Stroma"])
    shares = mask.shares()
    assert shares.shape == (2, grid.height, grid.width)
    for found, names in zip(shares, ("Tumor", "Stroma"), strict=True):
        clipped = shapely.area(shapely.intersection(annotations.area(names), boxes(grid)))
        assert np.abs(found - clipped / (grid.downsample_x * grid.downsample_y)).max() < 1e-9
    labels = mask.labels()
    x = grid.x_lv0 + (np.arange(grid.width) + 0.5) * grid.downsample_x
    y = grid.y_lv0 + (np.arange(grid.height) + 0.5) * grid.downsample_y
    for value, name in enumerate(("Tumor", "Stroma"), 1):
        held = shapely.contains_xy(annotations.area(name), *np.meshgrid(x, y))
        assert not (held & (labels != value)).any()
        assert (labels == value).sum() == held.sum()
    for rows in (1, 5):
        starts = range(0, grid.height, rows)
        stops = [min(start + rows, grid.height) for start in starts]
        ends = list(zip(starts, stops, strict=True))
        assert (np.concatenate([mask.shares(*part) for part in ends], axis=1) == shares).all()
        assert (np.concatenate([mask.labels(*part) for part in ends]) == labels).all()


def test_centers_on_borders_are_in_one_of_two_classes_that_touch() -> None:
    left, right = shapely.box(0.5, 0.5, 2.5, 3.5), shapely.box(2.5, 0.5, 4.5, 3.5)
    annotations = Annotations((outline(left, "a"), outline(right, "b")))
    labels = OutlineMask(annotations, Grid(6, 5), ["a", "b"]).labels()
    assert labels.tolist() == [[1, 1, 2, 2, 0, 0]] * 3 + [[0] * 6] * 2
    shares = OutlineMask(annotations, Grid(6, 5), ["a", "b"]).shares()
    assert shares[:, 1].tolist() == [[0.5, 1, 0.5, 0, 0, 0], [0, 0, 0.5, 1, 0.5, 0]]


def test_classes_named_last_lie_on_top() -> None:
    annotations = Annotations((outline(shapely.box(0, 0, 4, 1), "a"), outline(shapely.box(1.25, 0, 3, 1), "b")))
    grid = Grid(4, 1)
    assert OutlineMask(annotations, grid, ["a", "b"]).labels().tolist() == [[1, 2, 2, 1]]
    assert OutlineMask(annotations, grid, ["a", "b"]).shares().tolist() == [[[1, 0.25, 0, 1]], [[0, 0.75, 1, 0]]]
    assert OutlineMask(annotations, grid, ["b", "a"]).labels().tolist() == [[2, 2, 2, 2]]
    assert OutlineMask(annotations, grid, {"a": 7, "b": 0}).labels().tolist() == [[7, 0, 0, 7]]
    assert OutlineMask(annotations, grid, {"a": 7, "b": 7}).shares().tolist() == [[[1, 1, 1, 1]]]


def test_shares_of_a_fine_grid_far_from_the_origin_add_up() -> None:
    tumor = shapely.Polygon(star(90_000, 80_000, 500, 2000))
    tumor = max(shapely.get_parts(shapely.make_valid(tumor)), key=shapely.area)
    grid = Grid(400, 400, 2.5, 2.5, 89_500, 79_500)
    mask = OutlineMask(Annotations((outline(tumor, "a"),)), grid, ["a"])
    assert mask.shares().sum() * 2.5**2 == pytest.approx(tumor.area, rel=1e-10)
    assert 0 <= mask.shares().min() < mask.shares().max() == 1


def test_masks_that_make_no_sense_are_refused() -> None:
    annotations = Annotations((outline(shapely.box(500, 500, 600, 600), "a"),))
    with pytest.raises(AnnotationError, match=r"lies at 500, 500, 600, 600 .*beside the grid, which reaches to x=400"):
        OutlineMask(annotations, Grid(100, 50, 4.0, 4.0), ["a"])
    grid = Grid(100, 50, 16.0, 16.0)
    with pytest.raises(AnnotationError, match="no class 'b'"):
        OutlineMask(annotations, grid, ["a", "b"])
    with pytest.raises(AnnotationError, match="is one name"):
        OutlineMask(annotations, grid, "a")
    with pytest.raises(AnnotationError, match="values from 0 to 255"):
        OutlineMask(annotations, grid, {"a": 256})
    with pytest.raises(IndexError, match="rows 40 to 51 are none of the 50 rows"):
        OutlineMask(annotations, grid, ["a"]).labels(40, 51)
    with pytest.raises(ValueError, match="at least one pixel"):
        Grid(0, 5)
