"""Sums of gradients over strips in at least float32.

A gradient of a bfloat16 tensor has 8 bits. Summed in that type, the gradient of a strip is lost as soon as the sum is
256 times as large; summed in float32 and rounded once, it is as exact as that of the whole image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from streammodels.core.reductions import sum_dtype


class GradSums:
    """Sums of the gradients of leaves, to which the strips add theirs one after the other.

    Args:
        leaves: The leaves, of which those that need a gradient get the sum as their ``.grad``.
        together: Whether the gradients of a strip are added when all of them are there, in a few operations for all
            leaves, which takes memory for one more gradient of each. A GPU would spend more time on being asked for
            every addition than on the additions. Otherwise each is added when it is there.
    """

    def __init__(self, leaves: Iterable[Tensor], together: bool) -> None:
        self._leaves = [leaf for leaf in leaves if leaf.requires_grad]
        self._together = together
        self._short = [] if together else [leaf for leaf in self._leaves if sum_dtype(leaf.dtype) != leaf.dtype]
        self._sums: dict[Tensor, Tensor] = {}

    def add_strip(
        self, roots: Sequence[Tensor], grads: Sequence[Tensor], others: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Run a strip back, and add the gradients of the leaves.

        Args:
            roots: Its results.
            grads: Their gradients.
            others: Further leaves.

        Returns:
            The gradients of `others`.
        """
        inputs = [*self._leaves, *others]
        if self._together:
            found = torch.autograd.grad(roots, inputs, grads, allow_unused=True)
            self._add([(leaf, own) for leaf, own in zip(self._leaves, found, strict=False) if own is not None])
            return list(found[len(self._leaves) :])
        torch.autograd.backward(roots, grads, inputs=inputs)
        self._add([(leaf, leaf.grad) for leaf in self._short if leaf.grad is not None])
        for leaf in self._short:
            leaf.grad = None
        return [one.grad for one in others]

    @torch.no_grad()
    def _add(self, grads: Sequence[tuple[Tensor, Tensor]]) -> None:
        again = [(self._sums[leaf], own) for leaf, own in grads if leaf in self._sums]
        if again:
            torch._foreach_add_([total for total, _ in again], [own for _, own in again])
        self._sums |= {leaf: own.to(sum_dtype(own.dtype)) for leaf, own in grads if leaf not in self._sums}

    def finish(self) -> None:
        """Round the sums to the types of their leaves, write them into ``.grad``, and let go of the leaves."""
        for leaf, total in self._sums.items():
            leaf.grad = total.to(leaf.dtype)
        self._leaves, self._short, self._sums = [], [], {}
