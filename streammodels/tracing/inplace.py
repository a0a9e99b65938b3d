"""Detection of in-place operations whose input is read again.

An in-place operation of torch changes a value under all its names. Strips compute it out of place, which is only right
if no operation reads the old value, or an alias of it, afterwards.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from streammodels.tracing.fx_graph import is_stochastic_depth
from streammodels.tracing.layouts.layout import RESHAPES, TRANSPOSITIONS

Layers = Mapping[str, nn.Module]
"""The layers of a module, by path."""

_MUTATING: frozenset[Any] = frozenset(
    {
        operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow,
        functional.relu_, torch.relu_, "relu_", "add_", "sub_", "mul_",
    }
)  # fmt: skip
"""Operations that write into their first argument."""

_ALIASING: frozenset[Any] = frozenset(
    {
        functional.dropout, functional.dropout2d, operator.pos, "contiguous", "float", "double", "half",
        "bfloat16", "to",
        torch.split, "split", torch.chunk, "chunk", "unbind", torch.unbind, operator.getitem,
    }
    | RESHAPES
    | TRANSPOSITIONS
)  # fmt: skip
"""Operations whose result may share memory with their input."""


def writes_in_place(layers: Layers, node: fx.Node) -> bool:
    """Whether a node changes its first argument."""
    layer = layers[str(node.target)] if node.op == "call_module" else None
    marked = getattr(layer, "inplace", False) or node.kwargs.get("inplace", False)
    name = str(getattr(node.target, "__name__", node.target)) if node.op != "call_module" else ""
    named = name.endswith("_") and not name.endswith("__")  # torch's convention: clamp_, div_
    return bool(marked) or named or node.target in _MUTATING


def read_after_writing(layers: Layers, node: fx.Node, done: Container[fx.Node]) -> fx.Node | None:
    """The first operation that reads a value after `node` has changed it in place; None if none does.

    Args:
        layers: The layers of the module.
        node: The operation.
        done: Operations in front of it.
    """
    if not writes_in_place(layers, node) or not isinstance(node.args[0], fx.Node):
        return None
    aliases = _aliases(layers, node.args[0], node)
    for value in aliases:
        for user in value.users:
            if user is not node and user not in done and user not in aliases:
                return user
    return None


def _aliases(layers: Layers, value: fx.Node, writer: fx.Node) -> set[fx.Node]:
    """Values that share memory with `value` by identities, inactive dropout or views, other than through `writer`."""
    while _passes_through(layers, value):
        value = value.all_input_nodes[0]
    found, stack = {value}, [value]
    while stack:
        current = stack.pop()
        users = [user for user in current.users if user is not writer and user.args[:1] == (current,)]
        passing = {user for user in users if _passes_through(layers, user)}
        stack += passing - found
        found |= passing
    return found


def _passes_through(layers: Layers, node: fx.Node) -> bool:
    """Whether the result of an operation may share memory with its input."""
    if node.op == "call_module":
        layer: Any = layers[str(node.target)]
        drops = isinstance(layer, nn.modules.dropout._DropoutNd) or is_stochastic_depth(layer)
        inactive = drops and (not layer.training or layer.p == 0)
        return (
            isinstance(layer, nn.Identity | nn.Flatten | nn.Unflatten)
            or inactive
            or bool(getattr(layer, "inplace", False))
        )
    return node.target in _MUTATING or node.target in _ALIASING
