"""What a strip of rows does in each kind of layer.

Four kinds are enough for every convolutional trunk, and each is one small class here:

* `Pointwise` - every output pixel depends on the same input pixel (activation, frozen batch normalisation, dropout);
* `Windowed` - an output row depends on a few neighbouring input rows (convolution, pooling);
* `Join` - two or more values meet row by row (residual sum, concatenation);
* `Reduction` - the whole map becomes one vector (global pooling); it emits at the end, see `reductions.py`.

A rule is a pure function of rows and of the layer's tensors (weights, running statistics), which the caller passes in.
Which rows it sees is not its business: the plan (`rows.py`) knows, the engine (`engine.py`) follows the plan.
`layers.py` says which rule a layer of torch gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from streammodels.core.reductions import Reduction
from streammodels.core.row_plan import Window

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
        """Drop what `seed` picks, the same in every strip, and scale up the rest."""
        generator = None if rows.is_meta else torch.Generator(rows.device).manual_seed(seed)
        keep = 1.0 - self.probability
        mask = torch.empty(self.mask_shape(rows), dtype=torch.float32, device=rows.device)
        mask.bernoulli_(keep, generator=generator).div_(max(keep, 1e-12))
        return rows * mask.to(rows.dtype)

    def mask_shape(self, rows: Tensor) -> tuple[int, int, int, int]:
        """One number for every channel of every image."""
        return rows.shape[0], rows.shape[1], 1, 1


@dataclass(frozen=True)
class StochasticDepth(ChannelDropout):
    """`torchvision.ops.StochasticDepth` in training: the whole map of an image is dropped, or those of all images."""

    whole_batch: bool = False

    def mask_shape(self, rows: Tensor) -> tuple[int, int, int, int]:
        """One number for every image, or a single one."""
        return 1 if self.whole_batch else rows.shape[0], 1, 1, 1


class Windowed(Protocol):
    """A layer whose output rows read neighbouring input rows."""

    @property
    def window(self) -> Window:
        """The vertical geometry."""
        ...

    @property
    def columns(self) -> Window:
        """The horizontal geometry; `Window`'s rows are columns here, and top and bottom left and right."""
        ...

    @property
    def fill(self) -> float:
        """The value of the padding rows."""
        ...

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """Compute all output rows of `rows`, which `vertical_pad` further rows of padding surround above and below."""
        ...

    def sideways(self) -> Windowed:
        """The same layer on maps whose height and width are swapped."""
        ...


@dataclass(frozen=True)
class Convolution:
    """`torch.nn.Conv2d`; tensors are (weight, bias)."""

    window: Window
    columns: Window
    dilation: Pair
    groups: int
    fill: float = 0.0

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        weight, bias = tensors
        assert weight is not None
        left, right, mode = self.columns.pad_top, self.columns.pad_bottom, self.columns.mode
        pad, stride = left, (self.window.stride, self.columns.stride)
        if mode != "zeros" or left != right:
            if left or right:
                rows = functional.pad(rows, (left, right, 0, 0), mode="constant" if mode == "zeros" else mode)
            pad = 0
        return functional.conv2d(rows, weight, bias, stride, (vertical_pad, pad), self.dilation, self.groups)

    def sideways(self) -> Convolution:
        """The same on swapped maps; its weight has to be swapped too."""
        return replace(self, window=self.columns, columns=self.window, dilation=self.dilation[::-1])


@dataclass(frozen=True)
class ChannelLinear(Convolution):
    """`torch.nn.Linear` over the channels of each pixel, which is a 1x1 convolution; tensors are those of one.

    Computed with the channels last, as a product of matrices: what is in front of it left them so in memory.
    """

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        weight, bias = tensors
        assert weight is not None
        return functional.linear(rows.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class MaxPool:
    """`torch.nn.MaxPool2d`.

    `swapped` says that height and width of the maps are swapped. The kernel still sees them as they were, because of
    equal maxima the first one in reading order gets the gradient.
    """

    window: Window
    columns: Window
    kernel: Pair
    dilation: Pair
    swapped: bool = False
    fill: float = float("-inf")

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        stride, padding = (self.window.stride, self.columns.stride), (vertical_pad, self.columns.pad_top)
        ceil, kernel, dilation = self.window.ceil_mode, self.kernel, self.dilation
        if not self.swapped:
            return functional.max_pool2d(rows, kernel, stride, padding, dilation, ceil)
        upright = rows.transpose(2, 3)
        pooled = functional.max_pool2d(upright, kernel[::-1], stride[::-1], padding[::-1], dilation[::-1], ceil)
        return pooled.transpose(2, 3)

    def sideways(self) -> MaxPool:
        """The same on swapped maps."""
        swapped = replace(self, window=self.columns, columns=self.window, swapped=not self.swapped)
        return replace(swapped, kernel=self.kernel[::-1], dilation=self.dilation[::-1])


@dataclass(frozen=True)
class AveragePool:
    """`torch.nn.AvgPool2d`. `apply` divides by the whole kernel; `correct` makes up for windows cut by a border."""

    window: Window
    columns: Window
    count_include_pad: bool
    divisor: int | None
    fill: float = 0.0

    def apply(self, rows: Tensor, vertical_pad: int, tensors: Sequence[Tensor | None]) -> Tensor:
        """See `Windowed.apply`."""
        kernel, stride = (self.window.extent, self.columns.extent), (self.window.stride, self.columns.stride)
        padding, divisor = (vertical_pad, self.columns.pad_top), self.divisor or kernel[0] * kernel[1]
        return functional.avg_pool2d(rows, kernel, stride, padding, self.window.ceil_mode, divisor_override=divisor)

    def correct(self, averages: Tensor, rows_out: range, rows_in: int, columns_in: int) -> Tensor:
        """Let each of the output rows `rows_out` divide by the number of pixels torch divides by."""
        if self.divisor is not None:
            return averages
        vertical = [self._counted(j, self.window, rows_in) for j in rows_out]
        sides = [self._counted(j, self.columns, columns_in) for j in range(averages.shape[3])]
        if set(vertical) == {self.window.extent} and set(sides) == {self.columns.extent}:
            return averages
        counts = torch.tensor(vertical)[:, None] * torch.tensor(sides)
        factors = self.window.extent * self.columns.extent / counts.to(torch.float64)
        return averages * factors.to(averages)

    def _counted(self, index: int, window: Window, size: int) -> int:
        """Pixels along one axis that the pool at `index` divides by, as in torch's `avg_pool2d`."""
        start = index * window.stride - window.pad_top
        stop = min(start + window.extent, size + window.pad_bottom)
        return stop - start if self.count_include_pad else min(stop, size) - max(start, 0)

    def sideways(self) -> AveragePool:
        """The same on swapped maps."""
        return replace(self, window=self.columns, columns=self.window)


@dataclass(frozen=True)
class Join:
    """Several values combined row by row: ``function(*rows) -> rows``."""

    function: Callable[..., Tensor]


Rule = Pointwise | ChannelDropout | Convolution | MaxPool | AveragePool | Join | Reduction
