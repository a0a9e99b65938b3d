"""Interception of the layers of one module, in one thread, while its forward is recorded.

torch.fx replaces `nn.Module.__call__` for the whole process instead, which breaks modules of other threads. Here a
layer's forward is replaced on the layer itself, and calls the layer's own in every thread but the one that records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, local
from typing import Any

from torch import nn

Handler = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called with a layer, its own forward and the arguments, in place of that forward."""

_LOCK = Lock()


class _Handling(local):
    """The handler of each layer in this thread."""

    def __init__(self) -> None:
        self.handlers: dict[nn.Module, Handler] = {}


_HANDLING = _Handling()


class _Forward:
    """The forward set on a layer while any thread records it."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.own: Callable[..., Any] = layer.forward
        self.users = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        handler = _HANDLING.handlers.get(self.layer)
        return self.own(*args, **kwargs) if handler is None else handler(self.layer, self.own, args, kwargs)


@contextmanager
def handled_calls(layers: Sequence[nn.Module], handler: Handler) -> Iterator[None]:
    """Call `handler` in place of the forward of each of `layers`, in this thread only."""
    before = _HANDLING.handlers
    with _LOCK:
        for layer in layers:
            if not is_intercepted(layer):
                vars(layer)["forward"] = _Forward(layer)
            vars(layer)["forward"].users += 1
    _HANDLING.handlers = before | dict.fromkeys(layers, handler)
    try:
        yield
    finally:
        _HANDLING.handlers = before
        with _LOCK:
            for layer in layers:
                forward = vars(layer)["forward"]
                forward.users -= 1
                if forward.users == 0:
                    del vars(layer)["forward"]


def is_intercepted(layer: nn.Module) -> bool:
    """Whether some thread records the layer now."""
    return isinstance(vars(layer).get("forward"), _Forward)
