"""Checks for missing and truncated chunks of a Zarr array.

A missing chunk means "filled with the fill value", which writers use to save space. A copy that lost its chunks looks
the same, as zeros, without an error: a level without any chunk raises, one with some missing warns.

Every codec but one detects a truncated chunk: Blosc, the usual one of Zarr 2, trusts its header, reads beyond the end
of its input, and returns whatever is there, or crashes. So the header is compared with the file first. Blosc 1,
README_CHUNK_FORMAT: bytes 4 to 7 are the decoded length, 8 to 11 that of a block, and 12 to 15 the stored length.
(Shards begin or end with an index that has a checksum.)
"""

from __future__ import annotations

import itertools
import math
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr

from wsidata.errors import MissingChunksWarning, UnreadableImageError

BLOSC_HEADER_BYTES = 16


class StoredChunks:
    """The chunks, or shards, of one level: its array, folder and number, and the slide."""

    def __init__(self, array: zarr.Array[Any], folder: Path, level: int, path: Path) -> None:
        self._array, self._folder, self._level, self._path = array, folder, level, path
        self._sides = array.shards or array.chunks
        is_blosc = any(type(codec).__name__ in ("Blosc", "BloscCodec") for codec in array.compressors)
        self._has_headers = is_blosc and array.shards is None
        self._intact: set[tuple[int, ...]] = set()

    def check_present(self, planes: Mapping[int, Sequence[int]]) -> None:
        """Check that the chunks of some planes exist.

        Args:
            planes: Indices along some of the axes, by the number of the axis; all along the others.

        Raises:
            UnreadableImageError: if none exists.

        Warns:
            MissingChunksWarning: if some are missing.
        """
        present = {file.relative_to(self._folder).as_posix() for file in self._folder.rglob("*") if file.is_file()}
        needed = [self._key(index) for index in self._indices(planes)]
        lost = sum(key not in present for key in needed)
        if lost == len(needed):
            raise UnreadableImageError(
                f"'{self._path}': level {self._level} has metadata but not one of its {lost} chunks. Copy it again, "
                "whole."
            )
        if lost:
            warnings.warn(
                f"'{self._path}': {lost} of {len(needed)} chunks of level {self._level} are not there, and are shown "
                f"as the fill value {self._array.fill_value}. If they were lost in copying, copy the slide again.",
                MissingChunksWarning,
                stacklevel=3,
            )

    def check_intact(self, place: Sequence[int | slice]) -> None:
        """Compare the Blosc headers of the chunks in a part of the array with their files, once for each.

        Args:
            place: A number, or a slice with a start and a stop, for each axis.

        Raises:
            UnreadableImageError: naming the first truncated chunk.
        """
        if not self._has_headers:
            return
        spans = [range(one.start, one.stop) if isinstance(one, slice) else range(one, one + 1) for one in place]
        touched = [
            range(span.start // side, (span.stop - 1) // side + 1)
            for span, side in zip(spans, self._sides, strict=True)
        ]
        for index in itertools.product(*touched):
            if index not in self._intact:
                self._check_header(index)
                self._intact.add(index)

    def _check_header(self, index: tuple[int, ...]) -> None:
        file = self._folder / self._key(index)
        try:
            with file.open("rb") as stream:
                header = stream.read(BLOSC_HEADER_BYTES)
                stored = stream.seek(0, 2)
        except FileNotFoundError:
            return  # filled with the fill value; see `check_present`
        decoded = math.prod(self._sides) * self._array.dtype.itemsize
        whole, block, length = struct.unpack("<III", header[4:]) if len(header) == BLOSC_HEADER_BYTES else (0, 0, 0)
        has_size = whole == decoded or bool(self._array.filters)  # which may make it shorter
        if not has_size or not 0 < block <= max(whole, 1) or length != stored:
            raise UnreadableImageError(
                f"'{self._path}': chunk '{self._key(index)}' of level {self._level} is cut off or damaged ({stored} "
                f"bytes; its header says {length}, and {whole} of {decoded} decoded). Copy it again from its source."
            )

    def _indices(self, planes: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, ...]]:
        along = []
        for axis, (length, side) in enumerate(zip(self._array.shape, self._sides, strict=True)):
            chosen = planes.get(axis)
            along.append(range(-(-length // side)) if chosen is None else sorted({one // side for one in chosen}))
        return itertools.product(*along)

    def _key(self, index: tuple[int, ...]) -> str:
        return self._array.metadata.encode_chunk_key(index)
