"""Operations on strips of rows, into which layers are translated.

There are five kinds:

* `Pointwise` - every output pixel depends on the same input pixel (activation, frozen batch normalization, dropout);
* `Windowed` - an output row depends on a few neighboring input rows (convolution, pooling);
* `Resized` - an output row reads input rows around its place in a map of another size, see `resampling.py`;
* `Join` - two or more maps are combined row by row (residual sum, concatenation);
* `Reduction` - the whole map becomes one vector (global pooling), see `reductions.py`.

A rule is a pure function of rows and of the layer's tensors (weights, running statistics). `row_plan.py` decides which
rows it gets, `engine.py` passes them, and `tracing` decides which rule each layer of torch has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from streammodels.core.convolution import ConvolutionSettings, convolution
from streammodels.core.reductions import Reduction
from streammodels.core.resampling import Resized
from streammodels.core.row_plan import Pair, SlidingWindow
from streammodels.core.tensors.constants import on_device
from streammodels.core.tensors.memory_format import swap_sides


@dataclass(frozen=True)
class Pointwise:
    """A function of single pixels.

    Attributes:
        function: ``function(rows, *tensors) -> rows``.
        in_place: The same, writing into `rows`; None if there is no such form.
        random: Whether it draws random numbers; its output is then computed once in a pass.
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
    """`torch.nn.Dropout2d` in training mode. Channels are dropped from the whole map, so all strips share one mask."""

    probability: float

    def apply(self, rows: Tensor, seed: int) -> Tensor:
        """Drop the channels that `seed` selects, the same in every strip, and scale up the others."""
        generator = None if rows.is_meta else torch.Generator(rows.device).manual_seed(seed)
        keep = 1.0 - self.probability
        mask = torch.empty(self.mask_shape(rows), dtype=torch.float32, device=rows.device)
        mask.bernoulli_(keep, generator=generator).div_(max(keep, 1e-12))
        return rows * mask.to(rows.dtype)

    def mask_shape(self, rows: Tensor) -> tuple[int, int, int, int]:
        """(B, C, 1, 1), one number for each channel of each image."""
        return rows.shape[0], rows.shape[1], 1, 1


@dataclass(frozen=True)
class StochasticDepth(ChannelDropout):
    """`torchvision.ops.StochasticDepth` in training mode, which drops whole maps, by image or of the whole batch."""

    whole_batch: bool = False

    def mask_shape(self, rows: Tensor) -> tuple[int, int, int, int]:
        """(B, 1, 1, 1), or (1, 1, 1, 1) for the whole batch."""
        return 1 if self.whole_batch else rows.shape[0], 1, 1, 1


@dataclass(frozen=True)
class Windowed(ABC):
    """A layer whose output rows read neighboring input rows.

    Attributes:
        window: The vertical geometry.
        columns: The horizontal geometry, with columns for rows, and left and right for top and bottom.
    """

    window: SlidingWindow
    columns: SlidingWindow

    @property
    def fill(self) -> float:
        """Value of the padding rows."""
        return 0.0

    @abstractmethod
    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """All output rows of `rows`, padded above and below by `vertical_pad` further rows."""

    def sideways(self) -> Self:
        """The same layer for maps whose height and width are swapped."""
        return replace(self, window=self.columns, columns=self.window)


@dataclass(frozen=True)
class Convolution(Windowed):
    """`torch.nn.Conv2d`; tensors are (weight, bias). On swapped maps the weight has to be swapped too.

    The bias may have a longer type than the weight, for its gradient.
    """

    dilation: Pair
    groups: int

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        left, right, mode = self.columns.pad_top, self.columns.pad_bottom, self.columns.mode
        pad = left
        if mode != "zeros" or left != right:
            if left or right:
                rows = functional.pad(rows, (left, right, 0, 0), mode="constant" if mode == "zeros" else mode)
            pad = 0
        return self.convolve(rows, (vertical_pad, pad), tensors)

    def convolve(self, rows: Tensor, padding: Pair, tensors: Sequence[Tensor | None]) -> Tensor:
        """The convolution of rows that have all other padding already.

        Args:
            rows: (B, C, rows, W).
            padding: Rows and columns of zeros on each side.
            tensors: See `prepared`.
        """
        *for_values, short, weight, bias = tensors
        assert weight is not None
        assert short is not None
        settings = ConvolutionSettings((self.window.stride, self.columns.stride), padding, self.dilation, self.groups)
        return convolution(lambda rows: self.values(rows, settings, for_values), rows, weight, bias, settings, short)

    def values(self, rows: Tensor, settings: ConvolutionSettings, tensors: Sequence[Tensor | None]) -> Tensor:
        """The values of the result."""
        weight, bias = tensors
        assert weight is not None
        return torch.conv2d(rows, weight, bias, *settings)

    def prepared(self, tensors: Sequence[Tensor | None], dtype: torch.dtype | None) -> list[Tensor | None]:
        """The tensors as strips read them, cast once for all strips.

        Args:
            tensors: Those of the layer, whose last two get gradients.
            dtype: Type that autocast computes convolutions in; None without autocast.

        Returns:
            Those that the values are computed with, the weight for the gradient of the rows, and the last two.
        """
        (weight, bias, *norm), (for_gradient, _) = tensors[:-2] or tensors, tensors[-2:]
        assert weight is not None
        assert for_gradient is not None
        dtype = weight.dtype if dtype is None or weight.dtype == torch.float64 else dtype  # as autocast does
        with torch.no_grad():
            cast = [None if t is None else t.detach().to(dtype) for t in (weight, bias, for_gradient)]
        return [*cast[:2], *norm, cast[2], *tensors[-2:]]

    def sideways(self) -> Self:
        """See `Windowed.sideways`."""
        return replace(super().sideways(), dilation=self.dilation[::-1])


@dataclass(frozen=True)
class NormalizedConvolution(Convolution):
    """`torch.nn.Conv2d` and the `torch.nn.BatchNorm2d` in eval mode that alone reads it, in the memory of one layer.

    The result is that of the two layers to the last bit, so that the activations behind them pass and block the same
    pixels as in the plain network. The gradient is that of one convolution with folded tensors,

        weight' = weight * gamma / sqrt(var + eps)        bias' = beta + (bias - mean) * gamma / sqrt(var + eps)

    for which the result of the convolution, from which autograd takes the gradient of gamma, is not kept. Gradients of
    weight' and bias' reach weight, bias, gamma and beta by the chain rule, once per image.

    Tensors are (weight, bias, mean, var, gamma, beta, weight', bias'); gradients are those of the last two.
    """

    epsilon: float

    def values(self, rows: Tensor, settings: ConvolutionSettings, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Convolution.values`."""
        weight, bias, mean, variance, gamma, beta = tensors
        convolved = super().values(rows, settings, (weight, bias))
        norm = (mean, variance, gamma, beta)
        assert mean is not None
        if rows.device.type != "cpu" or any(t is not None and t.numel() != convolved.shape[1] for t in norm):
            return functional.batch_norm(convolved, *norm, False, 0.0, self.epsilon)
        # The same kernel, in place: fresh memory costs a CPU more than the computation. It checks no lengths.
        arguments = (gamma, beta, mean, variance, False, 0.0, self.epsilon)
        torch.native_batch_norm(convolved, *arguments, out=(convolved, mean.new_empty(0), mean.new_empty(0)))
        return convolved


@dataclass(frozen=True)
class ChannelLinear(Convolution):
    """`torch.nn.Linear` over the channels of each pixel, a 1x1 convolution; tensors are those of a convolution.

    Computed as a matrix product over the last dimension, because the channels are last in memory there.
    """

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        weight, bias = tensors[-2:]
        assert weight is not None
        return functional.linear(rows.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class MaxPool(Windowed):
    """`torch.nn.MaxPool2d`.

    `swapped` means that height and width of the maps are swapped. They are swapped back for the kernel, because among
    equal maxima the first in reading order gets the gradient.
    """

    kernel: Pair
    dilation: Pair
    swapped: bool = False

    @property
    def fill(self) -> float:
        """See `Windowed.fill`."""
        return float("-inf")

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        stride, padding = (self.window.stride, self.columns.stride), (vertical_pad, self.columns.pad_top)
        ceil, kernel, dilation = self.window.ceil_mode, self.kernel, self.dilation
        if not self.swapped:
            return functional.max_pool2d(rows, kernel, stride, padding, dilation, ceil)
        upright = swap_sides(rows)
        pooled = functional.max_pool2d(upright, kernel[::-1], stride[::-1], padding[::-1], dilation[::-1], ceil)
        return swap_sides(pooled)

    def sideways(self) -> Self:
        """See `Windowed.sideways`."""
        kernel, dilation = self.kernel[::-1], self.dilation[::-1]
        return replace(super().sideways(), kernel=kernel, dilation=dilation, swapped=not self.swapped)


@dataclass(frozen=True)
class AveragePool(Windowed):
    """`torch.nn.AvgPool2d`. `apply` divides by the whole kernel; `correct` rescales windows cut by a border."""

    count_include_pad: bool
    divisor: int | None

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        kernel, stride = (self.window.extent, self.columns.extent), (self.window.stride, self.columns.stride)
        padding, divisor = (vertical_pad, self.columns.pad_top), self.divisor or kernel[0] * kernel[1]
        return functional.avg_pool2d(rows, kernel, stride, padding, self.window.ceil_mode, divisor_override=divisor)

    def correct(self, averages: Tensor, rows_out: range, rows_in: int, columns_in: int) -> Tensor:
        """Rescale the output rows `rows_out` so that each is divided by the number of pixels torch divides by."""
        if self.divisor is not None:
            return averages
        vertical = _counts(self.window, self.count_include_pad, rows_out, rows_in)
        sides = _counts(self.columns, self.count_include_pad, range(averages.shape[3]), columns_in)
        if vertical is None and sides is None:
            return averages
        whole, device = self.window.extent * self.columns.extent, averages.device
        of_rows = on_device(vertical or (self.window.extent,), torch.float64, device)
        of_columns = on_device(sides or (self.columns.extent,), torch.float64, device)
        return averages * (whole / (of_rows[:, None] * of_columns)).to(averages.dtype)


@lru_cache(maxsize=256)
def _counts(window: SlidingWindow, count_include_pad: bool, indices: range, size: int) -> tuple[int, ...] | None:
    """Pixels along one axis that outputs are divided by in `avg_pool2d`; None if those of a whole kernel."""
    counts = []
    for index in indices:
        start = index * window.stride - window.pad_top
        stop = min(start + window.extent, size + window.pad_bottom)
        counts.append(stop - start if count_include_pad else min(stop, size) - max(start, 0))
    return None if set(counts) == {window.extent} else tuple(counts)


@dataclass(frozen=True)
class Padding(Windowed):
    """`torch.nn.functional.pad` and slices of rows and columns, windows of one row that may have a stride.

    Attributes:
        value: That of constant padding.
    """

    value: float = 0.0

    @property
    def fill(self) -> float:
        """See `Windowed.fill`."""
        return self.value

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        sides = (self.columns.pad_top, self.columns.pad_bottom, vertical_pad, vertical_pad)
        if self.columns.mode == "zeros":
            rows = functional.pad(rows, sides, value=self.value) if any(sides) else rows
        elif any(sides[:2]):
            rows = functional.pad(rows, (*sides[:2], 0, 0), mode=self.columns.mode)
        steps = (self.window.stride, self.columns.stride)
        return rows if steps == (1, 1) else rows[:, :, :: steps[0], :: steps[1]]


@dataclass(frozen=True)
class Join:
    """Several maps combined row by row, ``function(*rows) -> rows``."""

    function: Callable[..., Tensor]


Rule = Pointwise | ChannelDropout | Windowed | Resized | Join | Reduction
