"""Concatenation of carried rows and new rows, in one pass over memory.

In front of every layer with a carry, the carry and the new rows are concatenated, a ReLU may be applied, and the last
rows are copied as the next carry. As separate operations of torch, each would copy the strip once more, and the
gradient of the copy would first fill a strip with zeros. Here they are one function with the gradient

    d rows = mask * d joined[new rows],   with d kept added to its last rows      (mask: where the ReLU passes)

The carry may have a longer type than the rows, in which the gradients of the strips that read a row are then summed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from streammodels.core.memory_format import empty_as, format_of


def join_rows(carry: Tensor, rows: Tensor, keep: int, relu: bool) -> tuple[Tensor, Tensor | None]:
    """Concatenate `carry` and `rows`, and copy the last rows.

    Args:
        carry: (B, C, carried, W), of the type of the rows, or float32 where theirs is shorter.
        rows: (B, C, new, W).
        keep: How many of the last rows to copy.
        relu: Whether the joined rows pass a ReLU. The copied rows have not passed it.

    Returns:
        (B, C, carried + new, W) of the type of `rows`, and a copy of its last `keep` rows (before the ReLU) of the type
        of `carry`, None if `keep` is 0.
    """
    joined: Tensor
    kept: Tensor | None
    joined, kept = _JoinRows.apply(carry, rows, keep, relu)
    return joined, kept


def last_rows(carry: Tensor | None, rows: Tensor, keep: int) -> Tensor | None:
    """A copy of the last `keep` rows of both together; None for 0.

    A view would keep the whole strip in memory, and would change with an activation in place.
    """
    if keep == 0:
        return None
    new = rows.shape[2]
    if keep <= new or carry is None:
        return rows[:, :, new - keep :].to(rows.dtype if carry is None else carry.dtype, copy=True)
    return torch.cat([carry[:, :, carry.shape[2] + new - keep :], rows], dim=2)


class _JoinRows(torch.autograd.Function):
    """`join_rows` with its gradient."""

    @staticmethod
    def forward(ctx: Any, carry: Tensor, rows: Tensor, keep: int, relu: bool) -> tuple[Tensor, Tensor | None]:
        kept, carried = last_rows(carry, rows, keep), carry.shape[2]
        if relu:
            joined = empty_as(rows, (*rows.shape[:2], carried + rows.shape[2], rows.shape[3]))
            torch.clamp_min(carry.to(rows.dtype), 0, out=joined[:, :, :carried])
            torch.clamp_min(rows, 0, out=joined[:, :, carried:])
            ctx.save_for_backward(joined)
        else:
            joined = torch.cat([carry.to(rows.dtype), rows], dim=2)
        ctx.set_materialize_grads(False)
        ctx.memory_format = format_of(rows)
        ctx.carried, ctx.shape, ctx.relu, ctx.dtypes = carried, joined.shape, relu, (carry.dtype, rows.dtype)
        return joined, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, kept_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            if kept_grad is None:
                return None, None, None, None
            dtype, memory_format = ctx.dtypes[1], ctx.memory_format
            grad = torch.empty(ctx.shape, dtype=dtype, device=kept_grad.device, memory_format=memory_format).zero_()
        carry_grad, rows_grad = grad[:, :, : ctx.carried].to(ctx.dtypes[0]), grad[:, :, ctx.carried :]
        if ctx.relu:
            (joined,) = ctx.saved_tensors
            passed = joined[:, :, : ctx.carried].to(carry_grad.dtype)
            carry_grad = torch.ops.aten.threshold_backward(carry_grad, passed, 0)
            rows_grad = torch.ops.aten.threshold_backward(rows_grad, joined[:, :, ctx.carried :], 0)
        elif kept_grad is not None:  # the incoming gradient must not be written into
            carry_grad, rows_grad = carry_grad.clone(), rows_grad.clone()
        if kept_grad is not None:
            from_rows = min(kept_grad.shape[2], rows_grad.shape[2])
            from_carry = kept_grad.shape[2] - from_rows
            last = rows_grad[:, :, rows_grad.shape[2] - from_rows :]
            last.copy_(last + kept_grad[:, :, from_carry:])  # the sum has the longer type, and is rounded once
            if from_carry:
                carry_grad[:, :, ctx.carried - from_carry :] += kept_grad[:, :, :from_carry]
        return carry_grad, rows_grad, None, None
