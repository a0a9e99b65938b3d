"""Codecs and data types of Zarr arrays that are decoded, and checks before an array is read.

Metadata names its codecs. The installed ones include pickle, which runs code of whoever wrote the file, and some whose
results are no pixels. What is not listed here is refused before a chunk is opened.

A chunk states its decoded size, except for gzip; decoders allocate what it says. Blosc trusts its header besides, reads
beyond the end of its input, and returns whatever is there, or crashes. So headers are compared with the array first.
    Blosc 1, README_CHUNK_FORMAT: bytes 4 to 7 are the decoded length, 8 to 11 that of a block, 12 to 15 the stored one.
    Zstandard, RFC 8878, 3.1.1.1: the first byte after the signature says where the decoded length stands.
    LZ4, numcodecs: the first 4 bytes are the decoded length.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import zarr

from wsidata.errors import UnsupportedImageError
from wsidata.formats.limits import check_limit
from wsidata.remote.address import SlidePath

COMPRESSORS = frozenset(("blosc", "zstd", "gzip", "zlib", "lz4"))
CHECKSUMS = frozenset(("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"))
LAYOUTS = frozenset(("bytes", "transpose", "shuffle", "delta"))
SHARDING = "sharding_indexed"
SHARD_INDEX = ("bytes", "crc32c")
PREFIX = "numcodecs."
"""Before the names of codecs that Zarr 3 has taken over from numcodecs."""
KINDS = "iuf"
"""NumPy's letters for integers and floats."""

ZSTD_SIGNATURE = b"\x28\xb5\x2f\xfd"
HEADER_BYTES = 18
"""Enough of a chunk for the size it states, in any codec."""
DEFLATE_RATIO = 1032
"""Most bytes that one byte of gzip or zlib becomes."""


class Storage(NamedTuple):
    """How the chunks of an array are stored.

    Attributes:
        compressor: Name of the codec that compresses a chunk, or None.
        checksum_bytes: Bytes after each compressed chunk.
        is_resized: Whether a filter or checksum may change the size of a chunk before it is compressed.
        index_at_start: Whether the index of a shard stands before its chunks; None if there are no shards.
    """

    compressor: str | None
    checksum_bytes: int
    is_resized: bool
    index_at_start: bool | None


def check_array(array: zarr.Array[Any], path: SlidePath, level: str) -> Storage:
    """Check that an array is one of numbers, in codecs that are decoded here, and of a reasonable number of chunks.

    Args:
        array: The array, whose metadata may come from itself or from consolidated metadata.
        path: The store, for errors.
        level: Name of the level, for errors.

    Raises:
        UnsupportedImageError: naming the data type or the codec.
        LimitExceededError: if a chunk takes too much memory, or there are too many.
    """
    where = f"'{path}': level '{level}'"
    if array.dtype.kind not in KINDS:
        raise UnsupportedImageError(
            f"{where} holds {array.dtype} values, which are no pixels. Write it again with integers or floats."
        )
    codecs, index_at_start = _codecs(array.metadata), None
    if codecs[0][0] == SHARDING:
        settings, *more = codecs[0][1], *codecs[1:]
        index = [name for name, _ in _named(settings["index_codecs"])]
        index_at_start = (
            str(getattr(settings.get("index_location"), "value", settings.get("index_location"))) == "start"
        )
        codecs = _named(settings["codecs"]) if not more and index == list(SHARD_INDEX) else codecs
    names = [name for name, _ in codecs]
    types = [np.dtype(str(one[key])) for _, one in codecs for key in ("dtype", "astype") if one.get(key) is not None]
    unknown = [name for name in names if name not in COMPRESSORS | CHECKSUMS | LAYOUTS]
    if unknown or sum(name in COMPRESSORS for name in names) > 1 or any(one.kind not in KINDS for one in types):
        raise UnsupportedImageError(
            f"{where} is stored in codecs that are not decoded here ({', '.join(unknown or names)}). Those of pixels "
            f"are: one of {', '.join(sorted(COMPRESSORS))}, in shards or not, with checksums. If you trust the file, "
            "write it again with Blosc or ZSTD."
        )
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    check_limit("max_decoded_bytes", chunk_bytes, path, f"chunks of {chunk_bytes / 1e9:,.1f} GB")
    count = math.prod(-(-length // side) for length, side in zip(array.shape, array.chunks, strict=True))
    in_shard = math.prod(array.shards or array.chunks) // math.prod(array.chunks)
    count = max(count, in_shard)  # a shard may be larger than the array, and has an index of all its chunks
    check_limit("max_chunks", count, path, f"{count:,} chunks in level '{level}'")
    place = next((place for place, name in enumerate(names) if name in COMPRESSORS), len(names))
    return Storage(
        names[place] if place < len(names) else None,
        4 * sum(name in CHECKSUMS for name in names[place + 1 :]),
        any(name in CHECKSUMS or name == "delta" for name in names[:place]),
        index_at_start,
    )


def misfit(compressor: str, head: bytes, stored_bytes: int, decoded_bytes: int, *, is_resized: bool) -> str | None:
    """Why a chunk cannot be decoded to its size, by its first `HEADER_BYTES`; None if it may be.

    Args:
        compressor: Name of its codec.
        head: Its first bytes.
        stored_bytes: Its length in the file.
        decoded_bytes: Bytes of its pixels.
        is_resized: Whether a filter may change that size before the chunk is compressed.
    """
    try:
        stated = {"blosc": _blosc_bytes, "zstd": _zstd_bytes, "lz4": _lz4_bytes}.get(compressor, _no_bytes)(head)
        block, length = struct.unpack("<II", head[8:16]) if compressor == "blosc" else (1, stored_bytes)
    except (struct.error, IndexError):
        return "it ends within its header"
    most = decoded_bytes * (8 if is_resized else 1)
    if stated is not None and (stated > most or (stated != decoded_bytes and not is_resized)):
        return f"its header says {stated} of {decoded_bytes} bytes decoded"
    if not 0 < block <= max(stated or 1, 1) or length != stored_bytes:
        return f"its header says {length} bytes"
    return None


def inflates_beyond(data: bytes, decoded_bytes: int) -> bool:
    """Whether bytes of gzip or zlib hold more than a chunk; not tried where they hold little in any case."""
    try:
        check = zlib.decompressobj(wbits=47)  # of either format
        return len(check.decompress(data, decoded_bytes + 1)) > decoded_bytes
    except zlib.error:
        return False  # decoding says what is wrong


def _blosc_bytes(head: bytes) -> int:
    return int(struct.unpack("<I", head[4:8])[0])


def _zstd_bytes(head: bytes) -> int | None:
    """The decoded length; None where it is not stated."""
    if not head.startswith(ZSTD_SIGNATURE):
        return None  # decoding says what is wrong
    descriptor = head[4]
    is_single, dictionary_bytes = bool(descriptor & 0x20), (0, 1, 2, 4)[descriptor & 3]
    size_bytes = (int(is_single), 2, 4, 8)[descriptor >> 6]
    at = 5 + (not is_single) + dictionary_bytes
    if size_bytes == 0:
        return None
    if len(head) < at + size_bytes:
        raise IndexError
    return int.from_bytes(head[at : at + size_bytes], "little") + (256 if size_bytes == 2 else 0)


def _lz4_bytes(head: bytes) -> int:
    return int(struct.unpack("<I", head[:4])[0])


def _no_bytes(head: bytes) -> None:
    """Not stated."""


def _codecs(metadata: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and settings of each codec of an array, outermost."""
    if metadata.zarr_format == 2:
        filters = (*(metadata.filters or ()), metadata.compressor)
        used: list[tuple[str, Mapping[str, Any]]] = [
            (str(one.codec_id), one.get_config()) for one in filters if one is not None
        ]
        return used or [("bytes", {})]
    return _named([codec.to_dict() for codec in metadata.codecs])


def _named(codecs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(str(one["name"]).removeprefix(PREFIX), one.get("configuration", {})) for one in codecs]
