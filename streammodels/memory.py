"""How much memory a streamed training step takes, estimated from shapes, and the strip height that fits a budget.

Peak memory above the parameters is made of

* what autograd saves for one strip (all layers, strip height x image width),
* the carries kept at every boundary between two strips,
* the working space of the largest layer, its gradient included,
* copies of the weights: batch normalisation folded in, gradients of that, gradients of the parameters,
* the result, if it is a feature map.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from .engine import Engine, StripRun
from .network import Network
from .reductions import Reduction
from .rows import RowPlan, plan_rows
from .rules import Convolution, Join, MaxPool

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_INDEX_BYTES = 8  # a maximum pool saves an int64 index for every output pixel
_WEIGHT_COPIES = 4  # folded weights, their gradients, the parameters' gradients, and one reordered by the kernels
_WORKING_COPIES = 3  # gradient of the largest value, a re-ordered copy of it, and one of its input


def parse_bytes(memory: str | int) -> int:
    """``"8GB"``, ``"500 MiB"`` or a number of bytes, as bytes.

    Raises:
        ValueError: If it is not understood or not positive.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?)B?\s*", str(memory).upper())
    if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise ValueError(f"memory={memory!r} is not understood. Give bytes, or text such as '8GB' or '500MiB'.")
    return int(float(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True)
class ValueShape:
    """Size of a node's value over the whole image: channels, rows, width, and bytes of one number."""

    channels: int
    rows: int
    width: int
    item_bytes: int

    def row_bytes(self, batch: int) -> int:
        """Bytes of one row."""
        return batch * self.channels * self.width * self.item_bytes


class _ShapeRun(StripRun):
    """Runs on the meta device, where no number is computed, and notes the shape of every value."""

    shapes: list[ValueShape]

    def release(self, index: int) -> None:
        value = self.buffers[index]
        if value is not None:
            self.shapes[index] = ValueShape(value.shape[1], value.shape[2], value.shape[3], value.element_size())


def value_shapes(network: Network, height: int, width: int) -> list[ValueShape]:
    """The shape of every node's value for an image of `height` x `width` pixels."""
    tensors = [[None if t is None else t.detach().to("meta") for t in node.tensors()] for node in network.nodes]
    floating = next((t.dtype for node in tensors for t in node if t is not None), torch.get_default_dtype())
    image = torch.empty(1, image_channels(network), height, width, dtype=floating, device="meta")
    plan = plan_rows([node.row_node() for node in network.nodes], height, height)
    run = _ShapeRun(Engine(network), plan, 0, tensors, {})
    run.shapes = [ValueShape(0, 0, 0, 0)] * len(network.nodes)
    with torch.no_grad():
        run.through(image, {})
    return run.shapes


def image_channels(network: Network) -> int:
    """Channels of the image, read off the first convolution; 3 if there is none."""
    for node in network.nodes:
        if isinstance(node.rule, Convolution):
            weight = node.tensors()[0]
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


@dataclass(frozen=True)
class _Sizes:
    """What does not depend on the strip height, for a batch of images of one size; bytes over the whole image."""

    network: Network
    shapes: list[ValueShape]
    batch: int
    height: int
    width: int
    saved: int
    largest: int
    weights: int
    maps: int

    @classmethod
    def of(cls, network: Network, batch: int, height: int, width: int) -> _Sizes:
        """Read them off the network."""
        shapes = value_shapes(network, height, width)
        values = [shape.rows * shape.row_bytes(batch) for shape in shapes]
        weights = sum(t.numel() * t.element_size() for node in network.nodes for t in node.tensors() if t is not None)
        saved, maps = saved_bytes(network, shapes, batch), sum(values[i] for i in network.boundary)
        return cls(network, shapes, batch, height, width, saved, max(values), weights, maps)

    def training_bytes(self, strip_rows: int, kernel_pixels: int) -> int:
        """Estimated peak memory of a training step in strips of `strip_rows`."""
        nodes = self.network.row_nodes(self.batch, self.width, kernel_pixels)
        plan = plan_rows(nodes, self.height, strip_rows)
        strips = range(plan.strips)
        carried = sum(boundary_bytes(plan, self.network, self.shapes, self.batch, strip) for strip in strips)
        in_strip = (self.saved + _WORKING_COPIES * self.largest) * min(1.0, strip_rows / self.height)
        return int(carried + in_strip + _WEIGHT_COPIES * self.weights + 2 * self.maps)


def training_bytes(
    network: Network, batch: int, height: int, width: int, strip_rows: int, kernel_pixels: int = 1
) -> int:
    """Estimated peak memory of a training step above that of the parameters and the image, in bytes."""
    return _Sizes.of(network, batch, height, width).training_bytes(strip_rows, kernel_pixels)


def saved_bytes(network: Network, shapes: list[ValueShape], batch: int) -> int:
    """What autograd saves of a whole image: values that a layer needs again for its gradient."""
    engine, readers = Engine(network), network.readers()
    total = 0
    for index, node in enumerate(network.nodes):
        rules = [network.nodes[reader].rule for reader in readers[index]]
        overwritten = any(engine.works_in_place(reader) for reader in readers[index])
        if not overwritten and any(not isinstance(rule, Join | Reduction) for rule in rules):
            total += shapes[index].rows * shapes[index].row_bytes(batch)
        if isinstance(node.rule, MaxPool):
            total += shapes[index].rows * shapes[index].row_bytes(batch) // shapes[index].item_bytes * _INDEX_BYTES
    return total


def strip_rows_within(
    network: Network, batch: int, height: int, width: int, budget_bytes: int, kernel_pixels: int = 1
) -> int:
    """The tallest strips whose training step is estimated to fit the budget.

    Raises:
        ValueError: If not even the least that any strip height takes fits; the message says how much that is.
    """
    sizes = _Sizes.of(network, batch, height, width)
    candidates = sorted({height, *(-(-height // parts) for parts in range(1, 65)), *(2**k for k in range(12))})
    needed: dict[int, int] = {}
    for rows in reversed([int(rows) for rows in candidates if rows <= height]):
        needed[rows] = sizes.training_bytes(rows, kernel_pixels)
        if needed[rows] <= budget_bytes:
            return rows
    least = min(needed, key=lambda rows: needed[rows])
    raise ValueError(
        f"memory of {budget_bytes / 1e6:.4g} MB is too small for {batch} image(s) of {height} x {width} pixels: strips "
        f"of {least} rows need least, about {needed[least] / 1e6:.4g} MB. Raise memory=, or use smaller images."
    )
