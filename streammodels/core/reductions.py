"""Global pooling strip by strip, so that the whole feature map is never in memory.

Each strip gives a *partial* result of a few numbers per channel. The partial results are combined at the end, in plain
PyTorch:

    rows of strip 0 -> partial 0 -+
    rows of strip 1 -> partial 1 -+-> combine -> (B, C)
    rows of strip 2 -> partial 2 -+

`combine` is differentiable, so autograd gives the gradient of every partial result, and the backward pass of the strips
starts from there. No reduction states a derivative.

Sums of exponentials and powers are relative to a maximum that no gradient passes through, because the result does not
depend on it. Sums are in at least float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

Parts = tuple[Tensor, ...]


class Reduction(ABC):
    """A global pool, from a (B, C, H, W) map to one vector per image, computed strip by strip.

    Attributes:
        saved_copies: Copies of the map's rows that autograd saves of `partial`, for estimates of memory.
    """

    saved_copies: ClassVar[int] = 0

    @property
    def random(self) -> bool:
        """Whether `partial` draws random numbers."""
        return False

    @property
    def ignores_order(self) -> bool:
        """Whether the order of the pixels affects neither result nor gradient.

        If False, strips run from top to bottom even on images wider than tall.
        """
        return False

    @abstractmethod
    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """Partial result of one strip (B, C, rows, W), differentiable; the same number of tensors for every strip.

        A reduction of several maps gets the rows of the further ones in front of `tensors`.
        """

    @abstractmethod
    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The final vector, differentiable.

        Args:
            parts: The results of `partial`, those of all strips stacked along a new first dimension.
            pixels: Pixels of the whole map of one image.
            dtype: Type of the map and of the result.
            tensors: As in `partial`.
        """

    def whole(self, features: Tensor, *tensors: Tensor, further: Sequence[Tensor] = ()) -> Tensor:
        """The final vector of a whole (B, C, H, W) map, and of `further` maps as high and wide."""
        if features.ndim != 4:
            raise ValueError(f"expected a (B, C, H, W) map, got shape {tuple(features.shape)}")
        parts = tuple(part[None] for part in self.partial(features, *further, *tensors))
        return self.combine(parts, features.shape[2] * features.shape[3], features.dtype, *tensors)


@dataclass(frozen=True)
class GlobalAverage(Reduction):
    """`AdaptiveAvgPool2d(1)` or ``mean`` over height and width."""

    keep_dimensions: bool = True
    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The sum of the strip."""
        return (rows.sum(dim=(2, 3), keepdim=self.keep_dimensions, dtype=sum_dtype(rows.dtype)),)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The sum divided by the number of pixels."""
        return (parts[0].sum(dim=0) / pixels).to(dtype)


@dataclass(frozen=True)
class GlobalSum(Reduction):
    """``sum`` over height and width."""

    keep_dimensions: bool = False
    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The sum of the strip."""
        return (rows.sum(dim=(2, 3), keepdim=self.keep_dimensions, dtype=sum_dtype(rows.dtype)),)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The sum of all strips."""
        return parts[0].sum(dim=0).to(dtype)


@dataclass(frozen=True)
class GlobalExtreme(Reduction):
    """``amax`` or ``amin`` over height and width, whose gradient is shared by all equal values."""

    minimum: bool = False
    keep_dimensions: bool = False
    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The extreme of the strip, and how many pixels have it."""
        extreme = (rows.amin if self.minimum else rows.amax)(dim=(2, 3), keepdim=True)
        number = (rows.detach() == extreme.detach()).sum(dim=(2, 3), keepdim=True, dtype=sum_dtype(rows.dtype))
        return (extreme, number) if self.keep_dimensions else (extreme.flatten(1), number.flatten(1))

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The extreme of all strips."""
        extremes, numbers = parts[0], parts[1].detach()
        value = (extremes.detach().amin if self.minimum else extremes.detach().amax)(dim=0)
        shares = torch.where(extremes.detach() == value, numbers, 0)
        zeros = (extremes - extremes.detach()).nan_to_num()  # with the gradient of the extremes
        return (value + (zeros * (shares / shares.sum(dim=0).clamp(min=1))).sum(dim=0)).to(dtype)


@dataclass(frozen=True)
class GlobalMaximum(Reduction):
    """`AdaptiveMaxPool2d(1)`. The gradient goes to the first of equal maxima and to the last of NaNs, as in torch."""

    keep_dimensions: bool = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The maximum of the strip."""
        pooled: Tensor = functional.adaptive_max_pool2d(rows, 1)
        return (pooled if self.keep_dimensions else pooled.flatten(1),)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The maximum of all strips."""
        maxima = parts[0]
        numbers = torch.arange(len(maxima), device=maxima.device).view(-1, *[1] * (maxima.ndim - 1))
        last_nan = torch.where(maxima.isnan(), numbers, -1).amax(dim=0)
        chosen = torch.where(last_nan >= 0, last_nan, maxima.argmax(dim=0))
        return maxima.gather(0, chosen[None])[0]


@dataclass(frozen=True)
class GeneralizedMean(Reduction):
    """``mean(max(x, epsilon)^p)^(1/p)`` of each channel; the tensor is p, of one element.

    Powers are of x relative to the largest x of its channel, so that they cannot overflow.
    """

    epsilon: float
    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The largest value, and the sum of powers relative to it: (B, C) each."""
        values = rows.to(sum_dtype(rows.dtype)).clamp(min=self.epsilon)
        largest = values.detach().amax(dim=(2, 3), keepdim=True)
        powers = (values / finite_or(largest, 1.0)).pow(tensors[0].to(values.dtype))
        return largest.flatten(1), powers.sum(dim=(2, 3))

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The root of the mean of the powers."""
        largest, powers = parts[0].detach(), parts[1]
        exponent = tensors[0].to(powers.dtype)
        scale = finite_or(largest.amax(dim=0), 1.0)
        total = (powers * (finite_or(largest, 1.0) / scale).pow(exponent)).sum(dim=0)
        return (scale * (total / pixels).pow(1 / exponent)).to(dtype)


@dataclass(frozen=True)
class LogMeanExponential(Reduction):
    """``log(mean(exp(r x))) / r`` of each channel; the tensor is r, of one element."""

    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The largest exponent, and the sum of exponentials relative to it: (B, C) each."""
        exponents = rows.to(sum_dtype(rows.dtype))
        exponents = exponents * tensors[0].to(exponents.dtype)
        largest = exponents.detach().amax(dim=(2, 3), keepdim=True)
        return largest.flatten(1), (exponents - finite_or(largest, 0.0)).exp().sum(dim=(2, 3))

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The logarithm of the mean of the exponentials."""
        largest, sums = parts[0].detach(), parts[1]
        top = finite_or(largest.amax(dim=0), 0.0)
        total = (sums * (largest - top).exp()).sum(dim=0)
        return ((top + (total / pixels).log()) / tensors[0].to(total.dtype)).to(dtype)


@dataclass(frozen=True)
class Attention(Reduction):
    """The mean over all pixels weighted by a softmax of their scores, as in attention-based pooling.

    Attributes:
        scores: ``scores(rows, *tensors)`` -> (B, heads, rows, W).
        one_vector: Whether the result is (B, C) instead of (B, heads, C).
        random: Whether `scores` draws random numbers.
    """

    scores: Callable[..., Tensor]
    one_vector: bool
    random: bool = False
    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The largest score, the sum of weights relative to it (B, heads), and of weighted pixels (B, heads, C)."""
        dtype = sum_dtype(rows.dtype)
        scores = self.scores(rows, *tensors).to(dtype).flatten(2)
        largest = scores.detach().amax(dim=2, keepdim=True)
        weights = (scores - finite_or(largest, 0.0)).exp()
        with torch.autocast("cpu" if rows.is_meta else rows.device.type, enabled=False):  # "meta" has no autocast
            # In this order the gradient of the rows has their layout: with channels last, and one image, torch (2.14)
            # computes wrong gradients of a batch normalization in front.
            weighted = rows.to(dtype).flatten(2) @ weights.transpose(1, 2)
            return largest.squeeze(2), weights.sum(dim=2), weighted.transpose(1, 2)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The weighted sum divided by the sum of weights."""
        largest, weights, weighted = parts[0].detach(), parts[1], parts[2]
        share = (largest - finite_or(largest.amax(dim=0), 0.0)).exp()
        vectors = (weighted * share[..., None]).sum(dim=0) / (weights * share).sum(dim=0)[..., None]
        return (vectors.squeeze(1) if self.one_vector else vectors).to(dtype)


def finite_or(values: Tensor, instead: float) -> Tensor:
    """`values` where finite, else `instead`: relative to an infinite or NaN maximum all other values would be lost."""
    return torch.where(values.isfinite(), values, instead)


def without_none(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """The tensors that are not None, in their order."""
    return [tensor for tensor in tensors if tensor is not None]


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type for sums over a map of `dtype`, at least float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
