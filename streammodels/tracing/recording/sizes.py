"""Sizes and types of traced values, computed without their data when a forward asks for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import _disable_current_modes

TYPES = frozenset(
    {"dtype", "device", "ndim", "dim", "is_floating_point", "is_complex", "is_cuda", "layout", "itemsize", "is_sparse"}
)
"""Attributes and methods of a tensor whose answer does not depend on its size."""

SIZES = frozenset({"shape", "size", "numel", "nelement", "stride", "is_contiguous"})
"""Attributes and methods of a tensor whose answer depends on its size, and on nothing else."""

_LOG = logging.getLogger("torch._subclasses.fake_tensor")
_NOT_KNOWN = (UnsupportedFakeTensorException, DataDependentOutputException, DynamicOutputShapeException)
_SAME = (nn.modules.batchnorm._NormBase, nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Identity)
"""Layers whose result is as large as their input, and of its type outside of autocast."""


class FakeValues:
    """What the values of a graph are as tensors without data.

    Args:
        inputs: The shape and type of each input.
        layers: All layers, by path.
        tensors: The tensors that the graph reads, by name, to which the recorder may add.
        device: Where the values would be.
    """

    def __init__(
        self,
        inputs: Sequence[tuple[tuple[int, ...], torch.dtype]],
        layers: Mapping[str, nn.Module],
        tensors: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        self.inputs, self.layers, self.tensors, self.device = inputs, layers, tensors, device
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.known: dict[fx.Node, Any] = {}

    def of(self, node: fx.Node) -> Any:
        """The value of a node.

        Raises:
            LookupError: If it depends on the data.
            ValueError: If an operation cannot be computed, as in the plain module, naming it.
        """
        if node in self.known:
            return self.known[node]
        with _plain_modes(), self.mode, torch.no_grad():
            for one in self._missing(node):
                try:
                    self.known[one] = self._compute(one)
                except _NOT_KNOWN as error:
                    raise LookupError(str(error)) from error
                except Exception as error:
                    name = str(one.target) if one.op == "call_module" else one.name
                    shapes = [tuple(own.shape) for own in map(self.known.get, one.all_input_nodes) if own is not None]
                    reason = f"layer '{name}' cannot be computed for maps of shape {shapes}: {error}"
                    raise ValueError(f"{reason}. Use images of the size and channels it is made for.") from error
        return self.known[node]

    def _missing(self, node: fx.Node) -> list[fx.Node]:
        """What has to be computed for a node, in order."""
        found: dict[fx.Node, None] = {}
        stack = [node]
        while stack:
            current = stack.pop()
            if current not in self.known and current not in found:
                found[current] = None
                stack += current.all_input_nodes
        return [one for one in node.graph.nodes if one in found]

    def _compute(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            placeholders = [one for one in node.graph.nodes if one.op == "placeholder"]
            shape, dtype = self.inputs[placeholders.index(node)]
            return torch.empty(shape, dtype=dtype, device=self.device)
        if node.op == "get_attr":
            name = str(node.target)
            with unset_fake_temporarily():
                return self.tensors[name].detach() if name in self.tensors else self.layers[name]
        args: Any = fx.node.map_arg(node.args, self.known.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self.known.__getitem__)
        if node.op == "call_module":
            layer = self.layers[str(node.target)]
            computed = _computed_by(layer, args[0]) if args and not kwargs else None
            return layer(*args, **kwargs) if computed is None else computed
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        function: Callable[..., Any] = node.target  # type: ignore[assignment]
        return function(*args, **kwargs)


def _computed_by(layer: Any, value: Tensor) -> Tensor | None:
    """The result of layers that occur often, which takes torch long; None for others.

    Batch normalization in training mode would count the batch, though it has no data.
    """
    if isinstance(layer, nn.modules.batchnorm._NormBase) or (
        isinstance(layer, _SAME) and not torch.is_autocast_enabled(value.device.type)
    ):
        return value
    weight = layer._parameters.get("weight")
    plain = type(layer).forward is nn.Conv2d.forward and type(layer)._conv_forward is nn.Conv2d._conv_forward
    if not plain or weight is None or value.ndim != 4 or isinstance(layer.padding, str):
        return None
    if value.shape[1] != weight.shape[1] * layer.groups or value.dtype != weight.dtype:
        return None
    geometry = zip(value.shape[2:], weight.shape[2:], layer.stride, layer.padding, layer.dilation, strict=True)
    size = [(length + 2 * pad - spread * (k - 1) - 1) // step + 1 for length, k, step, pad, spread in geometry]
    if min(size) < 1 or torch.is_autocast_enabled(value.device.type):
        return None
    return value.new_empty((value.shape[0], weight.shape[0], *size))


@contextmanager
def _plain_modes() -> Iterator[None]:
    """Without the recorder's own mode, and without autocast's cache, which would keep weights without data."""
    cached, silent = torch.is_autocast_cache_enabled(), _LOG.disabled
    torch.set_autocast_cache_enabled(False)
    _LOG.disabled = True  # which repeats errors that are raised
    try:
        with _disable_current_modes():
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        _LOG.disabled = silent


def guessed_shape(module: nn.Module, is_image: bool, side: int) -> tuple[int, int, int, int]:
    """The shape of an input that is not known: the channels are those that the first convolution takes."""
    layers = module.modules() if is_image else ()
    channels = next((one.in_channels for one in layers if isinstance(one, nn.Conv2d)), 3 if is_image else 1)
    return (1, channels, side, side)


def own_side(module: nn.Module) -> int:
    """The side of the images that a module was made for, by the names of timm and torchvision; 224 if it has none."""
    values = [getattr(one, name, None) for one in module.modules() for name in ("image_size", "img_size")]
    sides = [value[0] if isinstance(value, tuple | list) else value for value in values]
    return next((side for side in sides if isinstance(side, int)), 224)
