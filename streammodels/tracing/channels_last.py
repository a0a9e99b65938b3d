"""Translation of channels-last layers into operations on strips.

The engine has every map as (B, C, rows, W), so a permutation computes nothing, and changes the meaning of operations
behind it. `nn.Linear` and `nn.LayerNorm` work on the last dimension, the channels of each pixel, and are row-local
here; on a (B, C, H, W) map they would mix its columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from streammodels.core.operations import ChannelLinear, Pointwise, Rule
from streammodels.core.row_plan import SlidingWindow
from streammodels.errors import UnsupportedLayerError
from streammodels.tracing import modules
from streammodels.tracing.fx_graph import is_stochastic_depth, named_arguments
from streammodels.tracing.over_channels import over_channels_module

_TO_LAST, _TO_FIRST, _UNCHANGED = (0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 2, 3)
_PERMUTATIONS: frozenset[Any] = frozenset(
    {torch.permute, "permute", torch.movedim, "movedim", torch.moveaxis, "moveaxis"}
)
_REMEDY = "Permute the map back to (B, C, H, W) in front of it."


def layout_after(node: fx.Node, last: bool, path: str) -> bool | None:
    """Whether the channels are last behind a permutation.

    Args:
        node: The operation.
        last: Whether they are last in front of it.
        path: Its name, for errors.

    Returns:
        Whether they are last behind it, or None if the operation is not a permutation.

    Raises:
        UnsupportedLayerError: If the permutation gives neither (B, C, H, W) nor (B, H, W, C).
    """
    if node.target not in _PERMUTATIONS:
        return None
    dimensions = _permuted(node)
    if dimensions == _UNCHANGED:
        return last
    if dimensions == (_TO_FIRST if last else _TO_LAST):
        return not last
    reason = "it permutes a map to an order that is neither (B, C, H, W) nor (B, H, W, C)"
    raise UnsupportedLayerError(path, reason, "Keep rows and columns in their order.")


def _permuted(node: fx.Node) -> tuple[int, ...] | None:
    """The dimension of the input that each dimension of the result is; None if they are not numbers."""
    given: list[Any] = list(node.args[1:])
    if node.target in (torch.permute, "permute"):
        order = given or [node.kwargs.get("dims")]
        order = list(order[0]) if isinstance(order[0], list | tuple) else order
        return tuple(d % 4 for d in order) if all(isinstance(d, int) for d in order) else None
    source, destination = (*given, node.kwargs.get("source"), node.kwargs.get("destination"))[:2]
    if not isinstance(source, int) or not isinstance(destination, int):
        return None
    rest = [d for d in range(4) if d != source % 4]
    rest.insert(destination % 4, source % 4)
    return tuple(rest)


def _channels_first(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, of (B, rows, W, C), as a function of (B, C, rows, W)."""

    def apply(rows: Tensor, *tensors: Tensor | None) -> Tensor:
        return function(rows.permute(_TO_LAST), *tensors).permute(_TO_FIRST)

    return apply


def module_rule(layer: Any, path: str) -> Rule:
    """The rule of a leaf module that is called on a map whose channels are last.

    Raises:
        UnsupportedLayerError: If the layer is not pointwise there.
    """
    if modules.computes_as(layer, nn.Linear):
        return ChannelLinear(SlidingWindow(1), SlidingWindow(1), (1, 1), 1)
    if modules.computes_as(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return _layer_norm(layer.normalized_shape, layer.eps)
    elementwise = modules.computes_as(layer, nn.PReLU) and layer.num_parameters == 1
    elementwise |= any(modules.computes_as(layer, kind) for kind in modules.POINTWISE_MODULES if kind is not nn.PReLU)
    if elementwise or modules.computes_as(layer, nn.Dropout) or is_stochastic_depth(layer):
        return modules.module_rule(layer, path)
    rule = over_channels_module(layer, 3)
    if rule is not None:
        return rule
    raise UnsupportedLayerError(path, f"{type(layer).__name__} is called on a map whose channels come last", _REMEDY)


def layer_norm(node: fx.Node, path: str, last: bool) -> tuple[Pointwise, tuple[Any, Any]]:
    """The rule of a call of ``functional.layer_norm``, and its weight and bias arguments.

    Raises:
        UnsupportedLayerError: If it does not normalize the channels of each pixel.
    """
    given = named_arguments(node, "normalized_shape", "weight", "bias", "eps")
    shape, epsilon = given["normalized_shape"], given.get("eps", 1e-5)
    if not last or isinstance(shape, fx.Node) or len(shape) != 1 or not isinstance(shape[0], int):
        reason = "layer_norm takes its statistics over rows or columns"
        remedy = "Normalize the channels of each pixel, as torchvision's ConvNeXt does."
        raise UnsupportedLayerError(path, reason, remedy)
    return _layer_norm(shape, epsilon), (given.get("weight"), given.get("bias"))


def _layer_norm(shape: Any, epsilon: float) -> Pointwise:
    """Layer normalization over the channels of each pixel; tensors are (weight, bias)."""
    return Pointwise(
        _channels_first(lambda rows, weight, bias: functional.layer_norm(rows, shape, weight, bias, epsilon))
    )


def with_constants(rule: Pointwise) -> Pointwise:
    """The rule for constants whose channels are last."""
    return replace(rule, function=_channels_first(rule.function), in_place=None)
