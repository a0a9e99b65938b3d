"""Shape of every value of a network for an image of a given size, found on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streammodels.core.engine import Engine, NodeTensors, StripRun
from streammodels.core.network import Network
from streammodels.core.operations import Convolution
from streammodels.core.row_plan import RowPlan, plan_rows
from streammodels.core.strip_reader import SingleUseTensor


@dataclass(frozen=True)
class ValueShape:
    """Size of a node's value over the whole image, and bytes of one number."""

    channels: int
    rows: int
    width: int
    item_bytes: int

    def row_bytes(self, batch: int) -> int:
        """Bytes of one row."""
        return batch * self.channels * self.width * self.item_bytes


@dataclass(frozen=True)
class InputShape:
    """Size and type of an input beside the image; None for the type of the network's floats."""

    channels: int
    height: int
    width: int
    dtype: torch.dtype | None = None

    def empty(self, batch: int, floating: torch.dtype) -> Tensor:
        """A batch of such inputs without data."""
        return torch.empty(batch, self.channels, self.height, self.width, dtype=self.dtype or floating, device="meta")


class _ShapeRun(StripRun):
    """A run that records the shape of every value."""

    shapes: list[ValueShape]

    def release(self, index: int) -> None:
        value = self.buffers[index]
        if value is not None:
            self.shapes[index] = ValueShape(value.shape[1], value.shape[2], value.shape[3], value.element_size())


def value_shapes(
    network: Network,
    tensors: NodeTensors,
    height: int,
    width: int,
    channels: int | None = None,
    further: Sequence[InputShape] = (),
) -> list[ValueShape]:
    """The shape of every node's value for an image of `height` x `width` pixels.

    Args:
        network: The network.
        tensors: The tensors of every node.
        height: In pixels, as the strips see it.
        width: Likewise.
        channels: Channels of the image; None for those that the first convolution reads.
        further: The further inputs, as the strips see them.

    Raises:
        ValueError: If `channels` of the image is None and those of the first convolution are wrong.
    """
    on_meta = [[None if t is None else t.detach().to("meta") for t in node] for node in tensors]
    floating = next((t.dtype for node in on_meta for t in node if t is not None), torch.get_default_dtype())
    image = torch.empty(1, channels or _image_channels(network, tensors), height, width, dtype=floating, device="meta")
    plan = plan_rows([node.row_node() for node in network.nodes], height, height, [one.height for one in further])
    images = [image, *(one.empty(1, floating) for one in further)]
    engine = Engine(network)
    run = _ShapeRun(engine, plan, 0, engine.prepared(on_meta), {})
    run.shapes = [ValueShape(0, 0, 0, 0)] * len(network.nodes)
    try:
        with torch.no_grad():
            run.forward({i: SingleUseTensor(one) for i, one in zip(network.inputs, images, strict=True)}, {})
    except RuntimeError as error:
        if channels is not None:
            raise
        raise ValueError(
            f"how many channels the image has cannot be read off the network: with the {image.shape[1]} of its first "
            f"convolution it fails ({error}). Call it on an image once: channels are remembered."
        ) from error
    return run.shapes


def _image_channels(network: Network, tensors: NodeTensors) -> int:
    """Channels that the first convolution reads; 3 if there is none."""
    for node, own in zip(network.nodes, tensors, strict=True):
        if isinstance(node.rule, Convolution):
            weight = own[0]
            assert weight is not None
            return int(weight.shape[1]) * node.rule.groups
    return 3


def boundary_bytes(plan: RowPlan, network: Network, shapes: list[ValueShape], batch: int, strip: int) -> int:
    """Bytes carried from a strip to the next."""
    return sum(
        len(plan.carried(index, strip)) * shapes[index].row_bytes(batch)
        for index, node in enumerate(network.nodes)
        if not node.transparent
    )
