"""Tiles are not decoded to the size they state before it is compared with their place."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from wsidata.errors import LimitExceededError, UnreadableImageError
from wsidata.formats.tiff.tile_header import TileHeaderError, stated_size
from wsidata.slides.slide import Slide

PIXELS = np.random.default_rng(4).integers(0, 256, (48, 80, 3), dtype=np.uint8)
LARGE = np.zeros((512, 640, 3), np.uint8)


def webp(pixels, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", **options)
    return stream.getvalue()


def alpha(pixels):
    return np.dstack([pixels, pixels[..., :1]])


ENCODERS = {
    (7, "jpeg"): imagecodecs.jpeg8_encode,
    (33005, "code stream"): lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="J2K"),
    (33003, "boxes"): lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="JP2"),
    (34933, "png"): imagecodecs.png_encode,
    (50001, "lossy"): webp,
    (50001, "lossless"): lambda pixels: webp(pixels, lossless=True),
    (50001, "extended"): lambda pixels: webp(alpha(pixels), icc_profile=b"x" * 200),
}
KINDS = pytest.mark.parametrize("kind", ENCODERS, ids=str)


@KINDS
def test_the_size_is_that_of_the_decoded_tile(kind):
    for pixels in (PIXELS, LARGE):
        height, width, samples = stated_size(kind[0], ENCODERS[kind](pixels))
        assert (height, width) == pixels.shape[:2]
        assert samples >= 3


@KINDS
def test_a_cut_off_header_raises(kind):
    data = ENCODERS[kind](PIXELS)
    for length in (3, 13, 20):
        with pytest.raises(TileHeaderError):
            stated_size(kind[0], data[:length])


def test_byte_codecs_and_parts_of_a_jpeg_state_no_size():
    assert stated_size(8, imagecodecs.zlib_encode(bytes(9))) is None
    assert stated_size(7, b"\x12\x34") is None


@KINDS
def test_a_tile_that_states_another_size_is_not_decoded(tmp_path, monkeypatch, kind):
    path = tmp_path / "a.tif"
    tile = ENCODERS[kind](LARGE)
    tifffile.imwrite(path, iter([tile]), shape=(64, 64, 3), dtype="u1", photometric="rgb", tile=(64, 64),
                     compression=kind[0], metadata=None)  # fmt: skip
    for name in ("jpeg_decode", "jpeg8_decode", "jpeg2k_decode", "png_decode", "webp_decode"):
        monkeypatch.setattr(imagecodecs, name, lambda *_, **__: pytest.fail("it was decoded"))
    with Slide(path) as slide, pytest.raises(UnreadableImageError, match="640x512 pixels where 64x64 belong"):
        slide.numpy()


@pytest.mark.parametrize("photometric", ["rgb", "separated"])
def test_scans_of_jpeg_tiles_are_limited(tmp_path, photometric):
    stream = io.BytesIO()
    mode, bands = ("RGB", 3) if photometric == "rgb" else ("CMYK", 4)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, bands), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last = data.rfind(b"\xff\xda")
    tile = data[:last] + data[last:-2] * 200 + b"\xff\xd9"
    tifffile.imwrite(tmp_path / "a.tif", iter([tile]), shape=(64, 64, bands), dtype="u1", photometric=photometric,
                     tile=(64, 64), compression=7, metadata=None)  # fmt: skip
    with Slide(tmp_path / "a.tif") as slide, pytest.raises(LimitExceededError, match="scans of a JPEG"):
        slide.numpy()


def test_a_strip_larger_than_memory_raises_when_the_slide_is_opened(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(65_535)
    said = r"strips of 65535 x 65535 px, 12\.9 GB each, more than .*WSIDATA_MAX_DECODED_BYTES"
    with pytest.raises(LimitExceededError, match=said):
        Slide(path)
