"""What is added up of one image, whatever it is given as: a slide, a photo, a picture in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.cropping import TissueCrop
from wsidata.lazy import LazyPicture
from wsidata.pixel_counts import (
    MAX_ARRAY_BANDS,
    Mask,
    PixelCountError,
    PixelSums,
    count_array,
    count_pixels,
    suits_count_array,
)
from wsidata.regions import Window
from wsidata.slide import Slide
from wsidata.slide_options import SlideOptions
from wsidata.slide_pipeline import lazy_picture
from wsidata.tissue import tissue_mask

STRIP_BYTES = 64 * 1024**2
"""Pixels that are in memory at a time, of slides that are counted strip by strip."""

Source: TypeAlias = str | Path | Slide | pyvips.Image | NDArray[Any]
Reader: TypeAlias = Callable[[str | Path], NDArray[Any]]
"""From a path to (height, width, bands) uint8 or uint16, such as `wsidata.photos.decoding.read_photo`."""


@dataclass(frozen=True)
class StatsJob:
    """Sums of one image; sent to the workers.

    Attributes:
        tissue_only: Count only tissue.
        mask: Count only the pixels of this mask.
        crop: What of a slide is read.
        resolution: At which resolution slides are read.
        options: How slides are opened.
        read: How paths are read that are no slides; None if they are.
    """

    tissue_only: bool
    mask: Mask | None
    crop: TissueCrop | None
    resolution: dict[str, Any]
    options: SlideOptions
    read: Reader | None = None

    def __call__(self, source: Source) -> PixelSums:
        """Add up the pixels of one image.

        Raises:
            PixelCountError: if they cannot be added up exactly, or the image cannot be read as asked.
            SlideError: if it cannot be read.
        """
        if self.read is not None and isinstance(source, str | Path):
            return self._count(self.read(source))
        if isinstance(source, np.ndarray | pyvips.Image):
            if self.resolution or self.crop:
                wish = f"read at {self.resolution}" if self.resolution else "cropped to tissue"
                raise PixelCountError(f"a picture in memory cannot be {wish}. Pass its path.")
            return self._count(source)
        # A Slide is opened anew (a copy is not open yet), because one Slide is not for several threads at a time.
        with copy.copy(source) if isinstance(source, Slide) else self.options.open(source) as slide:
            return self._count_slide(slide)

    def _count_slide(self, slide: Slide) -> PixelSums:
        if self.crop is not None:  # only the tiles of the tissue are decoded
            packing = self.crop.plan(slide, self.resolution)
            return self._count_picture(lazy_picture(slide, self.resolution, packing))
        if self.tissue_only:
            tissue = slide.tissue_mask()
            down_x, down_y = slide.downsample_at(**self.resolution)
            scale = down_x / tissue.downsample_x, down_y / tissue.downsample_y
            return count_pixels(slide.image(**self.resolution), tissue.pixels, scale)
        if self.mask is not None:
            return self._count(slide.image(**self.resolution))
        is_small_level = set(self.resolution) <= {"level"} and slide.is_decoded_ahead(**self.resolution)
        if is_small_level and slide.windows(**self.resolution) is None:
            return self._count(slide.numpy(**self.resolution))  # a photo: nothing between decoder and sums
        return self._count_picture(lazy_picture(slide, self.resolution))

    def _count_picture(self, picture: LazyPicture) -> PixelSums:
        """Strip by strip, straight from the decoder, where that can be."""
        image, read = picture.image, picture.read
        if read is None or self.mask is not None or image.format != "uchar" or image.bands > MAX_ARRAY_BANDS:
            return self._count(image)
        rows = max(1, STRIP_BYTES // (image.width * image.bands))
        strips = (Window(0, top, image.width, min(rows, image.height - top)) for top in range(0, image.height, rows))
        return reduce(add, (count_array(read(strip)) for strip in strips))

    def _count(self, picture: pyvips.Image | NDArray[Any]) -> PixelSums:
        mask = tissue_mask if self.tissue_only else self.mask
        if mask is None and isinstance(picture, np.ndarray) and suits_count_array(picture):
            return count_array(picture)
        image = pyvips.Image.new_from_array(picture) if isinstance(picture, np.ndarray) else picture
        return count_pixels(image, None if mask is None else np.asarray(mask(image)))
