"""Grids of tiles, compared with counting pixel by pixel and with areas as fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata import Slide, TileGrid
from wsidata.slides.tissue.mask import TissueMask
from wsidata.synthetic.slides import write_pixels
from wsidata.tiles.grid import starts, tile_packing
from wsidata.utils.rectangle import Rectangle

SIDES = st.integers(1, 40)


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(["drop", "pad", "shift"])
)
def test_tiles_cover_what_the_rule_of_the_border_says(image, size, stride, border):
    (height, width), (tall, wide), (down, right) = image, size, stride
    tiles = TileGrid(size, stride, level=0, border=border).over(width, height, (1.0, 1.0))
    covered = np.zeros((height + tall, width + wide), bool)
    for tile in tiles:
        covered[tile.within(Rectangle(0, 0, 1, 1))] = True
    inside = np.zeros_like(covered)  # every pixel that a tile of the unlimited grid has, and which the border leaves
    for y in range(0, height, down):
        for x in range(0, width, right):
            if border != "drop" or (y + tall <= height and x + wide <= width):
                inside[y : y + tall, x : x + wide] = True
    if border != "shift":
        assert np.array_equal(covered[:height, :width], inside[:height, :width])
    elif down <= tall and right <= wide:
        assert covered[:height, :width].all()
    if border == "drop" or (border == "shift" and height >= tall and width >= wide):
        assert not covered[height:].any()
        assert not covered[:, width:].any()
    assert len({(tile.x, tile.y) for tile in tiles}) == len(tiles)
    if border != "shift":  # none adds nothing: each is needed, as it has pixels of its own inside
        assert all(tile.inside(width, height) is not None for tile in tiles)
        assert not np.any([tiles.x % right, tiles.y % down])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_the_tissue_rule_is_an_exact_area(data):
    """Masks end before or behind the edge of the slide; tiles begin anywhere in their pixels."""
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    pixels = np.array(data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)))
    scale = data.draw(st.sampled_from([Fraction(5, 2), Fraction(7), Fraction(16, 3)]))
    width, height = (int(side * scale) + data.draw(st.integers(-1, 1)) for side in (columns, rows))
    mask = TissueMask(pixels.reshape(rows, columns), float(scale), float(scale), width, height)
    size, stride = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    down = data.draw(st.sampled_from([Fraction(1), Fraction(3, 2), Fraction(13, 7)]))
    least = data.draw(st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(1)]))
    image = (max(1, round(width / down)), max(1, round(height / down)))
    grid = TileGrid(size, stride, downsample=float(down), border="pad", min_tissue=float(least))
    found = {(tile.x, tile.y) for tile in grid.over(*image, (float(down), float(down)), mask)}

    def overlap(low, high, cell, cells, side):
        end = Fraction(side) if cell == cells - 1 else (cell + 1) * scale
        return max(Fraction(0), min(high, end) - max(low, cell * scale))

    def share(x, y):
        area = sum(
            overlap(x * down, (x + size) * down, column, columns, width)
            * overlap(y * down, (y + size) * down, row, rows, height)
            for row, column in np.argwhere(mask.pixels).tolist()
        )
        return area / (size * down) ** 2

    every = [
        (int(x), int(y)) for y in starts(image[1], size, stride, "pad") for x in starts(image[0], size, stride, "pad")
    ]
    assert found == {place for place in every if share(*place) >= least}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (301, 437, 3), np.uint8)
    return Slide(write_pixels(tmp_path_factory.mktemp("grid") / "a.tif", pixels, mpp=0.5, tile=64, compression="none"))


@pytest.mark.parametrize("resolution", [{"level": 1}, {"mpp": 0.8}, {"mpp": (1.3, 2.1)}])
def test_tiles_are_regions_of_the_whole_slide_to_the_bit(slide, resolution):
    whole = slide.numpy(**resolution)
    tiles = TileGrid((96, 112), (80, 112), border="pad", **resolution).of(slide)
    padded = np.pad(whole, ((0, 112), (0, 112), (0, 0)), constant_values=255)
    for number, (tile, (x_lv0, y_lv0)) in enumerate(zip(tiles, tiles.coords_lv0.tolist(), strict=True)):
        expected = padded[tile.within(Rectangle(0, 0, 1, 1))]
        assert np.array_equal(slide.read_region(x_lv0, y_lv0, tile.width, tile.height, **resolution), expected)
        packed = tiles.packing(number).apply(slide.image(**resolution)).numpy()
        assert np.array_equal(packed, expected)
    assert tiles.size_lv0 == tuple(
        round(side * down) for side, down in zip((112, 96), slide.downsample_at(**resolution), strict=True)
    )


def test_what_is_no_grid_is_refused():
    with pytest.raises(ValueError, match=r"exactly one of level=, mpp=, magnification=, downsample= \(got none\)"):
        TileGrid(256)
    with pytest.raises(ValueError, match=r"min_tissue=1\.5 must be a share"):
        TileGrid(256, mpp=0.5, min_tissue=1.5)
    with pytest.raises(ValueError, match=r"stride 0 must be"):
        TileGrid(256, 0, mpp=0.5)
    with pytest.raises(ValueError, match=r"tile_size 0 must be"):
        TileGrid(0, mpp=0.5)
    with pytest.raises(ValueError, match="border='keep' is not one of drop, pad, shift"):
        TileGrid(256, mpp=0.5, border="keep")
    with pytest.raises(ValueError, match=r"needs the mask of the tissue. Pass slide.tissue_mask\(\)"):
        TileGrid(256, mpp=0.5, min_tissue=0.1).over(512, 512, (1.0, 1.0))
    with pytest.raises(ValueError, match="lies beside the image of 10x10 pixels"):
        tile_packing(Rectangle(10, 0, 4, 4), 10, 10)
