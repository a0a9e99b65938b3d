"""Tiles that were never written, or were overwritten."""

import struct

import numpy as np
import pytest
import tifffile

from wsidata.errors import UnreadableImageError
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels

PICTURE = np.random.default_rng(2).integers(0, 200, (192, 256, 3), dtype=np.uint8)


def write(tmp_path, **options):
    return write_pixels(tmp_path / "a.tif", PICTURE, tile=64, levels=2, **options)


def empty_tiles(path, page, indices):
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tiff.pages[page].tags[name]
            values = [0 if index in indices else value for index, value in enumerate(tag.value)]
            tag.overwrite(values)


def tile_place(path, index, page=0):
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[page].dataoffsets[index], tiff.pages[page].databytecounts[index]


def overwrite(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "none", "zstd"])
def test_tiles_never_written_are_white(tmp_path, compression):
    path = write(tmp_path, compression=compression)
    with Slide(path) as slide:
        expected = slide.numpy()
    empty_tiles(path, 0, {0, 6})
    expected[0:64, 0:64] = 255
    expected[64:128, 128:192] = 255
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.numpy(), expected)
        np.testing.assert_array_equal(slide.read_region(30, 30, 140, 90), expected[30:120, 30:170])


def test_a_level_never_written_is_white_not_black(tmp_path):
    path = write(tmp_path)
    empty_tiles(path, 1, range(99))
    with Slide(path) as slide:
        assert (slide.numpy(level=1) == 255).all()


@pytest.mark.parametrize("damage", ["start", "end", "zeroed"])
def test_an_overwritten_jpeg_tile_is_refused(tmp_path, damage):
    path = write(tmp_path)
    offset, count = tile_place(path, 5)
    at = {"start": (offset, b"\0\0"), "end": (offset + count - 2, b"\0\0"), "zeroed": (offset, bytes(count))}[damage]
    overwrite(path, *at)
    with Slide(path) as slide:
        with pytest.raises(
            UnreadableImageError, match=r"a\.tif' is damaged: tile or strip 5 .* not a complete JPEG stream"
        ):
            slide.image(level=0)
        with pytest.raises(UnreadableImageError, match="tile or strip 5"):
            slide.read_region(64, 64, 10, 10)
        assert slide.read_region(0, 0, 64, 64).shape == (64, 64, 3), "other tiles are still readable"
        assert slide.numpy(level=1).shape == (96, 128, 3), "and other levels"


@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd", "jpeg2000"])
def test_an_overwritten_tile_of_another_codec_is_refused(tmp_path, compression):
    path = write(tmp_path, compression=compression)
    offset, count = tile_place(path, 5)
    overwrite(path, offset, b"\xa5" * count)
    with Slide(path) as slide:
        with pytest.raises(UnreadableImageError, match=r"a\.tif"):
            slide.numpy(level=0)
        with pytest.raises(UnreadableImageError, match=r"a\.tif"):
            slide.read_region(64, 64, 10, 10)


def test_tile_sizes_that_are_no_multiple_of_sixteen(tmp_path):
    """libvips refuses them, tifffile's writer too: a TIFF by hand, of four tiles 30 wide and 50 high."""
    pixels = PICTURE[:77, :51]
    tiles = [pixels[top : top + 50, left : left + 30] for top in (0, 50) for left in (0, 30)]
    data = [np.pad(t, [(0, 50 - t.shape[0]), (0, 30 - t.shape[1]), (0, 0)]).tobytes() for t in tiles]
    size, start = 4500, 8 + 2 + 12 * 12 + 4
    lists = start + 6 + 32
    entries = [(256, 3, 1, 51), (257, 3, 1, 77), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3),
               (284, 3, 1, 1), (322, 3, 1, 30), (323, 3, 1, 50), (324, 4, 4, start + 6), (325, 4, 4, start + 22),
               (339, 3, 1, 1)]  # fmt: skip
    path = tmp_path / "a.tif"
    path.write_bytes(
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        + struct.pack("<I3H4I4I", 0, 8, 8, 8, *(lists + size * index for index in range(4)), *[size] * 4)
        + b"".join(data)
    )
    with Slide(path) as slide:
        assert slide.reader == "tifffile"
        np.testing.assert_array_equal(slide.numpy(), pixels)
        np.testing.assert_array_equal(slide.read_region(25, 45, 20, 20), pixels[45:65, 25:45])


def test_mislabeled_jpeg_is_noticed_behind_an_empty_first_tile(tmp_path):
    """JFIF (YCbCr) tiles in a directory that says RGB, as old Bio-Formats wrote them."""
    path = write(tmp_path)
    with Slide(path) as slide:
        expected = slide.numpy()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            page.tags["PhotometricInterpretation"].overwrite(2)
    with Slide(path) as slide:
        assert slide.reader == "libjpeg-turbo"
        np.testing.assert_array_equal(slide.numpy(), expected)
    for page in (0, 1):
        empty_tiles(path, page, {0})
    expected[0:64, 0:64] = 255
    with Slide(path) as slide:
        assert slide.reader == "libjpeg-turbo"
        np.testing.assert_array_equal(slide.numpy(), expected)


def test_jpeg2000_in_ycbcr_is_shown_in_its_colors(tmp_path):
    """Compression 33003, which a plain decoder returns as YCbCr."""
    smooth = np.moveaxis(np.indices((64, 128)), 0, 2)
    rgb = np.dstack([smooth * [3, 1.5], 200 - smooth.sum(2)]).astype(np.uint8)
    r, g, b = np.moveaxis(rgb.astype(float), 2, 0)
    ycbcr = (
        np.dstack(
            [
                0.299 * r + 0.587 * g + 0.114 * b,
                128 - 0.168736 * r - 0.331264 * g + 0.5 * b,
                128 + 0.5 * r - 0.418688 * g - 0.081312 * b,
            ]
        )
        .round()
        .clip(0, 255)
        .astype(np.uint8)
    )
    path = tmp_path / "a.svs"
    tifffile.imwrite(
        path,
        ycbcr,
        tile=(64, 64),
        photometric="rgb",
        compression=33003,
        metadata=None,
        compressionargs={"reversible": True, "mct": False},
        description="Aperio Image Library v1\r\n128x64",
    )
    with Slide(path) as slide:
        assert slide.reader == "tifffile"
        assert np.abs(slide.numpy().astype(int) - rgb).max() <= 2


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1])
def test_places_beyond_any_file_are_an_error(tmp_path, offset):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), tile=(32, 32), bigtiff=True)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["TileOffsets"]
        place = tag.valueoffset
    data = bytearray(path.read_bytes())
    data[place : place + 8] = offset.to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match="could not be read as TIFF"):
        Slide(path)
