"""Artifacts found on painted slides, whose truth is known, and tissue without them."""

import pickle

import cv2
import numpy as np
import pytest
from views import glass

from wsidata import Slide, TissueCrop, TissueFiles, TissueMask, TissueWithout
from wsidata.datamodules.geometry import crop_settings
from wsidata.datamodules.restore import _crop
from wsidata.datamodules.survey import plain_crop_settings
from wsidata.errors import ResolutionUnavailableError, SpacingUnknownError, UnsupportedImageError
from wsidata.formats.resolution import Resolution
from wsidata.slides.artifacts.find import find_artifacts
from wsidata.slides.tissue.mask import tissue_mask
from wsidata.synthetic import paint_slide, write_pixels

SIDE = 1200


@pytest.fixture(scope="module")
def plain():
    return paint_slide(SIDE, SIDE, mpp=1.0, pieces=1, seed=3)


@pytest.fixture(scope="module")
def truth(plain):
    """Where the slide has artifacts: a stroke left of the tissue and over it, an arc in a corner, a half in blur."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(rows, columns - SIDE)
    masks = {"pen": (columns >= 240) & (columns < 440), "bubble": distance < 230, "blur": plain.masks["tissue"].copy()}
    masks["blur"][: SIDE // 2] = masks["blur"][:, :440] = False
    return masks | {"rim": np.abs(distance - 220) < 10}


@pytest.fixture(scope="module")
def slide(plain, truth, tmp_path_factory):
    light = plain.pixels.astype(np.float64)
    light[SIDE // 2 :] = cv2.GaussianBlur(light[SIDE // 2 :], (0, 0), 3)
    light[truth["pen"]] *= (0.12, 0.55, 0.32)  # of the light passes green ink
    light[truth["rim"]] *= 0.42
    noisy = np.clip(light + np.random.default_rng(0).normal(0, 1, light.shape), 0, 255).astype(np.uint8)
    with Slide(write_pixels(tmp_path_factory.mktemp("artifacts") / "slide.tif", noisy, mpp=1.0, quality=90)) as slide:
        yield slide


@pytest.fixture(scope="module")
def found(slide):
    return find_artifacts(slide, slide.tissue_mask())


@pytest.mark.slow
def test_artifacts_are_found_where_they_are(truth, slide, found):
    tissue = slide.tissue_mask().pixels
    there = {name: mask[4::8, 4::8] for name, mask in truth.items()}
    for name, inside in (("pen", np.ones_like(tissue)), ("bubble", ~there["pen"]), ("blur", tissue & ~there["pen"])):
        real, mask = there[name] & inside, found[name].pixels
        assert real.sum() > 500
        assert (mask & real).sum() > 0.75 * real.sum(), name  # squares of 64 um at borders
        assert (mask & inside & ~real).sum() < 0.04 * inside.sum(), name
    assert found["fold"].pixels.sum() < 0.02 * tissue.sum()
    assert not (found["blur"].pixels & ~tissue).any()


@pytest.mark.slow
def test_fold_is_a_second_layer_of_the_tissue(plain, tmp_path):
    light = plain.pixels.astype(np.float64)
    band = np.zeros((SIDE, SIDE), bool)
    band[580:630, 380:820] = True
    light[band] *= np.roll(light, 200, axis=0)[band] / [244, 243, 246]  # light passes two layers
    with Slide(write_pixels(tmp_path / "fold.tif", light.astype(np.uint8), mpp=1.0)) as slide:
        mask = find_artifacts(slide, slide.tissue_mask(), ["fold"])["fold"].pixels
    with Slide(plain.write(tmp_path / "plain.tif")) as slide:
        assert not any(one.pixels.any() for one in find_artifacts(slide, slide.tissue_mask()).values())
    inside = band[4::8, 4::8]
    assert mask[inside].mean() > 0.8
    assert mask[~inside].mean() < 0.01


@pytest.mark.slow
def test_excluded_artifacts_are_no_tissue_in_masks_crops_and_on_other_grids(slide, found):
    tissue = slide.tissue_mask()
    without = slide.tissue_mask(exclude=("pen", "blur"))
    np.testing.assert_array_equal(without.pixels, tissue.pixels & ~found["pen"].pixels & ~found["blur"].pixels)
    method = pickle.loads(pickle.dumps(TissueWithout(["pen", "blur"])))  # as for loader workers
    np.testing.assert_array_equal(slide.tissue_mask(method).pixels, without.pixels)
    assert (slide.tissue_mask(exclude="pen").pixels & found["pen"].pixels).sum() == 0
    coarse = slide.tissue_mask(method, mpp=16.0)
    assert coarse.pixels.shape == (75, 75)
    assert abs(coarse.fraction - without.fraction) < 0.02
    areas = [
        sum(piece.width * piece.height for piece in crop.plan(slide, Resolution.of({"mpp": 2.0})).pieces)
        for crop in (TissueCrop("pack"), TissueCrop("pack", method=method))
    ]
    assert areas[1] < areas[0]


def test_wrong_names_unknown_sizes_and_plain_images_are_refused(slide, plain, tmp_path):
    with pytest.raises(ValueError, match="'dust' is not one of pen, fold, bubble, blur"):
        slide.tissue_mask(exclude=("dust",))
    with pytest.raises(ValueError, match="names no artifact"):
        TissueWithout(())
    with pytest.raises(ValueError, match="TissueWithout finds the tissue of slides"):
        tissue_mask(slide.thumbnail(64), TissueWithout())
    path = write_pixels(tmp_path / "plain.tif", plain.pixels[:256, :256], mpp=None)
    with Slide(path) as unknown, pytest.raises(SpacingUnknownError, match=r"sizes in um.*mpp_override"):
        unknown.tissue_mask(exclude=("pen",))
    with Slide(path, mpp_override=2.0) as coarse:
        assert coarse.tissue_mask(exclude=("pen",)).pixels.shape == (64, 64)
        with pytest.raises(ResolutionUnavailableError):
            coarse.tissue_mask(exclude=("blur",))
    with pytest.raises(ValueError, match="by color"), Slide(path, channels=[0, 1, 2], mpp_override=2.0) as channels:
        channels.tissue_mask(TissueWithout())


def test_settings_of_a_crop_without_artifacts_are_told_apart_and_come_back():
    crop = TissueCrop("pack", method=TissueWithout(("pen", "blur")))
    other = TissueCrop("pack", method=TissueWithout(("pen",)))
    assert plain_crop_settings(crop) not in (plain_crop_settings(other), plain_crop_settings(TissueCrop("pack")), None)
    assert _crop(crop_settings(crop)) == crop
    assert _crop(crop_settings(other)) == other


@pytest.mark.parametrize("suffix", [".png", ".geojson"])
def test_tissue_of_files(slide, tmp_path, suffix):
    pixels = np.zeros((SIDE // 8, SIDE // 8), np.uint8)
    pixels[50:100, 60:110] = 1
    if suffix == ".png":
        from PIL import Image

        Image.fromarray(pixels * 9).save(tmp_path / "slide.png")
    else:
        TissueMask(pixels > 0, 8.0, 8.0, SIDE, SIDE).annotations().write(tmp_path / "slide.geojson")
    np.testing.assert_array_equal(slide.tissue_mask(TissueFiles(tmp_path)).pixels, pixels > 0)
    only = slide.tissue_mask(TissueWithout(("pen",), TissueFiles(tmp_path)), mpp=16.0)
    assert not (only.pixels & ~(pixels[::2, ::2] > 0)).any()
    assert plain_crop_settings(TissueCrop("tissue", method=TissueFiles(tmp_path))) is None  # the file may change
    if suffix == ".geojson":
        assert slide.tissue_mask(TissueFiles(tmp_path, ["Tumor"])).is_empty
        with pytest.raises(LookupError, match="no file 'slide'"):
            slide.tissue_mask(TissueFiles(tmp_path.parent / "nowhere"))


def test_bare_glass_has_no_artifacts(tmp_path):
    pixels = np.tile(glass(), (4, 3, 1))
    with Slide(write_pixels(tmp_path / "glass.tif", pixels, mpp=1.0)) as slide:
        assert not any(one.pixels.any() for one in find_artifacts(slide, slide.tissue_mask()).values())


def test_dark_grounds_and_channels_are_refused_but_black_borders_are_not(plain, tmp_path):
    bright = plain.pixels[::2, ::2]
    dark, bordered = 255 - bright, bright.copy()
    dark[:60] = 255  # what is not scanned
    bordered[:, :400] = 0
    for number, pixels in enumerate((dark, bordered)):
        write_pixels(tmp_path / f"{number}.tif", pixels, mpp=2.0)
    with Slide(tmp_path / "0.tif") as slide, pytest.raises(UnsupportedImageError, match=r"0.tif'.*black.*Leave such"):
        slide.tissue_mask(exclude=("bubble",))
    with Slide(tmp_path / "1.tif") as slide:
        assert not slide.tissue_mask(exclude=("pen",)).is_empty
    everywhere = TissueMask(np.ones((75, 75), bool), 8.0, 8.0, 600, 600)
    with Slide(tmp_path / "1.tif", channels=[0, 1, 2]) as slide, pytest.raises(UnsupportedImageError, match="channels"):
        find_artifacts(slide, everywhere, ["pen"])
