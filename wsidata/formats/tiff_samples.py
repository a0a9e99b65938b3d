"""TIFF slides that are no 8-bit RGB picture: many channels, or more than 8 bits a sample.

Nothing is guessed here: which channels are wanted, and which stored values are black and white, is said by the caller
(`PixelRequest`). Channels may be directories of their own, planes within one, or samples side by side.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyvips
import tifffile
from numpy.typing import NDArray

from wsidata.errors import UnsupportedImageError
from wsidata.formats.associated import Loaders, tiff_loaders
from wsidata.formats.colour import channels_image, scaled_to_8bit, to_rgb
from wsidata.formats.layout import TiffLayout
from wsidata.formats.request import PLAIN_TYPES, RGB_NAMES, PixelRequest, channel_numbers, vips_samples
from wsidata.formats.sample_colours import MINISWHITE, PALETTE, RGB, SEPARATED, YCBCR
from wsidata.formats.segments import KeptSegments, Segments
from wsidata.formats.tiff_checks import (
    check_codec,
    check_colours,
    check_upright,
    interpretation_of,
    is_eight_bit,
    picture_pages,
)
from wsidata.formats.tiff_levels import find_layout, opening
from wsidata.formats.tile_source import DECODED_AT_ONCE_BYTES, TileSource, is_cut_up, source_tile
from wsidata.formats.vips import thread_count
from wsidata.regions import ReadRectangle


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
        self.kind, self.levels, self.facts = layout.kind, layout.levels, layout.facts
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
