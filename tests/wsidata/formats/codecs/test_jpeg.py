"""JPEG photos decoded smaller, and none that is damaged decoded at all."""

import imagecodecs
import numpy as np
import pytest
import pyvips
import simplejpeg

from wsidata.errors import LimitExceededError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.codecs import jpeg
from wsidata.formats.codecs.jpeg import (
    MAX_DECODED_BYTES,
    JpegHeader,
    check_decoded_bytes,
    decode_jpeg,
    jpeg_header,
    shrink_for,
    suits,
)

RNG = np.random.default_rng(0)


def smooth(height, width):
    """Without detail, so that every way of making it smaller gives nearly the same."""
    rows, columns = np.indices((height, width)) / max(height, width)
    return (np.dstack([rows, columns, rows * columns]) * 255).astype(np.uint8)


def encode(pixels, **options):
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), **{"quality": 95, **options})


def header_of(height, width, **facts):
    return JpegHeader(height, width, **{"bits": 8, "components": 3, "progressive": False, **facts})


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(256, 256), (259, 507), (401, 600), (511, 293)])
@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_every_shrink_gives_its_size(tmp_path, size, shrink, subsampling):
    data = encode(smooth(*size), colorsubsampling=subsampling)
    pixels = decode_jpeg(data, tmp_path, jpeg_header(tmp_path, data), shrink)
    assert pixels.shape == (-(-size[0] // shrink), -(-size[1] // shrink), 3)
    whole = simplejpeg.decode_jpeg(data)
    inside = whole[: size[0] // shrink * shrink, : size[1] // shrink * shrink].astype(float)
    blocks = inside.reshape(size[0] // shrink, shrink, size[1] // shrink, shrink, 3).mean((1, 3))
    assert np.abs(pixels[: len(blocks), : blocks.shape[1]] - blocks).mean() < 2


@pytest.mark.parametrize(
    ("short", "wanted", "shrink"), [(64, 8, 8), (64, 9, 4), (256, 128, 2), (256, 129, 1), (63, 1, 1), (5000, 100, 8)]
)
def test_the_largest_shrink_that_leaves_enough_is_taken(short, wanted, shrink):
    assert shrink_for(header_of(short, short + 90), wanted) == shrink
    assert shrink_for(header_of(short + 90, short), wanted) == shrink


def test_lossless_jpegs_are_decoded_at_their_only_size(tmp_path):
    pixels = RNG.integers(0, 256, (160, 170, 3), dtype=np.uint8)
    data = imagecodecs.jpeg8_encode(pixels, lossless=True)
    header = jpeg_header(tmp_path, data)
    assert header.lossless
    assert shrink_for(header, 10) == 1
    np.testing.assert_array_equal(decode_jpeg(data, tmp_path, header), pixels)


def test_gray_and_color_suit_and_ink_and_deeper_samples_do_not():
    assert suits(header_of(9, 9))
    assert suits(header_of(9, 9, components=1))
    assert not suits(header_of(9, 9, components=4))
    assert not suits(header_of(9, 9, bits=12))


@pytest.mark.parametrize("shrink", [1, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_damage_is_refused_by_name_whatever_the_size(tmp_path, shrink, progressive):
    path = tmp_path / "bad.jpg"
    noise = RNG.integers(0, 256, (160, 160, 3), dtype=np.uint8)
    data = pyvips.Image.new_from_array(noise).write_to_buffer(".jpg", Q=90, interlace=progressive)
    header = jpeg_header(path, data)
    assert decode_jpeg(data, path, header, shrink).any()
    half = len(data) // 2
    for damaged in (data[:half], data[:-2], data[:half] + bytes(300) + data[half + 300 :]):
        with pytest.raises(UnreadableImageError, match=r"bad\.jpg' could not be decoded: .*Copy it again"):
            decode_jpeg(damaged, path, header, shrink)


def test_a_header_that_breaks_off_is_refused_by_name(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"bad\.jpg' could not be decoded: it breaks off in its header"):
        jpeg_header(tmp_path / "bad.jpg", encode(smooth(16, 16))[:30])


def test_what_takes_too_much_memory_is_refused(tmp_path):
    side = int((MAX_DECODED_BYTES / 3) ** 0.5)
    check_decoded_bytes(tmp_path, header_of(side, side), side * side * 3)
    with pytest.raises(UnsupportedImageError, match=r"a JPEG of \d+x\d+ pixels, which takes 4\.\d GB.*short_side_px="):
        check_decoded_bytes(tmp_path, header_of(side, side + 9), side * (side + 9) * 3)
    with pytest.raises(UnsupportedImageError, match="a progressive JPEG of"):  # its coefficients, however small
        check_decoded_bytes(tmp_path, header_of(side, side, progressive=True), 1000)


def test_pixels_of_another_size_than_the_header_says_are_refused(tmp_path):
    data = encode(smooth(64, 80))
    with pytest.raises(UnreadableImageError, match="100x64 pixels were requested, and 80x64 came"):
        decode_jpeg(data, tmp_path, header_of(64, 100))


SCAN = b"\xff\xda"


def whole(data):
    return jpeg._is_whole(data, jpeg.scan_start(data))


def test_a_single_scan_is_told_from_the_kinds_that_may_have_several():
    pixels = smooth(40, 48)
    color = encode(pixels)
    gray = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[..., :1]), colorspace="GRAY", colorsubsampling="Gray")
    progressive = pyvips.Image.new_from_array(pixels).jpegsave_buffer(interlace=True)
    assert [whole(data) for data in (color, gray, progressive)] == [True, True, False]
    scan = jpeg.scan_start(color)
    one_component = color[: scan + 4] + b"\x01" + color[scan + 5 :]
    filled = color[:2] + b"\xff\xff" + color[2:]
    assert [whole(data) for data in (one_component, filled)] == [False, True]
    # libjpeg would go on at another place than the lengths say
    for trick in (b"\x01\x00\x04xx", b"\xd0\x00\x04xx", b"\xe5\x00\x00", b"\xd8\x00\x04xx", b"\xd9\x00\x02"):
        assert not whole(color[:2] + b"\xff" + trick + color[2:])
    frame = color.index(b"\xff\xc0")
    assert not whole(color[:frame] + color[frame : frame + 19] + color[frame:])  # two frames
    assert not any(whole(color[:length]) for length in range(scan + 4))


def test_libjpeg_decodes_no_second_scan_of_such_a_jpeg():
    """Else many scans could make it work for hours uncounted."""
    color = encode(smooth(40, 48))
    scan = jpeg.scan_start(color)
    again = color[:-2] + color[scan:]
    assert whole(again)
    with pytest.raises(ValueError, match="more than one scan"):
        simplejpeg.decode_jpeg(again)


def test_scans_of_the_other_kinds_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("WSIDATA_MAX_SCANS", "5")
    color = encode(smooth(40, 48))
    jpeg.check_scans(tmp_path, color + 9 * SCAN)  # nobody reads what is behind the end
    progressive = pyvips.Image.new_from_array(smooth(40, 48)).jpegsave_buffer(interlace=True)
    with pytest.raises(LimitExceededError, match="scans of a JPEG"):
        jpeg.check_scans(tmp_path, progressive)
