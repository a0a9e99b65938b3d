"""TIFF pyramids: Aperio SVS, Philips, OME, Hamamatsu and the plain kind.

tifffile says which directories are the levels (TIFF pages are not levels: page 1 of an SVS is its thumbnail) and what
compression and colour they have. Pixels come from the fastest of three decoders that is right about the file:

1. libjpeg-turbo, on the bytes of each JPEG tile (`jpeg_tiles`);
2. libvips, for tiles and strips without compression or with LZW or deflate;
3. tifffile and imagecodecs, segment by segment, for the rest: JPEG 2000, ZSTD, NDPI, palettes, separate planes.

Which of them is decided once for the whole file, first by rules, then by decoding a few segments with the first or the
second and with the third, and comparing.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.associated import Loaders, tiff_loaders
from wsidata.formats.colour import to_rgb
from wsidata.formats.jpeg_tiles import JpegTiles, are_faithful
from wsidata.formats.request import RGB_NAMES
from wsidata.formats.segments import JPEG_COMPRESSION, MINISBLACK, RGB, YCBCR, Segments
from wsidata.formats.tiff_checks import interpretation_of, picture_pages
from wsidata.formats.tiff_levels import find_layout, opening
from wsidata.formats.tile_source import TileSource
from wsidata.formats.vips import naming_errors, thread_count

VIPS_COMPRESSIONS = (1, 5, JPEG_COMPRESSION, 8, 32946, 32773)
"""None, LZW, JPEG, deflate (twice), PackBits. The libvips wheel has no JPEG 2000 and reads ZSTD as black."""
VIPS_TILE_MULTIPLE = 16

DECODED_AT_ONCE_BYTES = 256 * 1024**2
"""Levels up to this size are decoded whole, which is fastest; of larger ones libvips pipelines ask for single tiles."""
MAX_SOURCE_TILE_PX = 2048


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
        self._images: dict[int, pyvips.Image] = {}

    @cached_property
    def reader(self) -> str:
        """Who decodes: "libjpeg-turbo" or "libvips" if it is right about every level, else "tifffile".

        A level with tiles never written is not decoded by libvips in any case.
        """
        if self._turbo_agrees():
            return "libjpeg-turbo"
        may_vips = self.kind != "ndpi" and all(_vips_can(segments) for segments in self._segments)
        return "libvips" if may_vips and self._vips_agrees() else "tifffile"

    def image(self, level: int) -> pyvips.Image:
        """A whole level as RGB: lazy if it is large or libvips decodes it, else decoded now."""
        size, segments = self.levels[level], self._segments[level]
        if self._is_by_vips(level):
            segments.check_streams()
            return self._vips_level(level)
        if size.width * size.height * segments.page.samplesperpixel <= DECODED_AT_ONCE_BYTES:
            return self._to_rgb(segments, self._pixels(level, 0, 0, *size.size))
        return self.lazy_image(level)

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """A rectangle inside a level, (height, width, 3). Safe to call from several threads."""
        if not self._is_by_vips(level):
            return self._as_rgb(self._segments[level], self._pixels(level, x_px, y_px, width_px, height_px))
        with naming_errors(self._path):
            segments = self._segments[level]
            segments.check_streams(segments.indices_in(x_px, y_px, width_px, height_px))
            if level not in self._images:
                self._images[level] = self._vips_level(level)
            return np.asarray(self._images[level].crop(x_px, y_px, width_px, height_px).numpy(), dtype=np.uint8)

    def close(self) -> None:
        """Close the file. Images handed out before keep libvips' own handle until they are dropped."""
        self._images.clear()
        self._tiff.close()

    def _pixels(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """A rectangle as it is stored, by libjpeg-turbo or tifffile; on several threads where there are many tiles."""
        segments = self._segments[level]
        decode = self._jpeg_tiles[level].decode if self.reader == "libjpeg-turbo" else segments.decode
        return segments.read(x_px, y_px, width_px, height_px, decode=decode, threads=thread_count())

    def _turbo_agrees(self) -> bool:
        """Whether libjpeg-turbo may read every level, and gives tifffile's pixels on a few tiles of each."""
        if not all(JpegTiles.suits(segments) for segments in self._segments):
            return False
        self._jpeg_tiles = [JpegTiles(segments) for segments in self._segments]
        return are_faithful(self._jpeg_tiles)

    def lazy_image(self, level: int) -> pyvips.Image:
        """A level whose tiles are decoded when a pipeline asks for them, also after the slide is closed."""
        self._segments[level].check_streams()
        if self._is_by_vips(level):
            return self._vips_level(level)
        size, segments = self.levels[level].size, self._segments[level].detached()
        decode = JpegTiles(segments).decode if self.reader == "libjpeg-turbo" else segments.decode

        def rectangle(x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
            return self._as_rgb(segments, segments.read(x_px, y_px, width_px, height_px, decode=decode))

        return TileSource(*size, *_source_tile(segments), rectangle).image()

    def _is_by_vips(self, level: int) -> bool:
        """Whether libvips decodes this level: it stops at a JPEG tile never written, and shows any other black."""
        return self.reader == "libvips" and not self._segments[level].is_empty.any()

    def _vips_level(self, level: int) -> pyvips.Image:
        size = self.levels[level]
        image = to_rgb(self._vips_page(self._segments[level]), self._path.name)
        return image if (image.width, image.height) == size.size else image.crop(0, 0, size.width, size.height)

    def _vips_page(self, segments: Segments, access: str = "random") -> pyvips.Image:
        number = segments.page.treeindex[0]
        options = {"page": number, "access": access, "fail_on": "warning"}  # less lets bad deflate tiles pass, as black
        if segments.page.is_subifd:  # counted by place: tifffile numbers them from 0 in some dialects, from 1 in others
            options["subifd"] = list(self._tiff.pages[number].subifds).index(segments.page.offset)
        with naming_errors(self._path):
            return pyvips.Image.tiffload(str(self._path), **options)

    def _vips_finds(self, segments: Segments) -> bool:
        """Whether libvips opens the directory that was meant: padding included, the size is that of the tags."""
        image = self._vips_page(segments)
        tags = segments.page.tags
        return (image.width, image.height) == (tags["ImageWidth"].value, tags["ImageLength"].value)

    def _as_rgb(self, segments: Segments, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if segments.page.photometric in (RGB, YCBCR) and pixels.shape[2] == 3:
            return pixels
        return np.asarray(self._to_rgb(segments, pixels).numpy(), dtype=np.uint8)

    def _to_rgb(self, segments: Segments, pixels: NDArray[np.uint8]) -> pyvips.Image:
        image = pyvips.Image.new_from_array(pixels)
        return to_rgb(image.copy(interpretation=interpretation_of(segments.page)), self._path.name)

    def _vips_agrees(self) -> bool:
        """Decode one segment both ways: the fullest tile of the smallest level, or the first strip."""
        segments = self._segments[-1]
        written = np.flatnonzero(~segments.is_empty)
        if len(written) == 0:
            return False
        is_tiled = segments.page.is_tiled
        index = int(written[np.argmax(segments.byte_counts[written])] if is_tiled else written[0])
        _, left, top = segments.origin(index)
        width = min(segments.grid.width_px, segments.width_px - left)
        height = min(segments.grid.height_px, segments.height_px - top)
        if width <= 0 or height <= 0:  # the fullest tile is Philips padding
            return True
        ours = self._to_rgb(segments, segments.read(left, top, width, height)).numpy()
        try:
            if not all(self._vips_finds(each) for each in self._segments):
                return False
            page = self._vips_page(segments, access="random" if is_tiled else "sequential")
            theirs = to_rgb(page, self._path.name).crop(left, top, width, height).numpy()
        except (pyvips.Error, UnreadableImageError, UnsupportedImageError):
            return False
        return bool(np.array_equal(ours, theirs))


def _source_tile(segments: Segments) -> tuple[int, int]:
    """Width and height in which a pipeline asks for a level: multiples of 16, and of whole segments if possible."""
    grid, multiple = segments.grid, VIPS_TILE_MULTIPLE
    sides = []
    for side in (grid.width_px, grid.height_px):
        whole = math.lcm(side, multiple)
        sides.append(whole if whole <= MAX_SOURCE_TILE_PX else -(-side // multiple) * multiple)
    return sides[0], sides[1]


def _vips_can(segments: Segments) -> bool:
    """Whether libvips is known to decode such a directory rightly."""
    page = segments.page
    tile_fits = not page.is_tiled or (
        page.tilewidth % VIPS_TILE_MULTIPLE == 0 and page.tilelength % VIPS_TILE_MULTIPLE == 0
    )
    return (
        page.compression in VIPS_COMPRESSIONS
        and page.photometric in (RGB, YCBCR, MINISBLACK)
        and page.planarconfig == 1
        and page.bitspersample == 8
        and not segments.is_mislabelled_jpeg
        and tile_fits
    )
