"""How a whole map becomes one vector, strip by strip, so that the map itself never exists.

Every strip yields a *partial* result, a few numbers per channel. The partial results of all strips are combined at the
end, in plain PyTorch:

    rows of strip 0 -> partial 0 -+
    rows of strip 1 -> partial 1 -+-> combine -> (B, C)
    rows of strip 2 -> partial 2 -+

`combine` is differentiable, so autograd itself finds the gradient of every partial result; the backward pass of the
strips starts from there. No rule has to state a derivative.

Sums of exponentials and powers are kept relative to a running maximum, which no gradient passes: the outcome does not
depend on it. Sums are taken in at least float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Parts = tuple[Tensor, ...]


class Reduction(ABC):
    """A whole map to one vector per image, strip by strip.

    Attributes:
        random: Whether `partial` draws random numbers.
    """

    random: bool = False

    @abstractmethod
    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """Reduce the (B, C, rows, W) of one strip; differentiable. Always the same number of tensors."""

    @abstractmethod
    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The final vector; differentiable.

        Args:
            parts: What `partial` returned, that of all strips stacked along a new first dimension.
            pixels: Pixels of the whole map, of one image.
            dtype: Type of the map, and of the result.
            tensors: The same as in `partial`.
        """

    def whole(self, features: Tensor, *tensors: Tensor) -> Tensor:
        """The final vector of a whole (B, C, H, W) map, as one strip."""
        parts = tuple(part[None] for part in self.partial(features, *tensors))
        return self.combine(parts, features.shape[2] * features.shape[3], features.dtype, *tensors)


@dataclass(frozen=True)
class GlobalAverage(Reduction):
    """`AdaptiveAvgPool2d(1)` or ``mean`` over height and width."""

    keep_dimensions: bool = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """Sum of the strip."""
        return (rows.sum(dim=(2, 3), keepdim=self.keep_dimensions, dtype=sum_dtype(rows.dtype)),)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """Sum over count."""
        return (parts[0].sum(dim=0) / pixels).to(dtype)


@dataclass(frozen=True)
class GlobalMaximum(Reduction):
    """`AdaptiveMaxPool2d(1)`. Of equal maxima the first one gets the gradient, and of NaNs the last, as in torch."""

    keep_dimensions: bool = True

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """Maximum of the strip."""
        pooled: Tensor = functional.adaptive_max_pool2d(rows, 1)
        return (pooled if self.keep_dimensions else pooled.flatten(1),)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The largest."""
        maxima = parts[0]
        numbers = torch.arange(len(maxima), device=maxima.device).view(-1, *[1] * (maxima.ndim - 1))
        last_nan = torch.where(maxima.isnan(), numbers, -1).amax(dim=0)
        chosen = torch.where(last_nan >= 0, last_nan, maxima.argmax(dim=0))
        return maxima.gather(0, chosen[None])[0]


def present(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """The tensors of a node without its gaps; a reduction knows which it has."""
    return [tensor for tensor in tensors if tensor is not None]


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sums over a map of `dtype` are taken in."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
