"""Stated spacings (units, implausible values, contradictions) and associated images."""

import warnings

import numpy as np
import pytest
import tifffile

from wsidata.errors import SpacingConflictWarning, UnreadableImageError
from wsidata.formats.metadata import StatedSpacing, choose_spacing, positive_number
from wsidata.formats.tiff.tiles import TiffTiles
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels

PIXELS = np.random.default_rng(5).integers(0, 255, (64, 64, 3), dtype=np.uint8)
SLIDE = np.random.default_rng(2).integers(0, 255, (300, 400, 3), dtype=np.uint8)


def spacing(tmp_path, **tags):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, tile=(64, 64), photometric="rgb", metadata=None, **tags)
    with Slide(path) as slide:
        return slide.mpp


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected"),
    [
        ("CENTIMETER", 20_000, 0.5),
        ("INCH", 50_800, 0.5),
        ("MILLIMETER", 2_000, 0.5),
        ("MICROMETER", 2, 0.5),
        ("NONE", 20_000, None),
        ("INCH", 72, None),
        ("INCH", 600, None),
        ("CENTIMETER", 28, None),
        ("MICROMETER", 2000, None),
    ],
)
def test_resolution_tags_have_units(tmp_path, unit, per_unit, expected):
    found = spacing(tmp_path, resolution=(per_unit, per_unit), resolutionunit=unit)
    assert found == (None if expected is None else pytest.approx((expected, expected)))


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected"),
    [
        ("um", 4, 0.25),
        ("micron", 4, 0.25),
        ("µm", 2, 0.5),
        ("\\u00B5m", 2, 0.5),  # as ImageJ itself writes it
        ("mm", 4000, 0.25),
        ("nm", 0.004, 0.25),
        ("inch", 50_800, 0.5),
        ("pixel", 4, None),
        ("", 4, None),
        ("micron", 0.001, None),
    ],
)
def test_imagej_states_its_unit_in_the_description(tmp_path, unit, per_unit, expected):
    description = f"ImageJ=1.54f\nunit={unit}\nloop=false\n"
    found = spacing(
        tmp_path, resolution=(per_unit, per_unit), resolutionunit="NONE", description=description.encode("latin-1")
    )
    assert found == (None if expected is None else pytest.approx((expected, expected)))


def test_imagej_file_of_tifffile_and_units_of_two_axes(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, imagej=True, resolution=(4, 3.9), metadata={"unit": "um", "axes": "YXS"})
    with Slide(path) as slide:
        assert slide.mpp == pytest.approx((1 / 4, 1 / 3.9))
        assert slide.mpp_source == "ImageJ description (unit)"
    description = "ImageJ=1.54f\nunit=mm\nyunit=micron\n"
    found = spacing(tmp_path, resolution=(4000, 4), resolutionunit="NONE", description=description)
    assert found == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(
    ("text", "number"),
    [("0,2520", 0.252), ("0.252", 0.252), ("20,0", 20), ("1,234.5", None), ("1,2,3", None), (",", None), ("0,0", None)],
)
def test_decimal_commas(text, number):
    assert positive_number(text) == number


def without_tags(path, names):
    """Rename tags to private ones: gone for every reader."""
    with tifffile.TiffFile(path) as tiff:
        places = [tiff.pages[0].tags[name].offset for name in names]
    with path.open("r+b") as file:
        for number, offset in enumerate(places):
            file.seek(offset)
            file.write((60_000 + number).to_bytes(2, "little"))


def test_an_absent_unit_is_inch(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", resolution=(50_800, 50_800), resolutionunit="CENTIMETER")
    without_tags(path, ["ResolutionUnit"])
    assert Slide(path).mpp == pytest.approx((0.5, 0.5))


def test_absent_resolution_is_unknown_not_a_thousand(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    without_tags(path, ["XResolution"])
    assert Slide(path).mpp is None


@pytest.mark.parametrize("value", [(0, 1000), (1, 0)])
def test_rationals_of_zero_are_unknown(tmp_path, value):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["XResolution"].overwrite(value)
    assert Slide(path).mpp is None


def test_rationals_are_read_whole(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", resolution=((200_000, 10), (200_000, 10)), resolutionunit=3)
    assert Slide(path).mpp == pytest.approx((0.5, 0.5))


def test_the_scanners_text_comes_before_the_resolution_tags(tmp_path):
    path = tmp_path / "a.svs"
    description = "Aperio Image Library v11 \r\n64x64|AppMag = 40|MPP = 0.2500"
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "description": description}
    tifffile.imwrite(path, PIXELS, resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **options)
    with pytest.warns(
        SpacingConflictWarning, match=r"'a\.svs': Aperio description \(MPP\) says 0\.25 .*TIFF resolution"
    ):
        assert Slide(path).mpp == (0.25, 0.25)
    tifffile.imwrite(path, PIXELS, resolution=(72, 72), resolutionunit="INCH", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slide = Slide(path)
    assert slide.mpp == (0.25, 0.25)
    assert slide.magnification == 40


def test_a_description_with_letters_beyond_ascii_keeps_its_spacing(tmp_path):
    path = tmp_path / "a.svs"
    text = "Aperio Image Library v11 \r\n64x64|User = Jürgen µ|MPP = 0.2500".encode("latin-1")
    tifffile.imwrite(path, PIXELS, tile=(64, 64), photometric="rgb", metadata=None, description=text)
    assert Slide(path).mpp == (0.25, 0.25)


@pytest.mark.parametrize("text", ["MPP = 0", "MPP = nan", "MPP = inf", "MPP = -0.25", "MPP = ", "MPP", "MPP = 0.25um"])
def test_senseless_numbers_are_unknown(tmp_path, text):
    path = tmp_path / "a.svs"
    description = f"Aperio Image Library v11 \r\n64x64|AppMag = x|{text}"
    tifffile.imwrite(path, PIXELS, tile=(64, 64), photometric="rgb", metadata=None, description=description)
    slide = Slide(path)
    assert slide.mpp is None
    assert slide.magnification is None


@pytest.mark.parametrize(("unit", "size"), [("nm", 250.0), ("mm", 0.00025), ("µm", 0.25)])
def test_ome_units(tmp_path, unit, size):
    path = tmp_path / "a.ome.tif"
    metadata = {f"PhysicalSize{axis}{end}": value for axis in "XY" for end, value in (("", size), ("Unit", unit))}
    tifffile.imwrite(path, PIXELS, photometric="rgb", ome=True, metadata=metadata)
    assert Slide(path).mpp == pytest.approx((0.25, 0.25))


def test_strongly_anisotropic_spacing_is_not_plausible():
    assert not StatedSpacing("tags", (0.25, 0.5)).is_plausible
    assert StatedSpacing("tags", (0.25, 0.26)).is_plausible


def test_no_plausible_spacing_is_none():
    assert choose_spacing([StatedSpacing("tags", (352.8, 352.8))], None, "a.tif") == (None, None)


def test_each_level_has_its_spacing(tmp_path):
    path = write_pixels(tmp_path / "a.tif", np.zeros((128, 128, 3), np.uint8), tile=64, mpp=0.4)
    with Slide(path) as slide:
        assert slide.mpp_source == "TIFF resolution"
        assert [level.mpp for level in slide.levels] == [pytest.approx((0.4, 0.4)), pytest.approx((0.8, 0.8))]


@pytest.fixture
def svs(tmp_path):
    return write_pixels(tmp_path / "a.svs", SLIDE, vendor="aperio", tile=64, levels=2, mpp=0.5)


def test_associated_images_are_those_of_the_file(svs):
    with Slide(svs) as slide, tifffile.TiffFile(svs) as tiff:
        images = slide.associated_images
        assert list(images) == ["thumbnail", "label", "macro"]
        assert len(images) == 3
        assert repr(images) == "AssociatedImages(thumbnail, label, macro)"
        for name, series in zip(images, tiff.series[1:], strict=True):
            np.testing.assert_array_equal(images[name].numpy(), series.asarray())


def test_listing_associated_images_decodes_nothing(svs, monkeypatch):
    with Slide(svs) as slide:
        monkeypatch.setattr(TiffTiles, "read", lambda *args: pytest.fail("decoded"))
        images = slide.associated_images
        assert "label" in images
        assert "nothing" not in images
        assert list(images) == list(images.keys())


def test_unknown_associated_image_lists_the_known_ones(svs):
    with (
        Slide(svs) as slide,
        pytest.raises(KeyError, match=r"no associated image 'lable' .*'thumbnail', 'label', 'macro'"),
    ):
        slide.associated_images["lable"]


def test_associated_images_of_a_closed_slide_raise(svs):
    with Slide(svs) as slide:
        images = slide.associated_images
    with pytest.raises(ValueError, match=r"a\.svs' is closed"):
        images["label"]


def test_a_damaged_label_does_not_affect_the_slide(svs):
    with tifffile.TiffFile(svs) as tiff:
        page = tiff.series[2].keyframe
        offset, count = page.dataoffsets[0], page.databytecounts[0]
    with svs.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)
    with Slide(svs) as slide:
        assert slide.numpy(level=0).shape == (300, 400, 3)
        with pytest.raises(UnreadableImageError, match=r"a\.svs"):
            slide.associated_images["label"]


def test_photos_have_no_associated_images(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", SLIDE, photometric="rgb")
    with Slide(tmp_path / "a.tif") as slide:
        assert not slide.associated_images
        assert repr(slide.associated_images) == "AssociatedImages(none)"
