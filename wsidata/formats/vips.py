"""Lazy libvips images of any tile decoder, tile caching, and libvips errors that name the file.

libvips caches its last 100 operations, and a cached "load" keeps its file open after the image is gone: a folder of
slides then ends in "too many open files". The cache is switched off for the process when this module is imported; it
saves nothing here, because no pipeline of this package runs the same operation twice.

Operations that libvips itself calls untrusted (loaders of SVG, CSV, its own format and others, which were not made for
files of strangers) are blocked for the process, too: `pyvips.block_untrusted_set(False)` gives them back.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyvips
from numpy.typing import DTypeLike, NDArray

from wsidata.errors import UnreadableImageError
from wsidata.remote.address import SlidePath
from wsidata.utils.rectangle import ReadRectangle

pyvips.cache_set_max(0)
pyvips.block_untrusted_set(True)

_asked_threads: ContextVar[int | None] = ContextVar("_asked_threads", default=None)

TILE_MULTIPLE_PX = 16
"""Tile sides must be multiples of this (libtiff)."""

MAX_SOURCE_TILE_PX = 2048
MAX_SOURCE_TILE_BYTES = 32 * 1024**2

DECODED_AT_ONCE_BYTES = 256 * 1024**2
"""Levels up to this size are decoded whole, which is fastest; of larger ones libvips pipelines request single tiles."""

TILE_CACHE_BYTES = 64 * 1024**2
"""Size of the tile cache of an image; more if those of `TILE_CACHE_PX` rows (or columns) are more than this."""

TILE_CACHE_PX = 1024
"""Rows that two neighboring blocks of `lazy_image.BLOCK_PX` rows touch together, if they are resampled from a level
up to four times as fine. Tiles that reach into them are cached."""


class TileSource(pyvips.SourceCustom):  # type: ignore[misc]  # pyvips has no types
    """A libvips source that looks like an uncompressed tiled BigTIFF.

    Args:
        size_px: (width, height) of the image.
        tile_px: (width, height) of a tile, multiples of 16.
        decode: Gives the pixels of a rectangle; called from libvips' threads, never by two at a time.
        bands: Samples of a pixel.
        dtype: Type of a sample: uint8, uint16 or float32.
    """

    def __init__(
        self,
        size_px: tuple[int, int],
        tile_px: tuple[int, int],
        decode: ReadRectangle,
        *,
        bands: int = 3,
        dtype: DTypeLike = np.uint8,
    ) -> None:
        super().__init__()
        if any(side % TILE_MULTIPLE_PX for side in tile_px):
            raise ValueError(f"tiles of {tile_px[0]}x{tile_px[1]} px: both sides must be multiples of 16.")
        # Callbacks that held the source itself would form a reference cycle, and its file would stay open until the
        # garbage collector happens to run.
        self._file = _VirtualTiff(size_px, tile_px, decode, bands, np.dtype(dtype))
        self.on_read(self._file.read)
        self.on_seek(self._file.seek)

    @property
    def failure(self) -> Exception | None:
        """The first exception raised by `decode`. libvips itself only reports a read error."""
        return self._file.failure

    def image(self) -> pyvips.Image:
        """The lazy image; three bands of uint8 are sRGB. Tiles are not kept between evaluations: see `cached_tiles`."""
        # libvips takes a failed read for a mere warning, and shows black for it if warnings are to pass.
        return pyvips.Image.new_from_source(self, "", access="random", fail_on="warning")


@dataclass(eq=False)
class _VirtualTiff:
    """The file seen by libvips: a header, and tiles that are decoded when they are read."""

    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    decode: ReadRectangle
    bands: int
    dtype: np.dtype[Any]
    failure: Exception | None = None
    _position: int = 0
    _latest: tuple[int, memoryview] = (-1, memoryview(b""))

    @property
    def _columns(self) -> int:
        return -(-self.size_px[0] // self.tile_px[0])

    @property
    def _tiles(self) -> int:
        return self._columns * -(-self.size_px[1] // self.tile_px[1])

    @property
    def _tile_bytes(self) -> int:
        return math.prod(self.tile_px) * self.bands * self.dtype.itemsize

    @cached_property
    def _header(self) -> bytes:
        """Everything before the first tile: signature, directory, and the tables of tile offsets and lengths."""
        short, long, long8 = 3, 4, 16  # TIFF types
        is_rgb = self.bands == 3 and self.dtype.kind == "u"
        # libtiff wants 258 and 339 for each sample, and takes a single value for all of them.
        tags = [
            (256, long, 1, self.size_px[0]),
            (257, long, 1, self.size_px[1]),
            (258, short, 1, 8 * self.dtype.itemsize),
            (259, short, 1, 1),  # no compression
            (262, short, 1, 2 if is_rgb else 1),  # photometric: RGB, or black is zero
            (277, short, 1, self.bands),
            (284, short, 1, 1),  # samples side by side
            (322, long, 1, self.tile_px[0]),
            (323, long, 1, self.tile_px[1]),
        ]
        extra = self.bands - (3 if is_rgb else 1)  # bands that are not colors
        table = 16 + 8 + 20 * (len(tags) + (4 if extra else 3)) + 8
        first_tile = table + 16 * self._tiles + 2 * extra
        offsets = first_tile + self._tile_bytes * np.arange(self._tiles, dtype="<u8")
        lengths = np.full(self._tiles, self._tile_bytes, dtype="<u8")
        alone = self._tiles == 1  # a single value stands in the tag itself
        tags.append((324, long8, self._tiles, int(offsets[0]) if alone else table))
        tags.append((325, long8, self._tiles, self._tile_bytes if alone else table + 8 * self._tiles))
        if extra:  # of no stated meaning, 0; up to four of them stand in the tag itself
            tags.append((338, short, extra, 0 if extra <= 4 else first_tile - 2 * extra))
        tags.append((339, short, 1, 3 if self.dtype.kind == "f" else 1))  # sample format: float, or unsigned
        directory = struct.pack("<Q", len(tags)) + b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + bytes(8)
        signature = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16)
        return signature + directory + offsets.tobytes() + lengths.tobytes() + bytes(2 * extra)

    def seek(self, offset: int, whence: int) -> int:
        """As `io.BufferedIOBase.seek`."""
        end = len(self._header) + self._tiles * self._tile_bytes
        self._position = {0: 0, 1: self._position, 2: end}[whence] + offset
        return self._position

    def read(self, count: int) -> bytes | memoryview | None:
        """Up to `count` contiguous bytes at the current position; None at the end, or where decoding failed."""
        if self._position < len(self._header):
            data: bytes | memoryview = self._header[self._position : self._position + count]
        else:
            index, start = divmod(self._position - len(self._header), self._tile_bytes)
            if index >= self._tiles:
                return None
            try:
                data = self._tile(index)[start : start + count]
            except Exception as error:  # an exception cannot pass through libvips; `failure_behind` finds it here
                self.failure = self.failure or error
                return None
        self._position += len(data)
        return data

    def _tile(self, index: int) -> memoryview:
        """A tile's bytes, black beyond the right and bottom edges. The latest is kept: it may be read in pieces."""
        if self._latest[0] != index:
            row, column = divmod(index, self._columns)
            (tile_width, tile_height), (image_width, image_height) = self.tile_px, self.size_px
            x, y = column * tile_width, row * tile_height
            width, height = min(tile_width, image_width - x), min(tile_height, image_height - y)
            pixels = self.decode(x, y, width, height)
            expected = height, width, self.bands
            if pixels.shape != expected or pixels.dtype != self.dtype:
                raise ValueError(f"the decoder gave {pixels.dtype} {pixels.shape}, not {self.dtype} {expected}.")
            pad = ((0, tile_height - height), (0, tile_width - width), (0, 0))
            whole = np.ascontiguousarray(np.pad(pixels, pad) if any(map(any, pad)) else pixels)
            self._latest = index, whole.data.cast("B")
        return self._latest[1]


def source_tile(tile_px: tuple[int, int], level_px: tuple[int, int], pixel_bytes: int = 3) -> tuple[int, int]:
    """Tile size for a `TileSource`: multiples of 16, and of whole stored tiles if possible.

    Args:
        tile_px: (width, height) of a stored tile or chunk; the width of a strip is the level's.
        level_px: (width, height) of the level. libvips rejects tiles that are much larger, wider than 8192 pixels, or
            of more than 50 MiB.
        pixel_bytes: Bytes of a pixel.

    Returns:
        (width, height) in pixels.
    """
    sides = []
    for side, length in zip(tile_px, level_px, strict=True):
        whole = math.lcm(side, TILE_MULTIPLE_PX)
        nearest = -(-min(side, length, MAX_SOURCE_TILE_PX) // TILE_MULTIPLE_PX) * TILE_MULTIPLE_PX
        sides.append(whole if whole <= min(MAX_SOURCE_TILE_PX, length) else nearest)
    while sides[0] * sides[1] * pixel_bytes > MAX_SOURCE_TILE_BYTES:
        sides[1] = -(-sides[1] // 2 // TILE_MULTIPLE_PX) * TILE_MULTIPLE_PX
    return sides[0], sides[1]


def is_cut_up(tile_px: tuple[int, int], source_px: tuple[int, int]) -> bool:
    """Whether stored tiles are larger than those of the source, so that each is decoded several times."""
    return tile_px[0] > source_px[0] or tile_px[1] > source_px[1]


def failure_behind(image: pyvips.Image) -> Exception | None:
    """The exception raised by a `TileSource` decoder behind a pipeline, if any: libvips only reports a failed read.

    pyvips keeps the sources an image depends on alive in its `_references`, and passes them to every image derived
    from it. There is no public access to them; without it this finds nothing, and only an error message says less.
    """
    sources = (one for one in getattr(image, "_references", ()) if isinstance(one, TileSource))
    return next((source.failure for source in sources if source.failure is not None), None)


def cached_tiles(image: pyvips.Image) -> pyvips.Image:
    """A level with a cache of decoded tiles: `TILE_CACHE_BYTES`, at least those of `TILE_CACHE_PX` rows or columns.

    A level that is not decoded by tiles is returned as it is: libvips keeps it whole.
    """
    if not image.get_typeof("tile-width") or not image.get_typeof("tile-height"):
        return image
    width, height = image.get("tile-width"), image.get("tile-height")
    of_rows = (math.ceil(TILE_CACHE_PX / height) + 1) * (math.ceil(image.width / width) + 1)
    of_columns = (math.ceil(TILE_CACHE_PX / width) + 1) * (math.ceil(image.height / height) + 1)
    pixel_bytes = image.bands * {"ushort": 2, "float": 4}.get(image.format, 1)
    fitting = TILE_CACHE_BYTES // (width * height * pixel_bytes)
    return image.tilecache(
        tile_width=width, tile_height=height, max_tiles=max(of_rows, of_columns, fitting),
        access="random", threaded=True, persistent=True,
    )  # fmt: skip


@contextmanager
def naming_errors(path: SlidePath | str) -> Iterator[None]:
    """Context manager that turns libvips errors into ones that name the file.

    libvips works when pixels are requested, not when a pipeline is built, and its messages ("premature end") do not
    name the file. Wrap the place where the pixels of one file are fetched.

    Raises:
        UnreadableImageError: in place of `pyvips.Error`.
    """
    try:
        yield
    except pyvips.Error as error:
        detail = " ".join(str(error).split())
        raise UnreadableImageError(
            f"'{path}' could not be decoded: {detail}. Copy it again from its source."
        ) from error


def thread_count() -> int:
    """Threads for work beside libvips: those of `decoding_threads`, of VIPS_CONCURRENCY, or one per processor."""
    return _asked_threads.get() or stated_threads() or os.cpu_count() or 1


def stated_threads() -> int | None:
    """The number in VIPS_CONCURRENCY, which libvips follows, too; None if there is none."""
    stated = os.environ.get("VIPS_CONCURRENCY", "")
    return int(stated) if stated.isdigit() and int(stated) > 0 else None


@contextmanager
def decoding_threads(count: int | None) -> Iterator[None]:
    """Let `thread_count` be this number in the block, for what this thread opens there; None leaves it."""
    token = _asked_threads.set(count or _asked_threads.get())
    try:
        yield
    finally:
        _asked_threads.reset(token)


def pixels_of(image: pyvips.Image) -> NDArray[Any]:
    """The decoded pixels of an image: (height, width, bands)."""
    return np.asarray(image.numpy()).reshape(image.height, image.width, image.bands)
