"""A traced module in both orientations, with strips along the height or the width of the image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from streammodels.backprop.checkpointing import Schedule
from streammodels.core.engine import Engine
from streammodels.core.network import Network
from streammodels.core.reductions import Reduction
from streammodels.core.row_plan import RowNode, RowPlan, RowsError, plan_rows
from streammodels.memory.budget import Sizes
from streammodels.memory.estimate import StepMemory

_CACHE_SIZE = 64


@dataclass
class Orientation:
    """A network computed in strips along one side of the image.

    Attributes:
        network: The network.
        sideways: Whether strips run along the width; the network then is for images with height and width swapped.
        schedules: Schedules for images of one size, by all that they depend on.
        plans: Row plans, by batch, height, width, strip height and `kernel_pixels`.
    """

    network: Network
    sideways: bool
    schedules: OrderedDict[Hashable, Schedule] = field(default_factory=OrderedDict)
    plans: OrderedDict[Hashable, RowPlan] = field(default_factory=OrderedDict)

    @cached_property
    def engine(self) -> Engine:
        """The engine of the network."""
        return Engine(self.network)

    def extent(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image as its strips see it."""
        return (width, height) if self.sideways else (height, width)

    def tensors(self) -> list[list[Tensor | None]]:
        """The tensors of every node, connected to the parameters."""
        return [node.tensors() for node in self.network.nodes]

    def schedule(self, memory: StepMemory, sizes: Sizes, device_type: str) -> Schedule:
        """The schedule for images of one size, cached.

        Raises:
            ValueError: If they are too small for a layer.
        """
        key = (memory.key, sizes, device_type)
        if key not in self.schedules:
            self._check_size(memory.height, memory.width)
            cache(self.schedules, key, sizes.schedule(memory, device_type))
        return self.schedules[key]

    def plan(self, memory: StepMemory, strip_rows: int) -> RowPlan:
        """The row plan for images of one size, cached."""
        key = (memory.batch, memory.height, memory.width, strip_rows, memory.kernel_pixels)
        if key not in self.plans:
            nodes = self.network.row_nodes(memory.batch, memory.width, memory.kernel_pixels)
            cache(self.plans, key, plan_rows(nodes, memory.height, strip_rows))
        return self.plans[key]

    def finish(self, results: Sequence[Tensor]) -> Tensor:
        """What the module returns, given the values of the network's boundary nodes."""
        if self.sideways:
            rules = [self.network.nodes[index].rule for index in self.network.boundary]
            results = [
                value if isinstance(rule, Reduction) else value.transpose(2, 3).contiguous()
                for value, rule in zip(results, rules, strict=True)
            ]
        return self.network.finish(results)

    def _check_size(self, height: int, width: int) -> None:
        """Check that every layer has an output for images of a size as the strips see it."""
        nodes = self.network.nodes
        along = ([RowNode(node.inputs, node.window) for node in nodes], height)
        across = ([RowNode(node.inputs, node.columns) for node in nodes], width)
        axes = (across, along) if self.sideways else (along, across)
        for (geometry, size), kind in zip(axes, ("rows", "columns"), strict=True):
            try:
                plan_rows(geometry, size, size)
            except RowsError as error:
                path, reason = nodes[error.node].path, error.reason.replace("rows", kind)
                raise ValueError(f"layer '{path}': {reason}. Use a larger image, or fewer layers.") from error


class TracedModule:
    """A traced module, upright and, if possible, sideways."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.upright = Orientation(network, sideways=False)

    @cached_property
    def sideways(self) -> Orientation | None:
        """With strips along the width; None if the result would depend on it."""
        swapped = self.network.sideways()
        return None if swapped is None else Orientation(swapped, sideways=True)

    def orientation(self, height: int, width: int, has_columns: bool = True) -> Orientation:
        """With strips along the longer side, if the network and the image (`has_columns`) allow."""
        return self.sideways if width > height and has_columns and self.sideways is not None else self.upright


def cache(store: OrderedDict[Hashable, Any], key: Hashable, value: Any, size: int = _CACHE_SIZE) -> None:
    """Add a value to a cache that drops the oldest beyond its size."""
    store[key] = value
    if len(store) > size:
        store.popitem(last=False)


def layer_settings(layer: nn.Module) -> Hashable:
    """What the trace of a layer depends on, its identity, tensors, numbers and flags."""
    tensors = (*layer._parameters.values(), *layer._buffers.values())
    plain = (bool, int, float, str, tuple)
    own = tuple((name, repr(value)) for name, value in vars(layer).items() if isinstance(value, plain))
    return (id(layer), *map(id, tensors), own)
