from __future__ import annotations

import numpy as np
import pytest
import shapely

from wsidata.annotations import Annotations, Grid


def test_outlines_of_a_mask_cover_its_pixels_and_no_others() -> None:
    random = np.random.default_rng(0)
    for share in (0.2, 0.4, 0.5, 0.6, 0.8):  # with holes, islands in them, and pixels that touch at corners
        mask = random.random((11, 14)) < share
        grid = Grid(14, 11, 8.5, 4.25, 100.0, -3.0)
        found = Annotations.of_mask(mask, grid, "tissue", color=(1, 2, 3))
        area = found.area("tissue")
        row, column = np.indices(mask.shape) + 0.5
        inside = shapely.contains_xy(area, 100 + 8.5 * column, 4.25 * row - 3)
        np.testing.assert_array_equal(inside, mask)
        assert area.is_valid
        assert area.area == pytest.approx(mask.sum() * 8.5 * 4.25, rel=1e-12)
        assert not any(one.fault for one in found.outlines)
        assert sum(one.shape.area for one in found.outlines) == pytest.approx(area.area, rel=1e-12), "no overlaps"


def test_the_last_pixels_reach_to_the_edge_of_the_slide() -> None:
    mask = np.array([[True, False, True], [False, False, True]])
    found = Annotations.of_mask(mask, Grid(3, 2, 10.0, 10.0), "tissue", size_lv0=(33, 19))
    assert [one.shape.bounds for one in found.outlines] == [(0, 0, 10, 10), (20, 0, 33, 19)]
    assert len(found.outlines[1].parts[0][0]) == 4, "no vertices on straight lines"
    assert Annotations.of_mask(~mask & False, Grid(3, 2), "tissue").outlines == ()
    with pytest.raises(ValueError, match=r"uint8 \(2, 3\); it must be booleans of the grid's \(2, 3\)"):
        Annotations.of_mask(mask.astype(np.uint8), Grid(3, 2), "tissue")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="booleans of the grid's"):
        Annotations.of_mask(mask, Grid(2, 3), "tissue")
