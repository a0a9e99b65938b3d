"""The tiles or strips of one TIFF directory: where they lie, whether they are whole, and pictures made of them.

Checks come first: most decoders that are handed half a JPEG tile return grey, and most readers show black for a tile
that was never written, both without a word. Decoding is at the speed of the codec: each segment of a rectangle once, on
as many threads as wanted.

What the checks catch: a segment that reaches beyond the end of the file, an index of segments that is not of the length
of the grid, a JPEG segment that does not begin and end as a JPEG stream does (overwritten, zeroed or shifted data), a
segment of another size than its place. What they do not: bytes altered *inside* a JPEG stream that still decode; JPEG
has no checksum.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError
from wsidata.formats.sample_colours import MINISBLACK, PALETTE, RGB, SEPARATED, natural_colours

JPEG_COMPRESSION = 7
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
MIN_SEGMENTS_FOR_THREADS = 32
JPEG_TRAILER_BYTES = 16  # writers pad tiles to even or 4-byte lengths after the end marker


@dataclass(frozen=True)
class Grid:
    """How a directory is cut up. Strips are tiles as wide as the image."""

    columns: int
    rows: int
    width_px: int
    height_px: int
    planes: int


class Segments:
    """Tiles or strips of one TIFF directory.

    Args:
        page: The directory, from an open `tifffile.TiffFile`.
        path: The file, for errors.
        width_px: Columns of the level; padding beyond is not part of the picture.
        height_px: Rows of the level.
    """

    def __init__(self, page: tifffile.TiffPage, path: Path, width_px: int, height_px: int) -> None:
        self.page = page
        self.path = path
        self.width_px, self.height_px = width_px, height_px
        self.grid = _grid(page)
        self.offsets = np.asarray(page.dataoffsets, dtype=np.int64)
        self.byte_counts = np.asarray(page.databytecounts, dtype=np.int64)
        self._checked = np.zeros(len(self.offsets), dtype=bool)
        self._descriptor: int | None = None

    def detached(self) -> Segments:
        """The same segments on a file handle of their own: it outlives the slide, and is closed with its last user."""
        # Read from the file when first asked for:
        _ = self.page.jpegheader, self.is_mislabelled_jpeg, self.page.is_jfif
        twin = copy.copy(self)
        twin._descriptor = os.dup(self.page.parent.filehandle.fileno())
        weakref.finalize(twin, os.close, twin._descriptor)
        return twin

    @cached_property
    def is_empty(self) -> NDArray[np.bool_]:
        """Which segments were never written (no bytes, or no place in the file): shown white."""
        empty: NDArray[np.bool_] = (self.byte_counts == 0) | (self.offsets == 0)
        return empty

    @cached_property
    def is_mislabelled_jpeg(self) -> bool:
        """Whether the tiles are YCbCr JPEG (they have a JFIF header) while the directory calls them RGB.

        Written by old Bio-Formats. tifffile looks at the first tile only, which may be empty; here it is the first
        written one, and tifffile is told.
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
        """Compare the index of segments with the length of the file.

        Args:
            file_bytes: Length of the file.

        Raises:
            UnreadableImageError: if a segment is missing from the index or ends beyond the end of the file.
        """
        expected = self.grid.columns * self.grid.rows * self.grid.planes
        if len(self.offsets) != expected or len(self.byte_counts) != len(self.offsets):
            raise UnreadableImageError(
                f"'{self.path}' is damaged: TIFF directory {self.page.index} lists {len(self.offsets)} of {expected} "
                "tiles or strips. Copy it again from its source."
            )
        ends = np.where(self.is_empty, 0, self.offsets + self.byte_counts)
        beyond = int((ends > file_bytes).sum())
        if beyond:
            raise UnreadableImageError(
                f"'{self.path}' is cut off: {beyond} of {len(ends)} tiles or strips of TIFF directory "
                f"{self.page.index} end beyond the file's {file_bytes} bytes (the last at byte {ends.max()}). "
                "Copy it again from its source."
            )

    def check_streams(self, indices: NDArray[np.int64] | None = None) -> None:
        """Look whether JPEG segments begin and end as such: two short reads each, once.

        Args:
            indices: Segments to look at; None for all.

        Raises:
            UnreadableImageError: naming the first segment that is no whole JPEG stream.
        """
        if not self._is_streams:
            return
        wanted = np.arange(len(self.offsets)) if indices is None else indices
        for index in wanted[~self._checked[wanted] & ~self.is_empty[wanted]].tolist():
            offset, count = int(self.offsets[index]), int(self.byte_counts[index])
            tail_bytes = min(JPEG_TRAILER_BYTES, count)
            head, tail = self._bytes(offset, 2), self._bytes(offset + count - tail_bytes, tail_bytes)
            if head != JPEG_START or JPEG_END not in tail:
                raise self._no_stream(index)
            self._checked[index] = True

    def data(self, index: int) -> bytes:
        """The stored bytes of a segment that was written.

        Raises:
            UnreadableImageError: if they are not there, or are no whole JPEG stream where they should be one.
        """
        data = self._bytes(int(self.offsets[index]), int(self.byte_counts[index]))
        if self._is_streams and not (data.startswith(JPEG_START) and JPEG_END in data[-JPEG_TRAILER_BYTES:]):
            raise self._no_stream(index)
        return data

    def samples(self) -> list[int]:
        """A few segments to try a decoder on: the fullest, which shows most, then three spread over the level."""
        written = np.flatnonzero(~self.is_empty)
        if len(written) == 0:
            return []
        spread = written[np.linspace(0, len(written) - 1, 3).astype(int)]
        return list(dict.fromkeys([int(written[np.argmax(self.byte_counts[written])]), *spread.tolist()]))

    def check_size(self, index: int, size_px: tuple[int, int]) -> None:
        """Compare the size of a decoded segment with its place in the level: no less than is seen, no more than fits.

        Args:
            index: The segment.
            size_px: Its (height, width).

        Raises:
            UnreadableImageError: if it does not fit.
        """
        if size_px == (self.grid.height_px, self.grid.width_px):
            return
        _, left, top = self.origin(index)
        seen = min(self.grid.height_px, self.height_px - top), min(self.grid.width_px, self.width_px - left)
        most = self.grid.height_px, self.grid.width_px
        if any(not low <= side <= high for low, side, high in zip(seen, size_px, most, strict=True)):
            raise self.undecodable(index, f"{size_px[1]}x{size_px[0]} pixels where {most[1]}x{most[0]} belong")

    def undecodable(self, index: int, why: object) -> UnreadableImageError:
        """The error for a segment that a decoder refused."""
        return UnreadableImageError(
            f"'{self.path}': tile or strip {index} of TIFF directory {self.page.index} could not be decoded ({why}). "
            "Copy the file again from its source."
        )

    def indices_in(self, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.int64]:
        """Indices of the segments a rectangle touches, all planes, in file order."""
        grid = self.grid
        columns = np.arange(x_px // grid.width_px, -(-(x_px + width_px) // grid.width_px))
        rows = np.arange(y_px // grid.height_px, -(-(y_px + height_px) // grid.height_px))
        planes = np.arange(grid.planes)
        index = (planes[:, None, None] * grid.rows + rows[:, None]) * grid.columns + columns
        return index.ravel().astype(np.int64)

    def origin(self, index: int) -> tuple[int, int, int]:
        """(plane, x, y) of a segment's first pixel."""
        plane, place = divmod(index, self.grid.columns * self.grid.rows)
        row, column = divmod(place, self.grid.columns)
        return plane, column * self.grid.width_px, row * self.grid.height_px

    def read(
        self,
        x_px: int,
        y_px: int,
        width_px: int,
        height_px: int,
        *,
        decode: Callable[[int], NDArray[Any]] | None = None,
        threads: int = 1,
    ) -> NDArray[Any]:
        """Decode a rectangle, each segment once; segments never written are `blank`. Safe to call from several threads.

        Args:
            x_px: First column. The rectangle must lie inside the level.
            y_px: First row.
            width_px: Columns.
            height_px: Rows.
            decode: Gives the pixels of a segment by its index; None is `decode`, by tifffile.
            threads: Segments that are decoded at a time, where there are at least `MIN_SEGMENTS_FOR_THREADS`.

        Returns:
            (height, width, samples) in the file's own type; grey has 0 as black, palettes are looked up, CMYK stays
            CMYK.

        Raises:
            UnreadableImageError: if a segment cannot be decoded.
        """
        decode = self.decode if decode is None else decode
        bands = 3 if self.page.photometric == PALETTE else self.page.samplesperpixel
        out = np.empty((height_px, width_px, bands), dtype=self.dtype)
        empty = self.is_empty

        def place(index: int) -> None:
            plane, left, top = self.origin(index)
            bands_here = slice(plane, plane + 1) if self.grid.planes > 1 else slice(None)
            x_from, x_to = max(left, x_px), min(left + self.grid.width_px, x_px + width_px)
            y_from, y_to = max(top, y_px), min(top + self.grid.height_px, y_px + height_px)
            target = out[y_from - y_px : y_to - y_px, x_from - x_px : x_to - x_px, bands_here]
            if empty[index]:
                target[...] = self.blank
            else:
                target[...] = decode(index)[y_from - top : y_to - top, x_from - left : x_to - left]

        indices = self.indices_in(x_px, y_px, width_px, height_px).tolist()
        if threads > 1 and len(indices) >= MIN_SEGMENTS_FOR_THREADS:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(place, indices):
                    pass
        else:
            for index in indices:
                place(index)
        return out

    def decode(self, index: int) -> NDArray[Any]:
        """Decode one segment that was written with tifffile and imagecodecs.

        Returns:
            (height, width, samples), padding included.

        Raises:
            UnreadableImageError: if it cannot be decoded, or is not of the size of a segment.
        """
        _ = self.is_mislabelled_jpeg  # tells tifffile, if so
        data = self.data(index)
        try:
            decoded, _, _ = self.page.decode(
                data, index, jpegtables=self.page.jpegtables, jpegheader=self.page.jpegheader
            )
        except Exception as error:  # codecs raise exceptions of their own, without a common base
            raise self.undecodable(index, error) from error
        self.check_size(index, (decoded.shape[1], decoded.shape[2]))
        return natural_colours(self.page, data, decoded[0])

    @property
    def blank(self) -> int:
        """What a pixel never written is shown as: white paper, no ink, or no light in data of more than 8 bits."""
        is_light = self.page.photometric == MINISBLACK and self.dtype != np.uint8
        if self.page.photometric == SEPARATED or is_light:
            return 0
        return int(np.iinfo(self.dtype).max) if self.dtype.kind in "iu" else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels: the file's own, and uint8 for bits and colours of a palette."""
        is_bytes = self.page.dtype == np.bool_ or self.page.photometric == PALETTE
        return np.dtype(np.uint8 if is_bytes else self.page.dtype)

    @cached_property
    def _is_streams(self) -> bool:
        """Whether each segment is a whole JPEG stream; those of an NDPI are parts of one."""
        return bool(self.page.compression == JPEG_COMPRESSION and not self.page.is_ndpi)

    def _no_stream(self, index: int) -> UnreadableImageError:
        return UnreadableImageError(
            f"'{self.path}' is damaged: tile or strip {index} of TIFF directory {self.page.index} (byte "
            f"{self.offsets[index]}) is no whole JPEG stream. Copy it again from its source."
        )

    def _bytes(self, offset: int, count: int) -> bytes:
        """Read without moving a shared file position: safe under threads and after a fork."""
        descriptor = self.page.parent.filehandle.fileno() if self._descriptor is None else self._descriptor
        data = os.pread(descriptor, count, offset)
        if len(data) != count:
            raise UnreadableImageError(
                f"'{self.path}' is cut off: bytes {offset}..{offset + count} are not there. Copy it again."
            )
        return data


def _grid(page: tifffile.TiffPage) -> Grid:
    """Cut of a directory, from its own tags: tifffile shortens padded Philips levels in place."""
    width, height = (int(page.tags[name].value) for name in ("ImageWidth", "ImageLength"))
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    segment_width = page.tilewidth if page.is_tiled else width
    segment_height = page.tilelength if page.is_tiled else min(page.rowsperstrip or height, height)
    return Grid(-(-width // segment_width), -(-height // segment_height), segment_width, segment_height, planes)
