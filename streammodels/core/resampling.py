"""Layers that enlarge or resize a map, interpolation, transposed convolution and pixel shuffle.

An output row reads a few input rows around its own place, as in a convolution, but there may be more output rows than
input rows. Each rule says for a range of output rows which input rows they read (`span`), and computes them from these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from streammodels.core.reductions import sum_dtype
from streammodels.core.row_plan import Pair, ResizedRows
from streammodels.core.tensors.memory_format import select, swap_sides

Mode = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]
_CUBIC = -0.75  # as in torch


@dataclass(frozen=True)
class Taps:
    """The input rows that each output row of an interpolation reads.

    Attributes:
        rows: (rows out, taps) indices of input rows.
        weights: Their weights, in float64; None for one row of weight 1.
        first: The lowest of each output row; never falls from one to the next.
        last: The highest.
    """

    rows: Tensor
    weights: Tensor | None
    first: tuple[int, ...]
    last: tuple[int, ...]


@dataclass(frozen=True)
class Interpolation(ResizedRows):
    """Interpolation along one axis, as `torch.nn.functional.interpolate` does it, described for rows.

    Attributes:
        mode: As there.
        size: Rows of the result; None if `factor` is given.
        factor: Rows of the result for each input row.
        align_corners: As there.
    """

    mode: Mode
    size: int | None = None
    factor: float | None = None
    align_corners: bool = False

    def total(self, rows_in: int) -> int:
        """Number of output rows."""
        return self.size if self.size is not None else int(rows_in * (self.factor or 1))

    def ready(self, rows_seen: int, rows_in: int) -> int:
        """Number of output rows that the first `rows_seen` input rows suffice for."""
        if rows_seen >= rows_in:
            return self.total(rows_in)
        return bisect_left(self.taps(rows_in).last, rows_seen)

    def first_needed(self, rows_out: int, rows_seen: int, rows_in: int) -> int:
        """First input row still needed after `rows_out` output rows; at most `rows_seen`."""
        first = self.taps(rows_in).first
        return min(first[rows_out], rows_seen) if rows_out < len(first) else rows_seen

    def span(self, rows_out: range, rows_in: int) -> range:
        """The input rows that the output rows `rows_out` read."""
        taps = self.taps(rows_in)
        return range(taps.first[rows_out.start], taps.last[rows_out.stop - 1] + 1)

    def stride(self, rows_in: int) -> Fraction:
        """Input rows from one output row to the next."""
        return Fraction(rows_in, self.total(rows_in))

    def offset(self, rows_in: int) -> float:
        """Where the center of output row 0 lies, in input rows from the center of row 0."""
        return 0.0 if self.align_corners else float(self.stride(rows_in)) / 2 - 0.5

    def taps(self, rows_in: int) -> Taps:
        """The input rows that each output row reads."""
        return _taps(self, rows_in)

    def step(self, rows_in: int) -> float:
        """Input rows from one output row to the next, as torch computes with them."""
        rows_out = self.total(rows_in)
        if self.align_corners:
            return (rows_in - 1) / (rows_out - 1) if rows_out > 1 else 0.0
        return rows_in / rows_out if self.factor is None else 1 / self.factor


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # tensors made in inference mode cannot be used outside it
def _taps(axis: Interpolation, rows_in: int) -> Taps:
    """See `Interpolation.taps`."""
    rows_out = axis.total(rows_in)
    if axis.mode in ("nearest", "nearest-exact"):
        # torch itself says which, since it computes the index in float32.
        ramp = torch.arange(rows_in, dtype=torch.float64)[None, None, :, None]
        sizes = {"size": (rows_out, 1)} if axis.factor is None else {"scale_factor": (axis.factor, 1.0)}
        nearest = functional.interpolate(ramp, **sizes, mode=axis.mode).long().flatten()
        listed = tuple(nearest.tolist())
        return Taps(nearest[:, None], None, listed, listed)
    place = torch.arange(rows_out, dtype=torch.float64)
    place = place * axis.step(rows_in) if axis.align_corners else (place + 0.5) * axis.step(rows_in) - 0.5
    if axis.mode == "bilinear":
        place = place.clamp(min=0)
    low = place.floor()
    between = place - low
    if axis.mode == "bilinear":
        rows, weights = torch.stack([low, low + 1], 1), torch.stack([1 - between, between], 1)
    else:
        rows = torch.stack([low - 1, low, low + 1, low + 2], 1)
        weights = torch.stack([_outer(1 + between), _inner(between), _inner(1 - between), _outer(2 - between)], 1)
    rows = rows.long().clamp(0, rows_in - 1)
    return Taps(rows, weights, tuple(rows[:, 0].tolist()), tuple(rows[:, -1].tolist()))


@lru_cache(maxsize=256)
def _taps_on(axis: Interpolation, rows_in: int, device: torch.device) -> Taps:
    """See `Interpolation.taps`, on the device that computes; the host would wait for a copy in every strip."""
    taps = axis.taps(rows_in)
    if device.type == "cpu":
        return taps
    with torch.inference_mode(False):
        rows = torch.empty_like(taps.rows, device=device).copy_(taps.rows)
        own = taps.weights
        return replace(
            taps, rows=rows, weights=None if own is None else torch.empty_like(own, device=device).copy_(own)
        )


def _inner(distance: Tensor) -> Tensor:
    """Weight of a cubic convolution up to a distance of 1 (Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711)."""
    return ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1


def _outer(distance: Tensor) -> Tensor:
    """Weight of a cubic convolution from a distance of 1 to 2."""
    return ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC


@dataclass(frozen=True)
class TransposedWindow(ResizedRows):
    """Kernel, stride and padding of a transposed convolution along one axis, described for rows.

    Input row i adds to the output rows ``i * factor - pad`` to ``i * factor - pad + extent - 1``.

    Attributes:
        extent: Output rows that an input row adds to, ``dilation * (kernel - 1) + 1``.
        factor: Output rows from one input row to the next, the stride of the layer.
        pad: Rows that are cut off above and below.
        output_pad: Rows that are added below.
    """

    extent: int
    factor: int = 1
    pad: int = 0
    output_pad: int = 0

    def total(self, rows_in: int) -> int:
        """Number of output rows."""
        return (rows_in - 1) * self.factor - 2 * self.pad + self.extent + self.output_pad

    def ready(self, rows_seen: int, rows_in: int) -> int:
        """Number of output rows that the first `rows_seen` input rows suffice for."""
        total = self.total(rows_in)
        return total if rows_seen >= rows_in else min(total, max(0, rows_seen * self.factor - self.pad))

    def first_needed(self, rows_out: int, rows_seen: int, rows_in: int) -> int:
        """First input row still needed after `rows_out` output rows; at most `rows_seen`."""
        return min(self._first(rows_out, rows_in), rows_seen)

    def _first(self, row_out: int, rows_in: int) -> int:
        """The first input row that adds to an output row, or the one in front of it if none does."""
        first = max(0, -(-(row_out + self.pad - self.extent + 1) // self.factor))
        return min(first, (row_out + self.pad) // self.factor, rows_in - 1)

    def span(self, rows_out: range, rows_in: int) -> range:
        """The input rows that add to the output rows `rows_out`."""
        first = self._first(rows_out.start, rows_in)
        return range(first, max(first + 1, min(rows_in, (rows_out.stop - 1 + self.pad) // self.factor + 1)))

    def stride(self, rows_in: int) -> Fraction:
        """Input rows from one output row to the next."""
        return Fraction(1, self.factor)

    def offset(self, rows_in: int) -> float:
        """Where the center of output row 0 lies, in input rows from the center of row 0."""
        return (self.pad - (self.extent - 1) / 2) / self.factor


@dataclass(frozen=True)
class AdaptiveRows(ResizedRows):
    """Adaptive pooling along one axis, whose windows follow from the sizes of input and result, described for rows.

    Attributes:
        size: Rows of the result.
    """

    size: int

    def total(self, rows_in: int) -> int:
        """Number of output rows."""
        return self.size

    def window(self, row_out: int, rows_in: int) -> range:
        """The input rows that are pooled to an output row."""
        return range(row_out * rows_in // self.size, -(-(row_out + 1) * rows_in // self.size))

    def ready(self, rows_seen: int, rows_in: int) -> int:
        """Number of output rows that the first `rows_seen` input rows suffice for."""
        return sum(self.window(row, rows_in).stop <= rows_seen for row in range(self.size))

    def first_needed(self, rows_out: int, rows_seen: int, rows_in: int) -> int:
        """First input row still needed after `rows_out` output rows; at most `rows_seen`."""
        return min(self.window(rows_out, rows_in).start, rows_seen) if rows_out < self.size else rows_seen

    def span(self, rows_out: range, rows_in: int) -> range:
        """The input rows that the output rows `rows_out` read."""
        return range(self.window(rows_out.start, rows_in).start, self.window(rows_out.stop - 1, rows_in).stop)

    def stride(self, rows_in: int) -> Fraction:
        """Input rows from one output row to the next."""
        return Fraction(rows_in, self.size)

    def offset(self, rows_in: int) -> float:
        """Where the center of output row 0 lies, in input rows from the center of row 0."""
        return (len(self.window(0, rows_in)) - 1) / 2


@dataclass(frozen=True)
class Resized(ABC):
    """A layer that resizes a map.

    Attributes:
        window: The vertical geometry.
        columns: The horizontal geometry.
    """

    window: ResizedRows
    columns: ResizedRows

    @abstractmethod
    def apply(self, rows: Tensor, first: int, out: range, rows_in: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """The output rows `out`.

        Args:
            rows: (B, C, rows, W), the ``window.span(out, rows_in)`` of the input.
            first: Index of the first of them.
            out: Output rows.
            rows_in: Rows of the whole input.
            tensors: The tensors of the layer.
        """

    def sideways(self) -> Self:
        """The same layer for maps whose height and width are swapped."""
        return replace(self, window=self.columns, columns=self.window)


@dataclass(frozen=True)
class Interpolate(Resized):
    """`torch.nn.Upsample` and `torch.nn.functional.interpolate`."""

    window: Interpolation
    columns: Interpolation

    def apply(self, rows: Tensor, first: int, out: range, rows_in: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Resized.apply`. Rows are interpolated first, columns by torch."""
        axis, width = self.columns, rows.shape[3]
        taps = _taps_on(self.window, rows_in, rows.device)
        chosen = taps.rows[out.start : out.stop] - first
        own = None if taps.weights is None else taps.weights[out.start : out.stop]
        resized = _interpolate_rows(rows, chosen, own)
        if not resized.is_floating_point():  # labels, which torch interpolates only as floats
            assert axis.mode in ("nearest", "nearest-exact")
            return select(resized, 3, _taps_on(axis, width, rows.device).rows[:, 0])
        options = {} if axis.mode in ("nearest", "nearest-exact") else {"align_corners": axis.align_corners}
        if axis.factor is None:
            return functional.interpolate(resized, (resized.shape[2], axis.total(width)), mode=axis.mode, **options)
        return functional.interpolate(resized, scale_factor=(1.0, axis.factor), mode=axis.mode, **options)


def _interpolate_rows(rows: Tensor, chosen: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted sums of rows, in at least float32."""
    if weights is None:
        return select(rows, 2, chosen[:, 0])
    values = rows.to(sum_dtype(rows.dtype))
    parts = [
        select(values, 2, chosen[:, tap]) * weights[:, tap, None].to(values.dtype) for tap in range(chosen.shape[1])
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.to(rows.dtype)


@dataclass(frozen=True)
class TransposedConvolution(Resized):
    """`torch.nn.ConvTranspose2d`; tensors are (weight, bias). On swapped maps the weight has to be swapped too."""

    window: TransposedWindow
    columns: TransposedWindow
    dilation: Pair
    groups: int

    def apply(self, rows: Tensor, first: int, out: range, rows_in: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Resized.apply`."""
        weight, bias = tensors
        assert weight is not None
        along, across = self.window, self.columns
        below = max(along.output_pad, along.factor - along.extent)  # rows between those that any input row adds to
        made = functional.conv_transpose2d(
            rows,
            weight,
            bias,
            (along.factor, across.factor),
            (0, across.pad),
            (below, across.output_pad),
            self.groups,
            self.dilation,
        )
        start = out.start - (first * along.factor - along.pad)
        return made[:, :, start : start + len(out)]

    def sideways(self) -> Self:
        """See `Resized.sideways`."""
        return replace(super().sideways(), dilation=self.dilation[::-1])


@dataclass(frozen=True)
class PixelShuffle(Resized):
    """`torch.nn.PixelShuffle`.

    Attributes:
        factor: Rows and columns for each of the input.
        swapped: Whether height and width of the maps are swapped.
    """

    window: TransposedWindow
    columns: TransposedWindow
    factor: int
    swapped: bool = False

    @classmethod
    def by(cls, factor: int) -> PixelShuffle:
        """The layer for a factor."""
        axis = TransposedWindow(factor, factor)
        return cls(axis, axis, factor)

    def apply(self, rows: Tensor, first: int, out: range, rows_in: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Resized.apply`."""
        if self.swapped:
            shuffled = swap_sides(functional.pixel_shuffle(swap_sides(rows), self.factor))
        else:
            shuffled = functional.pixel_shuffle(rows, self.factor)
        start = out.start - first * self.factor
        return shuffled[:, :, start : start + len(out)]

    def sideways(self) -> Self:
        """See `Resized.sideways`."""
        return replace(super().sideways(), swapped=not self.swapped)


@dataclass(frozen=True)
class AdaptivePool(Resized):
    """`torch.nn.AdaptiveAvgPool2d` and `torch.nn.AdaptiveMaxPool2d` to more than one pixel.

    The rows of a window wait for its last one, which is a share of the map: 1/7 for a result of 7 rows.

    Attributes:
        maximum: Whether it is a maximum.
        swapped: Whether height and width of the maps are swapped; among equal maxima the first in reading order gets
            the gradient.
    """

    window: AdaptiveRows
    columns: AdaptiveRows
    maximum: bool
    swapped: bool = False

    def apply(self, rows: Tensor, first: int, out: range, rows_in: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Resized.apply`."""
        windows = [self.window.window(row, rows_in) for row in out]
        return torch.cat([self._pooled(rows[:, :, one.start - first : one.stop - first]) for one in windows], dim=2)

    def _pooled(self, rows: Tensor) -> Tensor:
        """The output row of one window."""
        pool: Callable[..., Tensor] = functional.adaptive_max_pool2d if self.maximum else functional.adaptive_avg_pool2d
        if self.swapped:
            return swap_sides(pool(swap_sides(rows), (self.columns.size, 1)))
        return pool(rows, (1, self.columns.size))

    def sideways(self) -> Self:
        """See `Resized.sideways`."""
        return replace(super().sideways(), swapped=not self.swapped)
