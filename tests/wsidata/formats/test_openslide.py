"""Slides read through OpenSlide, and the errors without it."""

import gc
import os
import sys

import numpy as np
import pytest
import pyvips
import tifffile

from wsidata.errors import ForeignFormatError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.openslide import OpenSlidePyramid, _bounds, on_white
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels

openslide = pytest.importorskip("openslide")

RGB = np.random.default_rng(9).integers(0, 256, (200, 260, 3), dtype=np.uint8)


def test_cover_of_an_mrxs_is_not_the_slide(tmp_path):
    """An MRXS is a folder beside a file that begins, and opens, as a JPEG thumbnail."""
    path = tmp_path / "a.mrxs"
    pyvips.Image.new_from_array(RGB).write_to_file(str(tmp_path / "a.jpg"))
    (tmp_path / "a.jpg").rename(path)
    with pytest.raises(UnreadableImageError, match=r"a\.mrxs' is only the cover.*the folder 'a' beside it.*missing"):
        Slide(path)


def test_cover_of_a_vsi_is_not_the_slide(tmp_path):
    path = tmp_path / "a.vsi"
    tifffile.imwrite(path, RGB, photometric="rgb")
    with pytest.raises(ForeignFormatError, match=r"a\.vsi' is the cover of an Olympus VSI slide.*'_a_/'.*bfconvert"):
        Slide(path)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.dcm", bytes(128) + b"DICM" + bytes(60), "a DICOM file"),
        ("without_suffix", bytes(128) + b"DICM" + bytes(60), "a DICOM file"),
        ("a.czi", b"ZISRAWFILE" + bytes(100), "a Zeiss CZI slide"),
        ("a.vms", b"[Virtual Microscope Specimen]\n", "a Hamamatsu VMS slide"),
    ],
)
def test_without_openslide_these_raise_with_the_remedy(tmp_path, monkeypatch, name, content, what):
    monkeypatch.setattr("wsidata.formats.openslide.find_spec", lambda name: None)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ForeignFormatError, match=rf"{name}' is {what}.*pip install 'slidestream\[openslide\]'"):
        Slide(tmp_path / name)


def test_openslide_without_its_library_raises_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(60))
    monkeypatch.setattr("wsidata.formats.openslide.find_spec", lambda name: "its Python half")
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(ForeignFormatError, match=r"OpenSlide does not start here.*pip install"):
        Slide(tmp_path / "a.dcm")


def trestle(path):
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(RGB, software="MedScan 1.1", description="OverlapsXY= 8 8;Objective Power=20;", **options)
        tiff.write(RGB[::2, ::2], software="MedScan 1.1", subfiletype=1, **options)


def test_tiles_of_a_trestle_are_not_shown_side_by_side(tmp_path, monkeypatch):
    trestle(tmp_path / "a.tif")
    with Slide(tmp_path / "a.tif") as slide:
        assert (slide.kind, slide.reader) == ("trestle", "openslide")
        assert slide.width < 260
    monkeypatch.setattr("wsidata.formats.openslide.find_spec", lambda name: None)
    with pytest.raises(ForeignFormatError, match="Trestle slide, whose tiles overlap"):
        Slide(tmp_path / "a.tif")


def test_channels_cannot_be_chosen_through_openslide(tmp_path):
    trestle(tmp_path / "a.tif")
    with pytest.raises(UnsupportedImageError, match="read through OpenSlide, as RGB only"):
        Slide(tmp_path / "a.tif", channels=[0])


@pytest.fixture
def pyramid(tmp_path):
    path = write_pixels(tmp_path / "a.svs", RGB, vendor="aperio", tile=64, levels=2, compression="none", mpp=0.5)
    opened = OpenSlidePyramid(path)
    yield opened
    opened.close()


def test_levels_metadata_and_pixels_are_openslides(pyramid):
    assert pyramid.kind == "aperio"
    assert [level.size for level in pyramid.levels] == [(260, 200), (130, 100)]
    assert [level.downsample for level in pyramid.levels] == [1, 2]
    assert pyramid.metadata.spacings[0].mpp == (0.5, 0.5)
    assert pyramid.metadata.magnification == 20
    assert sorted(pyramid.associated) == ["label", "macro", "thumbnail"]
    assert pyramid.associated["label"]().bands == 3
    np.testing.assert_array_equal(pyramid.image(0).numpy(), RGB)
    np.testing.assert_array_equal(pyramid.region(0, 30, 40, 50, 60), RGB[40:100, 30:80])
    np.testing.assert_array_equal(pyramid.region(1, 30, 40, 50, 60), pyramid.image(1).numpy()[40:100, 30:80])


def test_levels_much_smaller_than_what_is_read_at_a_time(tmp_path):
    path = write_pixels(tmp_path / "a.svs", RGB, vendor="aperio", tile=64, levels=4, compression="none", mpp=0.5)
    pyramid = OpenSlidePyramid(path)
    assert pyramid.levels[3].size == (33, 25)
    np.testing.assert_array_equal(pyramid.image(3).numpy(), pyramid.region(3, 0, 0, 33, 25))
    pyramid.close()


def test_lazy_images_outlive_the_slide_and_then_close_it(tmp_path):
    trestle(tmp_path / "a.tif")

    def handles():
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum(os.path.realpath(link) == str((tmp_path / "a.tif").resolve()) for link in links)

    with Slide(tmp_path / "a.tif") as slide:
        image = slide.image()
        expected = slide.read_region(0, 0, slide.width, slide.height)
    np.testing.assert_array_equal(image.numpy(), expected)
    del image
    gc.collect()
    assert handles() == 0


def test_tiles_never_scanned_are_white(tmp_path):
    """OpenSlide returns them transparent, which becomes black if the fourth band is dropped."""
    path = write_pixels(tmp_path / "a.tif", RGB, tile=64, levels=1, compression="none", mpp=0.5)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tiff.pages[0].tags[name]
            tag.overwrite([0, *tag.value[1:]])
    pixels = OpenSlidePyramid(path).image(0).numpy()
    assert (pixels[:64, :64] == 255).all()
    np.testing.assert_array_equal(pixels[64:], RGB[64:])


def test_a_file_openslide_cannot_open_raises_naming_the_file(tmp_path):
    path = write_pixels(tmp_path / "a.tif", RGB, tile=64, levels=1)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UnreadableImageError, match=r"a\.tif' could not be opened by OpenSlide"):
        OpenSlidePyramid(path)


def test_transparency_is_composited_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, 1] = (10, 20, 30, 255)
    rgba[0, 2] = (0, 100, 200, 128)
    np.testing.assert_array_equal(on_white(rgba)[0, :2], [[255, 255, 255], [10, 20, 30]])
    expected = 255 + (np.array([0, 100, 200]) - 255.0) * 128 / 255
    assert np.abs(on_white(rgba)[0, 2] - expected).max() <= 0.5


def test_the_canvas_is_cropped_to_the_bounds():
    stated = {
        f"openslide.bounds-{key}": str(value)
        for key, value in zip(("x", "y", "width", "height"), (5, 6, 70, 900), strict=True)
    }
    assert _bounds(stated, (100, 200)) == (5, 6, 70, 194)
    assert _bounds({}, (100, 200)) == (0, 0, 100, 200)


def test_a_slide_with_an_unreadable_profile_opens(pyramid, monkeypatch, tmp_path):
    def broken(slide):
        raise OSError("cannot open profile from string")  # as Pillow's PyCMSError

    monkeypatch.setattr(openslide.OpenSlide, "color_profile", property(broken))
    trestle(tmp_path / "a.tif")
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.icc_profile == b""
        assert slide.read_region(0, 0, 5, 5).shape == (5, 5, 3)
    with (
        Slide(tmp_path / "a.tif", apply_icc=True) as slide,
        pytest.raises(UnsupportedImageError, match=r"a color profile that cannot be applied.*Leave out apply_icc"),
    ):
        slide.numpy()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Unsupported photometric interpretation YBR_FULL", UnsupportedImageError),
        ('Unrecognized subblock dimension "B"', UnsupportedImageError),
        ("Found associated image as a concatenation member", UnsupportedImageError),
        ("Cannot read directory", UnreadableImageError),
    ],
)
def test_limits_of_openslide_are_not_called_damage(tmp_path, monkeypatch, said, kind):
    def refuse(*_):
        raise openslide.OpenSlideError(said)

    monkeypatch.setattr(openslide, "OpenSlide", refuse)
    with pytest.raises(kind, match=rf"a\.czi' .*{said}.*Convert it to OME-TIFF"):
        OpenSlidePyramid(tmp_path / "a.czi")


@pytest.mark.parametrize(
    "text",
    [
        "Attribute BitsAllocated value 16 != 8",
        "Nonzero subblock channel 1",
        "Pixel type GRAY16 is not supported",
        "Unsupported transfer syntax 1.2.840.10008.1.2.4.80",
        "Unsupported TIFF compression: 34887",
        "Unexpected media storage SOP: 1.2.3",
    ],
)
def test_what_openslide_does_not_support_is_not_called_damaged(tmp_path, monkeypatch, text):
    def fail(path):
        raise openslide.OpenSlideError(text)

    monkeypatch.setattr(openslide, "OpenSlide", fail)
    with pytest.raises(UnsupportedImageError, match=r"of a kind that OpenSlide does not read.*Convert it") as error:
        OpenSlidePyramid(tmp_path / "a.dcm")
    assert "Copy it again" not in str(error.value)
