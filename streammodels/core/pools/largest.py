"""The mean of the largest pixels of each channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from streammodels.core.reductions import Parts, Reduction, sum_dtype


@dataclass(frozen=True)
class MeanOfLargest(Reduction):
    """The mean of the `number` largest values of each channel, of all if there are fewer; of equal ones the first."""

    number: int

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The largest of the strip in descending order (B, C, number), filled up with minus infinity."""
        found = _largest(rows.flatten(2), self.number)
        return (functional.pad(found, (0, self.number - found.shape[2]), value=-torch.inf),)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The mean of the largest of all strips."""
        candidates = parts[0].permute(1, 2, 0, 3).flatten(2)  # in the order of the strips
        found = _largest(candidates, min(self.number, pixels))
        return found.mean(dim=2, dtype=sum_dtype(dtype)).to(dtype)


def _largest(values: Tensor, number: int) -> Tensor:
    """The largest along the last dimension, in descending order; equal ones in theirs."""
    return values.sort(dim=2, descending=True, stable=True).values[:, :, :number]
