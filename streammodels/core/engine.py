"""Engine that computes one strip of an image according to the row plan.

Every node computes its new rows of the plan from the rows that its inputs hold. The rows of them that the next strip
needs are its carry. `backprop/bptt.py` runs the strips of a whole image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from streammodels.core.carry import join_rows, last_rows
from streammodels.core.frozen_prefix import FrozenPrefix
from streammodels.core.memory_format import select
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
from streammodels.core.row_plan import RowPlan, users_of
from streammodels.core.strip_reader import SingleUseTensor

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
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes = network.nodes
        self.readers = users_of([node.inputs for node in self.nodes])
        self.in_place = [self._may_overwrite(index) for index in range(len(self.nodes))]
        self.feeds_relu = [len(r) == 1 and self.in_place[r[0]] and self._is_relu(r[0]) for r in self.readers]

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
        tensors: Weights and statistics of every node.
        seeds: Seeds of the nodes that drop channels.
        prefix: The frozen prefix, if it is not to be computed again.
        prefix_rows: Rows of its outputs, kept from the first computation; None in the first computation.
        leaves: The carries that need a gradient, as leaves of autograd, whose type has at least float32.
        left_out: Nodes that are not computed, because no gradient comes to them or to what reads them.
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

    def __post_init__(self) -> None:
        self.nodes = self.engine.nodes
        self.prefix_outputs = frozenset() if self.prefix is None else self.prefix.outputs
        self.buffers: list[Tensor | None] = [None] * len(self.nodes)
        self.activated: set[int] = set()
        self.result = StripResult()

    def forward(self, read_rows: ReadRows, carries: Carries) -> StripResult:
        """Run all nodes. An error of torch gets a note that names the layer.

        Args:
            read_rows: (B, C, rows, W), the rows of each input in this strip; none where no node that runs reads them.
            carries: Rows carried from the strip before, by node.
        """
        read = self._read_nodes()
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

    def _read_nodes(self) -> list[bool]:
        """For every node whether its rows are read in this strip; a pointwise node that is not read is left out."""
        boundary, plan, strip = self.engine.network.boundary, self.plan, self.strip
        result = [i in boundary and len(plan.new(i, strip)) > 0 for i in range(len(self.nodes))]
        for index in reversed(range(len(self.nodes))):
            node = self.nodes[index]
            runs = result[index] if node.transparent else len(plan.new(index, strip)) > 0
            for source in node.inputs if runs and index not in self.left_out else ():
                result[source] = True
        return result

    def _run(self, index: int, read_rows: ReadRows, carry: Tensor | None, is_read: bool) -> None:
        """Run one node. When it returns, only the buffers and the result hold what it computed."""
        at_boundary = index in self.engine.network.boundary
        if self.nodes[index].transparent:
            rows = self._pointwise(index) if is_read else None
            self.buffers[index] = rows
            if at_boundary and rows is not None:
                self.result.emitted[index] = self._rows(index, self.plan.new(index, self.strip))
            return
        rows = self._new_rows(index, read_rows)
        self._join_carry(index, rows, carry)
        if at_boundary and rows is not None:
            self.result.emitted[index] = rows

    def release(self, index: int) -> None:
        """Release the rows that no node after `index` reads, so that memory can be used again."""
        for source in self.nodes[index].inputs:
            if self.engine.readers[source][-1] == index:
                self.buffers[source] = None

    def _new_rows(self, index: int, read_rows: ReadRows) -> Tensor | None:
        """The new rows of a node that is not transparent, kept or computed now."""
        if not self.nodes[index].inputs:
            return read_rows[index].take() if index in read_rows else None
        if index not in self.prefix_outputs:
            return self._emit(index)
        if self.prefix_rows is not None:
            return self.prefix_rows.get(index)
        rows = self._emit(index)
        if rows is not None:
            self.result.prefix_rows[index] = rows
        return rows

    def _join_carry(self, index: int, rows: Tensor | None, carry: Tensor | None) -> None:
        """Put the carried rows in front of the new ones, and copy the rows that the next strip needs."""
        keep, kept = len(self.plan.carried(index, self.strip)), None
        entered = self.leaves.get(index, carry)
        if entered is not None and rows is not None:
            relu = self.engine.feeds_relu[index]
            self.buffers[index], kept = join_rows(entered, rows, keep, relu)
            if relu:
                self.activated.add(index)
        elif entered is not None and carry is not None:
            self.buffers[index] = entered.to(carry.dtype)
            kept = last_rows(None, entered, keep)
        elif rows is not None:
            self.buffers[index] = rows
            kept = last_rows(None, rows, keep)
        if kept is not None and (held := self.buffers[index]) is not None:
            self.result.carries[index], self.result.left[index] = kept.detach().to(held.dtype), kept

    def _rows(self, source: int, requested: range) -> Tensor:
        """The requested rows of a node, from those in its buffer."""
        rows, held = self.buffers[source], self.plan.held(source, self.strip)
        assert rows is not None
        assert held.start <= requested.start <= requested.stop <= held.stop
        return rows if requested == held else rows[:, :, requested.start - held.start : requested.stop - held.start]

    def _pointwise(self, index: int) -> Tensor:
        """All rows of a transparent node that its readers see, carried ones included."""
        rule, source = self.nodes[index].rule, self.nodes[index].inputs[0]
        assert isinstance(rule, Pointwise)
        rows = self._rows(source, self.plan.held(index, self.strip))
        if source in self.activated:
            return rows
        # Else the buffer is the carry itself, or rows that are kept.
        fresh = len(self.plan.new(source, self.strip)) > 0 and source not in self.prefix_outputs
        if self.engine.in_place[index] and fresh and rule.in_place is not None:
            return rule.in_place(rows, *self.tensors[index])
        return rule.function(rows, *self.tensors[index])

    def _emit(self, index: int) -> Tensor | None:
        """The new rows of a node that has its own carry; None for a reduction, whose result is a partial one."""
        node, new = self.nodes[index], self.plan.new(index, self.strip)
        if len(new) == 0:
            return None
        if isinstance(node.rule, Windowed):
            return self._window(node.rule, index, new)
        if isinstance(node.rule, Resized):
            source = node.inputs[0]
            rows_in = self.plan.totals[source]
            read = node.rule.window.span(new, rows_in)
            return node.rule.apply(self._rows(source, read), read.start, new, rows_in, self.tensors[index])
        rows = [self._rows(source, new) for source in node.inputs]
        if isinstance(node.rule, Join):
            return node.rule.function(*rows)
        if isinstance(node.rule, ChannelDropout):
            return node.rule.apply(rows[0], self.seeds.get(index, 0))
        if isinstance(node.rule, Reduction):
            self.result.reduced[index] = node.rule.partial(*rows, *without_none(self.tensors[index]))
            self.result.reduced_from[index] = (rows[0].shape[3], rows[0].dtype)
            return None
        assert isinstance(node.rule, Pointwise)
        return node.rule.function(rows[0], *self.tensors[index])

    def _window(self, rule: Windowed, index: int, out: range) -> Tensor:
        """The output rows `out` of a convolution or pool, whose input rows are padded where they reach a border."""
        source = self.nodes[index].inputs[0]
        rows_in, held = self.plan.totals[source], self.plan.held(source, self.strip)
        read = rule.window.input_rows(out, rows_in)
        vertical_pad = 0
        if rule.window.mode != "zeros" and (read.top or read.bottom):
            mirrored = [row - held.start for row in rule.window.mirrored_rows(out, rows_in)]
            buffer = self.buffers[source]
            assert buffer is not None
            rows = select(buffer, 2, torch.tensor(mirrored, device=buffer.device))
        else:
            rows = self._rows(source, range(read.start, read.stop))
            if read.top == read.bottom:
                vertical_pad = read.top
            else:
                rows = functional.pad(rows, (0, 0, read.top, read.bottom), value=rule.fill)
        result = rule.apply(rows, vertical_pad, self.tensors[index])
        if isinstance(rule, AveragePool):
            return rule.correct(result, out, rows_in, rows.shape[3])
        return result
