import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.slides.tissue.mask import TissueMask
from wsidata.slides.tissue.packing import Packing, Piece, crop_to_tissue, pack_tissue, whole


@st.composite
def masks(draw):
    """A mask of a few rectangles, and the picture it belongs to."""
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    pixels = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 6))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        pixels[y : y + draw(st.integers(1, 9)), x : x + draw(st.integers(1, 9))] = True
    down = draw(st.floats(1, 9)), draw(st.floats(1, 9))
    width_lv0, height_lv0 = max(1, round(width * down[0])), max(1, round(height * down[1]))
    mask = TissueMask(pixels, *down, width_lv0, height_lv0)
    read = draw(st.floats(0.5, 6)), draw(st.floats(0.5, 6))
    size = max(1, round(width_lv0 / read[0])), max(1, round(height_lv0 / read[1]))
    return mask, size, read


def painted(packing):
    """How often each pixel of the canvas is covered, and how often each of the picture is used."""
    canvas = np.zeros((packing.height, packing.width), int)
    source = np.zeros((packing.source_height, packing.source_width), int)
    for one in packing.pieces:
        canvas[one.canvas_y : one.canvas_y + one.height, one.canvas_x : one.canvas_x + one.width] += 1
        source[one.y : one.y + one.height, one.x : one.x + one.width] += 1
    return canvas, source


@settings(max_examples=60)
@given(masks(), st.integers(0, 4))
def test_packed_canvas_holds_every_tissue_pixel_once_and_no_pixel_twice(case, margin):
    mask, size, down = case
    packing = pack_tissue(mask, size, down, margin)
    canvas, source = painted(packing)
    assert canvas.max() == 1
    assert source.max() == 1
    tissue_y, tissue_x = np.nonzero(mask.pixels)
    x_lv0, y_lv0 = (tissue_x + 0.5) * mask.downsample_x, (tissue_y + 0.5) * mask.downsample_y
    inside = (x_lv0 < size[0] * down[0]) & (y_lv0 < size[1] * down[1])  # the picture's size is rounded
    x, y = packing.to_canvas(x_lv0[inside], y_lv0[inside])
    assert np.isfinite(x).all()
    back_x, back_y = packing.to_slide(x, y)
    np.testing.assert_allclose(back_x, x_lv0[inside], atol=1e-6)
    np.testing.assert_allclose(back_y, y_lv0[inside], atol=1e-6)


@pytest.mark.slow
@settings(max_examples=60)
@given(masks(), st.integers(0, 4))
def test_pixels_of_the_canvas_are_the_slides_or_white(case, margin):
    mask, size, down = case
    packing = pack_tissue(mask, size, down, margin)
    picture = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    canvas = packing.apply(pyvips.Image.new_from_array(picture)).numpy()
    assert canvas.shape == (packing.height, packing.width, 3)
    rows, columns = np.mgrid[: packing.height, : packing.width] + 0.5
    x_lv0, y_lv0 = packing.to_slide(columns, rows)
    white = np.isnan(x_lv0)
    assert (canvas[white] == 255).all()
    x, y = (x_lv0[~white] / down[0]).astype(int), (y_lv0[~white] / down[1]).astype(int)
    np.testing.assert_array_equal(canvas[~white], picture[y, x])
    np.testing.assert_array_equal(white, painted(packing)[0] == 0)


@settings(max_examples=60)
@given(masks(), st.integers(0, 4))
def test_tissue_crop_is_the_bounding_box_of_the_pack(case, margin):
    mask, size, down = case
    crop, packing = crop_to_tissue(mask, size, down, margin), pack_tissue(mask, size, down, margin)
    (box,) = crop.pieces
    assert (box.canvas_x, box.canvas_y, box.width, box.height) == (0, 0, crop.width, crop.height)
    assert min(one.x for one in packing.pieces) == box.x
    assert max(one.y + one.height for one in packing.pieces) == box.y + box.height
    assert packing.width * packing.height <= 2 * crop.width * crop.height


def test_points_between_pieces_are_nowhere():
    packing = Packing((Piece(10, 20, 5, 5, 0, 0), Piece(40, 50, 3, 2, 5, 0)), 8, 5, 100, 100, 2.0, 4.0)
    np.testing.assert_array_equal(packing.to_slide([0, 5, 7.5, 6, -1], [0, 1.5, 0, 2, 0]),
                                  [[20, 80, 85, np.nan, np.nan], [80, 206, 200, np.nan, np.nan]])  # fmt: skip
    x, y = packing.to_canvas([29.9, 30, 84], [80, 80, 202])
    np.testing.assert_allclose(x, [4.95, np.nan, 7])
    np.testing.assert_allclose(y, [0, np.nan, 0.5])
    assert packing.saving == 250


def test_whole_leaves_the_picture_as_it_is():
    image = pyvips.Image.black(7, 5, bands=3)
    assert whole(7, 5).apply(image).numpy().shape == (5, 7, 3)
    assert whole(7, 5).to_slide(3, 2) == (3, 2)


@pytest.mark.slow
def test_canvas_of_many_pieces_is_the_slides_too(monkeypatch):
    pixels = np.zeros((90, 90), bool)
    pixels[::3, ::3] = True
    packing = pack_tissue(TissueMask(pixels, 8, 8, 720, 720), (720, 720), (1, 1), margin_px=1)
    assert len(packing.pieces) == 900
    image = pyvips.Image.new_from_array(np.random.default_rng(0).integers(0, 255, (720, 720, 3), dtype=np.uint8))
    canvas = packing.apply(image)
    assert (canvas.width, canvas.height, canvas.interpretation) == (packing.width, packing.height, "srgb")
    monkeypatch.setattr("wsidata.slides.tissue.packing.PIECES_AT_ONCE", 10**6)
    np.testing.assert_array_equal(canvas.numpy(), packing.apply(image).numpy())


def test_mask_is_packed_with_a_fill_of_its_own():
    packing = Packing((Piece(0, 0, 1, 1, 0, 0), Piece(2, 2, 1, 1, 1, 1)), 2, 2, 3, 3)
    mask = pyvips.Image.new_from_array(np.full((3, 3), 7, np.uint8))
    np.testing.assert_array_equal(packing.apply(mask, fill=0).numpy(), [[7, 0], [0, 7]])


def test_other_resolution_than_planned_for_is_refused():
    with pytest.raises(ValueError, match="7x5 px cannot be applied to one of 6x5"):
        whole(7, 5).apply(pyvips.Image.black(6, 5))


def test_nothing_to_pack_and_cutting_margins_are_refused():
    empty = TissueMask(np.zeros((4, 4), bool), 1, 1, 4, 4)
    with pytest.raises(ValueError, match="no tissue"):
        pack_tissue(empty, (4, 4), (1, 1))
    full = TissueMask(np.ones((4, 4), bool), 1, 1, 4, 4)
    with pytest.raises(ValueError, match="never cut"):
        pack_tissue(full, (4, 4), (1, 1), margin_px=-1)
