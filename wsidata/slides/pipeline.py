"""How a slide becomes a lazy picture: level, resampling, crop or packing, transform, in a recipe that can be sent.

What the recipe makes is read as rows (`lazy.LazyImage`), or all at once where less than a whole level is wanted.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.vips import naming_errors
from wsidata.slides.lazy_image import LazyImage, LazyPicture
from wsidata.slides.resample import ReadWindow, window_pixels
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.packing import WHITE, Packing
from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.base import Operation, Sample, Transform
from wsidata.transforms.to_tensor import DType
from wsidata.utils.rectangle import Rectangle

if TYPE_CHECKING:
    from wsidata.slides.protocol import OpenSlide

RIM_PX = 64
"""Rim around a rectangle that operations may ask for, for which decoded tiles are kept: blurs reach 48 pixels."""


@dataclass(frozen=True)
class PackedWindows:
    """Rectangles of a canvas on which pieces of a picture lie.

    Attributes:
        read: Reads rectangles of the picture.
        packing: What lies where.
        fill: Value between the pieces.
        blank: An empty picture, for its bands and number format.
    """

    read: ReadWindow
    packing: Packing
    fill: float
    blank: pyvips.Image

    def __call__(self, window: Rectangle) -> NDArray[Any]:
        """Read the parts of the pieces that lie in the rectangle."""
        out: NDArray[Any] | None = None
        for piece in self.packing.pieces:
            placed = Rectangle(piece.canvas_x, piece.canvas_y, piece.width, piece.height)
            seen = placed.intersection(window)
            if seen is None:
                continue
            pixels = self.read(seen.moved(piece.x - piece.canvas_x, piece.y - piece.canvas_y))
            if seen == window:
                return pixels
            out = self._empty(window) if out is None else out
            out[seen.within(window)] = pixels
        return self._empty(window) if out is None else out

    def _empty(self, window: Rectangle) -> NDArray[Any]:
        like = self.blank.crop(0, 0, 1, 1).numpy()
        return np.full((window.height, window.width, self.blank.bands), self.fill, dtype=like.dtype)


@dataclass(frozen=True)
class TransformedWindows:
    """Rectangles of a picture to which something was done.

    Attributes:
        read: Reads rectangles of the picture.
        operations: What is done, in order; each must know what it needs.
        blank: An empty picture of the same size and kind.
        sizes: (width, height) of the picture before each operation.
        name: The slide, for errors.
    """

    read: ReadWindow
    operations: tuple[Operation, ...]
    blank: pyvips.Image
    sizes: tuple[tuple[int, int], ...]
    name: str

    def __call__(self, window: Rectangle) -> NDArray[Any]:
        """Read what the rectangle is made of, paint it on an empty canvas, and do the same to that."""
        wanted: Rectangle | None = window
        for operation, size in zip(reversed(self.operations), reversed(self.sizes), strict=True):
            needed = None if wanted is None else operation.source_window(wanted, *size)
            wanted = None if needed is None else needed.inside(*size)
        canvas = self.blank
        if wanted is not None:  # else it lies in the padding
            part = pyvips.Image.new_from_array(self.read(wanted)).copy(interpretation=canvas.interpretation)
            canvas = canvas.insert(part, wanted.x, wanted.y)
        for operation in self.operations:
            canvas = operation.image(canvas)
        with naming_errors(self.name):
            return window_pixels(canvas.crop(window.x, window.y, window.width, window.height), window)


def packed(read: ReadWindow, packing: Packing, fill: float, picture: pyvips.Image) -> ReadWindow:
    """Rectangles of the canvas that `packing.apply(picture, fill)` makes.

    Args:
        read: Reads rectangles of the picture.
        packing: What lies where.
        fill: Value between the pieces.
        picture: The picture, for its bands and number format.
    """
    return PackedWindows(read, packing, fill, _blank(picture))


def transformed(
    read: ReadWindow, operations: Sequence[Operation], picture: pyvips.Image, name: str
) -> ReadWindow | None:
    """Rectangles of a picture to which operations are done; None if one of them does not know what it needs.

    Args:
        read: Reads rectangles of the picture.
        operations: What is done, in order.
        picture: The picture, for its size and kind.
        name: The slide, for errors.
    """
    if not operations:
        return read
    blank = canvas = _blank(picture)
    sizes = []
    for operation in operations:
        if operation.source_window(Rectangle(0, 0, 1, 1), canvas.width, canvas.height) is None:
            return None
        sizes.append((canvas.width, canvas.height))
        canvas = operation.image(canvas)
    return TransformedWindows(read, tuple(operations), blank, tuple(sizes), name)


def _blank(picture: pyvips.Image) -> pyvips.Image:
    empty = pyvips.Image.black(picture.width, picture.height, bands=picture.bands).cast(picture.format)
    return empty.copy(interpretation=picture.interpretation)


@dataclass(frozen=True)
class SlidePipeline:
    """How the pipeline of a slide's `LazyImage` is built, again in every process.

    Attributes:
        slide: The slide, not open.
        resolution: As `Slide.image` takes it.
        packing: Tissue pieces to take, at that resolution; None for the whole slide.
        transform: What is applied to the picture; None leaves it.
        generator: Random state of the transform, never advanced.
    """

    slide: OpenSlide
    resolution: dict[str, Any]
    packing: Packing | None = None
    transform: Transform | None = None
    generator: np.random.Generator | None = None

    def __call__(self) -> LazyPicture:
        """Open the slide and build the pipeline. Nothing is decoded."""
        with copy.copy(self.slide) as slide:
            generator = copy.deepcopy(self.generator)
            return lazy_picture(slide, self.resolution, self.packing, self.transform, generator)


def lazy_picture(
    slide: OpenSlide,
    resolution: dict[str, Any],
    packing: Packing | None = None,
    transform: Transform | None = None,
    generator: np.random.Generator | None = None,
) -> LazyPicture:
    """The pipeline of a slide, and its rectangles without it; stays usable when the slide is closed. Decodes nothing.

    Args:
        slide: An open slide.
        resolution: As `Slide.image` takes it.
        packing: Tissue pieces to take, at that resolution; None for the whole slide.
        transform: What is applied to the picture; None leaves it.
        generator: Random state of the transform, which is advanced.
    """
    picture = slide.image(**resolution, keep_tiles=True)
    read = slide.windows(0 if transform is None else RIM_PX, **resolution)
    if packing is not None:
        read = read and packed(read, packing, slide.background, picture)
        picture = packing.apply(picture, slide.background)
    if transform is None:
        return LazyPicture(picture, read)
    sample = transform.run(Sample(picture, fill=outside_of(slide)), generator)
    read = read and transformed(read, sample.operations, picture, str(slide.path))
    return LazyPicture(sample.image, read)


def outside_of(slide: OpenSlide) -> float | None:
    """What transforms fill with around a slide, if they were not told: no light for channels; None for white."""
    return None if slide.background == WHITE else slide.background


def slide_lazy(
    slide: OpenSlide,
    resolution: dict[str, Any],
    crop: TissueCrop | None = None,
    transform: Any = None,
    generator: np.random.Generator | None = None,
    *,
    packing: Packing | None = None,
    dtype: DType = "uint8",
) -> LazyImage:
    """A slide as a `LazyImage`; see `Slide.lazy`.

    Args:
        slide: An open slide. It is opened again for the pipeline.
        resolution: As `Slide.image` takes it.
        crop: What to read of it, planned now; or
        packing: as it was planned before.
        transform: Anything `as_transform` takes, or None.
        generator: Random state for the transform.
        dtype: What uint8 pixels become.
    """
    if packing is None and crop is not None:
        packing = crop.plan(slide, resolution)
    chosen = None if transform is None else as_transform(transform)
    pipeline = SlidePipeline(copy.copy(slide), resolution, packing, chosen, generator)
    return LazyImage(pipeline, name=slide.path.name, dtype=dtype)
