from functools import partial

import numpy as np
import pytest
import pyvips
from places import SLIDES

from wsidata import Slide
from wsidata.slides.tissue.mask import TissueMask, apply_method, otsu_saturation, tissue_mask
from wsidata.synthetic.slides import write_slide


def glass(shape=(200, 300), tint=(244, 240, 246), noise=2.0):
    rng = np.random.default_rng(0)
    return np.clip(rng.normal(tint, noise, (*shape, 3)), 0, 255).astype(np.uint8)


def stain(pixels, rows, columns, color=(200, 110, 170)):
    rng = np.random.default_rng(1)
    part = pixels[rows, columns]
    part[:] = np.clip(rng.normal(color, 6, part.shape), 0, 255).astype(np.uint8)
    return pixels


def test_stained_rectangle_is_found_to_the_pixel_up_to_rounded_corners():
    mask = otsu_saturation(stain(glass(), slice(40, 120), slice(60, 200)))
    wanted = np.zeros(mask.shape, bool)
    wanted[40:120, 60:200] = True
    assert (mask ^ wanted).sum() <= 8
    assert mask[41:119, 61:199].all()


@pytest.mark.parametrize("tint", [(255, 255, 255), (240, 230, 244), (128, 128, 128), (0, 0, 0)])
def test_empty_glass_of_any_tint_has_no_tissue(tint):
    assert not otsu_saturation(glass(tint=tint)).any()


def test_view_full_of_tissue_is_tissue():
    pixels = stain(glass(), slice(None), slice(None))
    assert otsu_saturation(pixels).all()


def test_black_borders_and_pale_tissue():
    pixels = stain(glass(), slice(40, 120), slice(60, 200), color=(232, 214, 228))
    pixels[:, :30] = np.random.default_rng(2).integers(0, 4, (200, 30, 3))
    mask = otsu_saturation(pixels)
    assert not mask[:, :50].any()
    assert mask[45:115, 65:195].mean() > 0.95


def test_cleaning_closes_gaps_fills_holes_and_drops_specks():
    pixels = stain(glass(), slice(40, 120), slice(60, 200))
    pixels[60:72, 100:112] = glass((12, 12))  # a hole of 144 pixels
    pixels[40:120, 150:152] = glass((80, 2))  # a cut, 2 pixels wide
    stain(pixels, slice(10, 13), slice(10, 13))  # a speck
    mask = otsu_saturation(pixels)
    assert mask[45:115, 65:195].all()
    assert not mask[:30, :30].any()
    raw = otsu_saturation(pixels, close_px=0, max_hole_px=0, min_piece_px=0)
    assert not raw[62:70, 102:110].any()
    assert raw[11, 11]


def test_gap_at_the_edge_of_the_view_is_closed_without_reaching_beyond():
    pixels = stain(glass(), slice(0, 60), slice(0, 80))
    mask = otsu_saturation(pixels)
    assert mask[0, 0]
    assert mask[:58, :78].all()
    assert mask.sum() <= 60 * 80 + 8


def test_other_pixels_than_rgb_are_refused():
    with pytest.raises(ValueError, match="uint8 RGB, not"):
        otsu_saturation(np.zeros((5, 5, 4), np.uint8))


def test_method_of_ones_own_must_give_a_mask_of_the_same_size():
    pixels = glass()
    assert apply_method(lambda pixels: pixels[..., 0] > 9, pixels, "it").all()
    with pytest.raises(ValueError, match=r"gave uint8 \(200, 300\) for it; it must give a boolean mask"):
        apply_method(lambda pixels: pixels[..., 0], pixels, "it")
    with pytest.raises(ValueError, match="do not resize"):
        apply_method(lambda pixels: np.ones((3, 3), bool), pixels, "it")


def test_pieces_and_bounding_box_are_in_their_own_units():
    pixels = np.zeros((10, 20), bool)
    pixels[2:4, 3:6] = pixels[4, 6] = pixels[7:9, 15:20] = True  # the second joins the first by a corner
    mask = TissueMask(pixels, 4.0, 5.0, 79, 50)
    np.testing.assert_array_equal(mask.boxes(), [[3, 2, 7, 5], [15, 7, 20, 9]])
    assert mask.bounding_box == (12, 10, 67, 35)  # the last column ends with the slide, not with the mask
    assert mask.fraction == pytest.approx(17 / 200)
    assert not mask.is_empty


def test_empty_mask():
    mask = TissueMask(np.zeros((10, 20), bool), 4.0, 5.0, 80, 50)
    assert mask.is_empty
    assert mask.bounding_box is None
    assert mask.fraction == 0
    assert mask.boxes().shape == (0, 4)


def test_picture_that_is_no_slide_is_looked_at_small():
    pixels = stain(glass((800, 1200)), slice(160, 480), slice(240, 800))
    mask = tissue_mask(pyvips.Image.new_from_array(pixels), max_side_px=300)
    assert mask.shape == (200, 300)
    assert mask[45:115, 65:195].all()
    assert mask.mean() == pytest.approx(320 * 560 / 800 / 1200, rel=0.05)


def test_slides_mask_knows_its_scale(tmp_path):
    path = write_slide(tmp_path / "slide.tif", width=1200, height=1000, mpp=0.5)
    with Slide(path) as slide:
        mask = slide.tissue_mask()
        assert (mask.downsample_x, mask.downsample_y) == (16, 16)  # 8 um
        assert mask.pixels.shape == (62, 75)
        assert 0.05 < mask.fraction < 0.8
        at_level = slide.tissue_mask(level=1)
        assert at_level.pixels.shape == (500, 600)
        assert at_level.fraction == pytest.approx(mask.fraction, rel=0.15)
        assert slide.tissue_mask(partial(otsu_saturation, min_piece_px=10**9)).is_empty


def test_slide_without_spacing_is_looked_at_small(tmp_path):
    with Slide(write_slide(tmp_path / "slide.tif", width=1200, height=1000, mpp=None)) as slide:
        assert slide.tissue_mask().pixels.shape == (1000, 1200)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fraction", "tissue", "empty"),
    [
        ("CMU-1-Small-Region.svs", (0.3, 0.45), [(1000, 1500), (600, 2900)], [(200, 2000), (2000, 300)]),
        ("tcga-cr-7395-01a-01-ts1.svs", (0.55, 0.7), [(2000, 1500), (300, 1600)], [(300, 300), (4300, 200)]),
        ("OS-2-ndpi.ome.tif", (0.6, 0.9), [(1100, 600), (100, 100)], [(300, 1400), (1400, 40)]),
    ],
)
def test_real_slides(name, fraction, tissue, empty):
    if not (SLIDES / name).exists():
        pytest.skip("the folder of real slides is not here")
    with Slide(SLIDES / name) as slide:
        mask = slide.tissue_mask()
        assert fraction[0] < mask.fraction < fraction[1]
        for points, expected in ((tissue, True), (empty, False)):
            for x, y in points:
                assert mask.pixels[int(y / mask.downsample_y), int(x / mask.downsample_x)] == expected, (x, y)
