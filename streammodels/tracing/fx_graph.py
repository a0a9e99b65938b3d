"""A module written down by `torch.fx` as a list of operations, in a way that hides nothing from who reads it."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from streammodels.errors import UnsupportedLayerError


class _Value(fx.Proxy):
    """A traced value that remembers ``+=`` and its kin: torch.fx would write them down as ``+``."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})

    def __ipow__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.ipow, (self, other), {})


class _Tracer(fx.Tracer):
    """Leaves are torch's own layers, subclasses of them that compute the same, and our own modules that stream."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """See `_Value`."""
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See `is_leaf`."""
        return is_leaf(m)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one operation: torch's own layers, subclasses that compute the same, and ours that stream."""
    if getattr(module, "streams_pointwise", False) or getattr(module, "streams_reduction", False):
        return True
    own = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
    inherits = any(
        base.__module__.startswith("torch.nn.modules") and type(module).forward is getattr(base, "forward", None)
        for base in type(module).__mro__[1:]
        if base not in (nn.Module, nn.Sequential)
    )
    return own or (inherits and not isinstance(module, nn.Sequential))


def write_down(module: nn.Module) -> fx.Graph:
    """The operations of a module's forward.

    Raises:
        UnsupportedLayerError: If they are no fixed list.
    """
    try:
        return _Tracer().trace(module)
    except Exception as error:
        reason = f"torch.fx cannot write its forward down as a fixed list of operations ({error})"
        remedy = "Remove control flow that depends on the data, or stream only the part without it."
        raise UnsupportedLayerError(type(module).__name__, reason, remedy) from error
