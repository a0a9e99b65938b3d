"""Checks for missing, truncated and oversized chunks of a Zarr array.

A missing chunk means "filled with the fill value", which writers use to save space. A copy that lost its chunks looks
the same, as zeros, without an error: a level without any chunk raises, one with some missing warns. Of those that are
there, the length and the size they state are compared with the array before they are decoded: see `codecs.zarr`.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsidata.errors import MissingChunksWarning, UnreadableImageError
from wsidata.formats.codecs.zarr import DEFLATE_RATIO, HEADER_BYTES, Storage, inflates_beyond, misfit
from wsidata.formats.limits import check_limit, limits
from wsidata.formats.stores.files import StoreFiles
from wsidata.remote.address import SlidePath

ABSENT = 2**64 - 1
"""Offset and length, in the index of a shard, of a chunk that was never written."""
MAX_KNOWN_INDICES = 1024
PROBES = 16
"""Chunks that a server is asked for before a level counts as one without any."""


class StoredChunks:
    """The chunks of one level, in files or shards of their own: its array, its files and number, and the slide."""

    def __init__(
        self, array: zarr.Array[Any], storage: Storage, files: StoreFiles, level: int, path: SlidePath
    ) -> None:
        self._array, self._storage, self._files, self._level, self._path = array, storage, files, level, path
        self._folder = array.path
        self._sides = array.shards or array.chunks
        self._per_shard = tuple(side // inner for side, inner in zip(self._sides, array.chunks, strict=True))
        self._decoded_bytes = math.prod(array.chunks) * array.dtype.itemsize
        self._intact: set[tuple[int, ...]] = set()
        self._has_some = False
        self._indices: dict[tuple[int, ...], NDArray[np.uint64]] = {}

    def check_present(self, planes: Mapping[int, Sequence[int]]) -> None:
        """Check that the chunks of some planes exist.

        Args:
            planes: Indices along some of the axes, by the number of the axis; all along the others.

        Raises:
            UnreadableImageError: if none exists.

        Warns:
            MissingChunksWarning: if some are missing.
        """
        if not self._files.can_list:
            return  # found out chunk by chunk
        along: list[Collection[int]] = []
        for axis, (length, side) in enumerate(zip(self._array.shape, self._sides, strict=True)):
            chosen = planes.get(axis)
            along.append(range(-(-length // side)) if chosen is None else {one // side for one in chosen})
        needed = math.prod(map(len, along))
        lost = needed - sum(self._is_among(key, along) for key in self._names())
        if lost == needed:
            raise UnreadableImageError(
                f"'{self._path}': level {self._level} has metadata but not one of its {lost} chunks. Copy it again, "
                "whole."
            )
        if lost:
            warnings.warn(
                f"'{self._path}': {lost} of {needed} chunks of level {self._level} are not there, and are shown "
                f"as the fill value {self._array.fill_value}. If they were lost in copying, copy the slide again.",
                MissingChunksWarning,
                stacklevel=3,
            )

    def check_intact(self, place: Sequence[int | slice]) -> None:
        """Compare the chunks in a part of the array with their size, by their headers, once for each.

        Args:
            place: A number, or a slice with a start and a stop, for each axis.

        Raises:
            UnreadableImageError: naming the first truncated or oversized chunk.
        """
        if self._storage.compressor is None and self._files.can_list:
            return
        spans = [range(one.start, one.stop) if isinstance(one, slice) else range(one, one + 1) for one in place]
        touched = [
            range(span.start // side, (span.stop - 1) // side + 1)
            for span, side in zip(spans, self._array.chunks, strict=True)
        ]
        indices = [index for index in itertools.product(*touched) if index not in self._intact]
        self._files.prefetch([self._file(self._shard(index)) for index in indices])
        for index in indices:
            self._check_chunk(index)
            self._intact.add(index)
        if indices and not (self._files.can_list or self._has_some):
            self._check_some(itertools.chain(indices, self._spread()))

    def _check_some(self, indices: Iterable[tuple[int, ...]]) -> None:
        """Check that one of some chunks exists, where a server does not list them.

        Raises:
            UnreadableImageError: if none does.
        """
        self._has_some = any(self._files.size(self._file(self._shard(index))) is not None for index in indices)
        if not self._has_some:
            raise UnreadableImageError(
                f"'{self._path}': level {self._level} has metadata, but its server has none of the chunks that were "
                "asked for. Copy it there again, whole."
            )

    def _spread(self) -> Iterator[tuple[int, ...]]:
        """Some chunks, spread over the level."""
        counts = [-(-length // side) for length, side in zip(self._array.shape, self._array.chunks, strict=True)]
        for place in np.linspace(0, math.prod(counts) - 1, PROBES).astype(int).tolist():
            yield tuple(int(number) for number in np.unravel_index(place, counts))

    def _check_chunk(self, index: tuple[int, ...]) -> None:
        shard = self._shard(index)
        file = self._file(shard)
        file_bytes = self._files.size(file)
        if file_bytes is None:  # filled with the fill value; see `check_present`
            if not self._files.can_list:
                warnings.warn(
                    f"'{self._path}': its server has no chunk '{self._key(shard)}' of level {self._level}, which is "
                    f"shown as the fill value {self._array.fill_value}. If it was lost, copy the slide there again.",
                    MissingChunksWarning,
                    stacklevel=4,
                )
            return
        if self._storage.compressor is None:
            return
        start, length = 0, file_bytes
        if self._storage.index_at_start is not None:
            inside = tuple(number % count for number, count in zip(index, self._per_shard, strict=True))
            start, length = map(int, self._shard_index(shard, file, file_bytes)[inside])
            if start == length == ABSENT:
                return
            if start + length > file_bytes:
                raise UnreadableImageError(
                    f"'{self._path}': chunk '{self._key(index)}' of level {self._level} ends beyond its shard of "
                    f"{file_bytes} bytes. Copy it again from its source."
                )
        length -= self._storage.checksum_bytes
        head = self._files.read(file, start, min(HEADER_BYTES, max(length, 0)))
        name, resized = str(self._storage.compressor), self._storage.is_resized
        why = misfit(name, head, length, self._decoded_bytes, is_resized=resized)
        if why is None and name in ("gzip", "zlib") and length * DEFLATE_RATIO > limits().max_decoded_bytes:
            is_larger = inflates_beyond(self._files.read(file, start, length), self._decoded_bytes)
            why = f"it holds more than {self._decoded_bytes} bytes" if is_larger and not resized else None
        if why is not None:
            raise UnreadableImageError(
                f"'{self._path}': chunk '{self._key(index)}' of level {self._level} is cut off or damaged ({length} "
                f"bytes; {why}). Copy it again from its source."
            )

    def _shard(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """The shard that a chunk lies in; the chunk itself if there are no shards."""
        return tuple(number // count for number, count in zip(index, self._per_shard, strict=True))

    def _file(self, shard: tuple[int, ...]) -> str:
        return f"{self._folder}/{self._key(shard)}".lstrip("/")

    def _shard_index(self, shard: tuple[int, ...], file: str, file_bytes: int) -> NDArray[np.uint64]:
        """Offset and length of each chunk of a shard; zarr compares its checksum when it reads it."""
        if shard not in self._indices:
            size = 16 * math.prod(self._per_shard)
            start = 0 if self._storage.index_at_start else max(0, file_bytes - size - 4)
            data = self._files.read(file, start, min(size, file_bytes))
            if len(data) < size:
                raise UnreadableImageError(
                    f"'{self._path}': shard '{self._key(shard)}' of level {self._level} is cut off. Copy it again."
                )
            if len(self._indices) >= MAX_KNOWN_INDICES:
                self._indices.clear()
            self._indices[shard] = np.frombuffer(data, "<u8").reshape(*self._per_shard, 2)
        return self._indices[shard]

    def _is_among(self, key: str, along: Sequence[Collection[int]]) -> bool:
        """Whether a file is one of some chunks. Files are looked at, as there may be far fewer of them than chunks."""
        index = tuple(int(number) for number in re.split("[./]", key) if number.isdecimal())
        is_inside = len(index) == len(along) and all(one in there for one, there in zip(index, along, strict=True))
        return is_inside and key == self._key(index)

    def _names(self) -> Iterator[str]:
        """Names of the files of the level, relative to its folder.

        Raises:
            UnreadableImageError: for a pipe or device, which would be waited for.
            LimitExceededError: if there are more than chunks may be.
        """
        for count, name in enumerate(self._files.keys(self._folder), start=1):
            yield name
            check_limit("max_chunks", count, self._path, f"{count:,} files in level {self._level}")

    def _key(self, index: tuple[int, ...]) -> str:
        return self._array.metadata.encode_chunk_key(index)
