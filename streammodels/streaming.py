"""`stream(module)`: the same module, computed in strips of rows, with exact gradients by a plain ``loss.backward()``.

One `torch.autograd.Function` takes the image and every tensor the network computes with, and returns their gradients.
So optimizers, gradient clipping and accumulation, GradScaler and DistributedDataParallel see nothing unusual.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .engine import Engine, NodeTensors
from .image_pass import Pass
from .memory import parse_bytes, strip_rows_within
from .network import Network
from .rows import RowPlan, RowsError, plan_rows
from .summary import layer_table
from .surroundings import Surroundings
from .tracing import refuse_hooks, trace

_CACHED_TRACES = 4
_CACHED_PLANS = 64


def stream(
    module: nn.Module,
    tile_size: int | None = None,
    *,
    strip_rows: int | None = None,
    memory: str | int | None = None,
) -> StreamedModule:
    """Make a module compute in strips of rows, exactly as it does on the whole image.

    Give one of the three sizes. None changes any result beyond rounding; they trade memory against speed.

    Args:
        module: Maps a (B, C, H, W) image to a feature map or, through global pooling, to vectors. Its parameters are
            shared, not copied. Batch normalisations have to be in eval mode when it is called.
        tile_size: A budget of ``tile_size**2`` pixels of each image in flight: strips are that many pixels over the
            image width tall.
        strip_rows: Height of the strips in image rows, at least 1.
        memory: Budget for one training step, such as ``"8GB"`` or a number of bytes; the tallest strips whose
            estimated memory fits are taken.

    Returns:
        A module to call like the original one.

    Raises:
        UnsupportedLayerError: If a layer cannot be streamed exactly.
        ValueError: If none or several sizes are given, or one is not positive.

    Example:
        >>> trunk = stream(torch.nn.Conv2d(3, 8, 3, padding=1), strip_rows=64)
        >>> trunk(torch.rand(1, 3, 1000, 500)).shape
        torch.Size([1, 8, 1000, 500])
    """
    return StreamedModule(module, tile_size=tile_size, strip_rows=strip_rows, memory=memory)


class StreamedModule(nn.Module):
    """A module that computes in strips of rows; made by `stream`.

    Attributes:
        module: The original module.
        kernel_pixels: Layers that shrink the image wait until they have so many pixels to compute at once, see
            `Network.row_nodes`. It changes no result; below about 500 kernels are slow.
    """

    kernel_pixels: int = 1024

    def __init__(
        self,
        module: nn.Module,
        *,
        tile_size: int | None = None,
        strip_rows: int | None = None,
        memory: str | int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"tile_size": tile_size, "strip_rows": strip_rows, "memory": memory}
        given = [name for name, value in sizes.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"give one of tile_size=, strip_rows= and memory=; got {', '.join(given) or 'none'}")
        for name, value in (("tile_size", tile_size), ("strip_rows", strip_rows)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} has to be a whole number of at least 1, got {value!r}")
        self.module = module
        self.tile_size = tile_size
        self.strip_rows = strip_rows
        self.memory_bytes = None if memory is None else parse_bytes(memory)
        self._traces: OrderedDict[Any, _Trace] = OrderedDict()
        self._check()

    def _check(self) -> None:
        """Refuse now what can never be streamed; training flags may still change before the first call."""
        flags = [(layer, layer.training) for layer in self.module.modules()]
        try:
            for layer, _ in flags:
                layer.training = False
            trace(self.module)
        finally:
            for layer, training in flags:
                layer.training = training

    def __getstate__(self) -> dict[str, Any]:
        """Leave the traces behind: they hold functions, and are made again when needed."""
        return {**self.__dict__, "_traces": OrderedDict()}

    def forward(self, image: Tensor) -> Tensor:
        """Compute the module on a whole image, strip by strip.

        Args:
            image: (B, C, H, W), float, or uint8, whose 0..255 become 0..1. It may lie on another device than the
                parameters (in host memory, say): each strip is moved when its turn comes.

        Returns:
            What ``module(image)`` returns, equal up to rounding; on the device of the parameters.

        Raises:
            UnsupportedLayerError: If a layer cannot be streamed in the mode it is in, e.g. BatchNorm2d in training.
            ValueError: If the image is not (B, C, H, W), or too small for the module.
        """
        _check_image(image)
        traced = self._trace()
        network = traced.network
        plan = self._plan(traced, image.shape[0], image.shape[2], image.shape[3])
        tensors = [node.tensors() for node in network.nodes]
        flat = [tensor for node in tensors for tensor in node if tensor is not None]
        source = _ImageRows(image, plan, flat)
        job = Pass(traced.engine, plan, source, source.device, Surroundings.capture(network, source.device))
        values: Sequence[Tensor]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (image, *flat)):
            values = _Streamed.apply(job, tensors, image, *flat)
        else:
            values = job.forward(tensors, keep_carries=False)
        return network.finish(job.finish(values, tensors))

    def plan(self, height: int, width: int) -> RowPlan:
        """The integer plan for images of `height` x `width` pixels: the rows every node emits and carries, by strip."""
        return self._plan(self._trace(), 1, height, width)

    def summary(self, height: int, width: int) -> str:
        """A table, as text: stride, receptive field, carried rows and bytes of every layer."""
        return layer_table(self._trace().network, self.plan(height, width), height, width)

    def extra_repr(self) -> str:
        """The size given, for ``print(module)``."""
        if self.memory_bytes is not None:
            return f"memory={self.memory_bytes}"
        return f"tile_size={self.tile_size}" if self.strip_rows is None else f"strip_rows={self.strip_rows}"

    def _trace(self) -> _Trace:
        """The trace for the modules, their settings and training flags of now."""
        refuse_hooks(self.module)
        key = tuple(_settings(layer) for layer in self.module.modules())
        if key not in self._traces:
            network = trace(self.module)
            self._traces[key] = _Trace(network, Engine(network))
            if len(self._traces) > _CACHED_TRACES:
                self._traces.popitem(last=False)
        return self._traces[key]

    def _plan(self, traced: _Trace, batch: int, height: int, width: int) -> RowPlan:
        """The plan for a batch of images of one size, remembered for the next."""
        key = (batch, height, width)
        if key not in traced.plans:
            nodes = traced.network.row_nodes(batch, width, self.kernel_pixels)
            try:
                traced.plans[key] = plan_rows(nodes, height, self._strip_rows(traced.network, batch, height, width))
            except RowsError as error:
                path = traced.network.nodes[error.node].path
                raise ValueError(f"layer '{path}': {error.reason}. Use a larger image, or fewer layers.") from error
            if len(traced.plans) > _CACHED_PLANS:
                traced.plans.popitem(last=False)
        return traced.plans[key]

    def _strip_rows(self, network: Network, batch: int, height: int, width: int) -> int:
        if self.strip_rows is not None:
            return min(self.strip_rows, height)
        if self.tile_size is not None:
            return min(max(1, round(self.tile_size**2 / width)), height)
        assert self.memory_bytes is not None
        return strip_rows_within(network, batch, height, width, self.memory_bytes, self.kernel_pixels)


@dataclass
class _Trace:
    """A traced network, the engine that runs it, and the plans made for it."""

    network: Network
    engine: Engine
    plans: OrderedDict[tuple[int, int, int], RowPlan] = field(default_factory=OrderedDict)


def _settings(layer: nn.Module) -> Hashable:
    """What a trace of the layer depends on: which layer it is, which tensors it holds, its numbers and flags."""
    tensors = (*layer._parameters.values(), *layer._buffers.values())
    plain = (bool, int, float, str, tuple)
    settings = tuple((name, repr(value)) for name, value in vars(layer).items() if isinstance(value, plain))
    return (id(layer), *map(id, tensors), settings)


def _check_image(image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"expected a (B, C, H, W) tensor, got {type(image).__name__}")
    if image.ndim != 4:
        remedy = "Add the batch dimension with image[None]." if image.ndim == 3 else "Reshape it."
        raise ValueError(f"expected a (B, C, H, W) image, got shape {tuple(image.shape)}. {remedy}")
    if 0 in image.shape:
        raise ValueError(f"the image has no pixels: shape {tuple(image.shape)}. Every side has to be at least 1.")


class _ImageRows:
    """Hands out the image's rows strip by strip: on the device that computes, uint8 scaled to 0..1."""

    def __init__(self, image: Tensor, plan: RowPlan, tensors: Sequence[Tensor]) -> None:
        floating = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
        self.image = image
        self.plan = plan
        self.device = image.device if floating is None else floating.device
        self.dtype = torch.get_default_dtype() if floating is None else floating.dtype

    def __call__(self, strip: int) -> Tensor:
        new = self.plan.new(0, strip)
        rows = self.image[:, :, new.start : new.stop].to(self.device, non_blocking=True)
        return scale_to_unit(rows, self.dtype)


def scale_to_unit(image: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 0..255 to 0..1 in `dtype`; an image of floats stays as it is."""
    return image.to(dtype).div_(255) if image.dtype == torch.uint8 else image


class _Streamed(torch.autograd.Function):
    """The streamed pass as one differentiable function of the image and of all tensors the network computes with."""

    @staticmethod
    def forward(ctx: Any, job: Pass, tensors: NodeTensors, image: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        """Run all strips without autograd, keep the carries."""
        values = job.forward(tensors, keep_carries=True)
        ctx.job = job
        ctx.pattern = [[tensor is not None for tensor in node] for node in tensors]
        ctx.carried = [tuple(carries) for carries in job.carries]
        # Saved as autograd saves: freed after the backward pass, and checked for changes in between.
        ctx.save_for_backward(image, *flat, *(carry for carries in job.carries for carry in carries.values()))
        job.carries = []
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Run the strips from last to first, recomputing each with autograd."""
        job: Pass = ctx.job
        image, *saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        leaves = [t.detach().requires_grad_(n) for t, n in zip(saved[: len(needed)], needed, strict=True)]
        carries = iter(saved[len(needed) :])
        job.carries = [{index: next(carries) for index in nodes} for nodes in ctx.carried]
        image_grad = torch.empty_like(image) if ctx.needs_input_grad[2] else None
        job.backward(_in_pattern(leaves, ctx.pattern), grads, image_grad)
        job.carries = []
        return (None, None, image_grad, *(leaf.grad for leaf in leaves))


def _in_pattern(flat: Sequence[Tensor], pattern: list[list[bool]]) -> list[list[Tensor | None]]:
    """Undo the flattening of the tensors of all nodes."""
    remaining = iter(flat)
    return [[next(remaining) if present else None for present in node] for node in pattern]
