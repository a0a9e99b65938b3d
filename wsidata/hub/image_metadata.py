"""Metadata inside published images, which hold pixels and what decoding them needs, and nothing else.

Everything that is not on the lists below is reported, whatever it says: descriptions, comments, EXIF, XMP, profiles,
and bytes after the end. (PNG: https://www.w3.org/TR/png-3/; JPEG: ITU-T T.81, annex B; TIFF 6.0.)
"""

from __future__ import annotations

import io
from pathlib import Path

import tifffile

from wsidata.formats.codecs.jpeg_strip import without_metadata

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset(b"IHDR PLTE tRNS IDAT IEND pHYs gAMA cHRM sRGB sBIT bKGD".split())
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_TAGS = frozenset(
    (*range(254, 260), 262, 266, 273, 274, *range(277, 280), 282, 283, 284, 296, 317, 320, *range(322, 326), 338, 339,
     347, *range(529, 533))
)  # fmt: skip
"""Numbers: sizes, offsets, how samples are stored and compressed, and the resolution."""


def metadata_in(image: bytes | Path) -> str | None:
    """What an encoded image holds beside its pixels, as a clause; None if there is nothing.

    Args:
        image: The file, or its bytes: PNG, JPEG or TIFF, as `export.encoding` writes them.
    """
    if isinstance(image, Path):
        with image.open("rb") as file:
            start = file.read(8)
    else:
        start = image[:8]
    if start == _PNG_START:
        return _in_png(image)
    if start.startswith(b"\xff\xd8"):
        content = image.read_bytes() if isinstance(image, Path) else image
        stripped = without_metadata(content)
        if stripped is None:
            return "markers that cannot be followed to its end"
        more = len(content) - len(stripped)
        return f"{more} bytes of metadata (EXIF, XMP, a comment, a profile, or an appendix)" if more else None
    if start.startswith(_TIFF_STARTS):
        return _in_tiff(image)
    return "neither PNG, JPEG nor TIFF"


def _in_png(image: bytes | Path) -> str | None:
    with image.open("rb") if isinstance(image, Path) else io.BytesIO(image) as file:
        size = file.seek(0, io.SEEK_END)
        position = len(_PNG_START)
        while True:
            file.seek(position)
            head = file.read(8)
            if len(head) < 8:
                return "no end"
            length, kind = int.from_bytes(head[:4]), head[4:]
            if kind not in _PNG_CHUNKS:
                return f"a chunk {kind.decode('latin-1')!r} of {length} bytes"
            position += length + 12
            if kind == b"IEND":
                return None if position == size else f"{size - position} bytes after its end"


def _in_tiff(image: bytes | Path) -> str | None:
    source = image if isinstance(image, Path) else io.BytesIO(image)
    with tifffile.TiffFile(source) as file:
        for number in range(len(file.pages)):
            for tag in file.pages[number].aspage().tags:
                if tag.code not in _TIFF_TAGS:
                    return f"a tag {tag.code} ({tag.name}) in directory {number}"
    return None
