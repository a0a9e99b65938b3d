"""How a slide becomes a lazy picture: level, resampling, crop or packing, transform, in a recipe that can be sent.

What the recipe makes is read as rows (`lazy.LazyImage`), or all at once where less than a whole level is wanted.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsidata.cropping import TissueCrop
from wsidata.lazy import LazyImage, LazyPicture
from wsidata.packing import WHITE, Packing
from wsidata.tensors import DType
from wsidata.transform_adapters import as_transform
from wsidata.transform_base import Sample, Transform
from wsidata.windows import RIM_PX, packed, transformed

if TYPE_CHECKING:
    from wsidata.slide import Slide


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

    slide: Slide
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
    slide: Slide,
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


def outside_of(slide: Slide) -> float | None:
    """What transforms fill with around a slide, if they were not told: no light for channels; None for white."""
    return None if slide.background == WHITE else slide.background


def slide_lazy(
    slide: Slide,
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
