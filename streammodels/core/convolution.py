"""Convolution as a function of autograd whose values may be computed in another way than its gradient.

It serves two purposes. The gradient of the bias is summed and returned in at least float32. And the convolution may
include a frozen batch normalization, whose values are then rounded like those of the separate layers, while the
gradient needs the input alone, see `operations.NormalizedConvolution`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from streammodels.core.reductions import sum_dtype
from streammodels.core.row_plan import Pair

_convolution_backward = torch.ops.aten.convolution_backward.default


class ConvolutionSettings(NamedTuple):
    """Stride, padding, dilation and groups of a convolution, pairs as (rows, columns)."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def convolution(
    compute: Callable[[Tensor], Tensor],
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvolutionSettings,
    short: Tensor,
) -> Tensor:
    """``compute(rows)``, with the gradient of a convolution with `weight` and `bias`.

    Args:
        compute: Computes the result, without autograd.
        rows: (B, C, rows, W).
        weight: The weight, which may have a longer type than the result.
        bias: The bias, likewise; None if there is none.
        settings: Those of the convolution.
        short: The weight in the type of the result, without graph.
    """
    if not torch.is_grad_enabled():
        return compute(rows)
    result: Tensor = _Convolution.apply(compute, settings, rows, weight, bias, short)
    return result


class _Convolution(torch.autograd.Function):
    """`convolution` with its gradient, which is not differentiated again: `StreamedFunction` refuses that."""

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable[[Tensor], Tensor],
        settings: ConvolutionSettings,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        short: Tensor,
    ) -> Tensor:
        result = compute(rows)
        ctx.save_for_backward(rows.to(result.dtype), short)  # autocast may have computed with another type
        ctx.settings = settings
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        for_rows, for_weight, for_bias = ctx.needs_input_grad[2:5]
        of_bias = None
        if for_bias and sum_dtype(grad.dtype) != grad.dtype:
            of_bias, for_bias = grad.sum(dim=(0, 2, 3), dtype=sum_dtype(grad.dtype)), False
        of_rows, of_weight, fused = _convolution_backward(
            grad, rows, weight.to(rows.dtype), [weight.shape[0]], stride, padding, dilation, False, (0, 0), groups,
            (for_rows, for_weight, for_bias),
        )  # fmt: skip
        return None, None, of_rows, of_weight, fused if of_bias is None else of_bias, None
