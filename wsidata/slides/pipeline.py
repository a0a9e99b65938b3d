"""The pipeline from a slide to a lazy image.

It reads a level, resamples, crops or packs, and transforms it. It can be pickled, and is read as rows (`LazyImage`), or
all at once where less than a whole level is needed. Regions of its output are also read without it, from the parts of
the slide they are made of, as long as every operation says what it needs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.codecs.color import channels_image
from wsidata.formats.resolution import Resolution
from wsidata.formats.vips import DECODED_AT_ONCE_BYTES, decoding_threads, naming_errors, pixels_of
from wsidata.slides.lazy_image import LazyImage, ReadableImage
from wsidata.slides.protocol import SlideLike
from wsidata.slides.resample import ReadRegion
from wsidata.slides.slide_file import SlideFile
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.packing import WHITE, Packing
from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.base import Operation, Sample, Transform
from wsidata.transforms.canvas import DTYPES, Canvas
from wsidata.transforms.color_table import ColorTable
from wsidata.transforms.planning import planned
from wsidata.transforms.to_tensor import DType
from wsidata.utils.rectangle import PartReader, Pixels, Put, ReadParts, Rectangle

NewPixels = Callable[[tuple[int, ...], np.dtype[Any]], Pixels]
"""Makes an array of a shape and type, such as `numpy.empty`."""

STRIP_PX = 256
"""Rows at a time that are read through libvips, which decodes whole tiles."""

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
    watch = slide.watch() if isinstance(slide, SlideFile) and _is_ours(slide) and _is_ours(transform) else None
    reader = slide.regions(**resolution)
    start = None if reader is None else _start(reader, image.width, image.height, packing, slide.background)
    if packing is not None:
        image = packing.apply(image, slide.background)
    kind: str = image.interpretation
    operations: tuple[Operation, ...] = ()
    if transform is not None:
        sample = transform.run(Sample(image, fill=outside_of(slide)), generator)
        image, operations = sample.image, sample.operations
    if reader is None or start is None:
        return ReadableImage(image, watch=watch)
    canvas, rest = _painted(start, operations)
    if rest:
        reader = slide.regions(RIM_PX, **resolution) or reader
    read = CanvasRegions(canvas, reader.parts, canvas.color_table())
    return ReadableImage(image, transformed(read, rest, _blank(canvas, kind), str(slide.path)), watch)


def slide_sample(
    slide: SlideLike,
    resolution: Resolution,
    packing: Packing | None,
    transform: Transform,
    generator: np.random.Generator,
    *,
    masks: tuple[pyvips.Image, ...] = (),
    mask_fill: float = 0.0,
    new_pixels: NewPixels = np.empty,
) -> Sample:
    """The transformed image of an open slide, decoded straight into its place.

    Args:
        slide: The slide.
        resolution: The resolution it is read at.
        packing: A crop for that resolution; None reads the whole slide.
        transform: The transform.
        generator: Generator of this sample, which is advanced.
        masks: Masks of the image that the transform is applied to, too, of its size.
        mask_fill: Value outside the masks, for transforms without one.
        new_pixels: Makes the array of a shape and type that the image is written to, if all of it can be planned.

    Returns:
        The image as an array, (height, width, bands), or what the transform made; and the transformed masks.
    """
    fill = outside_of(slide)
    reader = slide.regions(**resolution)
    image = None if reader is not None else slide.image(**resolution)
    if reader is None:
        reader = _strips_of(image)
    start = _start(reader, *slide.size_at(**resolution), packing, slide.background)
    before = generator.bit_generator.state  # what planning draws, another way has to draw again
    plan = None
    if start is not None:
        plan = planned(transform, start, generator, masks=masks, fill=fill, mask_fill=mask_fill)
    if plan is None or not (plan.is_complete or _fits_in_memory(plan.canvas)):
        image = slide.image(**resolution, keep_tiles=True) if image is None else image
        image = image if packing is None else packing.apply(image, slide.background)
        generator.bit_generator.state = before
        return transform.run(Sample(image, masks=masks, fill=fill, mask_fill=mask_fill), generator)
    shape = plan.canvas.height, plan.canvas.width, plan.canvas.bands
    pixels = (new_pixels if plan.is_complete else np.empty)(shape, plan.canvas.dtype)
    plan.canvas.paint(reader.parts, pixels)
    masks = plan.masks(masks)
    if plan.is_complete:
        return Sample(pixels, masks=masks, operations=plan.operations)
    painted = channels_image(pyvips.Image.new_from_array(pixels))
    return plan.finished(Sample(painted, masks=masks, fill=fill, mask_fill=mask_fill), generator)


def outside_of(slide: SlideLike) -> float | None:
    """The default fill of transforms around a slide: 0 for channels; None, white, for RGB."""
    return None if slide.background == WHITE else slide.background


@dataclass(frozen=True)
class CanvasRegions:
    """Reads regions of a canvas from parts of the slide, which share what is known about its colors."""

    canvas: Canvas
    parts: ReadParts
    table: ColorTable | None = None

    def __call__(self, region: Rectangle) -> Pixels:
        """Read the parts that lie in the region, and paint them."""
        return self.canvas.window(region).array(self.parts, self.table)


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
    blank = canvas = _blank(image, image.interpretation)
    sizes = []
    for operation in operations:
        if operation.source_window(Rectangle(0, 0, 1, 1), canvas.width, canvas.height) is None:
            return None
        sizes.append((canvas.width, canvas.height))
        canvas = operation.image(canvas)
    return TransformedRegions(read, tuple(operations), blank, tuple(sizes), name)


def _start(reader: PartReader, width: int, height: int, packing: Packing | None, fill: float) -> Canvas | None:
    """The slide, or its crop, before any operation; None if its type of samples cannot be planned."""
    canvas = Canvas.of(width, height, reader.bands, reader.dtype)
    if canvas is None or packing is None:
        return canvas
    pieces = [(Rectangle(one.x, one.y, one.width, one.height), one.canvas_x, one.canvas_y) for one in packing.pieces]
    return canvas.packed(pieces, packing.width, packing.height, fill)


def _painted(canvas: Canvas, operations: Sequence[Operation]) -> tuple[Canvas, tuple[Operation, ...]]:
    """The canvas after as many of the operations as it can hold, and the others."""
    for done, operation in enumerate(operations):
        after = operation.on_canvas(canvas)
        if after is None:
            return canvas, tuple(operations[done:])
        canvas = after
    return canvas, ()


def _is_ours(value: Any) -> bool:
    """Whether a slide or transform is of this package with all it holds, and so makes the same pixels every time."""
    if isinstance(value, Transform):
        return _is_of_package(value) and all(_is_ours(member) for member in vars(value).values())
    if isinstance(value, list | tuple):
        return all(_is_ours(member) for member in value)
    return value is None or isinstance(value, bool | int | float | str) or _is_of_package(value)


def _is_of_package(value: object) -> bool:
    return type(value).__module__.startswith("wsidata.")


def _strips_of(image: pyvips.Image) -> PartReader:
    """Reads an image of libvips strip by strip."""

    def parts(region: Rectangle, put: Put) -> None:
        for strip in region.strips(STRIP_PX):
            put(strip, pixels_of(image.crop(strip.x, strip.y, strip.width, strip.height)))

    return PartReader(parts, image.bands, np.dtype(DTYPES.get(image.format, np.void)))


def _fits_in_memory(canvas: Canvas) -> bool:
    return canvas.width * canvas.height * canvas.bands * canvas.dtype.itemsize <= DECODED_AT_ONCE_BYTES


def _blank(image: Any, interpretation: str) -> pyvips.Image:
    empty = pyvips.Image.black(image.width, image.height, bands=image.bands).cast(image.format)
    return empty.copy(interpretation=interpretation)
