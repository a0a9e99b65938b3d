"""Sums and means over all pixels, weighted by the values themselves or by learned scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from streammodels.core.reductions import Attention, Parts, Reduction, finite_or, sum_dtype


@dataclass(frozen=True)
class GlobalSum(Reduction):
    """The sum over all pixels."""

    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The sum of the strip."""
        return (rows.sum(dim=(2, 3), dtype=sum_dtype(rows.dtype)),)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The sum of the strips."""
        return parts[0].sum(dim=0).to(dtype)


@dataclass(frozen=True)
class SoftmaxWeighted(Reduction):
    """``sum(softmax(r x) x)`` of each channel, the softmax over all pixels; the tensor is r, of one element."""

    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The largest exponent, the sum of weights relative to it, and of weighted values: (B, C) each."""
        values = rows.to(sum_dtype(rows.dtype))
        exponents = values * tensors[0].to(values.dtype)
        largest = exponents.detach().amax(dim=(2, 3), keepdim=True)
        weights = (exponents - finite_or(largest, 0.0)).exp()
        return largest.flatten(1), weights.sum(dim=(2, 3)), (weights * values).sum(dim=(2, 3))

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The weighted sum divided by the sum of weights."""
        largest, weights, weighted = parts[0].detach(), parts[1], parts[2]
        share = (largest - finite_or(largest.amax(dim=0), 0.0)).exp()
        return ((weighted * share).sum(dim=0) / (weights * share).sum(dim=0)).to(dtype)


@dataclass(frozen=True)
class AttentionGeneralizedMean(Attention):
    """``(sum(softmax(score) max(x, epsilon)^p))^(1/p)`` of each channel; the last tensor is p, of one element.

    Powers and weights are multiplied as a sum of logarithms, and summed relative to the largest, so that neither a
    large p nor weights on small values can underflow.
    """

    epsilon: float = 1e-6

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """Of the scores (B, heads) and of weighted powers (B, heads, C): the largest exponent, and the sum."""
        dtype = sum_dtype(rows.dtype)
        scores = self.scores(rows, *tensors).to(dtype).flatten(2)
        logarithms = rows.to(dtype).clamp(min=self.epsilon).log().flatten(2) * tensors[-1].to(dtype)
        largest = scores.detach().amax(dim=2)
        weights = (scores - finite_or(largest, 0.0)[..., None]).exp().sum(dim=2)
        tops, sums = [], []
        for head in range(scores.shape[1]):  # one at a time, for the memory of one map
            exponents = logarithms + scores[:, head, None]
            tops.append(exponents.detach().amax(dim=2))
            sums.append((exponents - finite_or(tops[-1], 0.0)[..., None]).exp().sum(dim=2))
        return largest, weights, torch.stack(tops, dim=1), torch.stack(sums, dim=1)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The root of the sum of weighted powers divided by the sum of weights."""
        weights = _log_sum(parts[0].detach(), parts[1])
        powers = _log_sum(parts[2].detach(), parts[3])
        vectors = ((powers - weights[..., None]) / tensors[-1].to(powers.dtype)).exp()
        return (vectors.squeeze(1) if self.one_vector else vectors).to(dtype)


def _log_sum(largest: Tensor, sums: Tensor) -> Tensor:
    """The logarithm of the sum over strips, of sums relative to the largest exponent of each strip."""
    top = finite_or(largest.amax(dim=0), 0.0)
    return top + (sums * (largest - top).exp()).sum(dim=0).log()


@dataclass(frozen=True)
class NormalizedGlobalWeighted(Reduction):
    """Scores of classes averaged by their own softmax over the classes, and a term for the size of the classes.

        m = softmax(background, x_1 ... x_K)                             at every pixel
        result_c = sum(m_c x_c) / (epsilon + sum(m_c)) + (1 - size_c)^power log(floor + size_c)
        size_c = mean(m_c)                                              over all pixels

    Attributes:
        background: Score of a further class that stands for everything else; None if there is none.
        epsilon: See above.
        power: See above.
        floor: See above.
        has_size: Whether the second term is added.
    """

    background: float | None
    epsilon: float
    power: float
    floor: float
    has_size: bool
    ignores_order: ClassVar[bool] = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The sums of weights and of weighted scores: (B, K) each."""
        scores = rows.to(sum_dtype(rows.dtype))
        classes = scores
        if self.background is not None:
            classes = torch.cat([torch.full_like(scores[:, :1], self.background), scores], dim=1)
        weights = classes.softmax(dim=1)[:, -scores.shape[1] :]
        return weights.sum(dim=(2, 3)), (weights * scores).sum(dim=(2, 3))

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The weighted mean, and the term for the size."""
        weights, weighted = (part.sum(dim=0) for part in parts)
        result = weighted / (self.epsilon + weights)
        if self.has_size:
            size = weights / pixels
            # Rounding may take the mean of ones above one, which has no root.
            result = result + (1 - size).clamp(min=0).pow(self.power) * (self.floor + size).log()
        return result.to(dtype)
