"""Forwards of layers of timm whose own mix dimensions of a map, with the same result.

They are known by name, so that timm is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import add
from typing import Any

from torch import nn


def substituted(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward to record for a layer, `forward` itself unless there is another one."""
    own: Any = type(layer).forward
    other = _FORWARDS.get(f"{getattr(own, '__module__', '')}.{getattr(own, '__qualname__', '')}")
    return forward if other is None else partial(other, layer)


def softmax_pool(features: Any, scores: Any) -> Any:
    """The mean of a map weighted by a softmax of (B, 1, H, W) scores over all pixels, (B, C, 1, 1)."""
    tracer = getattr(features, "tracer", None)  # of a value that is recorded
    if tracer is not None:
        return tracer.create_proxy("call_function", softmax_pool, (features, scores), {})
    weights = scores.flatten(2).softmax(-1)
    return (features.flatten(2) * weights).sum(-1)[..., None, None]


def _split_attention(layer: Any, x: Any) -> Any:
    """ResNeSt's split attention; groups of channels are parts of a map, not a dimension of their own."""
    x = layer.act0(layer.drop(layer.bn0(layer.conv(x))))
    parts = [*x.chunk(layer.radix, 1)] if layer.radix > 1 else [x]
    pooled = reduce(add, parts).mean((2, 3), keepdim=True)
    weights = layer.rsoftmax(layer.fc2(layer.act1(layer.bn1(layer.fc1(pooled)))))
    return _weighted(parts, weights.reshape(-1, layer.radix, layer.fc1.in_channels, 1, 1))


def _selective_kernel(layer: Any, x: Any) -> Any:
    """Selective kernels, whose paths are maps of their own."""
    number, attention = layer.num_paths, layer.attn
    inputs = x.split(layer.in_channels // number, 1) if layer.split_input else [x] * number
    paths = [layer.paths[index](inputs[index]) for index in range(number)]
    pooled = reduce(add, paths).mean((2, 3), keepdim=True)
    weights = attention.fc_select(attention.act(attention.bn(attention.fc_reduce(pooled))))
    channels = attention.fc_select.out_channels // number
    return _weighted(paths, weights.reshape(-1, number, channels, 1, 1).softmax(1))


def _weighted(maps: Sequence[Any], weights: Any) -> Any:
    """The sum of maps, each multiplied by its own vector."""
    return reduce(add, [one * weights[:, index] for index, one in enumerate(maps)])


def _global_context(layer: Any, x: Any) -> Any:
    """A gate or sum of a vector that is pooled by softmax."""
    pooled = x.mean((2, 3), keepdim=True) if layer.conv_attn is None else softmax_pool(x, layer.conv_attn(x))
    if layer.mlp_scale is not None:
        x = x * layer.gate(layer.mlp_scale(pooled))
    return x if layer.mlp_add is None else x + layer.mlp_add(pooled)


_FORWARDS: dict[str, Callable[..., Any]] = {
    "timm.layers.split_attn.SplitAttn.forward": _split_attention,
    "timm.layers.selective_kernel.SelectiveKernel.forward": _selective_kernel,
    "timm.layers.global_context.GlobalContext.forward": _global_context,
}
