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
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import tifffile
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.channels import PLAIN_TYPES, RGB_NAMES, PixelRequest, channel_numbers, vips_samples
from wsidata.formats.codecs.color import channels_image, scaled_to_8bit, to_rgb
from wsidata.formats.metadata import Loaders
from wsidata.formats.tiff.jpeg_tiles import JpegTiles, are_faithful
from wsidata.formats.tiff.layout import TiffLayout
from wsidata.formats.tiff.levels import find_layout, opening
from wsidata.formats.tiff.photometric import MINISWHITE, PALETTE, RGB, SEPARATED, YCBCR
from wsidata.formats.tiff.support import (
    check_codec,
    check_colours,
    check_picture,
    check_upright,
    interpretation_of,
    is_eight_bit,
    picture_pages,
    shown,
)
from wsidata.formats.tiff.tiles import KeptSegments, Segments
from wsidata.formats.vips import DECODED_AT_ONCE_BYTES, TileSource, is_cut_up, source_tile, thread_count
from wsidata.utils.rectangle import ReadRectangle


def tiff_loaders(pages: Mapping[str, tifffile.TiffPage], path: Path) -> Loaders:
    """Loaders for TIFF directories.

    Args:
        pages: Directories by name, of an open file.
        path: The file, for errors.
    """
    return {name: partial(_read_page, page, path) for name, page in pages.items()}


def _read_page(page: tifffile.TiffPage, path: Path) -> pyvips.Image:
    if page.parent.filehandle.closed:
        raise ValueError(f"slide '{path}' is closed. Read its associated images before closing it.")
    check_picture(page, path)
    if page.imagewidth * page.imagelength == 0:
        raise UnsupportedImageError(f"TIFF directory {page.index} of '{path}' is empty.")
    segments = Segments(page, path, page.imagewidth, page.imagelength)
    segments.check_extent(path.stat().st_size)
    pixels = segments.read(0, 0, page.imagewidth, page.imagelength)
    try:
        return shown(page, pixels, path.name).copy_memory()
    except pyvips.Error as error:
        raise UnreadableImageError(f"TIFF directory {page.index} of '{path}' could not be shown: {error}.") from error


class TiffSamples:
    """An open TIFF of which channels are read, or samples scaled.

    Args:
        path: The file.
        request: The channels, and the values that become 0 and 255.

    Raises:
        UnreadableImageError: if it is damaged or cut off.
        UnsupportedImageError: if it has no such channels, or samples that fit no plain type.
    """

    reader = "tifffile"

    def __init__(self, path: Path, request: PixelRequest) -> None:
        self._path, self._request = path, request
        with opening(path) as self._tiff:
            self._open(find_layout(self._tiff, path))
        weakref.finalize(self, self._tiff.close)

    def _open(self, layout: TiffLayout) -> None:
        self.kind, self.levels, self.metadata = layout.kind, layout.levels, layout.metadata
        self.associated: Loaders = tiff_loaders(layout.associated, self._path)
        page = layout.pages[0][0]
        if self._request.channels is None:
            self._chosen: tuple[int, ...] = tuple(range(layout.channel_count))
            self.channel_names: tuple[str, ...] = RGB_NAMES
            self._check_one_picture(layout)
        else:
            names = _names(layout)
            self._chosen = channel_numbers(self._request.channels, names, self._path)
            self.channel_names = tuple(names[number] for number in self._chosen)
            for one in (page for pages in layout.pages for page in pages):
                check_codec(one, self._path)
                check_upright(one, self._path)
                if one.photometric in (MINISWHITE, PALETTE):
                    raise UnsupportedImageError(
                        f"'{self._path}' holds grey or colours of a table, which are no channels."
                    )
        if self._request.scale_to_8bit is None and str(page.dtype) not in PLAIN_TYPES:
            raise UnsupportedImageError(
                f"'{self._path}' holds {page.dtype} samples, which are handed out as 8 bits only. Say which stored "
                "values are black and white: scale_to_8bit=(low, high)."
            )
        self._segments = [
            [Segments(page, self._path, level.width, level.height) for page in pages]
            for pages, level in zip(layout.pages, self.levels, strict=True)
        ]
        file_bytes = self._path.stat().st_size
        for segments in (one for level in self._segments for one in level):
            segments.check_extent(file_bytes)

    def _check_one_picture(self, layout: TiffLayout) -> None:
        if len(layout.pages[0]) != 1:
            picture_pages(layout, self._path)  # refuses, listing the channels
        for (page,) in layout.pages:
            check_colours(page, self._path)

    def image(self, level: int) -> pyvips.Image:
        """A whole level, the channels asked for or RGB: decoded now, or lazy if it is large."""
        size, page = self.levels[level], self._segments[level][0].page
        if size.width * size.height * len(self._chosen) * page.dtype.itemsize > DECODED_AT_ONCE_BYTES:
            return self.lazy_image(level)
        return self._shown(self._segments[level], 0, 0, *size.size)

    def lazy_image(self, level: int) -> pyvips.Image:
        """A level whose tiles are decoded when a pipeline asks for them, also after the slide is closed."""
        for one in self._segments[level]:
            one.check_streams()
        grid, stored = self._segments[level][0].grid, self._segments[level][0].dtype
        in_8_bits = self._request.scale_to_8bit is not None
        size, stored_tile = self.levels[level].size, (grid.width_px, grid.height_px)
        tile = source_tile(stored_tile, size, len(self.channel_names) * stored.itemsize)
        source = TileSource(
            *size,
            *tile,
            self._rectangles(level, (0, 0) if is_cut_up(stored_tile, tile) else None),
            bands=len(self.channel_names),
            dtype=np.uint8 if in_8_bits else stored,
        )
        return source.image() if self._request.channels is None else channels_image(source.image())

    def lazy_regions(self, level: int, shared_px: tuple[int, int]) -> ReadRectangle:
        """Reads rectangles of a level on as many threads as libvips has; tiles that a rectangle cuts are kept."""
        return self._rectangles(level, shared_px)

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.generic]:
        """A rectangle inside a level, (height, width, channels)."""
        image = self._shown(self._segments[level], x_px, y_px, width_px, height_px)
        return np.asarray(image.numpy()).reshape(height_px, width_px, -1)

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()

    def _rectangles(self, level: int, shared_px: tuple[int, int] | None = None) -> ReadRectangle:
        """Reads rectangles of a level on a file handle of its own; for what neighbours share, see `lazy_regions`."""
        segments = [one.detached() for one in self._segments[level]]
        kept = None if shared_px is None else [one.kept_between(shared_px) for one in segments]
        threads = 1 if kept is None else thread_count()

        def rectangle(x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.generic]:
            image = self._shown(segments, x_px, y_px, width_px, height_px, kept, threads)
            return np.asarray(image.numpy()).reshape(height_px, width_px, -1)

        return rectangle

    def _shown(
        self,
        segments: Sequence[Segments],
        x_px: int,
        y_px: int,
        width_px: int,
        height_px: int,
        kept: Sequence[KeptSegments] | None = None,
        threads: int = 1,
    ) -> pyvips.Image:
        per_page = int(segments[0].page.samplesperpixel)
        read: dict[int, NDArray[np.generic]] = {}
        for number in sorted({number // per_page for number in self._chosen}):
            read[number] = segments[number].read(
                x_px,
                y_px,
                width_px,
                height_px,
                threads=threads,
                kept=None if kept is None else kept[number],
                blank=self._blank(segments[number]),
            )
        pixels = np.stack([read[number // per_page][..., number % per_page] for number in self._chosen], axis=-1)
        image = pyvips.Image.new_from_array(np.ascontiguousarray(vips_samples(pixels)))
        is_picture = self._request.channels is None
        meaning = interpretation_of(segments[0].page) if is_picture else "multiband"
        image = image.copy(interpretation=meaning)
        if self._request.scale_to_8bit is not None and pixels.dtype != np.uint8:
            image = scaled_to_8bit(image, self._request.scale_to_8bit).copy(interpretation=meaning)
        return to_rgb(image, self._path.name) if is_picture else channels_image(image)

    def _blank(self, segments: Segments) -> float | None:
        """Value of what was never written: no light in channels, white (no ink) in a picture."""
        if self._request.channels is not None:
            return 0
        if self._request.scale_to_8bit is None or segments.dtype == np.uint8 or segments.page.photometric == SEPARATED:
            return None
        high = self._request.scale_to_8bit[1]
        return min(high, np.iinfo(segments.dtype).max) if segments.dtype.kind in "iu" else high


def is_picture(path: Path) -> bool:
    """Whether a TIFF is one 8-bit picture a level, which needs no scaling."""
    with opening(path) as tiff:
        layout = find_layout(tiff, path)
        tiff.close()
    return len(layout.pages[0]) == 1 and is_eight_bit(layout.pages[0][0])


def _names(layout: TiffLayout) -> tuple[str, ...]:
    """Every channel's name; numbers where the file has none."""
    page: tifffile.TiffPage = layout.pages[0][0]
    if len(layout.pages[0]) == 1 and page.photometric in (RGB, YCBCR) and page.samplesperpixel == 3:
        return RGB_NAMES
    if len(layout.channel_names) == layout.channel_count:
        return layout.channel_names
    return tuple(str(number) for number in range(layout.channel_count))


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
        self.metadata = layout.metadata
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
