"""Sums of gradients over strips in at least float32.

A gradient of a bfloat16 tensor has 8 bits. Summed in that type, the gradient of a strip is lost as soon as the sum is
256 times as large; summed in float32 and rounded once, it is as exact as that of the whole image.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from streammodels.core.reductions import sum_dtype


class GradSums:
    """Sums of the ``.grad`` of leaves, into which autograd writes the gradients of one strip after the other.

    Args:
        leaves: The leaves. Those of float32 and float64 are summed by autograd itself.
    """

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        self._short = [leaf for leaf in leaves if leaf.requires_grad and sum_dtype(leaf.dtype) != leaf.dtype]
        self._sums: dict[Tensor, Tensor] = {}

    def add_strip(self) -> None:
        """Add the gradients of a strip, and remove them from the leaves."""
        for leaf in self._short:
            if leaf.grad is not None:
                before, grad = self._sums.get(leaf), leaf.grad
                self._sums[leaf] = grad.to(sum_dtype(grad.dtype)) if before is None else before.add_(grad)
                leaf.grad = None

    def finish(self) -> None:
        """Round the sums to the types of their leaves, and write them into ``.grad``."""
        for leaf, total in self._sums.items():
            with torch.no_grad():
                leaf.grad = total.to(leaf.dtype)
