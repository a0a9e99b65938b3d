"""Aperio SVS, also as other programs save it again."""

from contextlib import nullcontext

import numpy as np
import pytest
import pyvips
import tifffile

from wsidata.errors import SpacingConflictWarning, SpacingUnknownError
from wsidata.slides.slide import Slide

openslide = pytest.importorskip("openslide")

RGB = np.random.default_rng(12).integers(0, 256, (300, 420, 3), dtype=np.uint8)
TILED = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
STRIPS = {"photometric": "rgb", "metadata": None}
APERIO = "Aperio Image Library v12.0.15\r\n420x300 (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
SVS = "Aperio Image Library v12.0.15\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.svs"


@pytest.mark.parametrize("subifd", [False, True])
def test_levels_that_libvips_wrote_are_levels_whatever_it_calls_them(path, subifd):
    tifffile.imwrite(path, RGB, description=APERIO, **TILED)
    again = path.with_name("again.tif")
    pyvips.Image.new_from_file(str(path)).tiffsave(
        str(again), tile=True, tile_width=64, tile_height=64, pyramid=True, subifd=subifd
    )
    with Slide(again) as slide:
        assert slide.kind == "svs"
        assert [level.size for level in slide.levels] == [(420, 300), (210, 150), (105, 75), (52, 37)]
        assert list(slide.associated_images) == []
        assert slide.mpp == (0.5, 0.5)
        np.testing.assert_array_equal(slide.numpy(level=0), RGB)
        if not subifd:
            theirs = openslide.OpenSlide(str(again)).level_dimensions
            assert theirs == tuple(level.size for level in slide.levels)
            for level in range(4):
                pixels = pyvips.Image.tiffload(str(again), page=level).numpy()
                np.testing.assert_array_equal(slide.numpy(level=level), pixels)


def test_a_label_between_the_levels_does_not_end_them(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(RGB, description=APERIO, **TILED)
        tiff.write(RGB[::4, ::4], description=SVS + "420x300 -> 105x75 - |", **STRIPS)
        tiff.write(RGB[:90, :80], description=SVS + "label 80x90", subfiletype=1, **STRIPS)
        tiff.write(RGB[::2, ::2], description=SVS + "420x300 (64x64) -> 210x150", **TILED)
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(420, 300), (210, 150)]
        assert sorted(slide.associated_images) == ["label", "thumbnail"]


def test_a_label_is_never_called_a_thumbnail(path):
    """It shows a patient's name; without a thumbnail it lies where the thumbnail would."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(RGB, description=APERIO, **TILED)
        tiff.write(RGB[:90, :80], description=SVS + "label 80x90", subfiletype=1, **STRIPS)
        tiff.write(RGB[:60, :99], description=SVS + "macro 99x60", subfiletype=9, **STRIPS)
    with Slide(path) as slide:
        assert list(slide.associated_images) == ["label", "macro"]
        np.testing.assert_array_equal(slide.associated_images["label"].numpy(), RGB[:90, :80])


def test_images_without_a_description_go_by_their_flags(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(RGB, description=APERIO, **TILED)
        tiff.write(RGB[::4, ::4], **STRIPS)
        tiff.write(RGB[:60, :99], subfiletype=9, **STRIPS)
        tiff.write(RGB[:90, :80], subfiletype=1, **STRIPS)
        tiff.write(RGB[:50, :80], **STRIPS)
    with Slide(path) as slide:
        assert list(slide.associated_images) == ["thumbnail", "macro", "label", "page 4"]


def test_a_level_that_is_there_twice_is_one(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(RGB, description=APERIO, **TILED)
        tiff.write(RGB[::4, ::4], **STRIPS)
        for _ in range(2):
            tiff.write(RGB[::2, ::2], **TILED)
        tiff.write(RGB[:100, :100], **TILED)  # of another shape
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(420, 300), (210, 150)]
        assert list(slide.associated_images) == ["thumbnail", "page 4"]


@pytest.mark.parametrize(
    ("line", "mpp"),
    [
        ("420x300 (64x64)", 0.5),
        ("46000x32914 [42673,5576 420x300] (64x64)", 0.5),
        ("840x600 (64x64)", None),
        ("840x600 [0,0 840x600] (64x64)", None),
        ("", 0.5),
    ],
)
def test_a_spacing_is_not_believed_of_a_image_of_another_size(path, line, mpp):
    """Programs that make a slide smaller, or cut it, keep its description."""
    description = f"Aperio Image Library v12.0.15\r\n{line}|AppMag = 20|MPP = 0.5"
    tifffile.imwrite(path, RGB, description=description, **TILED)
    with Slide(path) as slide:
        assert slide.mpp == (None if mpp is None else (mpp, mpp))
        assert slide.magnification == (None if mpp is None else 20)
        assert slide.properties["aperio.MPP"] == "0.5"
        if mpp is None:
            with pytest.raises(SpacingUnknownError, match=r"not believed: it is of an image of 840x600 px.*420x300"):
                slide.image(mpp=1.0)
    conflict = nullcontext() if mpp is None else pytest.warns(SpacingConflictWarning, match="mpp_override says 1")
    with conflict, Slide(path, mpp_override=1.0) as slide:
        assert slide.mpp == (1, 1)


def test_decimal_commas_of_a_scanner_abroad(path):
    description = "Aperio Image Library v12.0.15\r\n420x300 (64x64)|AppMag = 20,0|MPP = 0,2520"
    tifffile.imwrite(path, RGB, description=description, **TILED)
    with Slide(path) as slide:
        assert slide.mpp == (0.252, 0.252)
        assert slide.magnification == 20
        assert slide.image(mpp=0.504).width == 210
