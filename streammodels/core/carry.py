"""Concatenation of carried rows and new rows, in one pass over memory.

In front of every layer with a carry, the carry and the new rows are concatenated, a ReLU may be applied, and the last
rows are copied as the next carry. As separate operations of torch, each would copy the strip once more, and the
gradient of the copy would first fill a strip with zeros. Here they are one function with the gradient

    d rows = mask * d joined[new rows],   with d kept added to its last rows      (mask: where the ReLU passes)

The carry may have a longer type than the rows, in which the gradients of the strips that read a row are then summed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from streammodels.core.tensors.memory_format import empty_as, format_of

CopyRows = Callable[[Tensor], Tensor]
"""Makes a copy of rows (B, C, rows, W)."""

_threshold_backward = torch.ops.aten.threshold_backward.default


def copy_rows(rows: Tensor) -> Tensor:
    """A copy of rows in memory of its own."""
    return rows.clone()


def join_rows(
    carry: Tensor, rows: Tensor, keep: int, relu: bool, copy: CopyRows | None = copy_rows
) -> tuple[Tensor, Tensor | None]:
    """Concatenate `carry` and `rows`, and copy the last rows.

    Args:
        carry: (B, C, carried, W), of the type of the rows, or float32 where theirs is shorter.
        rows: (B, C, new, W).
        keep: How many of the last rows to copy.
        relu: Whether the joined rows pass a ReLU. The copied rows have not passed it.
        copy: Makes the copy; None for one without values, where only its gradient is asked for.

    Returns:
        (B, C, carried + new, W) of the type of `rows`, and a copy of its last `keep` rows (before the ReLU) of the type
        of `carry`, None if `keep` is 0.
    """
    if not torch.is_grad_enabled():
        return _joined(carry, rows, relu), _kept(carry, rows, keep, copy)
    joined: Tensor
    kept: Tensor | None
    joined, kept = _JoinRows.apply(carry, rows, keep, relu, copy)
    return joined, kept


def last_rows(carry: Tensor | None, rows: Tensor, keep: int, copy: CopyRows = copy_rows) -> Tensor | None:
    """A copy of the last `keep` rows of both together; None for 0.

    A view would keep the whole strip in memory, and would change with an activation in place.
    """
    if keep == 0:
        return None
    new = rows.shape[2]
    if keep <= new or carry is None:
        last = rows.narrow(2, new - keep, keep)
        return copy(last) if carry is None or carry.dtype == last.dtype else last.to(carry.dtype)
    before = keep - new
    return torch.cat([carry.narrow(2, carry.shape[2] - before, before), rows], dim=2)


def _joined(carry: Tensor, rows: Tensor, relu: bool) -> Tensor:
    """The carried and the new rows in one tensor of the type of `rows`."""
    carry = carry.to(rows.dtype)
    if not relu:
        return torch.cat([carry, rows], dim=2)
    carried, new = carry.shape[2], rows.shape[2]
    joined = empty_as(rows, (*rows.shape[:2], carried + new, rows.shape[3]))
    torch.clamp_min(carry, 0, out=joined.narrow(2, 0, carried))
    torch.clamp_min(rows, 0, out=joined.narrow(2, carried, new))
    return joined


def _kept(carry: Tensor, rows: Tensor, keep: int, copy: CopyRows | None) -> Tensor | None:
    """See `join_rows`."""
    if copy is not None or keep == 0:
        return last_rows(carry, rows, keep, copy or copy_rows)
    return carry.new_empty(1).expand(*rows.shape[:2], keep, rows.shape[3])


class _JoinRows(torch.autograd.Function):
    """`join_rows` with its gradient, which is not differentiated again: `StreamedFunction` refuses that."""

    @staticmethod
    def forward(
        ctx: Any, carry: Tensor, rows: Tensor, keep: int, relu: bool, copy: CopyRows | None
    ) -> tuple[Tensor, Tensor | None]:
        joined, kept = _joined(carry, rows, relu), _kept(carry, rows, keep, copy)
        if relu:
            ctx.save_for_backward(joined)
        ctx.set_materialize_grads(False)
        ctx.memory_format = format_of(rows)
        ctx.carried, ctx.shape, ctx.relu = carry.shape[2], joined.shape, relu
        ctx.dtypes = carry.dtype, rows.dtype
        return joined, kept

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, kept_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            if kept_grad is None:
                return None, None, None, None, None
            dtype, memory_format = ctx.dtypes[1], ctx.memory_format
            grad = torch.empty(ctx.shape, dtype=dtype, device=kept_grad.device, memory_format=memory_format).zero_()
        carried, new = ctx.carried, ctx.shape[2] - ctx.carried
        carry_grad, rows_grad = grad.narrow(2, 0, carried).to(ctx.dtypes[0]), grad.narrow(2, carried, new)
        from_rows = 0 if kept_grad is None else min(kept_grad.shape[2], new)
        from_carry = 0 if kept_grad is None else kept_grad.shape[2] - from_rows
        if ctx.relu:
            (joined,) = ctx.saved_tensors
            carry_grad = _threshold_backward(carry_grad, joined.narrow(2, 0, carried).to(carry_grad.dtype), 0)
            rows_grad = _threshold_backward(rows_grad, joined.narrow(2, carried, new), 0)
        elif kept_grad is not None:  # the incoming gradient must not be written into
            rows_grad = rows_grad.clone()
            carry_grad = carry_grad.clone() if from_carry else carry_grad
        if kept_grad is not None:  # the sums have the longer type, and are rounded once
            rows_grad.narrow(2, new - from_rows, from_rows).add_(kept_grad.narrow(2, from_carry, from_rows))
            if from_carry:
                carry_grad.narrow(2, carried - from_carry, from_carry).add_(kept_grad.narrow(2, 0, from_carry))
        return carry_grad, rows_grad, None, None, None
