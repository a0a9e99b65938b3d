"""Translation of leaf modules into operations on strips.

Any other layer raises `UnsupportedLayerError`. A layer is added here with a test that compares its streamed output and
gradients with the plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from streammodels.core.operations import (
    AveragePool,
    ChannelDropout,
    Convolution,
    FrozenBatchNorm,
    MaxPool,
    Pointwise,
    Rule,
    StochasticDepth,
)
from streammodels.core.reductions import GlobalAverage, GlobalMaximum
from streammodels.core.resampling import AdaptivePool, AdaptiveRows
from streammodels.core.row_plan import PaddingMode, SlidingWindow
from streammodels.errors import GLOBAL_STATISTICS, UnsupportedLayerError
from streammodels.tracing.fx_graph import is_stochastic_depth, pair
from streammodels.tracing.over_channels import over_channels_module
from streammodels.tracing.padding import padding_module
from streammodels.tracing.resizing import resizing_module


def _with(function: Callable[..., Tensor], **options: Any) -> Pointwise:
    """A rule with the options that a module has now, which the backward pass uses though they may change meanwhile."""
    return Pointwise(partial(function, **options))


POINTWISE_MODULES: dict[type[nn.Module], Callable[[Any], Pointwise]] = {
    nn.ReLU: lambda m: Pointwise(functional.relu, functional.relu_),
    nn.ReLU6: lambda m: Pointwise(functional.relu6, partial(functional.hardtanh_, min_val=0.0, max_val=6.0)),
    nn.Hardtanh: lambda m: _with(functional.hardtanh, min_val=m.min_val, max_val=m.max_val),
    nn.LeakyReLU: lambda m: _with(functional.leaky_relu, negative_slope=m.negative_slope),
    nn.ELU: lambda m: _with(functional.elu, alpha=m.alpha),
    nn.CELU: lambda m: _with(functional.celu, alpha=m.alpha),
    nn.SELU: lambda m: Pointwise(functional.selu),
    nn.GELU: lambda m: _with(functional.gelu, approximate=m.approximate),
    nn.SiLU: lambda m: Pointwise(functional.silu),
    nn.Mish: lambda m: Pointwise(functional.mish),
    nn.Sigmoid: lambda m: Pointwise(torch.sigmoid),
    nn.LogSigmoid: lambda m: Pointwise(functional.logsigmoid),
    nn.Tanh: lambda m: Pointwise(torch.tanh),
    nn.Hardsigmoid: lambda m: Pointwise(functional.hardsigmoid),
    nn.Hardswish: lambda m: Pointwise(functional.hardswish),
    nn.Softplus: lambda m: _with(functional.softplus, beta=m.beta, threshold=m.threshold),
    nn.Softsign: lambda m: Pointwise(functional.softsign),
    nn.Tanhshrink: lambda m: Pointwise(functional.tanhshrink),
    nn.Hardshrink: lambda m: _with(functional.hardshrink, lambd=m.lambd),
    nn.Softshrink: lambda m: _with(functional.softshrink, lambd=m.lambd),
    nn.Threshold: lambda m: _with(functional.threshold, threshold=m.threshold, value=m.value),
    nn.PReLU: lambda m: Pointwise(functional.prelu),
    nn.Identity: lambda m: Pointwise(lambda x: x),
}
"""Modules that are functions of single pixels. PReLU also gets its weight."""

_POINTWISE = POINTWISE_MODULES.keys()

_DROPOUT_REMEDY = "Use nn.Dropout or nn.Dropout2d, or put the layer in eval mode."
_NORMS_OVER_SPACE = (
    nn.modules.batchnorm._NormBase,  # with it every BatchNorm and InstanceNorm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
)


def module_rule(module: Any, path: str) -> Rule:
    """The rule of a leaf module.

    Args:
        module: The layer.
        path: Its dotted path, for errors.

    Raises:
        UnsupportedLayerError: If the layer cannot be streamed exactly.
    """
    for kind in _POINTWISE & {*type(module).__mro__}:
        if computes_as(module, kind):
            return POINTWISE_MODULES[kind](module)
    if computes_as(module, nn.Conv2d):
        return _convolution(module, path)
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        return _batch_norm(module, path)
    if computes_as(module, nn.InstanceNorm2d) and not module.training and module.track_running_stats:
        return frozen_batch_norm(path, module.eps, False, True)
    if computes_as(module, nn.MaxPool2d):
        options = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
        return max_pool(path, *options, return_indices=module.return_indices)
    if computes_as(module, nn.AvgPool2d):
        window = (module.kernel_size, module.stride, module.padding, module.ceil_mode)
        return average_pool(*window, module.count_include_pad, module.divisor_override)
    if computes_as(module, nn.AdaptiveAvgPool2d) or computes_as(module, nn.AdaptiveMaxPool2d):
        maximum = isinstance(module, nn.AdaptiveMaxPool2d)
        return global_pool(path, module.output_size, maximum, getattr(module, "return_indices", False))
    if computes_as(module, nn.Dropout) or computes_as(module, nn.Dropout2d):
        return dropout(computes_as(module, nn.Dropout2d), module.p, module.training)
    further = resizing_module(module, path) or padding_module(module, path) or over_channels_module(module, 1)
    if further is not None:
        return further
    if is_stochastic_depth(module):
        return stochastic_depth(module.p, module.mode, module.training)
    if isinstance(module, nn.modules.dropout._DropoutNd) and not module.training:
        return Pointwise(lambda x: x)
    raise _unsupported(module, path)


def computes_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of `kind`, or of a subclass that does not change the computation."""
    same = getattr(type(module), "_conv_forward", None) is getattr(kind, "_conv_forward", None)
    return isinstance(module, kind) and type(module).forward is kind.forward and same


def _unsupported(module: nn.Module, path: str) -> UnsupportedLayerError:
    """The error for a module that does not stream."""
    name = type(module).__name__
    if isinstance(module, _NORMS_OVER_SPACE):
        reason = f"{name} takes its statistics over rows that are not there yet"
        remedy = f"{GLOBAL_STATISTICS}, or use BatchNorm2d in eval mode."
        return UnsupportedLayerError(path, reason, remedy)
    if isinstance(module, nn.Linear | nn.Flatten | nn.Unflatten):
        reason = f"{name} mixes all rows of the feature map"
        return UnsupportedLayerError(path, reason, "Pool the map first, e.g. with nn.AdaptiveAvgPool2d(1).")
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return UnsupportedLayerError(path, f"{name} in training mode is not defined strip by strip", _DROPOUT_REMEDY)
    if type(module).forward is nn.Module.forward:
        reason = f"{name} has no forward, it only holds layers"
        return UnsupportedLayerError(path, reason, "Use nn.Sequential(*layers), or a module that calls them.")
    reason = f"{name} is not known to work row by row"
    return UnsupportedLayerError(path, reason, "Stream the part of the network before it, and call it on the result.")


def _convolution(module: Any, path: str) -> Convolution:
    weight = module._parameters.get("weight")  # None if it is parametrized; else it may have been replaced
    kernel = pair(module.kernel_size) if weight is None else tuple(weight.shape[2:])
    if module.padding_mode not in ("zeros", "reflect", "replicate"):
        reason = f"padding_mode='{module.padding_mode}' puts the last rows of the image above the first"
        raise UnsupportedLayerError(path, reason, "Use padding_mode='zeros', 'reflect' or 'replicate'.")
    padding = module.padding
    if module.padding_mode != "zeros":  # as in torch, which ignores a padding set later
        left, right, top, bottom = module._reversed_padding_repeated_twice
        padding = ((top, bottom), (left, right))
    return convolution(kernel, module.stride, padding, module.dilation, module.groups, module.padding_mode)


def convolution(
    kernel: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    mode: PaddingMode = "zeros",
) -> Convolution:
    """The rule of a convolution, arguments as in torch; `padding` may have a pair for each axis."""
    steps, spread = pair(stride), pair(dilation)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, spread, strict=True)]
    if padding == "same":
        before = [(e - 1) // 2 for e in extent]  # torch puts the odd row or column at the end
        after = [e - 1 - b for e, b in zip(extent, before, strict=True)]
    elif isinstance(padding, tuple) and isinstance(padding[0], tuple):
        before, after = ([one[end] for one in padding] for end in (0, 1))
    else:
        before = after = [0, 0] if padding == "valid" else list(pair(padding))
    window, columns = (SlidingWindow(extent[i], steps[i], before[i], after[i], mode) for i in (0, 1))
    return Convolution(window, columns, spread, groups)


def _batch_norm(module: nn.BatchNorm2d | nn.SyncBatchNorm, path: str) -> FrozenBatchNorm:
    if type(module).forward not in (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward):
        raise UnsupportedLayerError(path, f"{type(module).__name__} has a forward of its own", "Use nn.BatchNorm2d.")
    return frozen_batch_norm(path, module.eps, module.training, module.running_mean is not None)


def frozen_batch_norm(path: str, epsilon: float, training: bool, tracked: bool) -> FrozenBatchNorm:
    """The rule of batch normalization.

    Args:
        path: Its name, for errors.
        epsilon: What is added to the variance.
        training: Whether it takes the statistics of the batch.
        tracked: Whether it has running statistics.

    Raises:
        UnsupportedLayerError: If it needs statistics of the whole image.
    """
    if training:
        reason = "BatchNorm2d in training mode takes its statistics over rows that are not there yet"
        remedy = (
            "Call .eval() on it (streammodels.freeze_batch_norm(model) does it for all and keeps it so). Or, with "
            f"BatchNorm2d, {GLOBAL_STATISTICS[0].lower()}{GLOBAL_STATISTICS[1:]}."
        )
        raise UnsupportedLayerError(path, reason, remedy)
    if not tracked:
        reason = "BatchNorm2d without running statistics normalizes by the whole image"
        remedy = f"{GLOBAL_STATISTICS}, or use track_running_stats=True and eval mode."
        raise UnsupportedLayerError(path, reason, remedy)
    return FrozenBatchNorm(partial(_normalize, epsilon=epsilon), epsilon=epsilon)


def _normalize(
    rows: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Tensor:
    """Batch normalization in eval mode."""
    result = functional.batch_norm(rows, mean, variance, weight, bias, training=False, momentum=0.0, eps=epsilon)
    if result.requires_grad and rows.device.type == "cpu":
        # Where channels are last in memory, as behind flatten(2).transpose(1, 2), torch (2.14) is wrong for one image.
        result.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return result


def max_pool(
    path: str,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaxPool:
    """The rule of a maximum pool, arguments as in torch."""
    if return_indices:
        raise UnsupportedLayerError(path, "indices of a pool count over the whole image", "Use return_indices=False.")
    kernel, pad, spread = pair(kernel_size), pair(padding), pair(dilation)
    steps = pair(stride) if stride not in (None, ()) else kernel
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, spread, strict=True)]
    window, columns = (SlidingWindow(extent[i], steps[i], pad[i], pad[i], "zeros", ceil_mode) for i in (0, 1))
    return MaxPool(window, columns, kernel, spread)


def average_pool(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> AveragePool:
    """The rule of an average pool, arguments as in torch."""
    if divisor_override == 0:
        raise ValueError("divisor_override of an average pool must not be 0, as in torch. Leave it None.")
    kernel, pad = pair(kernel_size), pair(padding)
    steps = pair(stride) if stride not in (None, ()) else kernel
    window, columns = (SlidingWindow(kernel[i], steps[i], pad[i], pad[i], "zeros", ceil_mode) for i in (0, 1))
    return AveragePool(window, columns, count_include_pad, divisor_override)


def global_pool(path: str, output_size: Any, maximum: bool, return_indices: bool = False) -> Rule:
    """The rule of an adaptive pool, to one pixel or to more."""
    size = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    if return_indices or not all(isinstance(side, int) for side in size):
        reason = "indices are requested" if return_indices else f"adaptive pooling to {tuple(size)} keeps a side"
        raise UnsupportedLayerError(path, reason, "Use an adaptive pool to whole numbers, without indices.")
    if tuple(size) != (1, 1):
        return AdaptivePool(AdaptiveRows(size[0]), AdaptiveRows(size[-1]), maximum)
    return GlobalMaximum() if maximum else GlobalAverage()


def dropout(channels: bool, probability: float, training: bool) -> Rule:
    """The rule of `Dropout` or, if `channels`, of `Dropout2d`."""
    if not training or probability == 0:
        return Pointwise(lambda x: x)
    if channels:
        return ChannelDropout(probability)
    return Pointwise(lambda x: functional.dropout(x, probability, training=True), random=True)


def stochastic_depth(probability: float, mode: str, training: bool) -> Rule:
    """The rule of torchvision's `stochastic_depth`, arguments as there.

    Raises:
        ValueError: If they are invalid, as in torchvision.
    """
    if not 0 <= probability <= 1 or mode not in ("row", "batch"):
        raise ValueError(
            f"stochastic depth needs a probability in 0..1 and mode 'row' or 'batch', got {probability}, {mode!r}"
        )
    if not training or probability == 0:
        return Pointwise(lambda x: x)
    return StochasticDepth(probability, mode == "batch")
