"""Limits on what a file may ask for are checked when it is opened, and raised by the environment."""

import os
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import pyvips
from PIL import Image

from wsidata.errors import LimitExceededError, SlideError, UnreadableImageError
from wsidata.formats.limits import Limits, check_limit, limits
from wsidata.photos.cache import DecodedCache
from wsidata.photos.read import photo_size, read_photo
from wsidata.slides.slide import Slide

PIXELS = np.random.default_rng(5).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def png_of_size(path, width, height):
    """A PNG that states a size, and holds one row of pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(width)))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_limits_are_changed_by_the_environment(monkeypatch):
    assert limits() == Limits()
    monkeypatch.setenv("WSIDATA_MAX_PIXELS", "2e12")
    monkeypatch.setenv("WSIDATA_MAX_SCANS", "")
    assert limits() == Limits(max_pixels=2 * 10**12)


@pytest.mark.parametrize("value", ["0", "-3", "many", "inf", "nan"])
def test_a_limit_that_is_no_number_raises(monkeypatch, value):
    monkeypatch.setenv("WSIDATA_MAX_PIXELS", value)
    with pytest.raises(ValueError, match=r"WSIDATA_MAX_PIXELS='.*' must be a number"):
        limits()


def test_the_error_names_the_file_the_limit_and_how_to_raise_it():
    said = r"'a\.tif' asks for 20,000 planes, more than 10,000 \(max_planes\).*WSIDATA_MAX_PLANES=20000"
    with pytest.raises(LimitExceededError, match=said):
        check_limit("max_planes", 20_000, "a.tif", "20,000 planes")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tif", "a.webp"])
def test_more_pixels_than_allowed_raise_when_the_file_is_opened(tmp_path, monkeypatch, name):
    Image.fromarray(PIXELS).save(tmp_path / name)
    monkeypatch.setenv("WSIDATA_MAX_PIXELS", str(40 * 48))
    Slide(tmp_path / name).close()
    monkeypatch.setenv("WSIDATA_MAX_PIXELS", str(40 * 48 - 1))
    with pytest.raises(LimitExceededError, match=rf"{name}' asks for 48 x 40 pixels, more than 1,919 \(max_pixels\)"):
        Slide(tmp_path / name)


def test_temporary_files_are_limited_by_the_limit_and_by_the_disk(tmp_path, monkeypatch):
    path = png_of_size(tmp_path / "a.png", 200_000, 100_000)
    with pytest.raises(LimitExceededError, match=r"60\.0 GB of temporary disk space.*\(max_temporary_bytes\)"):
        Slide(path)
    monkeypatch.setenv("WSIDATA_MAX_TEMPORARY_BYTES", "1e18")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(LimitExceededError, match=r"needs 60\.0 GB of temporary.* has 1\.0 GB.*TMPDIR"):
        Slide(path)
    with pytest.raises(SlideError, match=r"a\.png"):
        read_photo(path)


@pytest.mark.parametrize("name", ["interlaced.png", "a.bmp"])
def test_photos_that_are_decoded_in_memory_raise_if_they_are_larger(tmp_path, monkeypatch, name):
    pyvips.Image.new_from_array(PIXELS).write_to_file(str(tmp_path / "interlaced.png"), interlace=True)
    Image.fromarray(PIXELS).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_photo(tmp_path / name), PIXELS)
    monkeypatch.setenv("WSIDATA_MAX_DECODED_BYTES", str(40 * 48 * 3 - 1))
    with pytest.raises(LimitExceededError, match=name):
        read_photo(tmp_path / name)


def test_a_gif_larger_than_memory_raises(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "a.gif")
    monkeypatch.setenv("WSIDATA_MAX_DECODED_BYTES", str(40 * 48 * 4 - 1))
    with Slide(tmp_path / "a.gif") as slide, pytest.raises(LimitExceededError, match="max_decoded_bytes"):
        slide.numpy()


@pytest.mark.parametrize("ink", [False, True])
def test_a_progressive_jpeg_of_too_many_scans_raises(tmp_path, ink):
    """A scan of a few bytes takes as long as decoding the image."""
    image = Image.fromarray(np.concatenate([PIXELS, PIXELS[..., :1]], 2), "CMYK") if ink else Image.fromarray(PIXELS)
    image.save(tmp_path / "a.jpg", progressive=True)
    data = (tmp_path / "a.jpg").read_bytes()
    assert read_photo(tmp_path / "a.jpg").shape == (40, 48, 3)
    last = data.rfind(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(data[:last] + data[last:-2] * 200 + b"\xff\xd9")
    for read in (read_photo, lambda path: Slide(path).numpy()):
        with pytest.raises(LimitExceededError, match=r"a\.jpg' asks for 2\d\d scans of a JPEG.*WSIDATA_MAX_SCANS"):
            read(tmp_path / "a.jpg")


def test_coefficients_of_a_progressive_ink_jpeg_are_limited(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((400, 400, 4), np.uint8), "CMYK").save(tmp_path / "a.jpg", progressive=True)
    monkeypatch.setenv("WSIDATA_MAX_DECODED_BYTES", "1e6")
    with pytest.raises(LimitExceededError, match="progressive JPEG of 400x400"):
        Slide(tmp_path / "a.jpg")


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for read in (read_photo, photo_size, DecodedCache(1000).get):
        with pytest.raises(UnreadableImageError, match=r"a\.jpg' is no file"):
            read(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError):
        Slide(tmp_path / "a.jpg")


def test_loaders_that_libvips_does_not_trust_are_blocked(tmp_path):
    pyvips.Image.new_from_array(PIXELS).write_to_file(str(tmp_path / "a.v"))
    (tmp_path / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    for name in ("a.v", "a.svg", "a.csv"):
        with pytest.raises(pyvips.Error, match=r"blocked|not a known file format"):
            pyvips.Image.new_from_file(str(tmp_path / name))
