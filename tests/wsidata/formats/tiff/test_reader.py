"""What kinds of TIFF are shown, and which are refused rather than guessed at."""

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import pyvips
import tifffile

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.tiff.jpeg_tiles import JpegTiles
from wsidata.formats.tiff.tiles import TiffTiles
from wsidata.slides.slide import Slide

RGB = np.random.default_rng(3).integers(0, 255, (96, 128, 3), dtype=np.uint8)
GRAY = RGB[..., 0]
TILE = {"tile": (64, 64), "metadata": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


def shown(path):
    with Slide(path) as slide:
        pixels = slide.numpy()
        np.testing.assert_array_equal(slide.read_region(5, 7, 50, 60), pixels[7:67, 5:55])
    return pixels


def test_plain_strips(path):
    tifffile.imwrite(path, RGB, photometric="rgb", rowsperstrip=10, compression="lzw", predictor=True)
    np.testing.assert_array_equal(shown(path), RGB)


def test_separate_planes(path):
    tifffile.imwrite(path, np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate", **TILE)
    assert Slide(path).reader == "tifffile"
    np.testing.assert_array_equal(shown(path), RGB)


@pytest.mark.parametrize("compression", [None, "jpeg", "zstd"])
def test_gray_becomes_rgb(path, compression):
    tifffile.imwrite(path, GRAY, photometric="minisblack", compression=compression, **TILE)
    expected = tifffile.imread(path)
    np.testing.assert_array_equal(shown(path), np.repeat(expected[..., None], 3, 2))


def test_white_is_zero_is_turned_round(path):
    tifffile.imwrite(path, GRAY, photometric="miniswhite", **TILE)
    np.testing.assert_array_equal(shown(path), np.repeat(255 - GRAY[..., None], 3, 2))


def test_black_and_white(path):
    tifffile.imwrite(path, GRAY > 127, photometric="minisblack")
    np.testing.assert_array_equal(shown(path), np.repeat((GRAY > 127)[..., None] * np.uint8(255), 3, 2))


def test_palettes_are_looked_up(path):
    colors = np.random.default_rng(4).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(path, GRAY, photometric="palette", colormap=colors * 257)
    np.testing.assert_array_equal(shown(path), colors.astype(np.uint8).T[GRAY])


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_transparency_is_composited_on_white(path, compression):
    alpha = np.full((96, 128, 1), 255, np.uint8)
    alpha[:48] = 0
    alpha[48:64] = 128
    rgba = np.concatenate([RGB, alpha], axis=2)
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"], compression=compression, **TILE)
    pixels = shown(path)
    assert (pixels[:48] == 255).all()
    np.testing.assert_array_equal(pixels[64:], RGB[64:])
    mixed = 255 + (RGB[48:64].astype(float) - 255) * 128 / 255
    assert np.abs(pixels[48:64] - mixed).max() <= 1


def test_premultiplied_transparency_lies_on_white(path):
    alpha = RGB.max(axis=2, keepdims=True)
    tifffile.imwrite(path, np.dstack([RGB, alpha]), photometric="rgb", extrasamples=["assocalpha"], **TILE)
    np.testing.assert_array_equal(shown(path), RGB + (255 - alpha))
    tifffile.imwrite(path, np.dstack([RGB[..., 0], alpha]), photometric="minisblack", planarconfig="contig",
                     extrasamples=["assocalpha"], **TILE)  # fmt: skip
    np.testing.assert_array_equal(shown(path)[..., 1], RGB[..., 0] + (255 - alpha[..., 0]))


def test_premultiplied_transparency_of_deep_images_is_refused(path):
    rgba = np.concatenate([RGB, RGB[..., :1]], axis=2).astype(np.uint16)
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["assocalpha"], **TILE)
    with pytest.raises(UnsupportedImageError, match=r"a\.tif' .*premultiplied"):
        Slide(path, scale_to_8bit=(0, 255))


def test_a_fourth_channel_of_no_stated_meaning_is_refused(path):
    rgbx = np.concatenate([RGB, RGB[..., :1]], axis=2)
    tifffile.imwrite(path, rgbx, photometric="rgb", extrasamples=["unspecified"], **TILE)
    with pytest.raises(UnsupportedImageError, match=r"a\.tif' .*meaning"):
        Slide(path)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_ink_is_not_dropped(path, compression):
    cmyk = np.zeros((96, 128, 4), np.uint8)
    cmyk[:, :64, 3] = 255
    tifffile.imwrite(path, cmyk, photometric="separated", compression=compression, **TILE)
    pixels = shown(path)
    assert pixels[:, :64].max() < 80, "black ink alone is dark"
    assert pixels[:, 64:].min() > 240, "no ink is paper"


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int8"])
def test_samples_that_are_not_eight_bits_are_refused(path, dtype):
    tifffile.imwrite(path, RGB.astype(dtype), photometric="rgb", **TILE)
    with pytest.raises(UnsupportedImageError, match=r"directory 0 of '.*a\.tif' holds .*not 8-bit ones"):
        Slide(path)


def test_channels_that_are_no_image_are_refused(path):
    tifffile.imwrite(path, np.concatenate([RGB, RGB[..., :2]], axis=2), photometric="minisblack", planarconfig=1)
    with pytest.raises(UnsupportedImageError, match=r"5 channels .* not one RGB image\. Choose"):
        Slide(path)


def test_stacks_are_refused(path):
    tifffile.imwrite(path, np.stack([RGB, RGB]), photometric="rgb", metadata={"axes": "ZYXS"}, ome=True)
    with pytest.raises(UnsupportedImageError, match="stack of 2 planes"):
        Slide(path)


def test_ome_pyramids_in_subifds(tmp_path):
    path = tmp_path / "a.ome.tif"
    big = pyvips.Image.new_from_array(RGB).resize(4).numpy()
    with tifffile.TiffWriter(path, ome=True) as tiff:
        metadata = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
        tiff.write(big, tile=(64, 64), subifds=1, photometric="rgb", metadata=metadata)
        tiff.write(big[::2, ::2], tile=(64, 64), subfiletype=1, photometric="rgb")
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(512, 384), (256, 192)]
        assert (slide.kind, slide.reader, slide.mpp) == ("ome", "tifffile", (0.25, 0.25))
        assert slide.mpp_source == "OME-XML (PhysicalSizeX)"
        np.testing.assert_array_equal(slide.numpy(level=1), big[::2, ::2])


@pytest.mark.parametrize(
    "layout",
    [
        {"compression": "zstd", **TILE},
        {"compression": "jpeg", **TILE},
        {"compression": "jpeg", "rowsperstrip": 24},
        {"compression": "zstd", "rowsperstrip": 5},
    ],
)
def test_a_large_level_is_decoded_tile_by_tile_even_after_the_slide_is_closed(path, monkeypatch, layout):
    tifffile.imwrite(path, RGB, photometric="rgb", **layout)
    expected = tifffile.imread(path)
    monkeypatch.setattr("wsidata.formats.tiff.reader.DECODED_AT_ONCE_BYTES", 1000)
    decoded = []
    monkeypatch.setattr(TiffTiles, "decode", _counting(TiffTiles.decode, decoded))
    monkeypatch.setattr(JpegTiles, "decode", _counting(JpegTiles.decode, decoded))
    with Slide(path) as slide:
        assert slide.reader == ("libjpeg-turbo" if layout["compression"] == "jpeg" else "tifffile")
        decoded.clear()
        image = slide.image()
        assert not decoded, "nothing is decoded before it is asked for"
    np.testing.assert_array_equal(image.crop(70, 30, 20, 60).numpy(), expected[30:90, 70:90])
    np.testing.assert_array_equal(image.rot90().numpy(), np.rot90(expected, 3))


@pytest.mark.slow
def test_handles_of_lazy_levels_are_closed_with_the_image(path, monkeypatch):
    tifffile.imwrite(path, RGB, photometric="rgb", compression="zstd", **TILE)
    monkeypatch.setattr("wsidata.formats.tiff.reader.DECODED_AT_ONCE_BYTES", 1000)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Slide(path) as slide:
            image = slide.image().invert()
        image.avg()
        del image
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def _counting(decode, calls):
    def counted(self, index):
        calls.append(index)
        return decode(self, index)

    return counted


@pytest.mark.parametrize("compression", ["jpeg", "zstd", "deflate"])
def test_many_threads_read_what_one_does(path, monkeypatch, compression):
    big = np.tile(RGB, (8, 8, 1))
    tifffile.imwrite(path, big, photometric="rgb", compression=compression, **TILE)
    expected = tifffile.imread(path)
    monkeypatch.setenv("VIPS_CONCURRENCY", "3")
    with Slide(path) as slide, ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(slide.numpy(), expected)
        places = [(x, y) for x in range(0, 900, 97) for y in range(0, 600, 83)]
        for (x, y), part in zip(places, pool.map(lambda at: slide.read_region(*at, 100, 90), places), strict=True):
            np.testing.assert_array_equal(part, expected[y : y + 90, x : x + 100])


def test_private_tags_do_no_harm(path):
    tifffile.imwrite(path, RGB, photometric="rgb", compression="deflate", extratags=[(65420, 3, 1, 5)], **TILE)
    np.testing.assert_array_equal(shown(path), RGB)


@pytest.mark.parametrize("options", [{"rowsperstrip": 16, "compression": "lzw"}, {}])
def test_strips_wider_than_libvips_reads_are_read_lazily_and_decoded_once(path, options, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 8300, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **options)
    decoded, decode = [], TiffTiles.decode

    def counted(tiles, index):
        decoded.append(index)
        return decode(tiles, index)

    monkeypatch.setattr(TiffTiles, "decode", counted)
    with Slide(path) as slide:
        image = slide.image(level=0, keep_tiles=True)
        np.testing.assert_array_equal(image.numpy(), pixels)
        assert len(decoded) == len(set(decoded))
        np.testing.assert_array_equal(slide.lazy(level=0).rows(40, 90).permute(1, 2, 0).numpy(), pixels[40:90])
        assert slide.lazy(downsample=2).rows(0, 20).shape == (3, 20, 4150)


def test_a_codec_that_is_not_known_is_refused_when_the_slide_is_opened(path):
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None)
    for compression, words in ((52479, r"an unknown way \(52479\)"), (6, "JPEG of TIFF 6.0")):
        with tifffile.TiffFile(path, mode="r+") as tiff:
            tiff.pages[0].tags["Compression"].overwrite(compression)
        for options in ({}, {"channels": [0]}):
            with pytest.raises(UnsupportedImageError, match=words):
                Slide(path, **options)


@pytest.mark.parametrize("options", [{}, {"channels": [0]}])
def test_samples_arranged_in_an_unknown_way_are_refused(path, options):
    """Planes read as if they lay side by side: all pixels were wrong."""
    planes = np.moveaxis(RGB, 2, 0)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["PlanarConfiguration"].overwrite(18)
    with pytest.raises(UnreadableImageError, match=r"in an unknown way \(PlanarConfiguration 18\)"):
        Slide(path, **options)


def test_the_hint_of_how_to_scale_fits_the_bits_there_are(path):
    tifffile.imwrite(path, RGB[..., 0].astype(np.uint16), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["BitsPerSample"].overwrite(12)
    with pytest.raises(UnsupportedImageError, match=r"scale_to_8bit=\(0, 4095\)"):
        Slide(path)


def test_fax_is_not_left_to_decoders_that_give_up_in_silence(path, monkeypatch):
    """imagecodecs' stops in the middle of some sound pages, such as libtiff's testfax4.tiff."""
    page = np.random.default_rng(0).integers(0, 2, (64, 64), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1) * 255
    image = pyvips.Image.new_from_array(page).copy(interpretation="b-w")
    image.tiffsave(str(path), compression="ccittfax4", bitdepth=1, tile=True, tile_width=256, tile_height=256)
    monkeypatch.setattr(imagecodecs, "ccittfax4_decode", None, raising=False)
    with Slide(path) as slide:
        lazy = slide.lazy(level=0)
        np.testing.assert_array_equal(slide.numpy()[..., 0], page)
        np.testing.assert_array_equal(slide.read_region(250, 10, 20, 30)[..., 1], page[10:40, 250:270])
    path.unlink()
    np.testing.assert_array_equal(lazy.rows(200, 300)[0].numpy(), page[200:300])


def test_remarks_of_tifffile_do_not_reach_the_terminal(path):
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None, extratags=[(42113, 2, 4, "xyz", True)])
    code = f"from wsidata import Slide; print(Slide({str(path)!r}).numpy().shape)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
