"""A traced module, along either side of the image: its network, the engine that runs it, the plans made for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from streammodels.backprop.checkpointing import Choice
from streammodels.core.engine import Engine
from streammodels.core.network import Network
from streammodels.core.reductions import Reduction
from streammodels.core.row_plan import RowNode, RowPlan, RowsError, plan_rows

_CACHED = 64


@dataclass
class Route:
    """A network that is computed along one side of the image.

    Attributes:
        network: The network.
        sideways: Whether strips run along the width: the network then is that of images with the sides swapped.
        choices: What was chosen for images of one size, by all that it depends on.
        plans: The plans made, by batch, height, width and strip height.
    """

    network: Network
    sideways: bool
    choices: OrderedDict[Hashable, Choice] = field(default_factory=OrderedDict)
    plans: OrderedDict[Hashable, RowPlan] = field(default_factory=OrderedDict)

    @cached_property
    def engine(self) -> Engine:
        """Runs the network."""
        return Engine(self.network)

    def extent(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image as its strips see it."""
        return (width, height) if self.sideways else (height, width)

    def plan(self, batch: int, height: int, width: int, strip_rows: int, kernel_pixels: int) -> RowPlan:
        """The plan for a batch of images of one size, as the strips see it; remembered for the next."""
        key = (batch, height, width, strip_rows, kernel_pixels)
        if key not in self.plans:
            remember(
                self.plans, key, plan_rows(self.network.row_nodes(batch, width, kernel_pixels), height, strip_rows)
            )
        return self.plans[key]

    def finish(self, results: Sequence[Tensor]) -> Tensor:
        """What the module returns, out of the values of the network's boundary nodes."""
        if self.sideways:
            rules = [self.network.nodes[index].rule for index in self.network.boundary]
            results = [
                value if isinstance(rule, Reduction) else value.transpose(2, 3).contiguous()
                for value, rule in zip(results, rules, strict=True)
            ]
        return self.network.finish(results)

    def check(self, height: int, width: int) -> None:
        """Refuse images, of a size as the strips see it, that a layer has no result for.

        Raises:
            ValueError: Naming the layer.
        """
        sides = (height, width) if not self.sideways else (width, height)
        for nodes, size, kind in zip(self._lines(), sides, ("rows", "columns"), strict=True):
            try:
                plan_rows(nodes, size, size)
            except RowsError as error:
                path, reason = self.network.nodes[error.node].path, error.reason.replace("rows", kind)
                raise ValueError(f"layer '{path}': {reason}. Use a larger image, or fewer layers.") from error

    def _lines(self) -> tuple[list[RowNode], list[RowNode]]:
        """The geometry along the image's height, and along its width."""
        along = [RowNode(node.inputs, node.window) for node in self.network.nodes]
        across = [RowNode(node.inputs, node.columns) for node in self.network.nodes]
        return (across, along) if self.sideways else (along, across)


class Traced:
    """A traced module."""

    def __init__(self, network: Network) -> None:
        self.upright = Route(network, sideways=False)

    @property
    def network(self) -> Network:
        """The network, upright."""
        return self.upright.network

    @cached_property
    def sideways(self) -> Route | None:
        """The same along the image's width; None if the result would depend on it."""
        turned = self.network.sideways()
        return None if turned is None else Route(turned, sideways=True)

    def route(self, height: int, width: int, turns: bool = True) -> Route:
        """Along the longer side, if the network and the image (`turns`) can be turned."""
        return self.sideways if width > height and turns and self.sideways is not None else self.upright


def remember(store: OrderedDict[Hashable, Any], key: Hashable, value: Any) -> None:
    """Put a value into a store that forgets the oldest."""
    store[key] = value
    if len(store) > _CACHED:
        store.popitem(last=False)


def settings(layer: nn.Module) -> Hashable:
    """What a trace of the layer depends on: which layer it is, which tensors it holds, its numbers and flags."""
    tensors = (*layer._parameters.values(), *layer._buffers.values())
    plain = (bool, int, float, str, tuple)
    own = tuple((name, repr(value)) for name, value in vars(layer).items() if isinstance(value, plain))
    return (id(layer), *map(id, tensors), own)
