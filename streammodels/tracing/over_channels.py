"""Translation of functions over the channels of each pixel, and of global pools by sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from streammodels.core.operations import Pointwise, Rule
from streammodels.core.reductions import GlobalAverage, GlobalExtreme, GlobalSum
from streammodels.tracing.fx_graph import named_arguments

ARGUMENTS: dict[Any, tuple[str, ...]] = {
    functional.softmax: ("dim", "_stacklevel", "dtype"),
    functional.log_softmax: ("dim", "_stacklevel", "dtype"),
    functional.normalize: ("p", "dim", "eps"),
    functional.glu: ("dim",),
    torch.linalg.vector_norm: ("ord", "dim", "keepdim"),
    torch.norm: ("p", "dim", "keepdim"),
    "norm": ("p", "dim", "keepdim"),
    torch.softmax: ("dim", "dtype"),
    "softmax": ("dim", "dtype"),
    torch.log_softmax: ("dim", "dtype"),
    "log_softmax": ("dim", "dtype"),
    **dict.fromkeys(
        (torch.sum, "sum", torch.mean, "mean", torch.amax, "amax", torch.amin, "amin", torch.logsumexp, "logsumexp"),
        ("dim", "keepdim"),
    ),
    **dict.fromkeys((torch.var, "var", torch.std, "std"), ("dim", "unbiased", "keepdim")),
}
"""Functions and methods along one dimension, with the names of their arguments behind the map."""

_DIMENSION = {functional.normalize: 1, functional.glu: -1}
"""Dimensions that are not given."""

_KEEPING = frozenset({functional.softmax, functional.log_softmax, functional.normalize, functional.glu, torch.softmax,
                      "softmax", torch.log_softmax, "log_softmax"})  # fmt: skip
"""Functions whose result has as many dimensions as the map."""


def over_channels(node: fx.Node, channels: int) -> Rule | None:
    """The rule of a function over the channels of each pixel, or over height and width; None if it is another one.

    Args:
        node: The operation.
        channels: The dimension of the map that is its channels, 1 or 3.
    """
    target: Any = node.target
    if target not in ARGUMENTS:
        return None
    given = named_arguments(node, *ARGUMENTS[target])
    given.pop("_stacklevel", None)
    dimension = given.pop("axis", given.pop("dim", _DIMENSION.get(target)))
    listed = list(dimension) if isinstance(dimension, list | tuple) else [dimension]
    if any(isinstance(value, fx.Node) for value in given.values()) or not all(isinstance(d, int) for d in listed):
        return None
    name, keep = str(getattr(target, "__name__", target)), bool(given.get("keepdim", False))
    if sorted(d % 4 for d in listed) == [2, 3] and channels == 1 and set(given) <= {"keepdim"}:
        pools = {"mean": GlobalAverage(keep), "sum": GlobalSum(keep)}
        pools["amin"] = GlobalExtreme(True, keep)  # `amax` is one of `statistics.pools`
        return pools.get(name)
    if [d % 4 for d in listed] != [channels] or not (keep or target in _KEEPING):
        return None
    return _along(target, given)


def over_channels_module(layer: Any, channels: int) -> Rule | None:
    """The same for a layer."""
    if isinstance(layer, nn.Softmax2d) and channels == 1:
        return _along(functional.softmax, {})
    functions: dict[type[nn.Module], Any] = {nn.Softmax: functional.softmax, nn.GLU: functional.glu}
    functions[nn.LogSoftmax] = functional.log_softmax
    for kind, function in functions.items():
        if isinstance(layer, kind) and type(layer).forward is kind.forward and isinstance(layer.dim, int):
            return _along(function, {}) if layer.dim % 4 == channels else None
    return None


def _along(target: Any, options: dict[str, Any]) -> Pointwise:
    def apply(rows: Tensor) -> Tensor:
        function = getattr(rows, target) if isinstance(target, str) else target
        result: Tensor = function(dim=1, **options) if isinstance(target, str) else function(rows, dim=1, **options)
        return result

    return Pointwise(apply)
