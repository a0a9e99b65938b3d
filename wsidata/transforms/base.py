"""Base classes of transforms, which draw at random, and of the deterministic operations they draw.

An image, its masks and its points share one geometry because they go through the same operation; the operations are a
record that can be saved and replayed; and a sample can be drawn again in any process, because all its randomness comes
from the generator that is passed.

Coordinates of points are (x, y), in pixels, x to the right and y downwards; the first pixel covers 0..1, so that its
center is (0.5, 0.5). An operation keeps points in order, and keeps those that leave the image.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pyvips
import torch
from numpy.typing import NDArray

from wsidata.transforms.canvas import Canvas
from wsidata.utils.rectangle import Rectangle

ImageLike: TypeAlias = Any
"""A `pyvips.Image` (lazy), an (H, W, C) `numpy.ndarray`, or a (C, H, W) `torch.Tensor`.

Only a pyvips image can go on to another transform."""

Points = NDArray[np.float64]
"""(N, 2): x and y of each point; see the conventions above."""

GIGAPIXEL_PX = 2**28
"""Pixels (16,384 squared) from which a step that costs several times the decoding is warned of."""

COSTLY = 4.0
"""CPU time above which a step counts as costly, in units of decoding tiled JPEG."""


class TransformError(ValueError):
    """A transform cannot be used, or its input or output is no image."""


class GigapixelWarning(UserWarning):
    """A step costs several times the decoding of a very large image, or holds all of it in memory."""


@dataclass(frozen=True)
class Operation(ABC):
    """A deterministic operation on an image. Subclasses are frozen dataclasses of plain values.

    `class Name(Operation, saved_as="...")` is another name in records than the class has.

    Attributes:
        cost: CPU time for an image, in units of decoding it from tiled JPEG (measured at 4096 x 4096 x 3 bytes).
        saved_name: Name in records.
    """

    cost: ClassVar[float] = 0.5
    saved_name: ClassVar[str]
    known: ClassVar[dict[str, type[Operation]]] = {}

    def __init_subclass__(cls, saved_as: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.saved_name = saved_as or cls.__name__
        Operation.known[cls.saved_name] = cls

    @abstractmethod
    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Apply it to an image, lazily."""

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Apply it to a mask, without mixing values. Color operations leave masks unchanged."""
        return mask

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Apply it to points of an image of this size. Color operations leave points unchanged."""
        return points

    def source_window(self, window: Rectangle, width_px: int, height_px: int) -> Rectangle | None:
        """The rectangle of an image of this size that a rectangle of the result depends on; may reach beyond the image.

        With it, rectangles of a large image are read without a pipeline (see `slides.pipeline`). None: unknown.
        """
        return None

    def on_canvas(self, canvas: Canvas) -> Canvas | None:
        """The plan of a picture after this operation, from that before. None: it has to be applied to pixels."""
        return None

    def filled(self, fill: float | None, mask_fill: float | None) -> Operation:
        """The same operation, with `fill` and `mask_fill` where its own are None."""
        values: dict[str, Any] = {"fill": fill, "mask_fill": mask_fill}
        lacking = [field.name for field in fields(self) if field.name in values and getattr(self, field.name) is None]
        return replace(self, **{name: values[name] for name in lacking}) if lacking else self

    def plain(self) -> dict[str, Any]:
        """Name and values, ready for JSON."""
        return {"operation": self.saved_name, **asdict(self)}

    @staticmethod
    def from_plain(content: Mapping[str, Any]) -> Operation:
        """The operation that `plain` described.

        Raises:
            TransformError: for an unknown operation or value.
        """
        values = {name: as_tuples(value) for name, value in content.items() if name != "operation"}
        name = content.get("operation")
        if name not in Operation.known:
            raise TransformError(f"operation {name!r} is not known. Known are {', '.join(sorted(Operation.known))}.")
        kind = Operation.known[name]
        names = {one.name for one in fields(kind)}
        if set(values) != names:
            raise TransformError(f"operation {name} is described by {sorted(names)}, and not by {sorted(values)}.")
        return kind(**values)


@dataclass(frozen=True)
class Sample:
    """An image and everything that shares its geometry.

    Attributes:
        image: The image.
        masks: Masks of the same size, of any number of bands.
        points: (N, 2) points, or None.
        operations: Operations that were applied, in order.
        start: Width, height, bands and number format of the image before the first operation; None: as it is now.
        fill: Value outside the image, for transforms without one; None: white.
        mask_fill: The same in masks.
    """

    image: ImageLike
    masks: tuple[pyvips.Image, ...] = ()
    points: Points | None = None
    operations: tuple[Operation, ...] = ()
    start: tuple[int, int, int, str] | None = None
    fill: float | None = None
    mask_fill: float = 0.0

    def after(self, operation: Operation) -> Sample:
        """This sample after an operation.

        Warns:
            GigapixelWarning: if that is costly for an image of this size.
        """
        warn_if_costly(type(operation).__name__, operation.cost, self.image)
        operation = operation.filled(self.fill, self.mask_fill)
        points = self.points
        if points is not None:
            points = operation.points(points, self.image.width, self.image.height)
        masks = tuple(operation.mask(mask) for mask in self.masks)
        return self.with_image(operation.image(self.image), operation, masks=masks, points=points)

    def with_image(self, image: ImageLike, operation: Operation, **others: Any) -> Sample:
        """This sample with another image, the result of an operation."""
        start = self.start or describe(self.image)
        return replace(self, image=image, operations=(*self.operations, operation), start=start, **others)


class Transform(ABC):
    """A lazy transform of a pyvips image whose randomness comes from the generator that is passed.

    Subclasses define `draw`. Instances hold parameters only and can be pickled.
    """

    p: float = 1.0
    """Probability that it is applied."""

    @abstractmethod
    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> Operation | None:
        """Draw the operation for `image`, from `rng` alone. None: no change."""

    def step(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Apply it, with probability `p`, to a sample with a pyvips image."""
        operation = self.drawn(sample.image, rng)
        return sample if operation is None else sample.after(operation)

    def drawn(self, image: Any, rng: np.random.Generator) -> Operation | None:
        """The operation for `image`, with probability `p`, else None."""
        if self.p < 1 and rng.random() >= self.p:
            return None
        return self.draw(image, rng)

    def run(self, sample: Sample, rng: np.random.Generator | None = None) -> Sample:
        """Transform an image together with its masks and points.

            sample = transform.run(Sample(image, masks=(mask,), points=points), rng)
            sample.image, sample.masks, sample.points, Record.of(sample).to_json()

        Args:
            sample: Masks must have the image's size.
            rng: Generator of this sample. None: one seeded from torch's global generator.

        Raises:
            TransformError: if the image is no pyvips image, for instance because an earlier step made a tensor of it,
                or a mask has another size.
        """
        if not isinstance(sample.image, pyvips.Image):
            raise TransformError(
                f"{type(self).__name__} needs a pyvips image and got {type(sample.image).__name__}. "
                "Steps that make an array or a tensor (ToTensor) must come last."
            )
        check_masks(sample.masks, sample.image.width, sample.image.height)
        points = sample.points
        if points is not None and not (isinstance(points, np.ndarray) and points.ndim == 2 and points.shape[1] == 2):
            raise TransformError(
                f"points must be an (N, 2) array of x and y, not {getattr(points, 'shape', type(points).__name__)}."
            )
        if rng is None:
            rng = np.random.default_rng(int(torch.randint(2**62, ()).item()))
        return self.step(sample, rng)

    def __call__(self, image: pyvips.Image, rng: np.random.Generator | None = None) -> ImageLike:
        """Transform an image alone; see `run`."""
        return self.run(Sample(image), rng).image

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def check_masks(masks: Sequence[pyvips.Image], width_px: int, height_px: int) -> None:
    """Raise `TransformError` if a mask is not of the size of its image."""
    for mask in masks:
        if (mask.width, mask.height) != (width_px, height_px):
            raise TransformError(
                f"a mask is {mask.width} x {mask.height} pixels and its image {width_px} x {height_px}. "
                "Read both at the same resolution."
            )


def same_window(operation: Operation, window: Rectangle, width_px: int, height_px: int) -> Rectangle:
    """`source_window` of operations in which no pixel depends on others."""
    return window


def describe(image: pyvips.Image) -> tuple[int, int, int, str]:
    """Width, height, bands and number format."""
    return image.width, image.height, image.bands, image.format


def warn_if_costly(name: str, cost: float, image: pyvips.Image) -> None:
    """Warn if a step costs several times the decoding of a very large image."""
    if cost > COSTLY and image.width * image.height >= GIGAPIXEL_PX:
        warnings.warn(
            f"{name} on {image.width} x {image.height} pixels costs about {cost:.0f} times the decoding of the "
            "image. Crop first, read at a coarser spacing, or leave it out.",
            GigapixelWarning,
            stacklevel=5,
        )


def check_probability(p: float) -> float:
    """A probability, checked.

    Raises:
        TransformError: if it is not.
    """
    if not 0 <= p <= 1:
        raise TransformError(f"probability p={p} is not between 0 and 1.")
    return p


def check_limit(name: str, value: Any) -> float:
    """Limit of a symmetric range, checked.

    Raises:
        TransformError: if it is no single finite number, or negative.
    """
    if isinstance(value, (tuple, list)) or not (np.isfinite(value) and value >= 0):
        raise TransformError(f"{name}={value} must be one number of at least 0; it is drawn in both directions.")
    return float(value)


def check_range(name: str, value: float | tuple[float, float], least: float) -> tuple[float, float]:
    """Ends of a range to draw from, checked.

    Raises:
        TransformError: if they are not finite, not in order, or below `least`.
    """
    low, high = value if isinstance(value, (tuple, list)) else (value, value)
    if not (np.isfinite(low) and np.isfinite(high) and least <= low <= high):
        raise TransformError(f"{name}={value} must be a range (low, high) of at least {least:g}.")
    return float(low), float(high)


def require(image: pyvips.Image, name: str, *, bands: int | None = None) -> int:
    """The largest value of an 8- or 16-bit image, for transforms of color.

    Raises:
        TransformError: for other number formats or another number of bands.
    """
    largest = {"uchar": 255, "ushort": 65535}.get(image.format)
    if largest is None:
        raise TransformError(
            f"{name} needs an 8- or 16-bit image (uchar, ushort), and this one is '{image.format}'. "
            "Put it before steps that make floats."
        )
    if bands is not None and image.bands != bands:
        raise TransformError(f"{name} needs an image of {bands} channels, and this one has {image.bands}.")
    return largest


def as_tuples(value: Any) -> Any:
    """Lists as tuples, at any depth."""
    return tuple(as_tuples(one) for one in value) if isinstance(value, (list, tuple)) else value
