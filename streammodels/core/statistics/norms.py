"""Normalization by statistics of whole maps, such as group, instance and batch normalization.

Mean and variance come from the strips by the parallel algorithm of Chan, Golub and LeVeque (1979): each strip gives its
own mean and the sum of squares about it, and the differences between the means of the strips are added when they are
merged. A mean that is large beside the deviation takes no digits from the variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from streammodels.core.reductions import Parts, Reduction, sum_dtype


@dataclass(frozen=True)
class NormStatistics(Reduction):
    """What a normalization subtracts, multiplies by and adds, (4, B or 1, C, 1, 1); see `normalize`.

    The fourth is the unbiased variance, for running statistics. Tensors are weight and bias, if it has them.

    Attributes:
        groups: Groups of channels that share statistics; None for one for each channel.
        over_batch: Whether all images share statistics.
        epsilon: What is added to the variance.
        has_weight: Whether the result is multiplied by the first tensor, one number for each channel.
        has_bias: Whether the last tensor is added to the result, one number for each channel.
        update: Called with mean and unbiased variance, (B or 1, C) each, once they are known; None to keep none.
        shape: (C, H, W) that the map has to have; None for any.
    """

    groups: int | None
    over_batch: bool
    epsilon: float
    has_weight: bool
    has_bias: bool
    update: Callable[[Tensor, Tensor], None] | None = None
    shape: tuple[int, ...] | None = None
    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """Mean and sum of squares about it of each channel, and the number of pixels."""
        values = rows.to(sum_dtype(rows.dtype))
        pixels = rows.shape[2] * rows.shape[3]
        variance, mean = torch.var_mean(values, dim=(2, 3), correction=0)
        return mean, variance * pixels, values.new_full((), pixels)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """Merge the strips, and what shares statistics."""
        means, squares, counts = parts
        mean, square = _merged(means, squares, counts[:, None, None], 0)
        count, channels = pixels, mean.shape[1]
        if self.shape is not None and (channels, pixels) != (self.shape[0], self.shape[1] * self.shape[2]):
            raise ValueError(
                f"a map of {channels} channels and {pixels} pixels is not of normalized_shape={self.shape}"
            )
        if self.groups is not None:
            shape = (mean.shape[0], self.groups, -1)
            mean, square = _merged(mean.reshape(shape), square.reshape(shape), mean.new_full((), pixels), 2)
            count *= channels // self.groups
        if self.over_batch:
            count *= mean.shape[0]
            mean, square = (v[None] for v in _merged(mean, square, mean.new_full((), pixels), 0))
        if count == 1:
            raise ValueError(
                "a normalization got one value for each mean, whose variance is zero. Use a larger image, or eval mode."
            )
        deviation = torch.rsqrt(square / count + self.epsilon)
        values = [_for_channels(value, channels) for value in (mean, deviation, square / (count - 1))]
        mean, scale, unbiased = values
        weights = [tensor.to(mean.dtype) for tensor in tensors]
        scale = scale * weights[0] if self.has_weight else scale
        shift = weights[-1].expand_as(mean) if self.has_bias else torch.zeros_like(mean)
        return torch.stack([mean, scale, shift, unbiased.detach()])[..., None, None]

    def track(self, statistics: Tensor) -> None:
        """Update running statistics by the result of `combine`."""
        if self.update is not None:
            mean, _, _, unbiased = statistics.detach().squeeze((-2, -1))
            self.update(mean, unbiased)


def normalize(rows: Tensor, statistics: Tensor, is_long: bool) -> Tensor:
    """Rows normalized by the result of `NormStatistics`.

    If `is_long`, they are of float32 under autocast on a GPU, as in torch.
    """
    mean, scale, shift, _ = statistics
    result = torch.addcmul(shift, rows.to(mean.dtype) - mean, scale)
    is_long &= rows.device.type == "cuda" and torch.is_autocast_enabled("cuda")
    return result if is_long else result.to(rows.dtype)


def _merged(means: Tensor, squares: Tensor, counts: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Mean, and sum of squares about it, of parts along a dimension that have `counts` values each."""
    first = means.narrow(dimension, 0, 1).detach()  # small differences are summed
    total = counts.expand_as(means).sum(dimension, keepdim=True)
    mean = first + (counts * (means - first)).sum(dimension, keepdim=True) / total
    between = (counts * (means - mean).square()).sum(dimension)
    return mean.squeeze(dimension), squares.sum(dimension) + between


def _for_channels(values: Tensor, channels: int) -> Tensor:
    """(B, groups) -> (B, C)."""
    return values.repeat_interleave(channels // values.shape[1], dim=1)
