"""TIFF pyramids: Aperio SVS, Philips, OME, Hamamatsu and the plain kind.

tifffile says which directories are the levels (TIFF pages are not levels: page 1 of an SVS is its thumbnail) and what
compression and colour they have. Pixels come from one of two decoders, tile by tile:

1. libjpeg-turbo, on the bytes of each JPEG tile (`jpeg_tiles`), if a tile of the finest and one of the coarsest level
   give tifffile's pixels;
2. tifffile and imagecodecs for everything else: JPEG 2000, deflate, LZW, ZSTD, NDPI, palettes, separate planes.

libvips' own TIFF reader is not used. It shows ZSTD as black and mislabelled JPEG in false colours, and takes no notice
of damaged JPEG and deflate tiles. Pipelines of libvips get their pixels from these decoders (`tile_source`).
"""

from __future__ import annotations

import weakref
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.associated import Loaders, tiff_loaders
from wsidata.formats.jpeg_tiles import JpegTiles, are_faithful
from wsidata.formats.request import RGB_NAMES
from wsidata.formats.sample_colours import RGB, YCBCR
from wsidata.formats.segments import Segments
from wsidata.formats.tiff_checks import picture_pages, shown
from wsidata.formats.tiff_levels import find_layout, opening
from wsidata.formats.tile_source import DECODED_AT_ONCE_BYTES, TileSource, is_cut_up, source_tile
from wsidata.formats.vips import thread_count
from wsidata.regions import ReadRectangle


class TiffPyramid:
    """An open TIFF.

    Args:
        path: The file.

    Raises:
        UnreadableImageError: if it is damaged or cut off.
        UnsupportedImageError: if it is sound but no 8-bit picture of one focal plane.
    """

    channel_names = RGB_NAMES

    def __init__(self, path: Path) -> None:
        self._path = path
        with opening(path) as self._tiff:
            self._open()
        # tifffile's objects refer to each other; the file of a slide that is dropped unclosed would stay open.
        weakref.finalize(self, self._tiff.close)

    def _open(self) -> None:
        layout = find_layout(self._tiff, self._path)
        self.kind, self.levels = layout.kind, layout.levels
        self.facts = layout.facts
        self.associated: Loaders = tiff_loaders(layout.associated, self._path)
        pages = picture_pages(layout, self._path)
        self._segments = [
            Segments(page, self._path, level.width, level.height)
            for page, level in zip(pages, self.levels, strict=True)
        ]
        file_bytes = self._path.stat().st_size
        for segments in self._segments:
            segments.check_extent(file_bytes)

    @cached_property
    def reader(self) -> str:
        """Who decodes: "libjpeg-turbo" if all levels are JPEG and it is right about them, else "tifffile"."""
        if not all(JpegTiles.suits(segments) for segments in self._segments):
            return "tifffile"
        self._jpeg_tiles = [JpegTiles(segments) for segments in self._segments]
        finest_and_coarsest = self._jpeg_tiles[:1] + self._jpeg_tiles[1:][-1:]  # all would double the time of opening
        return "libjpeg-turbo" if are_faithful(finest_and_coarsest) else "tifffile"

    def image(self, level: int) -> pyvips.Image:
        """A whole level as RGB: decoded now, or lazy if it is large."""
        size, segments = self.levels[level], self._segments[level]
        if size.width * size.height * segments.page.samplesperpixel > DECODED_AT_ONCE_BYTES:
            return self.lazy_image(level)
        return shown(segments.page, self._pixels(level, 0, 0, *size.size), self._path.name)

    def lazy_image(self, level: int) -> pyvips.Image:
        """A level whose tiles are decoded when a pipeline asks for them, also after the slide is closed."""
        self._segments[level].check_streams()
        size, grid = self.levels[level].size, self._segments[level].grid
        stored = grid.width_px, grid.height_px
        tile = source_tile(stored, size)
        kept = self._segments[level].kept_between((0, 0)) if is_cut_up(stored, tile) else None
        return TileSource(*size, *tile, self._rectangles(level, kept=kept)).image()

    def lazy_regions(self, level: int, shared_px: tuple[int, int]) -> ReadRectangle:
        """Reads rectangles of a level on as many threads as libvips has; tiles that a rectangle cuts are kept."""
        kept = self._segments[level].kept_between(shared_px)
        return self._rectangles(level, threads=thread_count(), kept=kept)

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """A rectangle inside a level, (height, width, 3). Safe to call from several threads."""
        return self._as_rgb(self._segments[level], self._pixels(level, x_px, y_px, width_px, height_px))

    def close(self) -> None:
        """Close the file. Lazy images handed out before keep a handle of their own until they are dropped."""
        self._tiff.close()

    def _pixels(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """A rectangle as it is stored, by libjpeg-turbo or tifffile; on several threads where there are many tiles."""
        segments = self._segments[level]
        decode = self._jpeg_tiles[level].decode if self.reader == "libjpeg-turbo" else segments.decode
        return segments.read(x_px, y_px, width_px, height_px, decode=decode, threads=thread_count())

    def _rectangles(self, level: int, **how: Any) -> ReadRectangle:
        """Reads rectangles of a level on a file handle of its own; `how` is said to `Segments.read`."""
        segments, as_rgb = self._segments[level].detached(), self._as_rgb
        decode = JpegTiles(segments).decode if self.reader == "libjpeg-turbo" else segments.decode

        def rectangle(x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
            return as_rgb(segments, segments.read(x_px, y_px, width_px, height_px, decode=decode, **how))

        return rectangle

    def _as_rgb(self, segments: Segments, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if segments.page.photometric in (RGB, YCBCR) and pixels.shape[2] == 3:
            return pixels
        return np.asarray(shown(segments.page, pixels, self._path.name).numpy(), dtype=np.uint8)
