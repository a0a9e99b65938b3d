"""Translation of normalization by statistics of whole maps, with the running statistics of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from streammodels.core.network import Tensors
from streammodels.core.statistics.norms import NormStatistics
from streammodels.errors import UnsupportedLayerError
from streammodels.tracing.fx_graph import named_arguments
from streammodels.tracing.modules import computes_as

NamedTensors = Callable[[list[Any], str], Tensors]
"""The tensors that the arguments of a function are."""


@dataclass(frozen=True)
class Norm:
    """A normalization by statistics of whole maps.

    Attributes:
        statistics: The statistics.
        tensors: Its weight and bias.
        is_long: Whether autocast on a GPU computes it in float32, and returns that.
    """

    statistics: NormStatistics
    tensors: Tensors
    is_long: bool = False


def module_norm(layer: Any, path: str) -> Norm | None:
    """The normalization that a layer is in its mode; None if it is none, or none of whole maps.

    Raises:
        UnsupportedLayerError: If its weight differs from row to row.
    """
    if computes_as(layer, nn.GroupNorm):
        return Norm(_statistics(layer.num_groups, layer), lambda: [layer.weight, layer.bias], True)
    if computes_as(layer, nn.LayerNorm) and len(layer.normalized_shape) == 3:
        return _layer_norm(path, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    uses_input = not isinstance(layer, nn.modules.batchnorm._NormBase) or layer.training or layer.running_mean is None
    if computes_as(layer, nn.InstanceNorm2d) and (uses_input or not layer.track_running_stats):
        momentum = 0.0 if layer.momentum is None else layer.momentum
        update = _update(layer.running_mean, layer.running_var, momentum)
        return Norm(_statistics(None, layer, update=update), lambda: [layer.weight, layer.bias])
    if computes_as(layer, nn.BatchNorm2d) and uses_input:
        update = _update_of(layer) if layer.training and layer.track_running_stats else None
        return Norm(_statistics(None, layer, True, update), lambda: [layer.weight, layer.bias])
    return None


def function_norm(node: fx.Node, path: str, constants: Mapping[fx.Node, Any], named: NamedTensors) -> Norm | None:
    """The same for a call of a function.

    Args:
        node: The call.
        path: Its name, for errors.
        constants: The values of constants.
        named: Returns the tensors that some arguments are.
    """
    target: Any = node.target
    running = ("running_mean", "running_var", "weight", "bias")
    options = {
        functional.group_norm: ("num_groups", "weight", "bias", "eps"),
        torch.group_norm: ("num_groups", "weight", "bias", "eps"),
        functional.layer_norm: ("normalized_shape", "weight", "bias", "eps"),
        functional.instance_norm: (*running, "use_input_stats", "momentum", "eps"),
        functional.batch_norm: (*running, "training", "momentum", "eps"),
    }
    if target not in options:
        return None
    given = named_arguments(node, *options[target])
    of_layer = target is functional.batch_norm and not given.get("training", False)
    if of_layer or (target is functional.instance_norm and not given.get("use_input_stats", True)):
        return None
    weight, bias = own = [given.get("weight"), given.get("bias")]
    epsilon, momentum = given.get("eps", 1e-5), given.get("momentum", 0.1)
    has = (weight is not None, bias is not None)
    if target is functional.layer_norm:
        shape = given["normalized_shape"]
        return (
            _layer_norm(path, shape, weight, bias, epsilon)
            if isinstance(shape, list | tuple) and len(shape) == 3
            else None
        )
    if target in (functional.group_norm, torch.group_norm):
        return Norm(NormStatistics(given["num_groups"], False, epsilon, *has), named(own, path), True)
    mean, variance = (constants.get(given.get(name)) for name in running[:2])  # type: ignore[arg-type]
    update = _update(mean, variance, momentum)
    over_batch = target is functional.batch_norm
    return Norm(NormStatistics(None, over_batch, epsilon, *has, update), named(own, path))


def _statistics(
    groups: int | None, layer: Any, over_batch: bool = False, update: Callable[[Tensor, Tensor], None] | None = None
) -> NormStatistics:
    """The statistics of a layer."""
    return NormStatistics(groups, over_batch, layer.eps, layer.weight is not None, layer.bias is not None, update)


def _layer_norm(path: str, shape: Any, weight: Any, bias: Any, epsilon: float) -> Norm:
    if weight is not None or bias is not None:
        reason = "its weight and bias have a value for every row"
        raise UnsupportedLayerError(path, reason, "Use GroupNorm(1, channels), or elementwise_affine=False.")
    return Norm(NormStatistics(1, False, epsilon, False, False, shape=tuple(shape)), list, True)


def _update(mean: Tensor | None, variance: Tensor | None, momentum: float) -> Callable[[Tensor, Tensor], None] | None:
    """What moves running statistics towards those of a batch, as torch does; None if there are none."""
    if mean is None or variance is None:
        return None
    running = (mean, variance)

    def update(*new: Tensor) -> None:
        with torch.no_grad():
            for old, value in zip(running, new, strict=True):
                old.mul_(1 - momentum).add_(value.mean(0).to(old.dtype), alpha=momentum)

    return update


def _update_of(layer: Any) -> Callable[[Tensor, Tensor], None]:
    """The same for a batch normalization, which counts its batches."""

    def update(mean: Tensor, variance: Tensor) -> None:
        momentum = layer.momentum
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
            momentum = 1.0 / float(layer.num_batches_tracked) if momentum is None else momentum
        move = _update(layer.running_mean, layer.running_var, 0.0 if momentum is None else momentum)
        if move is not None:
            move(mean, variance)

    return update
