"""`torch.fx` tracing of a module, in which in-place operators stay distinct."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from streammodels.errors import UnsupportedLayerError


class _Value(fx.Proxy):
    """A traced value that records ``+=`` and the like, which torch.fx would record as ``+``."""

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
    """A tracer with the leaves of `is_leaf`."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """See `_Value`."""
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See `is_leaf`."""
        return is_leaf(m)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one operation, a layer of torch or a subclass that computes the same, or one of ours."""
    if getattr(module, "streams_pointwise", False) or getattr(module, "streams_reduction", False):
        return True
    own = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
    inherits = any(
        base.__module__.startswith("torch.nn.modules") and type(module).forward is getattr(base, "forward", None)
        for base in type(module).__mro__[1:]
        if base not in (nn.Module, nn.Sequential)
    )
    return own or (inherits and not isinstance(module, nn.Sequential))


def trace_graph(module: nn.Module) -> fx.Graph:
    """The graph of a module's forward.

    Raises:
        UnsupportedLayerError: If its operations depend on the data.
    """
    try:
        return _Tracer().trace(module)
    except Exception as error:
        reason = f"torch.fx cannot write its forward down as a fixed list of operations ({error})"
        remedy = "Remove control flow that depends on the data, or stream only the part without it."
        raise UnsupportedLayerError(type(module).__name__, reason, remedy) from error


def named_arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of a call behind the first one, by name; `names` are those of positional ones."""
    return dict(zip(names, node.args[1:], strict=False)) | node.kwargs
