"""Integrity check of a TIFF file along its chain of directories.

A TIFF that lost its end often loses directories with it, and then opens with a level or tiles missing. Parsers
(tifffile, libtiff) log such things and go on. Here every directory, every value it points to and every pointer to the
next has to lie inside the file. (Tiles are checked level by level, see `tile_index`.)

Directories and values may overlap, so that a small file seems to hold more than could ever be read: directories are
limited, and values may take no more than the file has, with room for those that directories share.

Layout: TIFF 6.0, section 2; BigTIFF as in libtiff: 8-byte counts and offsets, 20-byte entries.
"""

from __future__ import annotations

import os
import struct
from contextlib import nullcontext
from typing import BinaryIO, NoReturn

from wsidata.errors import UnreadableImageError
from wsidata.formats.limits import check_limit
from wsidata.remote.address import SlidePath

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
SUBIFDS_TAG = 330
TILE_SIZE_TAGS, TILE_PLACE_TAGS, STRIP_OFFSETS_TAG = {322, 323}, {324, 325}, 273
INTEGER_TAGS = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338, 339}
"""Tags of sizes, places and kinds. As floats, byte counts were taken for 0, and tiles for ones never written."""
INTEGER_TYPES = {1, 3, 4, 6, 8, 9, 13, 16, 17, 18}
MAX_TAGS = 4096
"""Tags of a directory; tifffile reads no more either."""
USUAL_TAGS = 64
"""Tags of a directory on average, at most, where there are as many directories as may be."""
SHARED_BYTES = 64 * 1024**2


def check_integrity(path: SlidePath, file: BinaryIO | None = None) -> None:
    """Check that all directories, tag values and pointers of a file that begins as a TIFF lie inside it.

    Args:
        path: The file.
        file: The file, if it is open already.

    Raises:
        UnreadableImageError: naming the file, what is missing, and where.
        LimitExceededError: if there are too many directories.
    """
    with open(str(path), "rb") if file is None else nullcontext(file) as opened:
        _Walk(opened, path, opened.seek(0, os.SEEK_END)).run()


class _Walk:
    """One pass over all directories."""

    def __init__(self, file: BinaryIO, path: SlidePath, file_bytes: int) -> None:
        self.file, self.path, self.file_bytes = file, path, file_bytes
        head = self._read(0, min(16, file_bytes), "its header")
        self.order = "<" if head[:2] == b"II" else ">"
        is_big = head[2:4] in (b"+\0", b"\0+")
        self.count_code, self.offset_code = ("Q", "Q") if is_big else ("H", "I")
        self.entry_bytes, self.offset_bytes = (20, 8) if is_big else (12, 4)
        first = head[self.offset_bytes : 2 * self.offset_bytes]  # after a signature of the same length
        self.first = self._unpack(self.offset_code, first, "its header")[0]
        self.seen: set[int] = set()
        self.tags = self.value_bytes = 0

    def run(self) -> None:
        """Check the chain of directories, and the SubIFDs they name."""
        pending, named = [self.first], 1
        if self.first == 0:
            self._fail("it has no directory")
        while pending:
            offset = pending.pop()
            if offset == 0 or offset in self.seen:  # SubIFDs may be named twice: by their parent and by each other
                continue
            self.seen.add(offset)
            found = self._directory(offset)
            named += len(found)
            check_limit("max_directories", named, self.path, f"{named:,} or more TIFF directories")
            pending.extend(found)

    def _directory(self, offset: int) -> list[int]:
        """Offsets of the SubIFDs of a directory and of the next one, once it is checked."""
        what = f"the directory at byte {offset}"
        count_bytes = struct.calcsize(self.order + self.count_code)
        entries = self._unpack(self.count_code, self._read(offset, count_bytes, what), what)[0]
        if entries > MAX_TAGS:
            self._fail(f"{what} has {entries} tags")
        self.tags += entries
        equal = -(-self.tags // USUAL_TAGS)
        check_limit("max_directories", equal, self.path, f"{self.tags:,} tags, those of {equal:,} TIFF directories")
        table_bytes = entries * self.entry_bytes + self.offset_bytes
        table = self._read(offset + count_bytes, table_bytes, what)
        found: list[int] = []
        present: set[int] = set()
        for start in range(0, entries * self.entry_bytes, self.entry_bytes):
            entry = table[start : start + self.entry_bytes]
            tag, kind = self._unpack("HH", entry[:4], what)
            present.add(tag)
            if tag in INTEGER_TAGS and kind not in INTEGER_TYPES:
                self._fail(f"tag {tag} holds no integers, but values of type {kind}")
            count = self._unpack(self.offset_code, entry[4 : 4 + self.offset_bytes], what)[0]
            value = entry[4 + self.offset_bytes :]
            value_bytes = count * TYPE_BYTES.get(kind, 0)
            if value_bytes > self.offset_bytes:
                at = self._unpack(self.offset_code, value, what)[0]
                if at + value_bytes > self.file_bytes:
                    self._fail(f"the value of tag {tag} ends at byte {at + value_bytes}")
                self.value_bytes += value_bytes
                if self.value_bytes > 2 * self.file_bytes + SHARED_BYTES:
                    self._fail("the values of its tags overlap")
                if tag == SUBIFDS_TAG:
                    check_limit("max_directories", count, self.path, f"{count:,} SubIFDs in a TIFF directory")
                value = self._read(at, value_bytes, what) if tag == SUBIFDS_TAG else b""
            if tag == SUBIFDS_TAG and kind in (4, 13, 16, 18):
                code = "Q" if TYPE_BYTES[kind] == 8 else "I"
                found += self._unpack(f"{count}{code}", value[:value_bytes], what)
        has_some, has_size = present & (TILE_SIZE_TAGS | TILE_PLACE_TAGS), present >= TILE_SIZE_TAGS
        if has_some and not (has_size and present & {*TILE_PLACE_TAGS, STRIP_OFFSETS_TAG}):
            self._fail(f"{what} has some of the tags that make tiles, not all")  # a reader would take it for strips
        return [*found, self._unpack(self.offset_code, table[-self.offset_bytes :], what)[0]]

    def _read(self, offset: int, count: int, what: str) -> bytes:
        if offset + count > self.file_bytes:
            self._fail(f"{what} is incomplete")
        self.file.seek(offset)
        return self.file.read(count)

    def _unpack(self, code: str, data: bytes, what: str) -> tuple[int, ...]:
        try:
            return struct.unpack(self.order + code, data)
        except struct.error:
            self._fail(f"{what} is incomplete")

    def _fail(self, why: str) -> NoReturn:
        raise UnreadableImageError(
            f"'{self.path}' is cut off or damaged ({self.file_bytes} bytes): {why}. Copy it again from its source."
        )
