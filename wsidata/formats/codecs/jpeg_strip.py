"""Lossless removal of metadata from a JPEG, whose compressed data stays as it is.

EXIF (place, time, camera, owner, a thumbnail), XMP, IPTC, comments, ICC profiles and whatever phones append after the
image are removed. Only what decoding needs stays: tables, frame, scans, and Adobe's segment, which says how colors are
stored. (JPEG: ITU-T T.81, annex B; JFIF: T.871.)
"""

from __future__ import annotations

from pathlib import Path

from wsidata.formats.codecs.jpeg import APP0, APP14, APP15, COM, EOI, JPEG_END, JPEG_START, RESTARTS, SOI, SOS

JFIF = bytes.fromhex("ffe0 0010") + b"JFIF\0" + bytes.fromhex("0102 00 0001 0001 00 00")
"""A JFIF segment that says nothing but that this is JFIF: version 1.2, square pixels, no thumbnail."""

_ADOBE_BYTES = 14


def stripped_jpeg(path: Path) -> bytes | None:
    """A JPEG file without metadata; None if it is no JPEG, or one whose markers cannot be followed to the end."""
    with path.open("rb") as file:
        if file.read(2) != JPEG_START:
            return None
        return without_metadata(JPEG_START + file.read())


def without_metadata(content: bytes) -> bytes | None:
    """The bytes of a JPEG without metadata; None if its markers cannot be followed to the end."""
    kept = [JPEG_START]
    position = 2
    while True:
        while content[position : position + 2] == b"\xff\xff":  # fill bytes may precede any marker
            position += 1
        if position + 4 > len(content) and content[position : position + 2] != JPEG_END:
            return None
        marker = content[position + 1]
        if content[position] != 0xFF or marker in (0x00, SOI):
            return None
        if marker == EOI:
            return b"".join([*kept, JPEG_END])
        stop = position + 2 + int.from_bytes(content[position + 2 : position + 4])
        kept.append(_kept(marker, content[position:stop]))
        position = _end_of_scan(content, stop) if marker == SOS else stop
        kept.append(content[stop:position])


def _kept(marker: int, segment: bytes) -> bytes:
    """What stays of a segment."""
    if marker == APP0 and segment[4:9] == b"JFIF\0":
        return JFIF
    if marker == APP14 and segment[4:9] == b"Adobe" and len(segment) == _ADOBE_BYTES + 2:
        return segment
    return b"" if APP0 <= marker <= APP15 or marker == COM else segment


def _end_of_scan(content: bytes, start: int) -> int:
    """Position where compressed data ends: at the first marker that is neither a stuffed byte nor a restart."""
    position = start
    while True:
        position = content.find(b"\xff", position)
        if position < 0 or position + 1 >= len(content):
            return len(content)
        if content[position + 1] != 0 and content[position + 1] not in RESTARTS:
            return position
        position += 2
