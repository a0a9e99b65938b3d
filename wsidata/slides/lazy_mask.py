"""Masks larger than memory, whose rows are decoded on request like those of their slide's lazy image.

A mask goes through the pipeline of its image, with the same crop, packing and drawn transforms, and is read through
libvips by the same blocks of rows. Its pixels become class numbers row by row, so that values that are no class raise
an error where they are read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyvips
import torch
from torch import Tensor

from wsidata.formats.vips import decoding_threads
from wsidata.slides.lazy_image import LazyImage
from wsidata.slides.masks import IGNORE, MaskClasses, MaskError, class_numbers, read_mask
from wsidata.slides.pipeline import SlidePipeline, outside_of
from wsidata.transforms.base import Sample

if TYPE_CHECKING:
    from wsidata.slides.slide import Slide


class LazyMask:
    """A mask whose rows are decoded on request, as class numbers; may be pickled, and read by several threads.

    Args:
        source: Builds the mask, of one band: class numbers, and 255 for no class. Picklable, if the mask is to be.
        name: Name in error messages.
        classes: Class number of each pixel value; see `masks.mask_classes`.

    Raises:
        MaskError: if the mask has several bands.
    """

    dtype = torch.int64

    def __init__(self, source: Callable[[], pyvips.Image], *, name: str, classes: MaskClasses) -> None:
        self._pixels = LazyImage(source, name=name)
        self._classes = dict(classes)
        if self._pixels.shape[0] != 1:
            raise MaskError(f"mask '{name}' has {self._pixels.shape[0]} bands after the transforms. Leave it one.")

    @property
    def name(self) -> str:
        """Name in error messages."""
        return self._pixels.name

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W), those of the image."""
        _, height, width = self._pixels.shape
        return height, width

    def rows(self, start: int, stop: int) -> Tensor:
        """Decode rows `start` to `stop - 1`.

        Returns:
            (stop - start, W) int64 class numbers, -100 for no class.

        Raises:
            IndexError: if the mask has no such rows.
            MaskError: if a pixel has a value that is no class.
            UnreadableImageError: naming the mask, if they cannot be decoded. A second call tries again.
        """
        return class_numbers(self._pixels.rows(start, stop)[0], self.name, self._classes)

    def columns(self, start: int, stop: int) -> Tensor:
        """Decode columns `start` to `stop - 1`: (H, stop - start); otherwise as `rows`."""
        return class_numbers(self._pixels.columns(start, stop)[0], self.name, self._classes)

    def thumbnail(self, max_side_px: int = 512) -> Tensor:
        """Every k-th pixel of every k-th row, the longer side `max_side_px` or less. Decodes all of it, in parts."""
        step = -(-max(self.shape) // max_side_px)
        return torch.cat([self.rows(row, row + 1)[:, ::step] for row in range(0, self.shape[0], step)])

    def close(self) -> None:
        """Drop all pixels and close the file; the next request opens it again."""
        self._pixels.close()

    def __repr__(self) -> str:
        return f"LazyMask('{self.name}', shape={self.shape})"


def lazy_mask(path: str | Path, image: LazyImage, classes: MaskClasses) -> LazyMask:
    """The mask of a slide, on the pixel grid of a lazy image of it.

        image = Slide("tumor_001.tif").lazy(mpp=0.5, crop="pack", transform=RandomD4(), seed=1)
        mask = lazy_mask("tumor_001_mask.tif", image, mask_classes(2, [0, 255]))

    Args:
        path: The mask; see `masks.read_mask`.
        image: Made by `Slide.lazy` or a data module.
        classes: Class number of each pixel value; see `masks.mask_classes`.

    Raises:
        MaskError: if the mask does not fit the slide, or the transform made images of different sizes.
        TypeError: if the lazy image is not of a slide.
        TransformError: if the transform moves pixels of the image in a way that masks cannot follow, or rows cannot be
            read from its result.
    """
    pipeline = image.source
    if not isinstance(pipeline, SlidePipeline):
        raise TypeError(f"{image!r} does not say which slide it is of. Make it with Slide.lazy(...).")
    mask = LazyMask(MaskPipeline(str(path), pipeline, dict(classes)), name=str(path), classes=classes)
    if mask.shape != image.shape[1:]:
        raise MaskError(
            f"the transform gave an image of {image.shape[1:]} and a mask of {mask.shape}: correct it, or leave it out."
        )
    return mask


@dataclass(frozen=True)
class MaskPipeline:
    """Builds the pipeline of a `LazyMask` from that of its image, again in every process."""

    path: str
    image: SlidePipeline
    classes: dict[Any, int]

    def __call__(self) -> pyvips.Image:
        """Open slide and mask, and apply everything to both, so that the same is drawn. Nothing is decoded."""
        how = self.image
        slide: Slide = copy.copy(how.slide)  # type: ignore[assignment]  # pipelines know no more of it than they need
        with decoding_threads(how.threads), slide:
            image = slide.image(**how.resolution, keep_tiles=True)
            mask = read_mask(self.path, slide, how.resolution, self.classes, keep_tiles=True)
            if how.packing is not None:
                image, mask = how.packing.apply(image, slide.background), how.packing.apply(mask, fill=IGNORE)
            sample = Sample(image, masks=(mask,), fill=outside_of(slide), mask_fill=IGNORE)
            if how.transform is not None:
                sample = how.transform.run(sample, copy.deepcopy(how.generator))
        found = sample.masks[0]
        return found.cast("uchar") if isinstance(found, pyvips.Image) else found

    def without_stage(self) -> MaskPipeline | None:
        """The same with the slide's own file; None if that is read."""
        image = self.image.without_stage()
        return None if image is None else replace(self, image=image)
