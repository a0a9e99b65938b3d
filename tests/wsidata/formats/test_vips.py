"""Lazy images of tile decoders, and libvips errors that name the file."""

import gc
import weakref

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.errors import UnreadableImageError
from wsidata.formats.vips import TILE_MULTIPLE_PX, TileSource, failure_behind, is_cut_up, naming_errors, source_tile


@pytest.fixture
def without_collector():
    """Without the garbage collector, reference cycles are never freed."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(1, 256, (300, 500, 3), dtype=np.uint8)


def cut(pixels, calls=None):
    def decode(x, y, width, height):
        if calls is not None:
            calls.append((x, y, width, height))
        return pixels[y : y + height, x : x + width]

    return decode


@pytest.mark.parametrize("tile", [(16, 16), (64, 32), (240, 48), (512, 304), (1024, 1024)])
def test_image_has_the_pixels_of_the_decoder(pixels, tile):
    image = TileSource((500, 300), tile, cut(pixels)).image()
    assert (image.bands, image.format, image.interpretation) == (3, "uchar", "srgb")
    np.testing.assert_array_equal(image.numpy(), pixels)
    np.testing.assert_array_equal(image.rot90().numpy(), np.rot90(pixels, -1))


@settings(max_examples=60, deadline=None)
@given(*[st.tuples(st.integers(1, 700), st.integers(1, 700))] * 2)
def test_tiles_of_any_size_make_a_file_that_libvips_reads(stored, level):
    tile = source_tile(stored, level)
    assert all(side % TILE_MULTIPLE_PX == 0 for side in tile)
    pixels = np.random.default_rng(0).integers(1, 256, (level[1], level[0], 3), dtype=np.uint8)
    np.testing.assert_array_equal(TileSource(level, tile, cut(pixels)).image().numpy(), pixels)


def test_tiles_are_whole_stored_ones_where_that_is_possible():
    assert source_tile((240, 512), (5000, 5000)) == (240, 512)
    assert source_tile((100, 90), (5000, 5000)) == (400, 720)
    assert source_tile((501, 9), (5000, 5000)) == (512, 144)  # 8016 columns would be too many
    assert source_tile((90, 70), (90, 70)) == (96, 80)


def test_only_tiles_that_are_needed_are_decoded_and_only_inside_the_image(pixels):
    calls = []
    image = TileSource((500, 300), (64, 64), cut(pixels, calls)).image()
    assert calls == []
    np.testing.assert_array_equal(image.crop(440, 250, 60, 50).numpy(), pixels[250:, 440:])
    assert sorted(set(calls)) == [(384, 192, 64, 64), (384, 256, 64, 44), (448, 192, 52, 64), (448, 256, 52, 44)]


def test_image_larger_than_four_gigabytes(pixels):
    patch = pixels[:64, :64]
    image = TileSource((100_000, 100_000), (64, 64), lambda x, y, width, height: patch[:height, :width]).image()
    np.testing.assert_array_equal(image.crop(99_968, 99_968, 32, 32).numpy(), patch[:32, :32])


def raise_right_of_100(x, y, width, height):
    if x > 100:
        raise OSError("the disk is gone")
    return np.ones((height, width, 3), np.uint8)


def test_exception_of_the_decoder_is_found_behind_any_pipeline():
    image = TileSource((500, 300), (64, 32), raise_right_of_100).image()
    pipeline = pyvips.Image.black(50, 50, bands=3).insert(image.rot90().gaussblur(1), 0, 0, expand=True)
    assert failure_behind(pipeline) is None
    for _ in range(2):
        with pytest.raises(pyvips.Error, match="Read error"):
            pipeline.numpy()
    assert str(failure_behind(pipeline)) == "the disk is gone"


def test_decoder_that_returns_another_size_raises(pixels):
    image = TileSource((500, 300), (64, 32), lambda *_: pixels[:5]).image()
    with pytest.raises(pyvips.Error):
        image.numpy()
    assert "uint8 (5, 500, 3), not uint8 (32, 64, 3)" in str(failure_behind(image))


def test_source_lives_as_long_as_images_derived_from_it(pixels, without_collector):
    source = TileSource((500, 300), (64, 32), cut(pixels))
    watched, image = weakref.ref(source), source.image().rot90()
    del source
    np.testing.assert_array_equal(image.numpy(), np.rot90(pixels, -1))
    del image
    assert watched() is None


def test_tile_sides_that_tiff_does_not_allow_raise(pixels):
    with pytest.raises(ValueError, match="multiples of 16"):
        TileSource((500, 300), (100, 64), cut(pixels))


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 6, 40])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_any_number_of_channels_of_any_plain_type(bands, dtype, caplog):
    pixels = (np.random.default_rng(0).random((100, 150, bands)) * 250).astype(dtype)
    image = TileSource((150, 100), (64, 32), cut(pixels), bands=bands, dtype=dtype).image()
    assert (image.bands, image.format) == (bands, {"uint8": "uchar", "uint16": "ushort", "float32": "float"}[dtype])
    np.testing.assert_array_equal(image.numpy().reshape(pixels.shape), pixels)
    assert not caplog.records, "libtiff has nothing to remark on"


@pytest.mark.parametrize(("bands", "dtype"), [(3, np.uint8), (5, np.float32)])
@pytest.mark.parametrize("stored", [(30_000, 16), (16, 30_000), (9000, 9000), (4400, 4000)])
def test_no_tile_is_larger_than_libvips_reads(stored, bands, dtype):
    pixel_bytes = bands * np.dtype(dtype).itemsize
    width, height = tile = source_tile(stored, stored, pixel_bytes)
    assert is_cut_up(stored, tile)
    source = TileSource(
        stored, tile, lambda x, y, w, h: np.full((h, w, bands), y // height, dtype), bands=bands, dtype=dtype
    )
    part = source.image().crop(stored[0] - 9, stored[1] - 9, 9, 9).numpy()
    assert (part == (stored[1] - 9) // height).all() or (part == (stored[1] - 1) // height).any()
    assert width * height * pixel_bytes < 50 * 1024**2


def test_errors_name_the_file():
    with pytest.raises(UnreadableImageError, match=r"'x\.png' could not be decoded: .*gone"), naming_errors("x.png"):
        pyvips.Image.new_from_file("gone.png")


def test_a_file_written_anew_is_read_anew(tmp_path):
    """libvips' cache of operations would return the first image."""
    path = str(tmp_path / "a.png")
    for value in (10, 200):
        pyvips.Image.new_from_array(np.full((8, 8), value, np.uint8)).write_to_file(path)
        assert pyvips.Image.new_from_file(path).avg() == value
