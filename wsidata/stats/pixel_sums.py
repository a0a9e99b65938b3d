"""Exact sums and sums of squares of the pixels of an image, as integers.

The values of an 8- or 16-bit image are counted in a histogram, in one streaming pass of libvips; the sums follow in
integers, without rounding, whatever the size. Pixels already in memory are summed by OpenCV, in pieces small enough for
its floats to hold every integer: twice as fast.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.resolution import Resolution
from wsidata.slides.lazy_image import ReadableImage
from wsidata.slides.options import SlideOptions
from wsidata.slides.pipeline import readable_image
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.mask import tissue_mask
from wsidata.utils.rectangle import Rectangle

MAX_VALUES = {"uchar": 255, "ushort": 65535}
"""Largest value of each number format that can be counted."""

FLOAT_TERMS = 2**24 // 255**2
"""Squares of bytes that float32 adds up without rounding: it holds integers up to 2^24."""

_PIECE_BYTES = 2**16

MAX_ARRAY_BANDS = 4
"""Bands that OpenCV sums at a time."""

STRIP_BYTES = 64 * 1024**2
"""Pixels in memory at a time, of slides that are counted strip by strip."""

Mask = Callable[[pyvips.Image], NDArray[np.bool_]]
"""Selects the pixels that count: from the image (lazy) to (rows, columns) booleans that span the same area, usually far
fewer than the image has pixels."""

Source: TypeAlias = str | Path | Slide | pyvips.Image | NDArray[Any]

Reader: TypeAlias = Callable[[str | Path], NDArray[Any]]
"""From a path to (height, width, bands) uint8 or uint16, such as `wsidata.photos.read.read_photo`."""


class PixelCountError(ValueError):
    """The pixels of an image cannot be counted exactly, or its mask does not fit."""


@dataclass(frozen=True)
class PixelSums:
    """Sums that the mean and standard deviation of an image follow from.

    Attributes:
        count_px: Pixels counted.
        sums: Sum of the values, per channel.
        squares: Sum of the squared values, per channel.
        max_value: Largest value of the number format: 255 or 65535.
    """

    count_px: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]
    max_value: int

    def __add__(self, other: PixelSums) -> PixelSums:
        """Sums over both images, which have the same number of channels and number format."""
        return PixelSums(
            self.count_px + other.count_px,
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
            self.max_value,
        )


def count_pixels(
    image: pyvips.Image, mask: NDArray[np.bool_] | None = None, scale: tuple[float, float] | None = None
) -> PixelSums:
    """Exact sums of the values and squared values of an image's pixels.

    Args:
        image: Any number of bands, uchar or ushort. Read once, from top to bottom, in bounded memory.
        mask: (rows, columns) booleans that span the image; a pixel counts if the mask's cell under its center is true.
            None: every pixel counts.
        scale: Cells of the mask per pixel, (x, y), if it does not span the image exactly. None: it does.

    Raises:
        PixelCountError: for another number format, or an invalid mask.
        pyvips.Error: if the pixels cannot be decoded.
    """
    if image.format not in MAX_VALUES:
        raise PixelCountError(
            f"the image's pixels are '{image.format}', and only 8- and 16-bit pixels (uchar, ushort) add up exactly. "
            "Take the statistics before steps that make floats."
        )
    total_px = image.width * image.height
    if mask is None:
        histograms = _histograms(image)
        counted_px = total_px
    else:
        inside = stretch_mask(mask, image.width, image.height, scale)
        # Pixels outside are counted as zeros, and these subtracted again. The mask is counted in the same pass, as one
        # more band.
        blanked = inside.ifthenelse(image, 0).cast(image.format)
        *histograms, ones = _histograms(blanked.bandjoin((inside / 255).cast(image.format)))
        counted_px = int(ones[1])
        for histogram in histograms:
            histogram[0] -= total_px - counted_px
    for histogram in histograms:
        if sum(histogram) != counted_px:  # a 32-bit histogram that overflowed, in some libvips
            raise PixelCountError(
                f"libvips {'.'.join(str(pyvips.version(i)) for i in range(3))} counted {sum(histogram)} of "
                f"{counted_px} pixels. Install a newer pyvips-binary."
            )
    return PixelSums(
        count_px=counted_px,
        sums=tuple(sum(value * count for value, count in enumerate(histogram)) for histogram in histograms),
        squares=tuple(sum(value * value * count for value, count in enumerate(histogram)) for histogram in histograms),
        max_value=MAX_VALUES[image.format],
    )


def suits_count_array(pixels: NDArray[Any]) -> bool:
    """Whether `count_array` takes an array: (height, width, bands) uint8, not empty, at most `MAX_ARRAY_BANDS`."""
    return pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.size > 0 and pixels.shape[2] <= MAX_ARRAY_BANDS


def count_array(pixels: NDArray[np.uint8]) -> PixelSums:
    """Exact sums of an array in memory that `suits_count_array`; as `count_pixels`."""
    pixels = np.ascontiguousarray(pixels)
    height, width, bands = pixels.shape
    rows = min(height, max(1, _PIECE_BYTES // (width * bands)))
    whole = height // rows * rows
    squares = np.zeros(bands)
    # Row i of each piece is added to row i of one sum, until it could overflow.
    for top in range(0, whole, rows * FLOAT_TERMS):
        total = np.zeros((rows, width, bands), np.float32)
        for piece in range(top, min(whole, top + rows * FLOAT_TERMS), rows):
            cv2.accumulateSquare(pixels[piece : piece + rows], total)
        squares += cv2.sumElems(total)[:bands]
    if whole < height:
        squares += cv2.sumElems(np.square(pixels[whole:], dtype=np.uint16))[:bands]
    return PixelSums(
        count_px=height * width,
        sums=tuple(int(one) for one in cv2.sumElems(pixels)[:bands]),
        squares=tuple(int(one) for one in squares),
        max_value=255,
    )


def stretch_mask(
    mask: NDArray[np.bool_], width_px: int, height_px: int, scale: tuple[float, float] | None = None
) -> pyvips.Image:
    """A mask of any size as a lazy one-band image, 0 or 255, of the size of the image it spans.

    Pixel (x, y) takes the cell (floor((x + 0.5) * scale_x), floor((y + 0.5) * scale_y)), or the last one if that lies
    beyond. The default scale is columns / width and rows / height.
    """
    cells = np.asarray(mask)
    if cells.ndim != 2 or cells.dtype != np.bool_ or not cells.size:
        raise PixelCountError(
            f"the mask is an array of shape {cells.shape} and type {cells.dtype}; it must be (rows, columns) of bool "
            "that span the image."
        )
    image = pyvips.Image.new_from_array(cells.astype(np.uint8) * 255)
    rows, columns = cells.shape
    if scale is None and (columns, rows) == (width_px, height_px):
        return image
    steps = list(scale or (columns / width_px, rows / height_px))
    places = pyvips.Image.xyz(width_px, height_px).cast("double").linear(steps, [one / 2 for one in steps])
    # libvips' "nearest" takes the whole part of a coordinate, which is the cell that contains it.
    return image.mapim(places, interpolate=pyvips.Interpolate.new("nearest"), extend="copy")


def _histograms(image: pyvips.Image) -> list[list[int]]:
    """Number of occurrences of each value, band by band."""
    counts: NDArray[Any] = image.hist_find().numpy()
    counts = counts.reshape(-1, image.bands)
    return [[int(count) for count in counts[:, band]] for band in range(image.bands)]


@dataclass(frozen=True)
class StatsJob:
    """Sums the pixels of one image; sent to the workers. For the attributes see `channel_stats`."""

    tissue_only: bool
    mask: Mask | None
    crop: TissueCrop | None
    resolution: Resolution
    options: SlideOptions
    read: Reader | None = None

    @property
    def further(self) -> dict[str, Any]:
        """What else the sums follow from, as plain values."""
        return {}

    def __call__(self, source: Source) -> PixelSums:
        """Sum the pixels of one image.

        Raises:
            PixelCountError: if they cannot be summed exactly, or the image cannot be read as requested.
            SlideError: if it cannot be read.
        """
        if self.read is not None and isinstance(source, str | Path):
            return self._count(self.read(source))
        if isinstance(source, np.ndarray | pyvips.Image):
            if self.resolution or self.crop:
                request = f"read at {dict(self.resolution)}" if self.resolution else "cropped to tissue"
                raise PixelCountError(f"an image in memory cannot be {request}. Pass its path.")
            return self._count(source)
        # A Slide is opened again (a copy is not open yet), because one Slide is not for several threads at a time.
        with copy.copy(source) if isinstance(source, Slide) else Slide.from_options(source, self.options) as slide:
            return self._count_slide(slide)

    def _count_slide(self, slide: Slide) -> PixelSums:
        if self.crop is not None:  # only the tiles of the tissue are decoded
            packing = self.crop.plan(slide, self.resolution)
            return self._count_strips(readable_image(slide, self.resolution, packing))
        if self.tissue_only:
            tissue = slide.tissue_mask()
            down_x, down_y = slide.downsample_at(**self.resolution)
            scale = down_x / tissue.downsample_x, down_y / tissue.downsample_y
            return count_pixels(slide.image(**self.resolution), tissue.pixels, scale)
        if self.mask is not None:
            return self._count(slide.image(**self.resolution))
        is_small_level = self.resolution.is_level and slide.is_decoded_ahead(**self.resolution)
        if is_small_level and slide.regions(**self.resolution) is None:
            return self._count(slide.numpy(**self.resolution))  # a photo: nothing between decoder and sums
        return self._count_strips(readable_image(slide, self.resolution))

    def _count_strips(self, readable: ReadableImage) -> PixelSums:
        """Strip by strip, straight from the decoder, where possible."""
        image, read = readable.image, readable.read
        if read is None or self.mask is not None or image.format != "uchar" or image.bands > MAX_ARRAY_BANDS:
            return self._count(image)
        rows = max(1, STRIP_BYTES // (image.width * image.bands))
        tops = range(0, image.height, rows)
        strips = (Rectangle(0, top, image.width, min(rows, image.height - top)) for top in tops)
        return reduce(add, (count_array(read(strip)) for strip in strips))

    def _count(self, pixels: pyvips.Image | NDArray[Any]) -> PixelSums:
        mask = tissue_mask if self.tissue_only else self.mask
        if mask is None and isinstance(pixels, np.ndarray) and suits_count_array(pixels):
            return count_array(pixels)
        image = pyvips.Image.new_from_array(pixels) if isinstance(pixels, np.ndarray) else pixels
        return count_pixels(image, None if mask is None else np.asarray(mask(image)))
