"""Refusal of forwards that change more than their result.

A forward is recorded once for all strips, so a counter that it advances, or a map that it keeps for later, would not be
what the plain module leaves behind.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from streammodels.errors import UnsupportedLayerError

_REMEDY = "Return what is to be kept, or change it outside of the forward."


@contextmanager
def no_side_effects(layers: Mapping[str, nn.Module], where: Callable[[], str]) -> Iterator[None]:
    """Within it, a change of a tensor in place raises; changes of attributes are undone and raise at the end.

    Args:
        layers: All layers by path, the module itself included.
        where: Returns the path of the layer that runs.

    Raises:
        UnsupportedLayerError: Naming the layer, and the attribute or the operation.
    """
    snapshots = [_Snapshot(name or type(layer).__name__, layer) for name, layer in layers.items()]
    changes: list[tuple[str, str]] = []
    try:
        with _NoWrites(where):
            yield
    finally:
        for snapshot in snapshots:
            changes += [(snapshot.path, name) for name in snapshot.restore()]
    if changes:
        path, name = changes[0]
        raise UnsupportedLayerError(path, f"its forward changes its attribute '{name}', which strips do not", _REMEDY)


class _NoWrites(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises before an operation writes into a tensor that was there before."""

    def __init__(self, where: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.where = where
        self.own: dict[int, Tensor] = {}  # made within, by memory; kept, so that no other takes their place there

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, schema = kwargs or {}, func._schema
        if schema.is_mutable:
            named = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | given
            written = [named.get(one.name) for one in schema.arguments if one.alias_info and one.alias_info.is_write]
            if any(_memory(value) not in self.own for value in _tensors(written)):
                name = func.overloadpacket.__name__
                reason = f"'{name}' in its forward changes a parameter, buffer or other tensor in place"
                raise UnsupportedLayerError(self.where(), reason, _REMEDY)
        result = func(*args, **given)
        known = () if func.overloadpacket is torch.ops.aten.lift_fresh else map(_memory, _tensors((args, given)))
        self.own.update({_memory(value): value for value in _tensors(result) if _memory(value) not in {*known}})
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(values) if isinstance(value, Tensor)]


def _memory(tensor: Tensor) -> int:
    """Identifies the memory of a tensor and its views."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)


class _Snapshot:
    """What a forward can change of a layer by assignment, its attributes and the lists and dicts among them."""

    def __init__(self, path: str, layer: nn.Module) -> None:
        self.path = path
        self.attributes = vars(layer)
        self.before = self.attributes.copy()
        self.containers: list[tuple[str, Any, Any]] = [
            (name, value, value.copy())
            for name, value in self.before.items()
            if name not in _INTERNAL and isinstance(value, (list, dict, set))
        ]

    def restore(self) -> list[str]:
        """Undo the changes; returns the names of the attributes that were changed."""
        changed = [] if _same(self.attributes, self.before) else _restore_dict(self.attributes, self.before)
        for name, container, before in self.containers:
            if _same(container, before):
                continue
            if isinstance(container, dict):
                keys = _restore_dict(container, before)
                changed += keys if name in _MEMBERS else [name]
            else:
                container.clear()
                container.extend(before) if isinstance(container, list) else container.update(before)
                changed.append(name)
        return changed


_MEMBERS = frozenset({"_parameters", "_buffers", "_modules"})
_INTERNAL = frozenset(vars(nn.Module())) - _MEMBERS
"""Attributes of every module, which no forward changes."""


def _same(now: Any, before: Any) -> bool:
    """Whether two lists, dicts or sets hold the same objects in the same order."""
    if len(now) != len(before) or not all(map(operator.is_, now, before)):
        return False
    return not isinstance(now, dict) or all(map(operator.is_, now.values(), before.values()))


def _restore_dict(now: dict[Any, Any], before: dict[Any, Any]) -> list[str]:
    """Undo changes of a dict; returns the keys that were changed."""
    changed = [key for key, value in before.items() if key not in now or now[key] is not value]
    added = [key for key in now if key not in before]
    for key in changed:
        now[key] = before[key]
    for key in added:
        del now[key]
    return [str(key) for key in (*changed, *added)]
