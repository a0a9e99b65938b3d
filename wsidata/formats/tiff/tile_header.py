"""Sizes that compressed tiles state in their own headers, which decoders believe.

A tile of a few bytes may state 60,000 x 60,000 pixels, and is decoded to that size before anyone compares it with its
place. (Byte codecs, such as deflate, are given the size of the result.)
    JPEG: see `codecs.jpeg`. JPEG 2000: ISO 15444-1, A.5.1 (SIZ) and I.4 (boxes). PNG: RFC 2083, 4.1.1. WebP: RFC 9649.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

from wsidata.formats.codecs.jpeg import JPEG_START, JpegHeaderError, read_jpeg_header

JPEG, LOSSY_JPEG, OTHER_JPEG = 7, 34892, 33007
JPEG_2000 = (33003, 33004, 33005, 34712)
WEBP, PNG = (34927, 50001), 34933

WEBP_HEADER_BYTES = 30

FAX = (2, 3, 4)
BYTE_CODECS = (1, 5, 8, 32773, 32946, 34925, 34926, 50000)
"""None, LZW, deflate, PackBits, deflate again, LZMA, and ZSTD twice."""

Size = tuple[int, int, int]
"""(height, width, samples of a pixel at most)."""


class TileHeaderError(ValueError):
    """A tile's header is damaged."""


def stated_size(compression: int, data: bytes, jpeg_tables: bytes = b"") -> Size | None:
    """What a tile says its size is; None for byte codecs, and for parts of a JPEG stream.

    Args:
        compression: The directory's tag.
        data: Bytes of the tile.
        jpeg_tables: Bytes of the directory's JPEG tables, without start and end markers.

    Raises:
        TileHeaderError: if the header is damaged.
    """
    try:
        if compression in (JPEG, LOSSY_JPEG, OTHER_JPEG):
            return _jpeg_size(data, jpeg_tables) if data.startswith(JPEG_START) else None
        return HEADERS[compression](data) if compression in HEADERS else None
    except (struct.error, IndexError, JpegHeaderError) as error:
        raise TileHeaderError(f"its header is damaged: {error}") from error


def _jpeg_size(data: bytes, tables: bytes) -> Size:
    header = read_jpeg_header(io.BytesIO(JPEG_START + tables + data[len(JPEG_START) :]))
    return header.height_px, header.width_px, header.components


def _jpeg_2000_size(data: bytes) -> Size:
    at = 0
    if data[4:8] == b"jP  ":
        while data[at + 4 : at + 8] != b"jp2c":
            length = struct.unpack_from(">I", data, at)[0]
            length = struct.unpack_from(">Q", data, at + 8)[0] if length == 1 else length
            if length < 8:
                raise TileHeaderError("it has no code stream")
            at += length
        at += 16 if struct.unpack_from(">I", data, at)[0] == 1 else 8
    if data[at : at + 4] != b"\xff\x4f\xff\x51":
        raise TileHeaderError("it is no JPEG 2000 code stream")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    return bottom - top, right - left, struct.unpack_from(">H", data, at + 40)[0]


def _png_size(data: bytes) -> Size:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width, 4


def _webp_size(data: bytes) -> Size:
    kind = data[12:16]
    if len(data) < WEBP_HEADER_BYTES:
        raise TileHeaderError("it ends within its header")
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise TileHeaderError("it is no WebP")
    return height, width, 4


HEADERS: dict[int, Callable[[bytes], Size]] = {
    **dict.fromkeys(JPEG_2000, _jpeg_2000_size),
    **dict.fromkeys(WEBP, _webp_size),
    PNG: _png_size,
}
COMPRESSIONS = frozenset((*FAX, *BYTE_CODECS, JPEG, LOSSY_JPEG, OTHER_JPEG, *HEADERS))
"""What is decoded here."""
