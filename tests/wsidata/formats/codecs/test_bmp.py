"""BMP in its common kinds, and not one that was cut off."""

import struct

import numpy as np
import pytest
from PIL import Image

from wsidata.errors import UnreadableImageError
from wsidata.formats.codecs.bmp import bmp_size, read_bmp

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 10, 3), dtype=np.uint8)


def save(path, image):
    image.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_pixels_are_pillows(tmp_path, mode):
    path = tmp_path / "a.bmp"
    image = Image.fromarray(PIXELS).convert(mode)
    data = save(path, image)
    assert bmp_size(data, path) == (13, 10)
    np.testing.assert_array_equal(read_bmp(data, path), np.asarray(image.convert("RGB")))


def test_rows_from_top_to_bottom(tmp_path):
    path = tmp_path / "a.bmp"
    data = bytearray(save(path, Image.fromarray(PIXELS)))
    data[22:26] = struct.pack("<i", -13)
    assert bmp_size(bytes(data), path) == (13, 10)
    np.testing.assert_array_equal(read_bmp(bytes(data), path), PIXELS[::-1])


def test_the_oldest_header(tmp_path):
    rows = b"".join(row[:, ::-1].tobytes() + bytes(2) for row in PIXELS[::-1])
    data = b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + struct.pack("<IHHHH", 12, 10, 13, 1, 24) + rows
    np.testing.assert_array_equal(read_bmp(data, tmp_path), PIXELS)


def test_what_was_cut_off_is_refused_by_name(tmp_path):
    path = tmp_path / "bad.bmp"
    data = save(path, Image.fromarray(PIXELS))
    for length in (2, 20, 40, 60, len(data) - 1):
        with pytest.raises(UnreadableImageError, match=r"bad\.bmp'"):
            read_bmp(data[:length], path)


def test_other_files_that_begin_so_are_refused(tmp_path):
    path = tmp_path / "bad.bmp"
    with pytest.raises(UnreadableImageError, match=r"bad\.bmp' breaks off in its BMP header, or states no size"):
        bmp_size(b"BM" + bytes(60), path)
    data = save(path, Image.fromarray(PIXELS))
    strange = data[:28] + struct.pack("<HI", 24, 99) + data[34:]  # a compression that does not exist
    with pytest.raises(UnreadableImageError, match="no BMP that OpenCV reads"):
        read_bmp(strange, path)
