"""Drawing a sample's operations before its pixels are read, as far as they can be painted at once.

A transform of this package draws from the size and kind of an image alone, and most operations can be part of a
`Canvas`. Where one cannot (a blur, a resampling), or a transform looks at pixels, the rest is applied to the painted
image, as it always was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyvips

from wsidata.transforms.base import Operation, Sample, Transform, check_masks, warn_if_costly
from wsidata.transforms.canvas import Canvas
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.color.tone import Blur, ToneJitter
from wsidata.transforms.compose import Compose, OneOf
from wsidata.transforms.geometry.affine import (
    RandomAffine,
    RandomD4,
    RandomHorizontalFlip,
    RandomRotate90,
    RandomVerticalFlip,
)
from wsidata.transforms.geometry.crop import CropOrPad, RandomResizedCrop
from wsidata.transforms.geometry.dropout import CoarseDropout
from wsidata.transforms.geometry.elastic import Elastic

BLIND = frozenset((
    Blur, CoarseDropout, CropOrPad, Elastic, RandomAffine, RandomD4, RandomHorizontalFlip, RandomResizedCrop,
    RandomRotate90, RandomVerticalFlip, StainJitter, ToneJitter,
))  # fmt: skip
"""Transforms that draw from width, height, bands and format of an image; their subclasses may look at pixels."""


@dataclass(frozen=True)
class Planned:
    """A transform of one sample, drawn as far as it can be painted.

    Attributes:
        canvas: What is painted.
        operations: What the canvas holds, in order.
        pending: An operation that was drawn, and has to be applied to pixels.
        rest: Transforms that are not drawn yet, in order.
    """

    canvas: Canvas
    operations: tuple[Operation, ...]
    pending: Operation | None
    rest: tuple[Transform, ...]

    @property
    def is_complete(self) -> bool:
        """Whether painting is all there is to do."""
        return self.pending is None and not self.rest

    def masks(self, masks: Sequence[pyvips.Image]) -> tuple[pyvips.Image, ...]:
        """Masks after the operations of the canvas."""
        for operation in self.operations:
            masks = [operation.mask(mask) for mask in masks]
        return tuple(masks)

    def finished(self, painted: Sample, rng: np.random.Generator) -> Sample:
        """The sample after what is not on the canvas, from the painted one."""
        sample = replace(painted, operations=self.operations)
        if self.pending is not None:
            sample = sample.after(self.pending)
        for transform in self.rest:
            sample = transform.run(sample, rng)
        return sample


def planned(
    transform: Transform,
    canvas: Canvas,
    rng: np.random.Generator,
    *,
    masks: Sequence[pyvips.Image] = (),
    fill: float | None = None,
    mask_fill: float = 0.0,
) -> Planned:
    """Draw a transform's operations for an image that is not read yet, as far as they can be painted.

    Args:
        transform: The transform.
        canvas: The image before it.
        rng: Generator of this sample; advanced as `transform.run` would.
        masks: Masks of the image, whose sizes are checked.
        fill: Value outside the image, for transforms without one; None: white.
        mask_fill: The same in masks.

    Raises:
        TransformError: if a mask is of another size.
    """
    check_masks(masks, canvas.width, canvas.height)
    steps: deque[Transform] = deque([transform])
    operations: list[Operation] = []
    while steps:
        step = steps[0]
        if type(step) is Compose:
            steps.popleft()
            steps.extendleft(reversed(step.transforms))
            continue
        if type(step) is OneOf:
            steps.popleft()
            steps.extendleft(() if (chosen := step.chosen(rng)) is None else (chosen,))
            continue
        if type(step) not in BLIND:
            break
        steps.popleft()
        operation = step.drawn(canvas, rng)
        if operation is None:
            continue
        after = operation.filled(fill, mask_fill).on_canvas(canvas)
        if after is None:
            return Planned(canvas, tuple(operations), operation, tuple(steps))
        warn_if_costly(type(operation).__name__, operation.cost, canvas)
        operations.append(operation.filled(fill, mask_fill))
        canvas = after
    return Planned(canvas, tuple(operations), None, tuple(steps))
