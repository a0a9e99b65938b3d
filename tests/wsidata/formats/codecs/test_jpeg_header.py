"""The markers before the pixels, as cameras, phones and web pages write them."""

import io
import struct

import numpy as np
import pytest
import pyvips
import simplejpeg
from places import PHOTOS

from wsidata.formats.codecs.jpeg import JpegHeaderError, exif_orientation, read_jpeg_header

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
PLAIN = simplejpeg.encode_jpeg(PIXELS)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(*segments, jpeg=PLAIN):
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def exif(orientation, order="<", kind=3, before=()):
    """An EXIF block with the orientation and other tags before it."""
    entries = [struct.pack(order + "HHI", tag, 3, 1) + struct.pack(order + "HH", 7, 0) for tag in before]
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    entries.append(struct.pack(order + "HHI", 0x0112, kind, 1) + value)
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return start + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


def header(data):
    return read_jpeg_header(io.BytesIO(data))


def test_size_and_kind():
    found = header(PLAIN)
    assert (found.height_px, found.width_px, found.bits, found.components) == (24, 40, 8, 3)
    assert (found.progressive, found.orientation, found.icc_profile) == (False, 1, None)
    gray = simplejpeg.encode_jpeg(PIXELS[..., :1].copy(), colorspace="GRAY", colorsubsampling="Gray")
    assert header(gray).components == 1
    progressive = pyvips.Image.new_from_array(PIXELS).write_to_buffer(".jpg", interlace=True)
    assert header(progressive).progressive


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_either_byte_order_and_as_short_or_long(order, kind, orientation):
    block = b"Exif\0\0" + exif(orientation, order, kind, before=(0x010F, 0x0110))
    assert header(with_segments(segment(0xE1, block))).orientation == orientation


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_upright(value):
    assert exif_orientation(exif(value)) == 1


def test_damaged_exif_is_none():
    block = exif(6)
    assert exif_orientation(block) == 6
    for length in range(len(block) - 6):
        assert exif_orientation(block[:length]) in (1, 6)
    assert exif_orientation(b"II*\0" + struct.pack("<I", 10**9) + bytes(20)) == 1
    assert exif_orientation(bytes(40)) == 1


def test_the_first_exif_block_counts_and_other_blocks_of_its_marker_do_not():
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    blocks = [segment(0xE1, b"Exif\0\0" + exif(value)) for value in (8, 3)]
    assert header(with_segments(xmp, *blocks)).orientation == 8


def test_a_profile_in_pieces_is_put_together_in_order():
    profile = np.random.default_rng(1).bytes(150_000)
    pieces = [profile[start : start + 65_000] for start in range(0, len(profile), 65_000)]
    blocks = [
        segment(0xE2, b"ICC_PROFILE\0" + bytes([number, len(pieces)]) + piece)
        for number, piece in enumerate(pieces, start=1)
    ]
    assert header(with_segments(*blocks[::-1])).icc_profile == profile
    assert header(with_segments(segment(0xE2, b"MPF\0" + bytes(30)))).icc_profile is None


def test_fill_bytes_comments_and_thumbnails_are_passed_over():
    thumbnail = segment(0xE1, b"Exif\0\0" + exif(6) + PLAIN)  # with its own frame
    comment = segment(0xFE, b"\xff\xc0 no frame")
    found = header(with_segments(b"\xff\xff\xff", thumbnail, b"\xff\xff", comment))
    assert (found.height_px, found.width_px, found.orientation) == (24, 40, 6)


def test_a_header_that_breaks_off_is_refused():
    scan = PLAIN.index(b"\xff\xda")
    header(PLAIN[: scan + 2])
    frame = PLAIN.index(b"\xff\xc0")
    for length in range(frame + 10):
        with pytest.raises(JpegHeaderError):
            header(PLAIN[:length])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html>", "does not begin as a JPEG"),
        (b"\xff\xd8\xff\xd9", "how large"),
        (b"\xff\xd8" + segment(0xC0, b"\x08\0\0"), "breaks off"),
        (b"\xff\xd8" + segment(0xC0, b"\x08\0\0\0\x10\x03") + b"\xff\xd9", "16|0 pixels"),
        (b"\xff\xd8\xff\xe0\0\x01", "breaks off"),
    ],
)
def test_what_states_no_size_is_refused(data, words):
    with pytest.raises(JpegHeaderError, match=words):
        header(data)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")
def test_real_photos_say_what_libvips_reads_in_them():
    profiles = 0
    for path in sorted(PHOTOS.glob("*.[jJ][pP][gG]")):
        with path.open("rb") as file:
            found = read_jpeg_header(file)
        image = pyvips.Image.new_from_file(str(path))
        fields = image.get_fields()
        assert (found.height_px, found.width_px, found.components) == (image.height, image.width, image.bands)
        assert found.orientation == (image.get("orientation") if "orientation" in fields else 1)
        assert found.icc_profile == (bytes(image.get("icc-profile-data")) if "icc-profile-data" in fields else None)
        profiles += found.icc_profile is not None
    assert profiles == 94
