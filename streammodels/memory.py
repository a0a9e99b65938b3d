"""How much memory a streamed training step takes, estimated from shapes, and what is fastest within a budget.

Peak memory above the parameters is made of

* what autograd saves for one strip (all trained layers, strip height x image width), and for every strip kept as graph,
* the carries kept at the boundaries between strips,
* the rows that frozen layers hand to trained ones, if they are kept,
* the working space of the largest layer, its gradient included,
* copies of the weights: batch normalisation folded in, gradients of that, gradients of the parameters,
* the result, if it is a feature map.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from .engine import Engine
from .keeping import Keeping
from .reductions import Reduction
from .rows import RowsError, plan_rows
from .rules import Join, MaxPool
from .shapes import ValueShape, boundary_bytes, value_shapes

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_INDEX_BYTES = 8  # a maximum pool saves an int64 index for every output pixel
_WEIGHT_COPIES = 4  # folded weights, their gradients, the parameters' gradients, and one reordered by the kernels
_WORKING_COPIES = 3  # gradient of the largest value, a re-ordered copy of it, and one of its input
_SAMPLED_STRIPS = 96  # carries repeat from strip to strip; so many show their mean
_ROWS_LOST = 4  # a strip takes the time of about so many further rows: small kernels, weights read once more
_MOST_STRIPS = 4096


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
class Choice:
    """How an image is computed: the height of its strips, and what is kept."""

    strip_rows: int
    keeping: Keeping


@dataclass(frozen=True, eq=False)
class StepMemory:
    """Estimates the peak memory of training steps on a batch of images of one size.

    Attributes:
        engine: The network's engine.
        needs_grad: For every node whether it gets a gradient.
        batch: Images.
        channels: Of the image; None is read off the network.
        height: Of the image as the strips see it, pixels.
        width: Likewise.
        kernel_pixels: See `Network.row_nodes`.
    """

    engine: Engine
    needs_grad: tuple[bool, ...]
    batch: int
    channels: int | None
    height: int
    width: int
    kernel_pixels: int = 1

    @cached_property
    def shapes(self) -> list[ValueShape]:
        """Of every value over the whole image."""
        return value_shapes(self.engine.network, self.height, self.width, self.channels)

    @cached_property
    def _values(self) -> list[int]:
        return [shape.rows * shape.row_bytes(self.batch) for shape in self.shapes]

    @cached_property
    def saved(self) -> int:
        """Bytes autograd saves of a whole image: values that a layer needs again for its gradient."""
        nodes, readers = self.engine.nodes, self.engine.network.readers()
        total = 0
        for index, node in enumerate(nodes):
            trained = [reader for reader in readers[index] if self.needs_grad[reader]]
            overwritten = any(self.engine.works_in_place(reader) for reader in readers[index])
            if not overwritten and any(not isinstance(nodes[r].rule, Join | Reduction) for r in trained):
                total += self._values[index]
            if isinstance(node.rule, MaxPool) and self.needs_grad[index]:
                total += self._values[index] // self.shapes[index].item_bytes * _INDEX_BYTES
        return total

    @cached_property
    def frozen(self) -> int:
        """Bytes of the rows that frozen layers hand to trained ones, of a whole image."""
        shortcut = self.engine.shortcut(list(self.needs_grad))
        return 0 if shortcut is None else sum(self._values[index] for index in shortcut.handed_over)

    @cached_property
    def _fixed(self) -> int:
        """Bytes that no choice changes."""
        nodes = self.engine.nodes
        weights = sum(t.numel() * t.element_size() for node in nodes for t in node.tensors() if t is not None)
        return _WEIGHT_COPIES * weights + 2 * sum(self._values[i] for i in self.engine.network.boundary)

    def strips(self, strip_rows: int) -> int:
        """Number of strips."""
        return -(-self.height // strip_rows)

    def carried(self, strip_rows: int) -> float:
        """Mean bytes carried from one strip to the next."""
        nodes = self.engine.network.row_nodes(self.batch, self.width, self.kernel_pixels)
        height = min(self.height, _SAMPLED_STRIPS * strip_rows)
        try:
            plan = plan_rows(nodes, height, strip_rows)
        except RowsError:  # too few rows for a layer
            height, plan = self.height, plan_rows(nodes, self.height, strip_rows)
        between = range(plan.strips // 2, plan.strips - 1) if height < self.height else range(plan.strips - 1)
        sizes = [boundary_bytes(plan, self.engine.network, self.shapes, self.batch, strip) for strip in between]
        return sum(sizes) / len(sizes) if sizes else 0.0

    def total(self, choice: Choice, carried: float | None = None) -> int:
        """Estimated peak bytes of a training step above the parameters and the image."""
        strips, keeping = self.strips(choice.strip_rows), choice.keeping
        carried = self.carried(choice.strip_rows) if carried is None else carried
        kept = -(-strips // keeping.every) - 1 + min(keeping.every, strips) - 1
        share = min(1.0, choice.strip_rows / self.height)
        graphs = min(1.0, max(1, keeping.graphs) * share)
        working = _WORKING_COPIES * max(self._values) * share
        frozen = self.frozen if keeping.frozen else 0
        return int(kept * carried + self.saved * graphs + working + frozen + self._fixed)


def default_keeping(memory: StepMemory, strip_rows: int) -> Keeping:
    """What is kept when only the height of the strips is given: all carries, and frozen layers' rows if they are few.

    Few is: no more than the activations of one strip. So the memory at most doubles, and does not grow with the image
    where only the stem is frozen.
    """
    if memory.engine.shortcut(list(memory.needs_grad)) is None:
        return Keeping()
    share = min(1.0, strip_rows / memory.height)
    in_strip = (memory.saved + _WORKING_COPIES * max(memory._values)) * share
    return Keeping(frozen=memory.frozen <= in_strip)


def fastest_within(memory: StepMemory, budget_bytes: int, keeping: Keeping | None = None) -> Choice:
    """What is estimated to be fastest of all that fits a budget.

    Args:
        memory: Of the network and image.
        budget_bytes: The budget.
        keeping: What is kept, if that is not to be chosen.

    Raises:
        ValueError: If not even the least that works fits; the message says how much that is.
    """
    best: tuple[float, Choice] | None = None
    least: tuple[float, Choice] | None = None
    for strip_rows in _heights(memory.height):
        carried = memory.carried(strip_rows)
        for choice in _choices(memory, strip_rows, carried, budget_bytes, keeping):
            needed, time = memory.total(choice, carried), _time(memory, choice)
            if least is None or needed < least[0]:
                least = (needed, choice)
            if needed <= budget_bytes and (best is None or time < best[0]):
                best = (time, choice)
    if best is not None:
        return best[1]
    assert least is not None
    raise ValueError(
        f"memory of {budget_bytes / 1e6:.4g} MB is too small for {memory.batch} image(s) of {memory.height} x "
        f"{memory.width} pixels: strips of {least[1].strip_rows} rows need least, about {least[0] / 1e6:.4g} MB. Raise "
        "memory=, or use smaller images."
    )


def _heights(height: int) -> list[int]:
    """Strip heights worth a try: the image in 1, 2, 3, 4, 6, 8, 12 ... equal strips."""
    counts = sorted({round(base * 2**power) for base in (1, 1.5) for power in range(13)})
    return sorted({-(-height // count) for count in counts if count <= min(height, _MOST_STRIPS)}, reverse=True)


def _choices(
    memory: StepMemory, strip_rows: int, carried: float, budget: int, keeping: Keeping | None
) -> Iterator[Choice]:
    """For strips of one height: as many graphs as fit, or fewer carries than boundaries."""
    if keeping is not None:
        yield Choice(strip_rows, keeping)
        return
    strips = memory.strips(strip_rows)
    for frozen in (True, False) if memory.frozen else (True,):
        plain = Choice(strip_rows, Keeping(frozen=frozen))
        yield plain
        left, graph = budget - memory.total(plain, carried), memory.saved / strips
        graphs = min(strips, 1 + int(left / graph)) if left > 0 and graph > 0 else 0
        if graphs > 0:
            yield Choice(strip_rows, replace(plain.keeping, graphs=graphs))
        every = max(2, round(strips**0.5))
        if strips > every:
            yield Choice(strip_rows, replace(plain.keeping, every=every))


def _time(memory: StepMemory, choice: Choice) -> float:
    """Estimated time of a step, in forward passes of the plain network."""
    strips, keeping = memory.strips(choice.strip_rows), choice.keeping
    recomputed = 1 - min(strips, keeping.graphs) / strips
    again = 1 - 1 / keeping.every
    rows = memory.height / strips
    frozen = 0.0 if keeping.frozen or not memory.frozen else 0.5  # a guess: how much of the network is frozen
    return (3 + (1 + again) * recomputed + frozen) * (1 + _ROWS_LOST / rows)
