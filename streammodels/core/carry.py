"""Concatenation of carried rows and new rows, in one pass over memory.

In front of every layer with a carry, the carry and the new rows are concatenated, a ReLU may be applied, and the last
rows are copied as the next carry. As separate operations of torch, each would copy the strip once more, and the
gradient of the copy would first fill a strip with zeros. Here they are one function with the gradient

    d rows = mask * d joined[new rows],   with d kept added to its last rows      (mask: where the ReLU passes)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def join_rows(carry: Tensor, rows: Tensor, keep: int, relu: bool) -> tuple[Tensor, Tensor | None]:
    """Concatenate `carry` and `rows`, and copy the last rows.

    Args:
        carry: (B, C, carried, W).
        rows: (B, C, new, W), of the same type.
        keep: How many of the last rows to copy.
        relu: Whether the joined rows pass a ReLU. The copied rows have not passed it.

    Returns:
        (B, C, carried + new, W), and a copy of its last `keep` rows (before the ReLU), None if `keep` is 0.
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
        return rows[:, :, new - keep :].clone()
    return torch.cat([carry[:, :, carry.shape[2] + new - keep :], rows], dim=2)


class _JoinRows(torch.autograd.Function):
    """`join_rows` with its gradient."""

    @staticmethod
    def forward(ctx: Any, carry: Tensor, rows: Tensor, keep: int, relu: bool) -> tuple[Tensor, Tensor | None]:
        kept, carried = last_rows(carry, rows, keep), carry.shape[2]
        if relu:
            joined = rows.new_empty(*rows.shape[:2], carried + rows.shape[2], rows.shape[3])
            torch.clamp_min(carry, 0, out=joined[:, :, :carried])
            torch.clamp_min(rows, 0, out=joined[:, :, carried:])
            ctx.save_for_backward(joined)
        else:
            joined = torch.cat([carry, rows], dim=2)
        ctx.set_materialize_grads(False)
        ctx.carried, ctx.shape, ctx.relu = carried, joined.shape, relu
        return joined, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, kept_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            if kept_grad is None:
                return None, None, None, None
            grad = kept_grad.new_zeros(ctx.shape)
        carry_grad, rows_grad = grad[:, :, : ctx.carried], grad[:, :, ctx.carried :]
        if ctx.relu:
            (joined,) = ctx.saved_tensors
            carry_grad = torch.ops.aten.threshold_backward(carry_grad, joined[:, :, : ctx.carried], 0)
            rows_grad = torch.ops.aten.threshold_backward(rows_grad, joined[:, :, ctx.carried :], 0)
        elif kept_grad is not None:  # the incoming gradient must not be written into
            carry_grad, rows_grad = carry_grad.clone(), rows_grad.clone()
        if kept_grad is not None:
            from_rows = min(kept_grad.shape[2], rows_grad.shape[2])
            from_carry = kept_grad.shape[2] - from_rows
            rows_grad[:, :, rows_grad.shape[2] - from_rows :] += kept_grad[:, :, from_carry:]
            if from_carry:
                carry_grad[:, :, ctx.carried - from_carry :] += kept_grad[:, :, :from_carry]
        return carry_grad, rows_grad, None, None
