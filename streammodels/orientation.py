"""A traced module in both orientations, with strips along the height or the width of the image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from streammodels.backprop.bptt import NewMap
from streammodels.backprop.checkpointing import Schedule
from streammodels.core.engine import Engine, NodeTensors
from streammodels.core.image_rows import ImageRows
from streammodels.core.network import Network
from streammodels.core.operations import Convolution
from streammodels.core.reductions import Reduction
from streammodels.core.row_plan import RowNode, RowPlan, RowsError, plan_rows
from streammodels.core.tensors.memory_format import dense
from streammodels.memory.budget import Sizes
from streammodels.memory.estimate import StepMemory
from streammodels.memory.speed import assumed_speed
from streammodels.memory.timing import measured_speed

_CACHE_SIZE = 64


@dataclass
class Planned:
    """What was planned for images of one size, which is used again for networks of the same geometry.

    Attributes:
        schedules: Schedules, by all that they depend on.
        plans: Row plans, by network, batch, height, width, strip height and `kernel_pixels`.
        sizes: Sizes of the stages of a network, by all that they depend on.
        chosen: Sizes by device, where none were passed.
    """

    schedules: OrderedDict[Hashable, Schedule] = field(default_factory=OrderedDict)
    plans: OrderedDict[Hashable, RowPlan] = field(default_factory=OrderedDict)
    sizes: OrderedDict[Hashable, dict[int, Sizes]] = field(default_factory=OrderedDict)
    chosen: dict[tuple[Sizes, torch.device], Sizes] = field(default_factory=dict)

    def sizes_on(self, sizes: Sizes, device: torch.device) -> Sizes:
        """The sizes passed or, if none was, those chosen for a device when it was asked first."""
        if (sizes, device) not in self.chosen:
            self.chosen[sizes, device] = sizes.on(device)
        return self.chosen[sizes, device]

    def of_stages(self, key: Hashable, choose: Callable[[], dict[int, Sizes]]) -> dict[int, Sizes]:
        """The sizes of all stages of a network, chosen once for a key."""
        if key not in self.sizes:
            _cache(self.sizes, key, choose())
        return self.sizes[key]


@dataclass
class Orientation:
    """A network computed in strips along one side of the image.

    Attributes:
        network: The network.
        sideways: Whether strips run along the width; the network then is for images with height and width swapped.
        planned: Schedules and row plans that were made before.
    """

    network: Network
    sideways: bool
    planned: Planned = field(default_factory=Planned)

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

    def check_channels(self, tensors: NodeTensors, images: Sequence[ImageRows]) -> None:
        """Check that the layers which read an input can read its channels.

        Raises:
            ValueError: If not.
        """
        inputs = dict(zip(self.network.inputs, images, strict=True))
        for node, own in zip(self.network.nodes, tensors, strict=True):
            weight = own[0] if own else None
            if len(node.inputs) != 1 or node.inputs[0] not in inputs or weight is None:
                continue
            image = inputs[node.inputs[0]]
            found = image.shape[1]
            expected = found
            if isinstance(node.rule, Convolution):
                expected = weight.shape[1] * node.rule.groups
            elif node.kind == "Normalize" and found > 1:  # one channel is repeated, as in torch
                expected = weight.shape[0]
            if found != expected:
                raise ValueError(
                    f"{image.name} of shape {image.shape} has {found} channels, but layer '{node.path}' takes "
                    f"{expected}. Images have shape (B, C, H, W); take the channels that the network was made for, "
                    "such as image[:, :3] of one with transparency."
                )

    def schedule(
        self, memory: StepMemory, sizes: Sizes, device: torch.device, timed_strips: bool | None = None
    ) -> Schedule:
        """The schedule for images of one size, cached.

        Args:
            memory: Estimates for the network and the images.
            sizes: The sizes, not none.
            device: The device that computes.
            timed_strips: Whether strips are timed, if their height is not given; None for those of CUDA.

        Raises:
            ValueError: If they are too small for a layer.
        """
        timed = device.type == "cuda" if timed_strips is None else timed_strips
        key = (self.network.key, self.sideways, memory.key, sizes, device.type, timed)
        found = self.planned.schedules.get(key)
        if found is None:
            self._check_size(memory)
            speed = assumed_speed(device.type)
            if timed and sizes.strip_rows is None:
                speed = measured_speed(memory, sizes.budget(memory), device)
            found = sizes.schedule(memory, speed)
            _cache(self.planned.schedules, key, found)
        return found

    def plan(self, memory: StepMemory, strip_rows: int) -> RowPlan:
        """The row plan for images of one size, cached."""
        size = (memory.batch, memory.height, memory.width, memory.further)
        key = (self.network.key, size, strip_rows, memory.kernel_pixels)
        found = self.planned.plans.get(key)
        if found is None:
            found = memory.plan(strip_rows)
            _cache(self.planned.plans, key, found)
        return found

    def finish(self, results: Sequence[Tensor]) -> Any:
        """What the module returns, given the values of the network's boundary nodes."""
        if self.sideways:
            rules = [self.network.nodes[index].rule for index in self.network.boundary]
            results = [
                value if isinstance(rule, Reduction) else dense(value.transpose(2, 3))
                for value, rule in zip(results, rules, strict=True)
            ]
        return self.network.finish(results)

    def _check_size(self, memory: StepMemory) -> None:
        """Check that every layer has an output for images of a size as the strips see it."""
        nodes, further = self.network.nodes, memory.further
        along = [RowNode(node.inputs, node.window) for node in nodes], memory.height, [one.height for one in further]
        across = [RowNode(node.inputs, node.columns) for node in nodes], memory.width, [one.width for one in further]
        axes = (across, along) if self.sideways else (along, across)
        for (geometry, size, others), kind in zip(axes, ("rows", "columns"), strict=True):
            try:
                plan_rows(geometry, size, size, others)
            except RowsError as error:
                path, reason = nodes[error.node].path, error.reason.replace("rows", kind)
                meet = "Maps that are joined have to be equally high and wide; strips repeat none of them."
                remedy = meet if len(nodes[error.node].inputs) > 1 else "Use a larger image, or fewer layers."
                raise ValueError(f"layer '{path}': {reason}. {remedy}") from error


@dataclass(frozen=True)
class PassOptions:
    """How the strips of one image of a call are computed.

    Attributes:
        images: Number of images of the call, which share its budget.
        last: Whether it is the last of them, whose backward pass comes first.
        sizes: Sizes of the strips; None for those passed to `stream`.
        new_map: See `ImagePass`.
    """

    images: int = 1
    last: bool = True
    sizes: Sizes | None = None
    new_map: Mapping[int, NewMap] = field(default_factory=dict)


ONE_IMAGE = PassOptions()


class TracedModule:
    """A traced module, upright and, if possible, sideways."""

    def __init__(self, network: Network, planned: Planned) -> None:
        self.network = network
        self.planned = planned
        self.upright = Orientation(network, False, planned)

    @cached_property
    def sideways(self) -> Orientation | None:
        """With strips along the width; None if the result would depend on it."""
        swapped = self.network.sideways()
        return None if swapped is None else Orientation(swapped, True, self.planned)

    def orientation(self, height: int, width: int, has_columns: bool = True) -> Orientation:
        """With strips along the longer side, if the network and the image (`has_columns`) allow."""
        return self.sideways if width > height and has_columns and self.sideways is not None else self.upright


def _cache(store: OrderedDict[Hashable, Any], key: Hashable, value: Any) -> None:
    """Add a value to a cache that drops the oldest beyond its size."""
    store[key] = value
    while len(store) > _CACHE_SIZE:
        store.popitem(last=False)
