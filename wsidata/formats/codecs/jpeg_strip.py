"""A photo that is encoded anew loses a little, so a JPEG's compressed data travels as it is, without what is around it.

EXIF (place, time, camera, owner, a thumbnail), XMP, IPTC, comments, colour profiles and whatever phones append after
the picture are left behind. Only what decoding needs stays: tables, frame, scans, and Adobe's segment, which says how
colours are stored. (JPEG: ITU-T T.81, annex B; JFIF: T.871.)
"""

from __future__ import annotations

from pathlib import Path

START, END, SCAN, ADOBE, COMMENT = 0xD8, 0xD9, 0xDA, 0xEE, 0xFE
FIRST_APP, LAST_APP = 0xE0, 0xEF
JFIF = bytes.fromhex("ffe0 0010") + b"JFIF\0" + bytes.fromhex("0102 00 0001 0001 00 00")
"""A JFIF segment that says nothing but that this is JFIF: version 1.2, square pixels, no thumbnail."""

_ADOBE_BYTES = 14


def stripped_jpeg(path: Path) -> bytes | None:
    """The JPEG of a file without metadata; None if it is no JPEG, or one that cannot be followed to its end.

    Args:
        path: A file of any kind.
    """
    with path.open("rb") as file:
        if file.read(2) != bytes((0xFF, START)):
            return None
        content = bytes((0xFF, START)) + file.read()
    kept = [content[:2]]
    position = 2
    while True:
        while content[position : position + 2] == b"\xff\xff":  # fill bytes may precede any marker
            position += 1
        if position + 4 > len(content) and content[position : position + 2] != bytes((0xFF, END)):
            return None
        marker = content[position + 1]
        if content[position] != 0xFF or marker in (0x00, START):
            return None
        if marker == END:
            return b"".join([*kept, bytes((0xFF, END))])
        stop = position + 2 + int.from_bytes(content[position + 2 : position + 4])
        kept.append(_kept(marker, content[position:stop]))
        position = _end_of_scan(content, stop) if marker == SCAN else stop
        if marker == SCAN:
            kept.append(content[stop:position])


def _kept(marker: int, segment: bytes) -> bytes:
    """What of a segment stays."""
    if marker == FIRST_APP and segment[4:9] == b"JFIF\0":
        return JFIF
    if marker == ADOBE and segment[4:9] == b"Adobe" and len(segment) == _ADOBE_BYTES + 2:
        return segment
    return b"" if FIRST_APP <= marker <= LAST_APP or marker == COMMENT else segment


def _end_of_scan(content: bytes, start: int) -> int:
    """Where compressed data ends: at the first marker that is neither a stuffed byte nor a restart."""
    position = start
    while True:
        position = content.find(b"\xff", position)
        if position < 0 or position + 1 >= len(content):
            return len(content)
        if content[position + 1] != 0 and not 0xD0 <= content[position + 1] <= 0xD7:
            return position
        position += 2
