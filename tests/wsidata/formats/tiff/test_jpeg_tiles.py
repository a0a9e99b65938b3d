"""libjpeg-turbo on the bytes of single tiles: the right colors, and no damage passed over."""

import numpy as np
import pytest
import simplejpeg
import tifffile

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.tiff.jpeg_tiles import ADOBE_RGB
from wsidata.slides.slide import Slide

SMOOTH = np.moveaxis(np.indices((128, 192)), 0, 2)
PICTURE = np.dstack([SMOOTH, 200 - SMOOTH.sum(2) // 2]).astype(np.uint8)
TILE = {"tile": (64, 64), "metadata": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


def write(path, streams, photometric, **tags):
    """A TIFF around given JPEG streams of 64x64 pixels, six of them."""
    extra = [(347, 7, len(tags["tables"]), tags["tables"])] if tags else []
    tifffile.imwrite(path, iter(streams), shape=(128, 192, 3), dtype=np.uint8, photometric="rgb",
                     compression="jpeg", extratags=extra, **TILE)  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as tiff:  # tifffile writes its own idea of what is in the streams
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite({"rgb": 2, "ycbcr": 6}[photometric])


def tiles():
    return [PICTURE[top : top + 64, left : left + 64] for top in (0, 64) for left in (0, 64, 128)]


def encode(pixels, **options):
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=95, **options)


def without_marker(stream):
    """Without the JFIF segment that every encoder writes."""
    assert stream[6:10] == b"JFIF"
    return stream[:2] + stream[20:]


def read(path):
    with Slide(path) as slide:
        return slide.reader, slide.numpy()


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2), (4, 1)])
def test_ycbcr_tiles_equal_tifffiles(path, subsampling):
    tifffile.imwrite(path, PICTURE, photometric="rgb", compression="jpeg", subsampling=subsampling, **TILE)
    reader, pixels = read(path)
    assert reader == "libjpeg-turbo"
    np.testing.assert_array_equal(pixels, tifffile.imread(path))
    assert np.abs(pixels.astype(int) - PICTURE).max() < 40


def test_rgb_tiles_with_and_without_a_marker(path):
    tifffile.imwrite(path, PICTURE, photometric="rgb", compression="jpeg",
                     compressionargs={"outcolorspace": "RGB"}, **TILE)  # fmt: skip
    expected = tifffile.imread(path)
    assert np.abs(expected.astype(int) - PICTURE).max() < 20
    reader, pixels = read(path)
    assert reader == "libjpeg-turbo"
    np.testing.assert_array_equal(pixels, expected)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        streams = [
            path.read_bytes()[at : at + size] for at, size in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    assert all(stream[2:18] == ADOBE_RGB for stream in streams)
    write(path, [stream[:2] + stream[18:] for stream in streams], "rgb")
    reader, pixels = read(path)
    assert reader == "libjpeg-turbo"
    np.testing.assert_array_equal(pixels, expected)


def test_tables_kept_once_for_all_tiles(path):
    streams = [encode(tile, colorsubsampling="420") for tile in tiles()]
    scan = streams[0].index(b"\xff\xc0")  # the frame; tables stand before and after it
    huffman = streams[0].index(b"\xff\xc4")
    start = streams[0].index(b"\xff\xda")
    tables = b"\xff\xd8" + streams[0][20:scan] + streams[0][huffman:start] + b"\xff\xd9"
    expected = [simplejpeg.decode_jpeg(stream) for stream in streams]
    write(path, [s[:2] + s[scan:huffman] + s[start:] for s in streams], "ycbcr", tables=tables)
    reader, pixels = read(path)
    assert reader == "libjpeg-turbo"
    np.testing.assert_array_equal(pixels[64:128, 128:192], expected[5])
    np.testing.assert_array_equal(pixels[0:64, 64:128], expected[1])


def test_rgb_that_stores_color_at_half_resolution_is_refused(path):
    """No JFIF header to give it away, but RGB is never stored so."""
    write(path, [without_marker(encode(tile, colorsubsampling="420")) for tile in tiles()], "rgb")
    with pytest.raises(UnsupportedImageError, match=r"a\.tif.* lower resolution \(420\)"):
        read(path)


def with_adobe(stream, transform):
    """With an Adobe marker in place of the JFIF header."""
    return stream[:2] + ADOBE_RGB[:-1] + bytes([transform]) + stream[20:]


@pytest.mark.parametrize(("photometric", "transform"), [("rgb", 1), ("ycbcr", 0)])
def test_markers_that_contradict_the_directory_are_refused(path, photometric, transform):
    """Shown either way it could be false colors; readers differ."""
    write(path, [with_adobe(encode(tile, colorsubsampling="444"), transform) for tile in tiles()], photometric)
    with pytest.raises(UnsupportedImageError, match=r"a\.tif.*says its tiles .*cannot be told"):
        read(path)


def test_tiles_that_differ_in_what_they_say_are_refused(path):
    streams = [encode(tile, colorsubsampling="444") for tile in tiles()]
    mixed = [streams[0], *(without_marker(stream) for stream in streams[1:5]), streams[5] + bytes(2)]
    write(path, [mixed[1], mixed[0], *mixed[2:]], "rgb")
    with pytest.raises(UnsupportedImageError, match=r"a\.tif.*not all the same one"):
        read(path)


def test_gray(path):
    tifffile.imwrite(path, PICTURE[..., 0], photometric="minisblack", compression="jpeg", **TILE)
    reader, pixels = read(path)
    assert reader == "libjpeg-turbo"
    np.testing.assert_array_equal(pixels, np.repeat(tifffile.imread(path)[..., None], 3, 2))


def test_a_tile_of_another_size_is_refused(path):
    streams = [encode(tile) for tile in tiles()]
    streams[1] = encode(PICTURE[:32, :64])
    write(path, streams, "ycbcr")
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 128)[64:], simplejpeg.decode_jpeg(streams[3]))
        with pytest.raises(UnreadableImageError, match=r"a\.tif.*tile or strip 1 .*64x32 pixels where 64x64 belong"):
            slide.read_region(60, 0, 10, 10)


def test_tiles_cropped_at_the_border_are_read(path):
    """Some writers do not fill up the last column and row."""
    pixels = PICTURE[:100, :150]
    streams = [encode(pixels[top : top + 64, left : left + 64]) for top in (0, 64) for left in (0, 64, 128)]
    tifffile.imwrite(path, iter(streams), shape=(100, 150, 3), dtype=np.uint8, photometric="rgb",
                     compression="jpeg", **TILE)  # fmt: skip
    _, shown = read(path)
    np.testing.assert_array_equal(shown[64:100, 128:150], simplejpeg.decode_jpeg(streams[5]))


def damaged(stream):
    """Its second half zeroed, its end marker kept: what a file system leaves of a lost block."""
    half = len(stream) // 2
    return stream[:half] + bytes(len(stream) - half - 2) + stream[-2:]


def test_a_tile_that_ends_too_early_is_refused_and_its_neighbors_are_not(path):
    streams = [encode(tile) for tile in tiles()]
    expected = [simplejpeg.decode_jpeg(stream) for stream in streams]
    for bad in range(6):
        write(path, [damaged(s) if number == bad else s for number, s in enumerate(streams)], "ycbcr")
        with Slide(path) as slide:
            for number in range(6):
                x, y = number % 3 * 64, number // 3 * 64
                if number == bad:
                    with pytest.raises(UnreadableImageError, match=rf"tile or strip {bad} .*premature end"):
                        slide.read_region(x, y, 64, 64)
                else:
                    np.testing.assert_array_equal(slide.read_region(x, y, 64, 64), expected[number])
            with pytest.raises(UnreadableImageError, match=r"a\.tif"):
                slide.numpy()


def test_if_every_tile_is_damaged_the_slide_is_refused(path):
    write(path, [damaged(encode(tile)) for tile in tiles()], "ycbcr")
    with pytest.raises(UnreadableImageError, match=r"a\.tif.*premature end"):
        read(path)


def test_a_warning_that_every_tile_draws_is_the_writers_habit(path):
    streams = [stream[:-2] + 40 * b"\x11\x22" + stream[-2:] for stream in map(encode, tiles())]
    write(path, streams, "ycbcr")
    with pytest.raises(ValueError, match="extraneous bytes before marker"):
        simplejpeg.decode_jpeg(streams[0])
    reader, pixels = read(path)
    assert reader != "libjpeg-turbo"
    np.testing.assert_array_equal(pixels[:64, :64], simplejpeg.decode_jpeg(streams[0], strict=False))


@pytest.mark.parametrize("padding", [3, 500, 4096])
def test_tiles_padded_with_zeros_are_whole(path, padding):
    streams = [encode(tile) for tile in tiles()]
    write(path, [stream + bytes(padding) for stream in streams], "ycbcr")
    reader, pixels = read(path)
    assert reader == "libjpeg-turbo"
    np.testing.assert_array_equal(pixels[64:, 128:], simplejpeg.decode_jpeg(streams[5]))
    write(path, [*streams[:5], streams[5][:-2] + bytes(padding)], "ycbcr")
    with (
        Slide(path) as slide,
        pytest.raises(UnreadableImageError, match=r"tile or strip 5 .* not a complete JPEG stream"),
    ):
        slide.lazy(level=0)


def test_tables_fitted_to_each_tile_do_not_pile_up(path, monkeypatch):
    monkeypatch.setattr("wsidata.formats.tiff.jpeg_tiles.MAX_KNOWN_HEADERS", 2)
    streams = [encode(tile)[:-2] for tile in tiles()]
    commented = [s[:2] + b"\xff\xfe\x00\x03" + bytes([65 + n]) + s[2:] + b"\xff\xd9" for n, s in enumerate(streams)]
    write(path, commented, "ycbcr")
    _, pixels = read(path)
    np.testing.assert_array_equal(pixels[64:, 128:], simplejpeg.decode_jpeg(commented[5]))
