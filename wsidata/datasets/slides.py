"""Datasets of whole-slide images, one sample per slide.

A sample is a pure function of slide, transform, seed, epoch and row (see `epochs.py`), so the number of workers cannot
change a run. Slides are opened in the worker, and closed after each sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyvips
from torch import Tensor

from wsidata.datasets.buffers import is_bytes, new_pixels, placed
from wsidata.datasets.epochs import SampleError as SampleError
from wsidata.datasets.epochs import TableDataset, persistent
from wsidata.formats.resolution import Resolution
from wsidata.slides.lazy_image import LazyImage
from wsidata.slides.lazy_mask import LazyMask, lazy_mask
from wsidata.slides.masks import IGNORE, MaskClasses, mask_tensor, read_mask
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.pipeline import outside_of, slide_lazy, slide_sample
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.crop import CropKind, TissueCrop, as_crop
from wsidata.slides.tissue.packing import Packing
from wsidata.transforms.base import Sample
from wsidata.transforms.to_tensor import DType, to_tensor

if TYPE_CHECKING:
    from wsidata.staging.stage import Stage


class SlideDataset(TableDataset):
    """Dataset of the slides of a table, one sample each.

    Args:
        table: Rows with the columns `image_id`, `path`, `label`, and perhaps `target` or `mask` (see `tables.COLUMNS`).
        resolution: The resolution slides are read at, such as `{"level": 5}` or `{"mpp": 2.0}`.
        transform: One of `wsidata.transforms`, an albumentationsxl Compose, or a callable on a pyvips image.
        dtype: "uint8" or "float"; see `wsidata.transforms.to_tensor`.
        with_labels: False returns images alone, for prediction.
        options: How slides are opened.
        fresh_epochs: True redraws random transforms in every epoch (training). False makes the same sample every time.
        lazy: Images are `LazyImage`s and masks `LazyMask`s, whose rows are decoded when the model requests them.
        crop: "tissue", "pack" or a `TissueCrop`. None reads whole slides.
        packings: Crops that were planned before, by `image_id`; others are planned on first use.
        mask_classes: Class number of each pixel value of the masks, and of each class of outlines; see
            `masks.mask_classes`, `masks.outlined_classes`.
        stage: Local folder that slides are copied to, and read from. None: they are read where they are.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        resolution: Mapping[str, Any],
        transform: Any,
        *,
        dtype: DType = "uint8",
        with_labels: bool = True,
        options: SlideOptions = AS_STORED,
        fresh_epochs: bool = False,
        lazy: bool = False,
        crop: CropKind | TissueCrop | None = None,
        packings: Mapping[str, Packing] | None = None,
        mask_classes: MaskClasses | None = None,
        stage: Stage | None = None,
    ) -> None:
        super().__init__(table, transform, dtype=dtype, with_labels=with_labels, fresh_epochs=fresh_epochs, stage=stage)
        self.labels = [int(label) for label in table["label"]]
        self.masks = [str(path) for path in table["mask"]] if "mask" in table.columns else None
        if self.masks is not None and mask_classes is None:
            raise ValueError("masks need mask_classes=, the class number of each of their pixel values.")
        self.mask_classes = dict(mask_classes or {})
        self.resolution = Resolution.of(resolution)
        self.options = options
        self.lazy = lazy
        self.crop = as_crop(crop)
        options.check_crop(self.crop)
        planned = {} if self.crop is None or packings is None else packings
        self._packings = {row: planned[one] for row, one in enumerate(table["image_id"]) if one in planned}

    def __getitem__(self, index: int) -> Any:
        """`(image, target)`, or the image alone.

        The image is that of `image`; the target a class number, (K,) float32 for several labels or numbers, or the
        mask as (H, W) int64 on the image's grid, a `LazyMask` of that shape if `lazy`.
        """
        if not self.with_labels:
            return self.image(index)
        if self.masks is not None:
            return self._read(index, with_mask=True)
        return self.image(index), self.targets[index % len(self)]

    def image(self, index: int) -> Tensor | LazyImage:
        """Read, transform and convert one slide, or prepare to if `lazy`.

        Returns:
            (C, H, W), uint8 or float32, a view of (H, W, C) memory; or a `LazyImage` of that shape.

        Raises:
            SampleError: naming the slide.
        """
        return self._read(index, with_mask=False)[0]

    def untransformed(self, row: int) -> Sample:
        """The image of a row before any transform, and its mask if there are masks; nothing is decoded yet.

        Raises:
            SampleError: naming the slide.
        """
        with self.naming(row), self.open_slide(row) as slide:
            packing = self.packing(row, slide)
            masks = () if self.masks is None else (self._mask(row, slide, packing),)
            return self._sample(slide, self._image(slide, packing), masks)

    @persistent
    def _read(self, index: int, *, with_mask: bool) -> tuple[Tensor | LazyImage, Tensor | LazyMask | None]:
        """The image, and its mask if requested."""
        row = index % len(self)
        with self.naming(row), self.open_slide(row) as slide:
            packing, generator = self.packing(row, slide), self.generator(index)
            if self.lazy:
                lazy = slide_lazy(
                    slide, self.resolution, None, self.transform, generator,
                    packing=packing, dtype=self.dtype, threads=self.decode_threads,
                )  # fmt: skip
                if not with_mask or self.masks is None:
                    return lazy, None
                return lazy, lazy_mask(self.masks[row], lazy, self.mask_classes)
            masks = (self._mask(row, slide, packing),) if with_mask else ()
            sample = slide_sample(
                slide, self.resolution, packing, self.transform, generator, masks=masks, mask_fill=IGNORE,
                new_pixels=new_pixels if self.dtype == "uint8" else np.empty,
            )  # fmt: skip
            in_place = self.dtype == "float" and is_bytes(sample.image)
            image = placed(sample.image, "float") if in_place else to_tensor(sample.image, self.dtype)
            return image, self._mask_tensor(row, sample, image) if with_mask else None

    @staticmethod
    def _sample(slide: Slide, image: pyvips.Image, masks: tuple[Any, ...]) -> Sample:
        """Input of the transforms, which fill with no light around channels, and no class around masks."""
        return Sample(image, masks=masks, fill=outside_of(slide), mask_fill=IGNORE)

    def _image(self, slide: Slide, packing: Packing | None) -> pyvips.Image:
        """The slide, or its crop; of a crop, and if lazy, only the tiles that are needed."""
        image = slide.image(**self.resolution, keep_tiles=self.lazy or packing is not None)
        return image if packing is None else packing.apply(image, slide.background)

    def _mask(self, row: int, slide: Slide, packing: Packing | None) -> Any:
        """The mask as an image on the slide's grid, cropped or packed like it."""
        assert self.masks is not None
        mask = read_mask(self.masks[row], slide, self.resolution, self.mask_classes)
        return mask if packing is None else packing.apply(mask, fill=IGNORE)

    def _mask_tensor(self, row: int, sample: Sample, image: Tensor) -> Tensor:
        """The transformed mask, checked to have the image's size."""
        assert self.masks is not None
        mask = mask_tensor(sample.masks[0], self.masks[row], self.mask_classes)
        if mask.shape != image.shape[-2:]:
            raise ValueError(
                f"the transform gave an image of {tuple(image.shape[-2:])} and a mask of {tuple(mask.shape)}."
            )
        return mask

    def describe(self) -> str:
        """The resolution, and the channels if some were chosen."""
        channels = "" if self.options.channels is None else f", channels={self.options.channels}"
        return f"{self.resolution}{channels}"

    def packing(self, row: int, slide: Slide | None = None) -> Packing | None:
        """The crop of a slide, which also maps points; None for whole slides. Computed once per slide.

        Args:
            row: The slide's row.
            slide: The slide, if it is open already.

        Raises:
            NoTissueError: if there is no tissue, and such slides are not read whole.
        """
        if self.crop is None:
            return None
        if row not in self._packings:
            with nullcontext(slide) if slide is not None else self.open_slide(row) as opened:
                self._packings[row] = self.crop.plan(opened, self.resolution)
        return self._packings[row]

    def open_slide(self, row: int) -> Slide:
        """Open the slide of a row as `options` say."""
        return Slide.from_options(self.paths[row], self.options, self.stage)
