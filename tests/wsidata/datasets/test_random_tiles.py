"""Random places of tiles, drawn from slides that are planned but never opened."""

import numpy as np
import pandas as pd
import pytest

from wsidata.datasets.tiles import TileDataset
from wsidata.slides.tissue.mask import TissueMask
from wsidata.tiles.grid import TileGrid
from wsidata.tiles.plan import TilePlan
from wsidata.tiles.tissue import PackedTissue
from wsidata.transforms import Compose

SIDE, STEP = 400, 8.0


def dataset(*masks, balance="tissue", min_tissue=0.0):
    grid = TileGrid(48, level=0, min_tissue=min_tissue)
    masks = [TissueMask(pixels, STEP, STEP, SIDE, SIDE) for pixels in masks]
    plans = [TilePlan(grid.over(SIDE, SIDE, (1.0, 1.0), mask), PackedTissue.of(mask)) for mask in masks]
    names = [f"slide {number}" for number in range(len(masks))]
    table = pd.DataFrame({"image_id": names, "path": names, "label": [n % 2 for n in range(len(masks))]})
    return TileDataset(table, plans, grid, Compose([]), random_tiles=1000, balance=balance, fresh_epochs=True)


def slides():
    """A disk of tissue, a stripe of it, and none."""
    rows, columns = np.mgrid[:50, :50]
    return np.hypot(rows - 20, columns - 28) < 15, (columns > 10) & (columns < 20), np.zeros((50, 50), bool)


def test_blank_slides_have_no_random_places_and_others_have_them_all_over():
    for balance in ("tissue", "slides", "classes"):
        tiles = dataset(*slides(), balance=balance)
        assert len(tiles.plans[2].tiles) == 64  # on the grid it has tiles
        places = {number: [] for number in range(3)}
        for row in range(400):
            places[tiles.slide_of(row)].append(tiles.tile(row))
        assert not places[2]
        assert min(map(len, (places[0], places[1]))) > 100
        for number, (first, last) in ((0, (112, 344)), (1, (88, 160))):  # columns that have tissue
            x, y = np.array([(one.x + 24, one.y + 24) for one in places[number]]).T
            assert first <= x.min() < first + 30
            assert last - 30 < x.max() <= last
            assert np.ptp(y) > 150
    with pytest.raises(ValueError, match="no slide, or none of a class, has tissue for random places"):
        dataset(*slides()[2:]).tile(0)


@pytest.mark.parametrize("balance", ["tissue", "classes"])
def test_places_follow_from_the_seed_of_the_epoch_and_the_row_alone(balance):
    tiles = dataset(*slides()[:2], balance=balance, min_tissue=0.5)

    def drawn(rows):
        return [(tiles.slide_of(row), tiles.tile(row)) for row in rows]

    tiles._epoch_seed.fill_(7)
    found = drawn(range(20))
    assert {slide for slide, _ in found} == {0, 1}
    assert drawn(range(19, -1, -1)) == found[::-1]
    tiles._epoch_seed.fill_(8)
    other = drawn(range(20))
    assert other != found
    tiles._epoch_seed.fill_(7)
    assert [tiles.tile(row) for row in range(20)] == [tile for _, tile in found]
    assert [tiles.slide_of(row) for row in range(20)] == [slide for slide, _ in found]
