"""Positions of the tiles or strips of one TIFF directory, and checks that they are complete.

Most decoders return gray for half a JPEG tile, and most readers show black for a tile that was never written, both
without an error. The checks here detect a tile that ends beyond the end of the file, an index of another length than
the grid, a JPEG tile that does not begin and end as a JPEG stream (overwritten, zeroed or shifted data), and a tile of
another size than its place. They do not detect bytes altered *inside* a JPEG stream that still decode: JPEG has no
checksum. "Tile" stands for strips, too.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError
from wsidata.formats.codecs.jpeg import JPEG_END, JPEG_START
from wsidata.formats.limits import check_limit
from wsidata.formats.tiff.photometric import RGB
from wsidata.remote.address import SlidePath
from wsidata.utils.same_file import ByteSource, FileBytes

JPEG_COMPRESSION = 7
OFFSETS_TAGS, BYTE_COUNTS_TAGS = (324, 273), (325, 279)
JPEG_TRAILER_BYTES = 16
"""What a writer may leave after the end marker; zeros may be more, up to a block of a disk."""


@dataclass(frozen=True)
class TileGrid:
    """The grid of tiles of a directory. Strips are tiles as wide as the image."""

    columns: int
    rows: int
    width_px: int
    height_px: int
    planes: int


class TileIndex:
    """Positions of the tiles of one TIFF directory, and their stored bytes.

    Args:
        page: The directory, from an open `tifffile.TiffFile`.
        path: The file, for errors.
        width_px: Columns of the level; padding beyond is not part of the image.
        height_px: Rows of the level.
        source: The bytes of the file. None: of the descriptor that `tifffile` has open.
    """

    def __init__(
        self, page: tifffile.TiffPage, path: SlidePath, width_px: int, height_px: int, source: ByteSource | None = None
    ) -> None:
        self.page = page
        self.path = path
        self.width_px, self.height_px = width_px, height_px
        self.grid = _grid(page)
        self.offsets = _packed(page, "dataoffsets", OFFSETS_TAGS)
        self.byte_counts = _packed(page, "databytecounts", BYTE_COUNTS_TAGS)
        self._checked = np.zeros(len(self.offsets), dtype=bool)
        self._source = FileBytes(path, page.parent.filehandle.fileno) if source is None else source

    @cached_property
    def is_empty(self) -> NDArray[np.bool_]:
        """Which tiles were never written (no bytes, or no place in the file): shown white."""
        empty: NDArray[np.bool_] = (self.byte_counts == 0) | (self.offsets == 0)
        return empty

    @cached_property
    def is_mislabeled_jpeg(self) -> bool:
        """Whether the tiles are YCbCr JPEG (they have a JFIF header) while the directory calls them RGB.

        Written by old Bio-Formats. tifffile looks at the first tile only, which may be empty; here it is the first
        written one, and the result is set in tifffile.
        """
        written = np.flatnonzero(~self.is_empty)
        if self.page.compression != JPEG_COMPRESSION or self.page.photometric != RGB or len(written) == 0:
            return False
        first = int(written[0])
        count = min(10, int(self.byte_counts[first]))
        is_jfif = self._bytes(int(self.offsets[first]), count)[6:] == b"JFIF"
        self.page.__dict__["is_jfif"] = is_jfif  # a cached_property of tifffile, read when its decoder is made
        return is_jfif

    def check_extent(self, file_bytes: int) -> None:
        """Check the index of tiles against the length of the file, and the size of a tile against memory.

        Raises:
            UnreadableImageError: if a tile is missing from the index, or does not lie inside the file.
            LimitExceededError: if a tile takes too much memory.
        """
        expected = self.grid.columns * self.grid.rows * self.grid.planes
        if len(self.offsets) != expected or len(self.byte_counts) != len(self.offsets):
            raise UnreadableImageError(
                f"'{self.path}' is damaged: TIFF directory {self.page.index} lists {len(self.offsets)} of {expected} "
                f"tiles or strips ({len(self.byte_counts)} with a length). Copy it again from its source."
            )
        if expected and min(self.offsets.min(), self.byte_counts.min()) < 0:
            raise UnreadableImageError(
                f"'{self.path}' is damaged: tiles or strips of TIFF directory {self.page.index} have a negative place "
                "or length. Copy it again from its source."
            )
        if expected and not self._is_inside(file_bytes):
            lengths = np.where(self.is_empty, 0, self.byte_counts)
            ends = np.where(self.is_empty, 0, self.offsets)
            ends = np.where(lengths > file_bytes, lengths, ends + np.minimum(lengths, file_bytes))  # no sum overflows
            beyond = int((ends > file_bytes).sum())
            if beyond:
                raise UnreadableImageError(
                    f"'{self.path}' is cut off: {beyond} of {len(ends)} tiles or strips of TIFF directory "
                    f"{self.page.index} end beyond the file's {file_bytes} bytes (the last at byte {ends.max()}). "
                    "Copy it again from its source."
                )
        samples = self.page.samplesperpixel if self.grid.planes == 1 else 1
        sample_bytes = 1 if self.page.dtype is None else self.page.dtype.itemsize
        tile_bytes = self.grid.width_px * self.grid.height_px * samples * sample_bytes
        size = f"tiles or strips of {self.grid.width_px} x {self.grid.height_px} px, {tile_bytes / 1e9:,.1f} GB each"
        check_limit("max_decoded_bytes", tile_bytes, self.path, size)

    def _is_inside(self, file_bytes: int) -> bool:
        """Whether all tiles lie inside the file, also those that were never written; the quick answer."""
        if max(self.offsets.max(), self.byte_counts.max()) > file_bytes:
            return False
        return bool((self.offsets + self.byte_counts).max() <= file_bytes)

    def check_streams(self) -> None:
        """Check that JPEG tiles begin and end as such: two short reads each, once.

        Raises:
            UnreadableImageError: naming the first tile that is not a complete JPEG stream.
        """
        if not self._is_streams or self._source.is_remote:  # two requests for each tile; `data` checks it, too
            return
        for index in np.flatnonzero(~self._checked & ~self.is_empty).tolist():
            offset, count = int(self.offsets[index]), int(self.byte_counts[index])
            tail_bytes = min(JPEG_TRAILER_BYTES, count)
            head, tail = self._bytes(offset, 2), self._bytes(offset + count - tail_bytes, tail_bytes)
            if not any(tail):  # padded
                self.data(index)
            elif head != JPEG_START or JPEG_END not in tail:
                raise self._no_stream(index)
            self._checked[index] = True

    def data(self, index: int) -> bytes:
        """The stored bytes of a tile that was written.

        Raises:
            UnreadableImageError: if they are missing, or not a complete JPEG stream where they should be one.
        """
        data = self._bytes(int(self.offsets[index]), int(self.byte_counts[index]))
        if self._is_streams:
            tail = data[-JPEG_TRAILER_BYTES:]
            tail = tail if any(tail) else data.rstrip(b"\0")[-JPEG_TRAILER_BYTES:]
            if not data.startswith(JPEG_START) or JPEG_END not in tail:
                raise self._no_stream(index)
        return data

    def check_size(self, index: int, size_px: tuple[int, int]) -> None:
        """Check (height, width) of a decoded tile: at least what the level shows of it, at most the room in the grid.

        Raises:
            UnreadableImageError: if it does not fit.
        """
        if size_px == (self.grid.height_px, self.grid.width_px):
            return
        _, left, top = self.origin(index)
        seen = self.seen_size(left, top)[::-1]
        most = self.grid.height_px, self.grid.width_px
        if any(not low <= side <= high for low, side, high in zip(seen, size_px, most, strict=True)):
            raise self.undecodable(index, f"{size_px[1]}x{size_px[0]} pixels where {most[1]}x{most[0]} belong")

    def undecodable(self, index: int, why: object) -> UnreadableImageError:
        """The error for a tile that could not be decoded."""
        return UnreadableImageError(
            f"'{self.path}': tile or strip {index} of TIFF directory {self.page.index} could not be decoded ({why}). "
            "Copy the file again from its source."
        )

    def origin(self, index: int) -> tuple[int, int, int]:
        """(plane, x, y) of a tile's first pixel."""
        plane, place = divmod(index, self.grid.columns * self.grid.rows)
        row, column = divmod(place, self.grid.columns)
        return plane, column * self.grid.width_px, row * self.grid.height_px

    def seen_size(self, left_px: int, top_px: int) -> tuple[int, int]:
        """(width, height) of the part inside the level of the tile that begins there."""
        return min(self.grid.width_px, self.width_px - left_px), min(self.grid.height_px, self.height_px - top_px)

    @cached_property
    def _is_streams(self) -> bool:
        """Whether each tile is a complete JPEG stream; those of an NDPI are parts of one."""
        return bool(self.page.compression == JPEG_COMPRESSION and not self.page.is_ndpi)

    def _no_stream(self, index: int) -> UnreadableImageError:
        return UnreadableImageError(
            f"'{self.path}' is damaged: tile or strip {index} of TIFF directory {self.page.index} (byte "
            f"{self.offsets[index]}) is not a complete JPEG stream. Copy it again from its source."
        )

    def _bytes(self, offset: int, count: int) -> bytes:
        data = self._source.read(offset, count)
        if len(data) != count:
            raise UnreadableImageError(
                f"'{self.path}' is cut off: bytes {offset}..{offset + count} are not there. Copy it again."
            )
        return data


def _packed(page: tifffile.TiffPage, name: str, tags: Sequence[int]) -> NDArray[np.int64]:
    """Places or lengths of the tiles of a directory, which shares the numbers from here on.

    tifffile has them as a tuple, of 40 bytes for each number, and the slides of a study have some ten million tiles.
    """
    values = getattr(page, name)
    if isinstance(values, tuple) and values:
        try:
            packed = array("Q", values)  # filled four times as fast as "q"
        except OverflowError:  # negative ones, which are refused later, and too large ones, which are here
            return np.asarray(values, dtype=np.int64)
        if np.frombuffer(packed, dtype=np.int64).min() < 0:
            return np.asarray(values, dtype=np.int64)  # too large ones again
        setattr(page, name, packed)
        for tag in (page.tags.get(code) for code in tags):
            if tag is not None and tag.value is values:
                tag.value = packed
        values = packed
    return np.frombuffer(values, dtype=np.int64) if isinstance(values, array) else np.asarray(values, dtype=np.int64)


def _grid(page: tifffile.TiffPage) -> TileGrid:
    """The grid of a directory, from its own tags: tifffile shortens padded Philips levels in place."""
    width, height = (int(page.tags[name].value) for name in ("ImageWidth", "ImageLength"))
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    tile_width = page.tilewidth if page.is_tiled else width
    tile_height = page.tilelength if page.is_tiled else min(page.rowsperstrip or height, height)
    return TileGrid(-(-width // tile_width), -(-height // tile_height), tile_width, tile_height, planes)
