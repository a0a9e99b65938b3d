"""Pixels of rectangles, decoded from the tiles or strips of one TIFF directory.

Each tile of a rectangle is decoded once, on several threads if requested. Positions of tiles, and checks that they are
complete, are in `tile_index`. "Tile" stands for strips, too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.codecs.jpeg import JPEG_END, JPEG_START, check_scans
from wsidata.formats.limits import check_limit
from wsidata.formats.tiff.photometric import FEW_BITS, PALETTE, SEPARATED, apply_photometric
from wsidata.formats.tiff.tile_header import FAX, TileHeaderError, stated_size
from wsidata.formats.tiff.tile_index import TileIndex
from wsidata.formats.vips import naming_errors
from wsidata.remote.address import Address, needs_file
from wsidata.utils.cache import BlockCache
from wsidata.utils.rectangle import Pixels, Rectangle

MIN_TILES_FOR_THREADS = 32
MAX_COLORS = 4
"""Samples of a pixel that any tile may state: those of ink, or of RGB and alpha."""

KEPT_TILE_BYTES = 64 * 1024**2
"""Decoded tiles that are kept at least, where they are kept at all."""


REQUESTED_BYTES = 16 * 1024**2
"""Stored bytes of tiles that are requested from a server together."""


@dataclass(frozen=True)
class KeptTiles:
    """Cache of decoded tiles that neighboring rectangles share.

    Attributes:
        shared_px: Columns that rectangles side by side share, and rows that one below the other do.
        cache: The tiles by index.
    """

    shared_px: tuple[int, int]
    cache: BlockCache


class TiffTiles(TileIndex):
    """Tiles of one TIFF directory, and their pixels; arguments as for `TileIndex`.

    Attributes:
        looks_up: Whether samples of a palette are looked up in it; else they are as stored, as of a channel.
    """

    looks_up = True

    def detached(self) -> TiffTiles:
        """The same tiles on a file handle of their own: it outlives the slide, and is closed with its last user."""
        # Read from the file on first use:
        _ = self.page.jpegheader, self.is_mislabeled_jpeg, self.page.is_jfif
        if self.page.compression in FAX:
            _ = self._fax
        twin = copy.copy(self)
        twin._source = self._source.detached()
        return twin

    def kept_between(self, shared_px: tuple[int, int]) -> KeptTiles:
        """A cache for the tiles that neighboring rectangles, of full width or of full height, both need."""
        # A rectangle cuts tiles at both of its ends; the next one may lie on either side, and decode its far end first.
        beside = (math.ceil(shared_px[0] / self.grid.width_px) + 3) * self.grid.rows
        below = (math.ceil(shared_px[1] / self.grid.height_px) + 3) * self.grid.columns
        return KeptTiles(shared_px, BlockCache(KEPT_TILE_BYTES, max(beside, below) * self.grid.planes))

    def sample_indices(self) -> list[int]:
        """Indices of a few tiles to try a decoder on: the one of most bytes, then three spread over the level."""
        written = np.flatnonzero(~self.is_empty)
        if len(written) == 0:
            return []
        spread = written[np.linspace(0, len(written) - 1, 3).astype(int)]
        return list(dict.fromkeys([int(written[np.argmax(self.byte_counts[written])]), *spread.tolist()]))

    def indices_in(self, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.int64]:
        """Indices of the tiles a rectangle touches, all planes, in file order."""
        grid = self.grid
        columns = np.arange(x_px // grid.width_px, -(-(x_px + width_px) // grid.width_px))
        rows = np.arange(y_px // grid.height_px, -(-(y_px + height_px) // grid.height_px))
        planes = np.arange(grid.planes)
        index = (planes[:, None, None] * grid.rows + rows[:, None]) * grid.columns + columns
        return index.ravel().astype(np.int64)

    def read(
        self,
        x_px: int,
        y_px: int,
        width_px: int,
        height_px: int,
        *,
        decode: Callable[[int], NDArray[Any]] | None = None,
        threads: int = 1,
        kept: KeptTiles | None = None,
        blank: float | None = None,
    ) -> NDArray[Any]:
        """Pixels of a rectangle, each tile decoded once. Safe to call from several threads.

        Args:
            x_px: First column. The rectangle must lie inside the level.
            y_px: First row.
            width_px: Columns.
            height_px: Rows.
            decode: From the index of a tile to its pixels; None for `TiffTiles.decode`, by tifffile.
            threads: Tiles that are decoded at a time, where there are at least `MIN_TILES_FOR_THREADS`.
            kept: Cache of tiles that the rectangle beside this one needs, too. None keeps none.
            blank: Value of tiles never written. None: white paper, or no ink.

        Returns:
            (height, width, samples) in the file's own type; gray has 0 as black, palettes are looked up, CMYK stays
            CMYK.

        Raises:
            UnreadableImageError: if a tile cannot be decoded.
        """
        region = Rectangle(x_px, y_px, width_px, height_px)
        out = np.empty((height_px, width_px, self.bands), dtype=self.dtype)
        one_plane = self.grid.planes == 1

        def put(plane: int, part: Rectangle, pixels: Pixels) -> None:
            place = out[part.within(region)]
            (place if one_plane else place[..., plane : plane + 1])[...] = pixels

        self.read_parts(region, put, decode=decode, threads=threads, kept=kept, blank=blank)
        return out

    def read_parts(
        self,
        region: Rectangle,
        put: Callable[[int, Rectangle, Pixels], None],
        *,
        decode: Callable[[int], NDArray[Any]] | None = None,
        threads: int = 1,
        kept: KeptTiles | None = None,
        blank: float | None = None,
    ) -> None:
        """Decode a rectangle tile by tile; otherwise as `read`.

        Args:
            region: The rectangle. It must lie inside the level.
            put: Takes a plane (0 where there is one only), the part of the rectangle that lies on a tile, and its
                pixels; called by `threads` at a time.
            decode: As for `read`, like the others.
            threads: Tiles that are decoded at a time.
            kept: Cache of tiles.
            blank: Value of tiles never written.
        """
        decoded = self.decode if decode is None else decode
        empty = self.is_empty
        if region == Rectangle(0, 0, self.width_px, self.height_px):  # which has no neighbors
            kept = None

        def place(index: int) -> None:
            plane, left, top = self.origin(index)
            tile = Rectangle(left, top, self.grid.width_px, self.grid.height_px)
            part = tile.intersection(region)
            assert part is not None
            if empty[index]:
                bands = self.bands if self.grid.planes == 1 else 1
                value = self.blank if blank is None else blank
                pixels = np.empty((part.height, part.width, bands), dtype=self.dtype)
                pixels[...] = value
                put(plane, part, pixels)
                return
            if kept is not None and self._is_shared(tile, region, kept.shared_px):
                pixels = kept.cache.get(index, partial(decoded, index))
            else:
                pixels = decoded(index)
            put(plane, part, pixels[part.within(tile)])

        for indices in self._at_hand(self.indices_in(region.x, region.y, region.width, region.height)):
            if threads > 1 and len(indices) >= MIN_TILES_FOR_THREADS:
                with ThreadPoolExecutor(threads) as pool:
                    for _ in pool.map(place, indices):
                        pass
            else:
                for index in indices:
                    place(index)

    def _at_hand(self, indices: NDArray[np.int64]) -> Iterator[list[int]]:
        """The tiles, as many at a time as a server is asked for together; on a disk all."""
        if not self._source.is_remote:
            yield indices.tolist()
            return
        stored = np.where(self.is_empty[indices], 0, self.byte_counts[indices])
        cuts = np.flatnonzero(np.diff(np.cumsum(stored) // REQUESTED_BYTES)) + 1
        for part in np.split(indices, cuts):
            written = part[~self.is_empty[part]]
            places = zip(self.offsets[written].tolist(), self.byte_counts[written].tolist(), strict=True)
            self._source.prefetch(list(places))
            yield part.tolist()

    def decode(self, index: int) -> NDArray[Any]:
        """Pixels of one tile that was written, decoded by tifffile and imagecodecs.

        Returns:
            (height, width, samples), padding included.

        Raises:
            UnreadableImageError: if it cannot be decoded, or is not of the size of a tile.
        """
        if self.page.compression in FAX:
            _, left, top = self.origin(index)
            return self._fax[top : top + self.grid.height_px, left : left + self.grid.width_px]
        _ = self.is_mislabeled_jpeg  # sets it in tifffile, if so
        data = self.data(index)
        self._check_header(index, data)
        try:
            decoded, _, _ = self.page.decode(
                data, index, jpegtables=self.page.jpegtables, jpegheader=self.page.jpegheader
            )
            pixels = apply_photometric(self.page, data, decoded[0], looks_up=self.looks_up)
        except Exception as error:  # codecs raise exceptions of their own, without a common base
            raise self.undecodable(index, error) from error
        self.check_size(index, (pixels.shape[0], pixels.shape[1]))
        return pixels

    def _check_header(self, index: int, data: bytes) -> None:
        """Compare the size a tile states with its place, before it is decoded.

        Raises:
            UnreadableImageError: if it does not fit.
            LimitExceededError: if it is a JPEG of too many scans.
        """
        tables = (self.page.jpegtables or b"")[len(JPEG_START) :]
        try:
            stated = stated_size(int(self.page.compression), data, tables[: tables.rfind(JPEG_END)] if tables else b"")
        except TileHeaderError as error:
            raise self.undecodable(index, error) from error
        if stated is None:
            return
        self.check_size(index, stated[:2])
        if stated[2] > max(MAX_COLORS, self.page.samplesperpixel):
            raise self.undecodable(index, f"{stated[2]} samples where {self.page.samplesperpixel} belong")
        if data.startswith(JPEG_START):
            check_scans(self.path, data)

    @cached_property
    def _fax(self) -> NDArray[np.uint8]:
        """The whole directory, decoded by libvips (libtiff): imagecodecs' fax decoders give up without an error."""
        need_bytes = self.page.imagewidth * self.page.imagelength
        check_limit("max_decoded_bytes", need_bytes, self.path, f"{need_bytes:,} pixels of fax, decoded at once")
        if isinstance(self.path, Address):
            raise needs_file(self.path, f"'{self.path}' is in fax compression, which libvips decodes")
        with naming_errors(self.path):
            image = pyvips.Image.tiffload(str(self.path), page=self.page.index, fail_on="warning")
            pixels = np.asarray(image.numpy(), dtype=np.uint8).reshape(image.height, image.width, image.bands)
        return pixels[..., :1]

    def _is_shared(self, tile: Rectangle, region: Rectangle, shared_px: tuple[int, int]) -> bool:
        """Whether a tile reaches so close to an edge of the rectangle that the rectangle beyond it needs it, too."""
        seen_px, place_px = self.seen_size(tile.x, tile.y), (tile.x, tile.y)
        ends = zip(place_px, seen_px, (region.x, region.y), (region.width, region.height), strict=True)
        return any(
            (start > 0 and place < start + shared) or (start + count < side and place + seen > start + count - shared)
            for (place, seen, start, count), shared, side in zip(
                ends, shared_px, (self.width_px, self.height_px), strict=True
            )
        )

    @property
    def bands(self) -> int:
        """Samples of a pixel, of all planes."""
        return 3 if self._is_palette else int(self.page.samplesperpixel)

    @property
    def _is_palette(self) -> bool:
        return self.looks_up and self.page.photometric == PALETTE

    @property
    def blank(self) -> int:
        """Value of pixels of an image that were never written: white paper, or no ink."""
        if self.page.photometric == SEPARATED:
            return 0
        return int(np.iinfo(self.dtype).max) if self.dtype.kind in "iu" else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels: the file's own; uint8 for fewer bits and for palettes."""
        is_bytes = self.page.bitspersample in FEW_BITS or self._is_palette
        return np.dtype(np.uint8 if is_bytes else self.page.dtype)
