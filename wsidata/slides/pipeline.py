"""The pipeline from a slide to a lazy image.

It reads a level, resamples, crops or packs, and transforms it. It can be pickled, and is read as rows (`LazyImage`), or
all at once where less than a whole level is needed. Regions of its output are also read without it, from the parts of
the slide they are made of, as long as every operation says what it needs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.resolution import Resolution
from wsidata.formats.vips import decoding_threads, naming_errors
from wsidata.slides.lazy_image import LazyImage, ReadableImage
from wsidata.slides.protocol import SlideLike
from wsidata.slides.resample import ReadRegion, pixels_of
from wsidata.slides.slide_file import SlideFile
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.packing import WHITE, Packing
from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.base import Operation, Sample, Transform
from wsidata.transforms.to_tensor import DType
from wsidata.utils.rectangle import Rectangle

RIM_PX = 64
"""Rim around a region that operations may need, for which decoded tiles are kept: blurs reach 48 pixels."""


def slide_lazy(
    slide: SlideLike,
    resolution: Resolution,
    crop: TissueCrop | None = None,
    transform: Any = None,
    generator: np.random.Generator | None = None,
    *,
    packing: Packing | None = None,
    dtype: DType = "uint8",
    threads: int | None = None,
) -> LazyImage:
    """A slide as a `LazyImage`; see `Slide.lazy`. A `crop` is planned now, a `packing` was planned before."""
    if packing is None and crop is not None:
        packing = crop.plan(slide, resolution)
    chosen = None if transform is None else as_transform(transform)
    pipeline = SlidePipeline(copy.copy(slide), resolution, packing, chosen, generator, threads)
    built = readable_image(slide, resolution, packing, chosen, copy.deepcopy(generator))
    return LazyImage(pipeline, name=slide.path.name, dtype=dtype, built=built)


@dataclass(frozen=True)
class SlidePipeline:
    """Builds the pipeline of a slide's `LazyImage`, again in every process; its `generator` is never advanced.

    It decodes on so many `threads`; None: as many as `vips.thread_count` says where it is built.
    """

    slide: SlideLike
    resolution: Resolution
    packing: Packing | None = None
    transform: Transform | None = None
    generator: np.random.Generator | None = None
    threads: int | None = None

    def __call__(self) -> ReadableImage:
        """Open the slide and build the pipeline. Nothing is decoded."""
        with decoding_threads(self.threads), copy.copy(self.slide) as slide:
            generator = copy.deepcopy(self.generator)
            return readable_image(slide, self.resolution, self.packing, self.transform, generator)

    def without_stage(self) -> SlidePipeline | None:
        """The same, reading the slide's own file; None if this does."""
        slide = self.slide.without_stage() if isinstance(self.slide, SlideFile) else None
        return None if slide is None else replace(self, slide=slide)


def readable_image(
    slide: SlideLike,
    resolution: Resolution,
    packing: Packing | None = None,
    transform: Transform | None = None,
    generator: np.random.Generator | None = None,
) -> ReadableImage:
    """The pipeline of an open slide, and a reader of its regions; both stay usable when the slide is closed.

    Nothing is decoded. `packing` is for that resolution, None reads the whole slide; the `generator` is advanced.
    """
    image = slide.image(**resolution, keep_tiles=True)
    read = slide.regions(0 if transform is None else RIM_PX, **resolution)
    if packing is not None:
        read = read and PackedRegions(read, packing, slide.background, _blank(image))
        image = packing.apply(image, slide.background)
    if transform is None:
        return ReadableImage(image, read)
    sample = transform.run(Sample(image, fill=outside_of(slide)), generator)
    read = read and transformed(read, sample.operations, image, str(slide.path))
    return ReadableImage(sample.image, read)


def outside_of(slide: SlideLike) -> float | None:
    """The default fill of transforms around a slide: 0 for channels; None, white, for RGB."""
    return None if slide.background == WHITE else slide.background


@dataclass(frozen=True)
class PackedRegions:
    """Reads regions of a canvas of packed pieces, with `fill` between them and the bands and format of `blank`."""

    read: ReadRegion
    packing: Packing
    fill: float
    blank: pyvips.Image

    def __call__(self, region: Rectangle) -> NDArray[Any]:
        """Read the parts of the pieces that lie in the region."""
        out: NDArray[Any] | None = None
        for piece in self.packing.pieces:
            placed = Rectangle(piece.canvas_x, piece.canvas_y, piece.width, piece.height)
            seen = placed.intersection(region)
            if seen is None:
                continue
            pixels = self.read(seen.moved(piece.x - piece.canvas_x, piece.y - piece.canvas_y))
            if seen == region:
                return pixels
            out = self._empty(region) if out is None else out
            out[seen.within(region)] = pixels
        return self._empty(region) if out is None else out

    def _empty(self, region: Rectangle) -> NDArray[Any]:
        like = self.blank.crop(0, 0, 1, 1).numpy()
        return np.full((region.height, region.width, self.blank.bands), self.fill, dtype=like.dtype)


@dataclass(frozen=True)
class TransformedRegions:
    """Reads regions of an image after operations, each of which says what it needs.

    Attributes:
        read: Reads regions of the image before them.
        operations: The operations, in order.
        blank: An empty image of the size and kind of that before them.
        sizes: (width, height) of the image before each operation.
        name: The slide, for errors.
    """

    read: ReadRegion
    operations: tuple[Operation, ...]
    blank: pyvips.Image
    sizes: tuple[tuple[int, int], ...]
    name: str

    def __call__(self, region: Rectangle) -> NDArray[Any]:
        """Read what the region is made of, paint it on an empty canvas, and apply the operations to that."""
        source: Rectangle | None = region
        for operation, size in zip(reversed(self.operations), reversed(self.sizes), strict=True):
            needed = None if source is None else operation.source_window(source, *size)
            source = None if needed is None else needed.inside(*size)
        canvas = self.blank
        if source is not None:  # else it lies in the padding
            part = pyvips.Image.new_from_array(self.read(source)).copy(interpretation=canvas.interpretation)
            canvas = canvas.insert(part, source.x, source.y)
        for operation in self.operations:
            canvas = operation.image(canvas)
        with naming_errors(self.name):
            return pixels_of(canvas.crop(region.x, region.y, region.width, region.height))


def transformed(read: ReadRegion, operations: Sequence[Operation], image: pyvips.Image, name: str) -> ReadRegion | None:
    """`TransformedRegions` of an image before some operations; None if one of these does not say what it needs."""
    if not operations:
        return read
    blank = canvas = _blank(image)
    sizes = []
    for operation in operations:
        if operation.source_window(Rectangle(0, 0, 1, 1), canvas.width, canvas.height) is None:
            return None
        sizes.append((canvas.width, canvas.height))
        canvas = operation.image(canvas)
    return TransformedRegions(read, tuple(operations), blank, tuple(sizes), name)


def _blank(image: pyvips.Image) -> pyvips.Image:
    empty = pyvips.Image.black(image.width, image.height, bands=image.bands).cast(image.format)
    return empty.copy(interpretation=image.interpretation)
