"""Engine that computes one strip of an image according to the row plan.

Every node computes its new rows of the plan from the rows that its inputs hold. The rows of them that the next strip
needs are its carry. `backprop/bptt.py` runs the strips of a whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from streammodels.core.carry import CopyRows, copy_rows, join_rows, last_rows
from streammodels.core.frozen_prefix import FrozenPrefix
from streammodels.core.network import Network
from streammodels.core.operations import (
    AveragePool,
    ChannelDropout,
    Convolution,
    FrozenBatchNorm,
    Join,
    Pointwise,
    Windowed,
)
from streammodels.core.reductions import Parts, Reduction, without_none
from streammodels.core.resampling import Resized
from streammodels.core.row_plan import RowPlan, RowStep, users_of
from streammodels.core.strip_reader import SingleUseTensor
from streammodels.core.tensors.constants import on_device
from streammodels.core.tensors.memory_format import select

Carries = dict[int, Tensor]
"""Rows by node, (B, C, rows, W)."""

ReadRows = Mapping[int, SingleUseTensor]
"""New rows of the inputs of a network, by node."""

NodeTensors = Sequence[Sequence[Tensor | None]]
"""Weights and statistics of every node."""


class Engine:
    """A network, and which of its nodes may work in place.

    Attributes:
        network: The network.
        nodes: Its nodes.
        readers: For every node the nodes that read it.
        in_place: For every node whether it overwrites its input.
        feeds_relu: For every node whether its only reader is a ReLU that overwrites it.
        compute: For every node what computes its new rows.
        last_read: For every node the inputs that no node behind it reads.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes = network.nodes
        self.readers = users_of([node.inputs for node in self.nodes])
        self.in_place = [self._may_overwrite(index) for index in range(len(self.nodes))]
        self.feeds_relu = [len(r) == 1 and self.in_place[r[0]] and self._is_relu(r[0]) for r in self.readers]
        self.compute = [_computation(node.rule) for node in self.nodes]
        self.last_read = [
            [source for source in node.inputs if self.readers[source][-1] == index]
            for index, node in enumerate(self.nodes)
        ]

    def prepared(self, tensors: NodeTensors, autocast: torch.dtype | None = None) -> NodeTensors:
        """The tensors of every node as `StripRun` reads them.

        Args:
            tensors: The tensors of every node.
            autocast: Type that autocast computes convolutions in; None without autocast.
        """
        return [
            node.rule.prepared(own, autocast) if isinstance(node.rule, Convolution) else own
            for node, own in zip(self.nodes, tensors, strict=True)
        ]

    def _may_overwrite(self, index: int) -> bool:
        """Whether a node is an activation of a fresh result that nothing else reads."""
        node = self.nodes[index]
        if not isinstance(node.rule, Pointwise) or node.rule.in_place is None:
            return False
        source = node.inputs[0]
        fresh = isinstance(self.nodes[source].rule, Convolution | FrozenBatchNorm | Join)
        return fresh and self.readers[source] == [index] and source not in self.network.boundary

    def _is_relu(self, index: int) -> bool:
        rule = self.nodes[index].rule
        return isinstance(rule, Pointwise) and rule.in_place is functional.relu_


@dataclass
class StripResult:
    """The result of one strip.

    Attributes:
        emitted: New rows of the boundary nodes.
        reduced: Partial results of the reductions.
        reduced_from: Width and dtype of the rows that each partial result is of.
        carries: Rows for the next strip, without graph.
        left: The same rows with graph, of the type that gradients are summed in.
        prefix_rows: New rows of the outputs of the frozen prefix.
    """

    emitted: Carries = field(default_factory=dict)
    reduced: dict[int, Parts] = field(default_factory=dict)
    reduced_from: dict[int, tuple[int, torch.dtype]] = field(default_factory=dict)
    carries: Carries = field(default_factory=dict)
    left: Carries = field(default_factory=dict)
    prefix_rows: Carries = field(default_factory=dict)


@dataclass
class StripRun:
    """The computation of one strip.

    Attributes:
        engine: The engine.
        plan: The plan for the height of the image.
        strip: Number of the strip.
        tensors: Weights and statistics of every node, see `Engine.prepared`.
        seeds: Seeds of the nodes that drop channels.
        prefix: The frozen prefix, if it is not to be computed again.
        prefix_rows: Rows of its outputs, kept from the first computation; None in the first computation.
        leaves: The carries that need a gradient, as leaves of autograd, whose type has at least float32.
        left_out: Nodes that are not computed, because no gradient comes to them or to what reads them.
        copy: Makes the copies of rows that are carried; None to leave their values out where only gradients are asked.
        buffers: The rows of every node that its readers see in this strip, carried ones first; None when released.
        activated: Nodes whose buffer has passed the ReLU that reads it.
    """

    engine: Engine
    plan: RowPlan
    strip: int
    tensors: NodeTensors
    seeds: dict[int, int]
    prefix: FrozenPrefix | None = None
    prefix_rows: Carries | None = None
    leaves: Carries = field(default_factory=dict)
    left_out: frozenset[int] = frozenset()
    copy: CopyRows | None = copy_rows

    def __post_init__(self) -> None:
        self.nodes, self.steps = self.engine.nodes, self.plan.steps(self.strip)
        self.boundary = self.engine.network.boundary
        self.prefix_outputs = frozenset() if self.prefix is None else self.prefix.outputs
        self.transient = frozenset() if self.prefix is None else self.prefix.skipped  # whose carries nobody keeps
        self.buffers: list[Tensor | None] = [None] * len(self.nodes)
        self.activated: set[int] = set()
        self.result = StripResult()

    def forward(self, read_rows: ReadRows, carries: Carries) -> StripResult:
        """Run all nodes. An error of torch gets a note that names the layer.

        Args:
            read_rows: (B, C, rows, W), the rows of each input in this strip; none where no node that runs reads them.
            carries: Rows carried from the strip before, by node.
        """
        read = self.plan.read(self.strip, self.boundary, self.left_out)
        skipped = frozenset() if self.prefix is None or self.prefix_rows is None else self.prefix.skipped
        for index, node in enumerate(self.nodes):
            if index in skipped:
                continue
            if index in self.left_out:
                self.release(index)
                continue
            try:
                self._run(index, read_rows, carries.get(index), read[index])
            except RuntimeError as error:
                new = self.plan.new(index, self.strip)
                error.add_note(
                    f"in layer '{node.path}' of the streamed network, output rows {new.start}..{new.stop - 1}"
                )
                raise
            self.release(index)
        return self.result

    def _run(self, index: int, read_rows: ReadRows, carry: Tensor | None, is_read: bool) -> None:
        """Run one node. When it returns, only the buffers and the result hold what it computed."""
        if self.nodes[index].transparent:
            if not is_read:
                return
            self.buffers[index] = held = self._pointwise(index)
            if index in self.boundary:
                new = self.steps[index].emitted
                self.result.emitted[index] = held.narrow(2, held.shape[2] - new, new)
            return
        rows = self._new_rows(index, read_rows)
        self._join_carry(index, rows, carry)
        if index in self.boundary and rows is not None:
            self.result.emitted[index] = rows

    def release(self, index: int) -> None:
        """Release the rows that no node after `index` reads, so that memory can be used again."""
        for source in self.engine.last_read[index]:
            self.buffers[source] = None

    def _new_rows(self, index: int, read_rows: ReadRows) -> Tensor | None:
        """The new rows of a node that is not transparent, kept or computed now."""
        if not self.nodes[index].inputs:
            return read_rows[index].take() if index in read_rows else None
        if index in self.prefix_outputs and self.prefix_rows is not None:
            return self.prefix_rows.get(index)
        if not self.steps[index].emitted:
            return None
        rows = self.engine.compute[index](self, index, self.steps[index])
        if index in self.prefix_outputs and rows is not None:
            self.result.prefix_rows[index] = rows
        return rows

    def _join_carry(self, index: int, rows: Tensor | None, carry: Tensor | None) -> None:
        """Put the carried rows in front of the new ones, and copy the rows that the next strip needs."""
        keep, kept = self.steps[index].keep, None
        copy = copy_rows if index in self.transient else self.copy
        entered = self.leaves.get(index, carry)
        if rows is None:
            if entered is None or carry is None:
                return
            self.buffers[index] = entered.to(carry.dtype)
            kept = last_rows(None, entered, keep, copy or copy_rows)
        elif entered is None:
            self.buffers[index] = rows
            kept = last_rows(None, rows, keep, copy or copy_rows)
        else:
            relu = self.engine.feeds_relu[index]
            self.buffers[index], kept = join_rows(entered, rows, keep, relu, copy)
            if relu:
                self.activated.add(index)
        if kept is not None and (held := self.buffers[index]) is not None:
            self.result.carries[index], self.result.left[index] = kept.detach().to(held.dtype), kept

    def rows(self, index: int, step: RowStep, number: int = 0) -> Tensor:
        """The rows that a node reads of one of its inputs."""
        rows, place = self.buffers[self.nodes[index].inputs[number]], step.reads[number]
        assert rows is not None
        return rows if place is None else rows.narrow(2, *place)

    def _pointwise(self, index: int) -> Tensor:
        """All rows of a transparent node that its readers see, carried ones included."""
        rule, source = self.nodes[index].rule, self.nodes[index].inputs[0]
        assert isinstance(rule, Pointwise)
        rows = self.rows(index, self.steps[index])
        if source in self.activated:
            return rows
        # Else the buffer is the carry itself, or rows that are kept.
        fresh = self.steps[source].emitted > 0 and source not in self.prefix_outputs
        if self.engine.in_place[index] and fresh and rule.in_place is not None:
            return rule.in_place(rows, *self.tensors[index])
        return rule.function(rows, *self.tensors[index])

    def window(self, index: int, step: RowStep) -> Tensor:
        """The output rows of a convolution or pool, whose input rows are padded where they reach a border."""
        rule = self.nodes[index].rule
        assert isinstance(rule, Windowed)
        rows, vertical_pad = self.rows(index, step), 0
        if step.mirrored is not None:
            rows = select(rows, 2, on_device(step.mirrored, torch.int64, rows.device))
        elif step.top == step.bottom:
            vertical_pad = step.top
        else:
            rows = functional.pad(rows, (0, 0, step.top, step.bottom), value=rule.fill)
        result = rule.apply(rows, vertical_pad, self.tensors[index])
        if isinstance(rule, AveragePool):
            new, rows_in = self.plan.new(index, self.strip), self.plan.totals[self.nodes[index].inputs[0]]
            return rule.correct(result, new, rows_in, rows.shape[3])
        return result

    def resize(self, index: int, step: RowStep) -> Tensor:
        """The output rows of a layer that resizes a map."""
        node, place = self.nodes[index], step.reads[0]
        assert isinstance(node.rule, Resized)
        source = node.inputs[0]
        first = self.plan.held(source, self.strip).start + (0 if place is None else place[0])
        new, rows_in = self.plan.new(index, self.strip), self.plan.totals[source]
        return node.rule.apply(self.rows(index, step), first, new, rows_in, self.tensors[index])

    def join(self, index: int, step: RowStep) -> Tensor:
        """The output rows of a node that combines several maps."""
        rule = self.nodes[index].rule
        assert isinstance(rule, Join)
        return rule.function(*[self.rows(index, step, number) for number in range(len(step.reads))])

    def drop_channels(self, index: int, step: RowStep) -> Tensor:
        """The output rows of a node that drops channels."""
        rule = self.nodes[index].rule
        assert isinstance(rule, ChannelDropout)
        return rule.apply(self.rows(index, step), self.seeds.get(index, 0))

    def reduce(self, index: int, step: RowStep) -> None:
        """Compute the partial result of a reduction."""
        rule = self.nodes[index].rule
        assert isinstance(rule, Reduction)
        rows = [self.rows(index, step, number) for number in range(len(step.reads))]
        self.result.reduced[index] = rule.partial(*rows, *without_none(self.tensors[index]))
        self.result.reduced_from[index] = (rows[0].shape[3], rows[0].dtype)

    def draw(self, index: int, step: RowStep) -> Tensor:
        """The output rows of a pointwise node that is computed once, because it draws random numbers."""
        rule = self.nodes[index].rule
        assert isinstance(rule, Pointwise)
        return rule.function(self.rows(index, step), *self.tensors[index])


_COMPUTATIONS: tuple[tuple[type, Callable[[StripRun, int, RowStep], Tensor | None]], ...] = (
    (Windowed, StripRun.window),
    (Resized, StripRun.resize),
    (Join, StripRun.join),
    (ChannelDropout, StripRun.drop_channels),
    (Reduction, StripRun.reduce),
    (Pointwise, StripRun.draw),
)


def _computation(rule: object) -> Callable[[StripRun, int, RowStep], Tensor | None]:
    """What computes the new rows of a node with a rule; nothing for an input."""
    return next((found for kind, found in _COMPUTATIONS if isinstance(rule, kind)), StripRun.draw)
