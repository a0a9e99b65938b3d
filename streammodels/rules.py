"""What a strip of rows does in each kind of layer.

Four kinds are enough for every convolutional trunk, and each is one small class here:

* `Pointwise` - every output pixel depends on the same input pixel (activation, frozen batch normalisation, dropout);
* `Windowed` - an output row depends on a few neighbouring input rows (convolution, pooling);
* `Join` - two or more values meet row by row (residual sum, concatenation);
* `Reduction` - the whole map becomes one vector (global pooling); it carries an accumulator and emits at the end.

A rule is a pure function of rows and of the layer's tensors (weights, running statistics), which the caller passes in.
Which rows it sees is not its business: the plan (`rows.py`) knows, the engine (`engine.py`) follows the plan.
`layers.py` says which rule a layer of torch gets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .rows import Window

Pair = tuple[int, int]


@dataclass(frozen=True)
class Pointwise:
    """A map of single pixels.

    Attributes:
        function: ``function(rows, *tensors) -> rows``.
        in_place: The same, writing into `rows`, or None if there is no such form.
        random: Whether it draws random numbers; its output is then never computed twice in one pass.
    """

    function: Callable[..., Tensor]
    in_place: Callable[..., Tensor] | None = None
    random: bool = False


@dataclass(frozen=True)
class FrozenBatchNorm(Pointwise):
    """`torch.nn.BatchNorm2d` in eval mode; tensors are (running mean, running variance, weight, bias)."""

    epsilon: float = 1e-5


@dataclass(frozen=True)
class ChannelDropout:
    """`torch.nn.Dropout2d` in training: whole channels of the whole map are dropped, so all strips share one mask."""

    probability: float

    def apply(self, rows: Tensor, seed: int) -> Tensor:
        """Drop the channels that `seed` picks for every image of the batch, and scale up the rest."""
        generator = None if rows.is_meta else torch.Generator(rows.device).manual_seed(seed)
        keep = 1.0 - self.probability
        mask = torch.empty(*rows.shape[:2], 1, 1, dtype=torch.float32, device=rows.device)
        mask.bernoulli_(keep, generator=generator).div_(max(keep, 1e-12))
        return rows * mask.to(rows.dtype)


class Windowed(Protocol):
    """A layer whose output rows read neighbouring input rows."""

    @property
    def window(self) -> Window:
        """The vertical geometry."""
        ...

    @property
    def fill(self) -> float:
        """The value of the padding rows."""
        ...

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """Compute all output rows of `rows`, which `vertical_pad` further rows of padding surround above and below."""
        ...


@dataclass(frozen=True)
class Convolution:
    """`torch.nn.Conv2d`; tensors are (weight, bias)."""

    window: Window
    stride: Pair
    pad_left: int
    pad_right: int
    dilation: Pair
    groups: int
    mode: str
    fill: float = 0.0

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        weight, bias = tensors
        assert weight is not None
        pad = self.pad_left
        if self.mode != "zeros" or self.pad_left != self.pad_right:
            mode = "constant" if self.mode == "zeros" else self.mode
            if self.pad_left or self.pad_right:
                rows = functional.pad(rows, (self.pad_left, self.pad_right, 0, 0), mode=mode)
            pad = 0
        return functional.conv2d(rows, weight, bias, self.stride, (vertical_pad, pad), self.dilation, self.groups)


@dataclass(frozen=True)
class MaxPool:
    """`torch.nn.MaxPool2d`."""

    window: Window
    kernel: Pair
    stride: Pair
    pad_side: int
    dilation: Pair
    fill: float = float("-inf")

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        ceil, padding = self.window.ceil_mode, (vertical_pad, self.pad_side)
        return functional.max_pool2d(rows, self.kernel, self.stride, padding, self.dilation, ceil)


@dataclass(frozen=True)
class AveragePool:
    """`torch.nn.AvgPool2d`. `apply` divides by the whole kernel; `correct` makes up for windows cut by a border."""

    window: Window
    kernel: Pair
    stride: Pair
    pad_side: int
    count_include_pad: bool
    divisor: int | None
    fill: float = 0.0

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        ceil, padding = self.window.ceil_mode, (vertical_pad, self.pad_side)
        divisor = self.divisor or self.kernel[0] * self.kernel[1]
        return functional.avg_pool2d(rows, self.kernel, self.stride, padding, ceil, divisor_override=divisor)

    def correct(self, averages: Tensor, rows_out: range, rows_in: int, columns_in: int) -> Tensor:
        """Let each of the output rows `rows_out` divide by the number of pixels torch divides by."""
        if self.divisor is not None:
            return averages
        vertical = [self._counted(j, self.kernel[0], self.stride[0], self.window.pad_top, rows_in) for j in rows_out]
        columns = range(averages.shape[3])
        sides = [self._counted(j, self.kernel[1], self.stride[1], self.pad_side, columns_in) for j in columns]
        if set(vertical) == {self.kernel[0]} and set(sides) == {self.kernel[1]}:
            return averages
        counts = torch.tensor(vertical)[:, None] * torch.tensor(sides)
        factors = self.kernel[0] * self.kernel[1] / counts.to(torch.float64)
        return averages * factors.to(averages)

    def _counted(self, index: int, kernel: int, stride: int, pad: int, size: int) -> int:
        """Pixels along one axis that window `index` divides by, as in torch's `avg_pool2d`."""
        start = index * stride - pad
        stop = min(start + kernel, size + pad)
        return stop - start if self.count_include_pad else min(stop, size) - max(start, 0)


@dataclass(frozen=True)
class Join:
    """Several values combined row by row: ``function(*rows) -> rows``."""

    function: Callable[..., Tensor]


class Reduction(ABC):
    """A whole map to one vector per image, strip by strip.

    The strips' partial results are merged in the forward pass. In the backward pass the gradient that reaches a strip's
    partial result depends only on the merged outcome and not on the other strips, so no gradient is carried.
    """

    @abstractmethod
    def partial(self, rows: Tensor) -> Tensor:
        """Reduce the rows of one strip; differentiable."""

    @abstractmethod
    def merge(self, state: Tensor | None, partial: Tensor, strip: int) -> Tensor:
        """Merge a strip's partial result into the state."""

    @abstractmethod
    def finish(self, state: Tensor, pixels: int, dtype: torch.dtype) -> Tensor:
        """The final vector for a map of `pixels` pixels."""

    @abstractmethod
    def partial_grad(self, grad: Tensor, state: Tensor, strip: int, pixels: int) -> Tensor:
        """The gradient of the strip's partial result, given that of the final vector."""


@dataclass(frozen=True)
class GlobalAverage(Reduction):
    """`AdaptiveAvgPool2d(1)` or ``mean`` over height and width; sums are accumulated in at least float32."""

    keep_dimensions: bool = True

    def partial(self, rows: Tensor) -> Tensor:
        """Sum of the strip."""
        dtype = torch.float32 if rows.dtype in (torch.float16, torch.bfloat16) else rows.dtype
        return rows.sum(dim=(2, 3), keepdim=self.keep_dimensions, dtype=dtype)

    def merge(self, state: Tensor | None, partial: Tensor, strip: int) -> Tensor:
        """Running sum."""
        return partial if state is None else state + partial

    def finish(self, state: Tensor, pixels: int, dtype: torch.dtype) -> Tensor:
        """Sum over count."""
        return (state / pixels).to(dtype)

    def partial_grad(self, grad: Tensor, state: Tensor, strip: int, pixels: int) -> Tensor:
        """Every pixel has the same share."""
        return grad.to(state.dtype) / pixels


@dataclass(frozen=True)
class GlobalMaximum(Reduction):
    """`AdaptiveMaxPool2d(1)`. Of equal maxima the first one gets the gradient, as in torch.

    The state holds the maxima and, beside them, the strip each one came from: (2, B, C, 1, 1).
    """

    def partial(self, rows: Tensor) -> Tensor:
        """Maximum of the strip."""
        pooled: Tensor = functional.adaptive_max_pool2d(rows, 1)
        return pooled

    def merge(self, state: Tensor | None, partial: Tensor, strip: int) -> Tensor:
        """Keep the larger, the earlier if equal; NaN stays, as in torch."""
        dtype = torch.promote_types(partial.dtype, torch.float32)  # strip numbers stay exact
        new = torch.stack([partial.to(dtype), torch.full_like(partial, strip, dtype=dtype)])
        if state is None:
            return new
        return torch.where((new[0] > state[0]) | new[0].isnan(), new, state)

    def finish(self, state: Tensor, pixels: int, dtype: torch.dtype) -> Tensor:
        """The maxima."""
        return state[0].to(dtype, copy=True)  # no view of the state: the layer behind may work in place

    def partial_grad(self, grad: Tensor, state: Tensor, strip: int, pixels: int) -> Tensor:
        """Only the strip that holds the maximum gets it."""
        return torch.where(state[1] == strip, grad, torch.zeros_like(grad))


Rule = Pointwise | ChannelDropout | Convolution | MaxPool | AveragePool | Join | Reduction
