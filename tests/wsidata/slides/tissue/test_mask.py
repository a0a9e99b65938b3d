from functools import partial

import numpy as np
import pytest
import pyvips
from views import glass, stain

from wsidata import Slide
from wsidata.formats.resolution import Resolution
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.mask import TissueMask, apply_method, tissue_mask
from wsidata.slides.tissue.methods import otsu_saturation
from wsidata.synthetic.slides import write_slide


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


def test_full_mask_is_the_full_slide(tmp_path):
    path = write_slide(tmp_path / "slide.tif", width=1203, height=1007, mpp=0.5)
    with Slide(path) as slide:
        mask = slide.tissue_mask(everything)
        assert mask.pixels.shape == (63, 75)  # 75.2 columns of 16 pixels
        assert mask.bounding_box == (0, 0, 1203, 1007)
        for resolution in ({"level": 0}, {"mpp": 0.7}, {"mpp": 8.0}, {"mpp": 11.0}, {"max_side": 333}):
            for kind in ("tissue", "pack"):
                packing = TissueCrop(kind, method=everything, margin_px=0).plan(slide, Resolution.of(resolution))
                assert (packing.width, packing.height) == slide.size_at(**resolution)
                assert [(one.x, one.y) for one in packing.pieces] == [(0, 0)]


def everything(pixels):
    return np.ones(pixels.shape[:2], bool)
