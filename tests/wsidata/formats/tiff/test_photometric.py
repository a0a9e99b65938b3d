"""What stored samples mean: compared with what Pillow, libvips or the array that was written say."""

import cv2
import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from wsidata.errors import UnsupportedImageError
from wsidata.slides.slide import Slide

GRAY = np.random.default_rng(5).integers(0, 256, (90, 110), dtype=np.uint8)
RGB = np.random.default_rng(6).integers(0, 256, (90, 110, 3), dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


def shown(path, **options):
    with Slide(path, **options) as slide:
        return slide.numpy()


def set_photometric(path, value):
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(value)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "packbits", None])
def test_black_and_white_is_0_and_255_also_from_fax_codecs(path, compression):
    picture = Image.fromarray(RGB).convert("1")
    picture.save(path, compression=compression)
    np.testing.assert_array_equal(shown(path)[..., 0], np.asarray(picture.convert("L")))


@pytest.mark.parametrize("miniswhite", [False, True])
@pytest.mark.parametrize(("bits", "compression"), [(1, "ccittfax4"), (1, "none"), (2, "none"), (4, "none")])
def test_few_bits_of_gray_span_black_to_white(path, bits, compression, miniswhite):
    options = {"tile": True, "tile_width": 64, "tile_height": 64, "compression": compression, "bitdepth": bits}
    pyvips.Image.new_from_array(GRAY).copy(interpretation="b-w").tiffsave(str(path), miniswhite=miniswhite, **options)
    expected = pyvips.Image.new_from_file(str(path)).numpy()
    assert {0, 255} <= set(np.unique(expected))
    assert len(np.unique(expected)) == 2**bits
    np.testing.assert_array_equal(shown(path)[..., 0], expected)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_alpha_of_gray_is_alpha_whatever_white_is(path, photometric):
    alpha = np.zeros_like(GRAY)
    alpha[:, 50:] = 255
    stored = GRAY if photometric == "minisblack" else 255 - GRAY
    tifffile.imwrite(path, np.dstack([stored, alpha]), photometric=photometric, extrasamples=["unassalpha"],
                     planarconfig="contig", metadata=None)  # fmt: skip
    pixels = shown(path)
    assert (pixels[:, :50] == 255).all()
    np.testing.assert_array_equal(pixels[:, 50:, 0], GRAY[:, 50:])


@pytest.mark.parametrize("step", [257, 256, 1])
def test_palettes_of_16_and_of_8_bits(path, step):
    table = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 9)]) * step
    tifffile.imwrite(path, GRAY, photometric="palette", colormap=table.astype(np.uint16), metadata=None)
    np.testing.assert_array_equal(shown(path), np.dstack([GRAY, 255 - GRAY, np.full_like(GRAY, 9)]))


def test_palette_of_two_colors(path):
    colors = (51400, 2570, 2570, 2570, 2570, 51400)  # red, green, blue of 0 and 1
    tifffile.imwrite(path, GRAY > 127, photometric="minisblack", metadata=None, extratags=[(320, 3, 6, colors, True)])
    set_photometric(path, 3)
    np.testing.assert_array_equal(shown(path), np.array([[200, 10, 10], [10, 10, 200]])[(GRAY > 127).astype(int)])


def test_palettes_that_lack_their_colors_or_have_more_are_refused(path):
    tifffile.imwrite(path, GRAY, photometric="minisblack", metadata=None)
    set_photometric(path, 3)
    with pytest.raises(UnsupportedImageError, match=r"a\.tif' is of palette colors and lacks its color table"):
        Slide(path)
    table = tuple(np.repeat([np.arange(256) * 257], 3, axis=0).ravel().tolist())
    tifffile.imwrite(path, np.dstack([GRAY, GRAY]), photometric="minisblack", extrasamples=["unassalpha"],
                     planarconfig="contig", metadata=None, extratags=[(320, 3, 768, table, True)])  # fmt: skip
    set_photometric(path, 3)
    with pytest.raises(UnsupportedImageError, match=r"palette colors and has transparency besides"):
        Slide(path)


def test_one_bit_of_color_is_no_image(path):
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["BitsPerSample"].overwrite((1, 1, 1))
    with pytest.raises(UnsupportedImageError, match="1-bit"):
        Slide(path)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_transparency_of_deep_images_has_its_own_range(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    deep = np.dstack([RGB.astype(np.uint16) * 70, np.full(GRAY.shape, 32_768, np.uint16)])
    if suffix == "tif":
        tifffile.imwrite(path, deep, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    else:
        cv2.imwrite(str(path), deep[..., [2, 1, 0, 3]])
    colors = np.rint((RGB * 70.0 / 20_000 * 255).clip(0, 255))
    pixels = shown(path, scale_to_8bit=(0, 20_000))
    assert np.abs(pixels - (colors * 128 + 255 * 127) / 255).max() <= 1


@pytest.mark.parametrize("dtype", ["uint64", "int64", "uint32", "float16", "float64", "int8", "int16"])
def test_every_type_can_be_scaled(path, dtype):
    values = (GRAY // 2).astype(dtype)
    tifffile.imwrite(path, values, photometric="minisblack", metadata=None)
    with pytest.raises(UnsupportedImageError, match="scale_to_8bit"):
        Slide(path)
    np.testing.assert_array_equal(shown(path, scale_to_8bit=(0, 127))[..., 0], np.rint((GRAY // 2) * 255.0 / 127))


# -- JPEG 2000 ---------------------------------------------------------------------------------------------------------

SMOOTH = np.dstack([np.add.outer(np.arange(90), np.arange(110)), *2 * [np.full((90, 110), 40)]]).astype(np.uint8)
APERIO = "Aperio Image Library v1.0\r\n110x90 (64x64) J2K/KDU Q=70;|AppMag = 20|MPP = 0.5"


def test_aperios_number_in_another_makers_file_does_not_change_the_colors(path):
    """Bio-Formats writes 33003, which Aperio uses for YCbCr, for any JPEG 2000."""
    tifffile.imwrite(path, SMOOTH, photometric="rgb", compression="APERIO_JP2000_YCBC", tile=(64, 64), metadata=None)
    np.testing.assert_array_equal(shown(path), SMOOTH)


@pytest.mark.parametrize("is_transformed", [False, True])
def test_aperios_number_in_an_svs_means_ycbcr_unless_the_stream_was_transformed(path, is_transformed):
    tifffile.imwrite(path, SMOOTH, photometric="rgb", compression="APERIO_JP2000_YCBC", tile=(64, 64), metadata=None,
                     description=APERIO, compressionargs={"mct": is_transformed})  # fmt: skip
    as_ycbcr = cv2.cvtColor(SMOOTH[..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB)  # OpenCV's order is Y, Cr, Cb
    pixels = shown(path)
    if is_transformed:
        np.testing.assert_array_equal(pixels, SMOOTH)
    else:
        assert np.abs(pixels.astype(int) - as_ycbcr).max() <= 1
