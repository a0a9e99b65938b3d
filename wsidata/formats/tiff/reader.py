"""Reader of TIFF pyramids from Aperio SVS, Philips, OME, Hamamatsu and generic files.

tifffile says which directories are the levels (TIFF pages are not levels: page 1 of an SVS is its thumbnail) and what
compression and color they have. Pixels come from one of two decoders, tile by tile:

1. libjpeg-turbo, on the bytes of each JPEG tile (`jpeg_tiles`), if a tile of the finest and one of the coarsest level
   give tifffile's pixels;
2. tifffile and imagecodecs for everything else: JPEG 2000, deflate, LZW, ZSTD, NDPI, palettes, planes, channels.

libvips' own TIFF reader is not used. It shows ZSTD as black and mislabeled JPEG in false colors, and ignores damage in
JPEG and deflate tiles. libvips pipelines get their pixels from these decoders (`wsidata.formats.vips.TileSource`).
"""

from __future__ import annotations

import copy
import io
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pyvips
import tifffile
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.channels import RGB_NAMES, ImageChoice, PixelRequest, channel_numbers, check_is_rgb
from wsidata.formats.codecs.color import channels_image, requested_image
from wsidata.formats.codecs.orientation import stored_rectangle, turned_pair, upright_copy, upright_rectangle
from wsidata.formats.levels import Level
from wsidata.formats.metadata import Loaders
from wsidata.formats.tiff.jpeg_tiles import JpegTiles, agree_with_tifffile
from wsidata.formats.tiff.layout import TiffLayout
from wsidata.formats.tiff.levels import find_layout, opening
from wsidata.formats.tiff.photometric import RGB, SEPARATED, YCBCR
from wsidata.formats.tiff.support import (
    check_channels,
    check_eight_bit,
    check_rgb,
    common_orientation,
    has_planes,
    interpretation_of,
    is_eight_bit,
    orientation_of,
    rgb_image,
)
from wsidata.formats.tiff.tile_header import FAX
from wsidata.formats.tiff.tiles import KeptTiles, TiffTiles
from wsidata.formats.vips import DECODED_AT_ONCE_BYTES, TileSource, is_cut_up, source_tile, thread_count
from wsidata.remote.address import SlidePath
from wsidata.remote.source import open_file
from wsidata.utils.rectangle import PartReader, Pixels, Put, Rectangle
from wsidata.utils.same_file import ByteSource, FileWatch, Identity, SameFile

KNOWN_READERS = 65_536
"""Files of which is remembered which decoder is right about them."""

STRUCTURE_BYTES, TILE_BYTES = 128 * 1024, 20
"""Memory of what is known about a closed file: its directories, and the place of a tile."""

_readers: dict[Identity, str] = {}

STRIP_PX = 512
"""Rows of the strips that are converted at a time, where stored samples are not RGB."""


class _Directory(NamedTuple):
    """The tiles of one directory of a level, their JPEG decoder (None: tifffile), and those that are kept."""

    tiles: TiffTiles
    jpeg: JpegTiles | None
    kept: KeptTiles | None = None


class TiffPyramid:
    """An open TIFF, read as 8-bit RGB or as the requested channels. Images of 8 bits are not scaled.

    Args:
        path: The file.
        request: How it is read.
        file: The file, if it is open already; the pyramid takes it, and closes it.

    Raises:
        UnreadableImageError: if it is damaged or cut off.
        UnsupportedImageError: if it is intact, but no image of one focal plane that can be read as requested.
    """

    def __init__(self, path: SlidePath, request: PixelRequest | None = None, file: SameFile | None = None) -> None:
        self._path = path
        self._file = open_file(path) if file is None else file
        try:
            with opening(path, io.BufferedReader(self._file)) as self._tiff:
                request = request or PixelRequest()
                self._open(find_layout(self._tiff, path, request.of), replace(request, of=ImageChoice()))
        except BaseException:
            self._file.close()
            raise
        self.keep: Callable[[TiffPyramid], None] | None = None
        self._own_file()

    def _own_file(self) -> None:
        # tifffile's objects refer to each other; the file of a slide that is dropped unclosed would stay open.
        self._close_file = weakref.finalize(self, _close, self._tiff, self._file)
        is_open = partial(getattr, self._close_file, "alive")
        self.associated: Loaders = {
            name: partial(_read_page, page, self._path, partial(self._source, page), is_open)
            for name, page in self._associated.items()
        }

    def _source(self, page: tifffile.TiffPage) -> ByteSource | None:
        """The bytes that a page lies in; None for those of another file, which tifffile has open."""
        return self._file.source() if page.parent is self._tiff else None

    def _open(self, layout: TiffLayout, request: PixelRequest) -> None:
        self.kind, self._orientation = layout.kind, common_orientation(layout, self._path)
        self.levels = tuple(_turned(level, self._orientation) for level in layout.levels)
        self.metadata = layout.metadata.turned(self._orientation)
        self._associated = layout.associated
        self.channel_names: tuple[str, ...] = RGB_NAMES
        self._channels: tuple[int, ...] = ()
        if request.channels is not None:
            self._channels = channel_numbers(request.channels, layout.all_channel_names, self._path)
            self.channel_names = tuple(layout.all_channel_names[number] for number in self._channels)
            check_channels(layout, self._path, is_scaled=request.scale_to_8bit is not None)
        elif request.is_rgb and has_planes(layout):
            check_is_rgb(layout.all_channel_names, self._path)
            check_channels(layout, self._path, is_scaled=request.scale_to_8bit is not None, as_rgb=True)
            self._channels = (0, 1, 2)
        else:
            is_plain = len(layout.pages[0]) == 1 and is_eight_bit(layout.pages[0][0])
            request = PixelRequest() if is_plain else replace(request, is_rgb=False)
            check_rgb(layout, self._path, is_scaled=request.scale_to_8bit is not None)
        self._request = request
        self._tiles = [
            [TiffTiles(page, self._path, level.width, level.height, self._source(page)) for page in pages]
            for pages, level in zip(layout.pages, layout.levels, strict=True)
        ]
        if self._channels:
            for one in (one for level in self._tiles for one in level):
                one.looks_up = False
        for tiles in (one for level in self._tiles for one in level):
            tiles.check_extent(self._file.identity.size)

    @cached_property
    def reader(self) -> str:
        """Decoder of the pixels: "libjpeg-turbo" if all levels are JPEG and it is right about them, else "tifffile"."""
        if self._request != PixelRequest() or not all(JpegTiles.suits(tiles) for (tiles,) in self._tiles):
            return "tifffile"
        known = _readers.get(self._file.identity)
        if known is not None:
            return known
        finest_and_coarsest = self._tiles[:1] + self._tiles[1:][-1:]  # all would double the time of opening
        is_right = agree_with_tifffile([JpegTiles(tiles) for (tiles,) in finest_and_coarsest])
        found = "libjpeg-turbo" if is_right else "tifffile"
        if self._file.identity.is_at_rest():
            if len(_readers) >= KNOWN_READERS:
                _readers.clear()
            _readers[self._file.identity] = found
        return found

    def image(self, level: int) -> pyvips.Image:
        """A whole level as RGB or the requested channels: decoded now, or lazy if it is large."""
        size, page = self.levels[level], self._tiles[level][0].page
        bands = len(self._channels) or page.samplesperpixel
        if size.width * size.height * bands * page.dtype.itemsize > DECODED_AT_ONCE_BYTES:
            return self.lazy_image(level)
        return self._shown(page, self._stored(self._directories[level], (0, 0, *size.size), thread_count()))

    def lazy_image(self, level: int) -> pyvips.Image:
        """A level whose tiles are decoded when a pipeline asks for them, also after the slide is closed."""
        for one in self._tiles[level]:
            one.check_streams()
        tiles, size, bands = self._tiles[level][0], self.levels[level].size, len(self.channel_names)
        stored_tile = turned_pair((tiles.grid.width_px, tiles.grid.height_px), self._orientation)
        tile = source_tile(stored_tile, size, bands * tiles.dtype.itemsize)
        shared_px = (0, 0) if is_cut_up(stored_tile, tile) else None
        directories = self._detached(level, shared_px)

        def read(x_px: int, y_px: int, width_px: int, height_px: int) -> Pixels:
            return self._region(directories, (x_px, y_px, width_px, height_px), 1)

        image = TileSource(size, tile, read, bands=bands, dtype=self._dtype(level)).image()
        return image if self._request.channels is None else channels_image(image)

    def lazy_regions(self, level: int, shared_px: tuple[int, int]) -> PartReader:
        """Reads rectangles of a level on as many threads as libvips has; tiles that a rectangle cuts are kept."""
        directories = self._detached(level, turned_pair(shared_px, self._orientation))
        read = partial(self._put_parts, directories, thread_count())
        return PartReader(read, len(self.channel_names), self._dtype(level))

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[Any]:
        """A rectangle inside a level, (height, width, bands). Safe to call from several threads."""
        return self._region(self._directories[level], (x_px, y_px, width_px, height_px), thread_count())

    def close(self) -> None:
        """Close the file. Lazy images returned before keep a handle of their own until they are dropped."""
        if self._close_file.alive:
            self._close_file()
            self.__dict__.pop("_directories", None)  # decoders know up to a thousand headers of tiles
            if self.keep is not None and self._can_reopen:
                self.keep(self)

    def reopened(self) -> TiffPyramid | None:
        """This pyramid, which was closed, with its file open again; None if that is another file by now."""
        if not self._file.resume():
            return None
        twin = copy.copy(self)
        twin._own_file()
        return twin

    def watch(self) -> FileWatch | None:
        """Tells whether the open file is still the same; None if some tiles lie in another one."""
        is_one = all(one.page.parent is self._tiff for level in self._tiles for one in level)
        return self._file.watch() if is_one else None

    @property
    def nbytes(self) -> int:
        """Memory that it takes while it is closed, approximately."""
        return STRUCTURE_BYTES + TILE_BYTES * sum(len(one.offsets) for level in self._tiles for one in level)

    @property
    def _can_reopen(self) -> bool:
        """Whether all it holds is small, of one file, and holds as long as that is the same."""
        is_fax = any(one.page.compression in FAX for level in self._tiles for one in level)
        is_one = all(page.parent is self._tiff for page in self._associated.values())
        return is_one and not is_fax and self._file.identity.is_at_rest()

    @cached_property
    def _directories(self) -> list[list[_Directory]]:
        """Those of each level, read from the open file."""
        return [[self._directory(tiles) for tiles in level] for level in self._tiles]

    def _directory(self, tiles: TiffTiles, shared_px: tuple[int, int] | None = None) -> _Directory:
        jpeg = JpegTiles(tiles) if self.reader == "libjpeg-turbo" else None
        return _Directory(tiles, jpeg, None if shared_px is None else tiles.kept_between(shared_px))

    def _detached(self, level: int, shared_px: tuple[int, int] | None) -> list[_Directory]:
        """The directories of a level on file handles of their own; they keep tiles for neighbors that share so much."""
        return [self._directory(tiles.detached(), shared_px) for tiles in self._tiles[level]]

    def _dtype(self, level: int) -> np.dtype[Any]:
        """Type of a sample of the pixels that are returned."""
        return self._tiles[level][0].dtype if self._request.scale_to_8bit is None else np.dtype(np.uint8)

    def _put_parts(self, directories: Sequence[_Directory], threads: int, region: Rectangle, put: Put) -> None:
        """Pass on a rectangle: tile by tile where they are shown as they are stored, else strip by strip."""
        tiles, jpeg, kept = directories[0]
        if not self._is_plain(tiles):
            for strip in region.strips(STRIP_PX):
                rectangle = (strip.x, strip.y, strip.width, strip.height)
                put(strip, self._region(directories, rectangle, threads))
            return
        stored_px = tiles.width_px, tiles.height_px
        place = stored_rectangle((region.x, region.y, region.width, region.height), stored_px, self._orientation)

        def put_upright(_: int, part: Rectangle, pixels: Pixels) -> None:
            stored = part.x, part.y, part.width, part.height
            upright = upright_rectangle(stored, stored_px, self._orientation)
            put(Rectangle(*upright), upright_copy(pixels, self._orientation))

        decode = None if jpeg is None else jpeg.decode
        tiles.read_parts(
            Rectangle(*place), put_upright, decode=decode, threads=threads, kept=kept, blank=self._blank(tiles)
        )

    def _is_plain(self, tiles: TiffTiles) -> bool:
        """Whether stored samples are RGB of 8 bits."""
        is_rgb = tiles.page.photometric in (RGB, YCBCR) and tiles.bands == 3
        return self._request == PixelRequest() and not self._channels and is_rgb and tiles.grid.planes == 1

    def _region(
        self, directories: Sequence[_Directory], rectangle: tuple[int, int, int, int], threads: int
    ) -> NDArray[Any]:
        page, pixels = directories[0].tiles.page, self._stored(directories, rectangle, threads)
        if self._request == PixelRequest() and page.photometric in (RGB, YCBCR) and pixels.shape[2] == 3:
            return pixels
        return np.asarray(self._shown(page, pixels).numpy()).reshape(*pixels.shape[:2], -1)

    def _stored(
        self, directories: Sequence[_Directory], rectangle: tuple[int, int, int, int], threads: int
    ) -> NDArray[Any]:
        """Stored samples of a rectangle, upright: all of an image, or the requested channels."""
        first = directories[0].tiles
        place = stored_rectangle(rectangle, (first.width_px, first.height_px), self._orientation)

        def read(tiles: TiffTiles, jpeg: JpegTiles | None, kept: KeptTiles | None) -> NDArray[Any]:
            decode = None if jpeg is None else jpeg.decode
            pixels = tiles.read(*place, decode=decode, threads=threads, kept=kept, blank=self._blank(tiles))
            return upright_copy(pixels, self._orientation)

        if not self._channels:
            return read(*directories[0])
        places = [divmod(number, directories[0].tiles.page.samplesperpixel) for number in self._channels]
        stored = {directory: read(*directories[directory]) for directory in sorted({place[0] for place in places})}
        return np.stack([stored[directory][..., sample] for directory, sample in places], axis=-1)

    def _shown(self, page: tifffile.TiffPage, pixels: NDArray[Any]) -> pyvips.Image:
        """Stored samples as RGB or as the requested channels, scaled if requested."""
        if self._request.channels is None and (self._request.scale_to_8bit is None or pixels.dtype == np.uint8):
            return rgb_image(page, pixels, self._path.name)
        meaning = "srgb" if self._request.is_rgb else interpretation_of(page)
        return requested_image(pixels, meaning, self._request, self._path.name)

    def _blank(self, tiles: TiffTiles) -> float | None:
        """Value of tiles never written: no light in channels, white (no ink) in an image."""
        if self._request.channels is not None:
            return 0
        if self._request.scale_to_8bit is None or tiles.dtype == np.uint8 or tiles.page.photometric == SEPARATED:
            return None
        high = self._request.scale_to_8bit[1]
        return min(high, np.iinfo(tiles.dtype).max) if tiles.dtype.kind in "iu" else high


def _turned(level: Level, orientation: int) -> Level:
    """A level as it is upright."""
    width, height = turned_pair(level.size, orientation)
    return Level(level.index, width, height, *turned_pair((level.downsample_x, level.downsample_y), orientation))


def _close(tiff: tifffile.TiffFile, file: SameFile) -> None:
    tiff.close()  # files that it opened beside
    file.pause()


def _read_page(
    page: tifffile.TiffPage, path: SlidePath, source: Callable[[], ByteSource | None], is_open: Callable[[], bool]
) -> pyvips.Image:
    """An associated image, from its directory in an open file."""
    if not is_open():
        raise ValueError(f"slide '{path}' is closed. Read its associated images before closing it.")
    check_eight_bit(page, path)
    if page.imagewidth * page.imagelength == 0:
        raise UnsupportedImageError(f"TIFF directory {page.index} of '{path}' is empty.")
    tiles = TiffTiles(page, path, page.imagewidth, page.imagelength, source())
    tiles.check_extent(page.parent.filehandle.size)
    stored = tiles.read(0, 0, page.imagewidth, page.imagelength)
    pixels = upright_copy(stored, orientation_of(page, path))
    try:
        return rgb_image(page, pixels, path.name).copy_memory()
    except pyvips.Error as error:
        raise UnreadableImageError(f"TIFF directory {page.index} of '{path}' could not be shown: {error}.") from error
