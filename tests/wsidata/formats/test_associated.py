"""Pictures beside the slide are listed, and decoded only when looked up."""

import numpy as np
import pytest
import tifffile

from wsidata.errors import UnreadableImageError
from wsidata.formats.tiff.tiles import TiffTiles
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels

PIXELS = np.random.default_rng(2).integers(0, 255, (300, 400, 3), dtype=np.uint8)


@pytest.fixture
def svs(tmp_path):
    return write_pixels(tmp_path / "a.svs", PIXELS, vendor="aperio", tile=64, levels=2, mpp=0.5)


def test_they_are_those_of_the_file(svs):
    with Slide(svs) as slide, tifffile.TiffFile(svs) as tiff:
        images = slide.associated_images
        assert list(images) == ["thumbnail", "label", "macro"]
        assert len(images) == 3
        assert repr(images) == "AssociatedImages(thumbnail, label, macro)"
        for name, series in zip(images, tiff.series[1:], strict=True):
            np.testing.assert_array_equal(images[name].numpy(), series.asarray())


def test_nothing_is_decoded_by_listing(svs, monkeypatch):
    with Slide(svs) as slide:
        monkeypatch.setattr(TiffTiles, "read", lambda *args: pytest.fail("decoded"))
        images = slide.associated_images
        assert "label" in images
        assert "nothing" not in images
        assert list(images) == list(images.keys())


def test_unknown_ones_name_those_there_are(svs):
    with (
        Slide(svs) as slide,
        pytest.raises(KeyError, match=r"no associated image 'lable' .*'thumbnail', 'label', 'macro'"),
    ):
        slide.associated_images["lable"]


def test_after_closing_they_say_so(svs):
    with Slide(svs) as slide:
        images = slide.associated_images
    with pytest.raises(ValueError, match=r"a\.svs' is closed"):
        images["label"]


def test_a_damaged_label_harms_nobody_else(svs):
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


def test_photos_have_none(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb")
    with Slide(tmp_path / "a.tif") as slide:
        assert not slide.associated_images
        assert repr(slide.associated_images) == "AssociatedImages(none)"
