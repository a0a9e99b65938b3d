"""DICOM whole-slide images through OpenSlide, as minimal conforming files written by hand."""

import struct

import numpy as np
import pytest
import simplejpeg

from wsidata.errors import UnsupportedImageError
from wsidata.slides.slide import Slide

pytest.importorskip("openslide")

TILE = 64
SMOOTH = np.dstack([*np.meshgrid(np.linspace(0, 255, 150), np.linspace(0, 255, 100)), np.full((100, 150), 80)]).astype(
    np.uint8
)
WSI_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
UNCOMPRESSED, JPEG_BASELINE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
UNKNOWN_LENGTH = 0xFFFFFFFF


def element(group, number, kind, value):
    """Explicit VR, little endian (PS3.5, 7.1.2)."""
    if isinstance(value, str):
        value = value.encode()
    elif isinstance(value, int):
        value = struct.pack({"US": "<H", "UL": "<I"}[kind], value)
    if len(value) % 2:
        value += b"\0" if kind in ("UI", "OB") else b" "
    length = struct.pack("<HI", 0, len(value)) if kind in ("OB", "SQ") else struct.pack("<H", len(value))
    return struct.pack("<HH2s", group, number, kind.encode()) + length + value


def item(content):
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def frames_of(pixels, jpeg):
    for top in range(0, pixels.shape[0], TILE):
        for left in range(0, pixels.shape[1], TILE):
            part = pixels[top : top + TILE, left : left + TILE]
            part = np.pad(part, [(0, TILE - part.shape[0]), (0, TILE - part.shape[1]), (0, 0)], mode="edge")
            yield simplejpeg.encode_jpeg(np.ascontiguousarray(part), 95) if jpeg else part.tobytes()


def pixel_data(frames, jpeg):
    if not jpeg:
        return element(0x7FE0, 0x10, "OB", b"".join(frames))
    items = [item(frame + b"\0" * (len(frame) % 2)) for frame in frames]
    offsets = np.cumsum([0, *map(len, items[:-1])]).astype("<u4").tobytes()
    head = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, UNKNOWN_LENGTH)
    return head + item(offsets) + b"".join(items) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def write_dicom(path, pixels, *, photometric="RGB", jpeg=False, bits=8, syntax=None):
    height, width = pixels.shape[:2]
    frames = list(frames_of(pixels, jpeg))
    spacing_mm = element(0x28, 0x30, "DS", "0.0005\\0.0005")
    shared = item(element(0x28, 0x9110, "SQ", item(spacing_mm)))
    meta = b"".join([
        element(2, 1, "OB", b"\0\1"), element(2, 2, "UI", WSI_STORAGE), element(2, 3, "UI", "1.2.3.4"),
        element(2, 0x10, "UI", syntax or (JPEG_BASELINE if jpeg else UNCOMPRESSED)), element(2, 0x12, "UI", "1.2.3"),
    ])  # fmt: skip
    body = b"".join([
        element(8, 8, "CS", "ORIGINAL\\PRIMARY\\VOLUME\\NONE"), element(8, 0x16, "UI", WSI_STORAGE),
        element(8, 0x18, "UI", "1.2.3.4"), element(8, 0x60, "CS", "SM"), element(0x20, 0xD, "UI", "1.2.5"),
        element(0x20, 0xE, "UI", "1.2.6"), element(0x20, 0x9311, "CS", "TILED_FULL"), element(0x28, 2, "US", 3),
        element(0x28, 4, "CS", photometric), element(0x28, 6, "US", 0), element(0x28, 8, "IS", str(len(frames))),
        element(0x28, 0x10, "US", TILE), element(0x28, 0x11, "US", TILE), element(0x28, 0x100, "US", bits),
        element(0x28, 0x101, "US", bits), element(0x28, 0x102, "US", bits - 1), element(0x28, 0x103, "US", 0),
        element(0x48, 6, "UL", width), element(0x48, 7, "UL", height), element(0x48, 0x303, "UL", 1),
        element(0x5200, 0x9229, "SQ", shared), pixel_data(frames, jpeg),
    ])  # fmt: skip
    path.write_bytes(bytes(128) + b"DICM" + element(2, 0, "UL", len(meta)) + meta + body)
    return path


@pytest.mark.parametrize("name", ["a.dcm", "without_a_suffix"])
def test_uncompressed_frames(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    with Slide(write_dicom(tmp_path / name, pixels)) as slide:
        assert (slide.kind, slide.reader) == ("dicom", "openslide")
        assert slide.mpp == (0.5, 0.5)
        assert slide.mpp_source == "OpenSlide (openslide.mpp-x)"
        np.testing.assert_array_equal(slide.numpy(), pixels)
        np.testing.assert_array_equal(slide.read_region(50, 40, 60, 70)[:60], pixels[40:100, 50:110])


def test_jpeg_frames_labeled_correctly(tmp_path):
    with Slide(write_dicom(tmp_path / "a.dcm", SMOOTH, photometric="YBR_FULL_422", jpeg=True)) as slide:
        assert np.abs(slide.numpy().astype(int) - SMOOTH).mean() < 3


def test_jpeg_frames_labeled_wrongly_raise(tmp_path):
    """As wsi2dcm writes them: OpenSlide shows false colors without an error."""
    with pytest.raises(UnsupportedImageError, match=r"a\.dcm' says its frames are RGB, but they are YCbCr"):
        Slide(write_dicom(tmp_path / "a.dcm", SMOOTH, photometric="RGB", jpeg=True))


@pytest.mark.parametrize(
    "options", [{"bits": 16}, {"syntax": "1.2.840.10008.1.2.4.80", "jpeg": True}, {"photometric": "PALETTE COLOR"}]
)
def test_unsupported_kinds_are_not_called_damaged(tmp_path, options):
    path = write_dicom(tmp_path / "a.dcm", SMOOTH, **options)  # of 16 bits, and JPEG-LS
    with pytest.raises(UnsupportedImageError, match="does not") as error:
        Slide(path).numpy()
    assert "Copy it again" not in str(error.value)
