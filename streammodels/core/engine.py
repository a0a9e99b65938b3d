"""One strip through the network: the engine that follows the plan.

Every node computes the rows that the plan gives it, out of the rows its inputs hold; what the next strip will need of
them is set aside as a carry. What to do with the strips of a whole image is in `image_pass.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from streammodels.core.carry import join_rows, last_rows
from streammodels.core.frozen_prefix import Shortcut
from streammodels.core.image_rows import Handover, taken
from streammodels.core.network import Network
from streammodels.core.operations import (
    AveragePool,
    ChannelDropout,
    Convolution,
    FrozenBatchNorm,
    Join,
    MaxPool,
    Pointwise,
)
from streammodels.core.reductions import Parts, Reduction, present
from streammodels.core.row_plan import RowPlan

Carries = dict[int, Tensor]


NodeTensors = Sequence[Sequence[Tensor | None]]


@dataclass
class Strip:
    """What one strip yields.

    Attributes:
        emitted: New rows of the boundary nodes.
        reduced: Partial results of the reductions.
        carries: Rows to keep for the next strip.
        reduced_from: Width and dtype of the rows that went into each partial result.
        handed_over: New rows that layers in front of everything trained hand to trained ones, if asked for.
    """

    emitted: dict[int, Tensor] = field(default_factory=dict)
    reduced: dict[int, Parts] = field(default_factory=dict)
    carries: Carries = field(default_factory=dict)
    reduced_from: dict[int, tuple[int, torch.dtype]] = field(default_factory=dict)
    handed_over: Carries = field(default_factory=dict)


class Engine:
    """Runs a network along a row plan, one strip at a time."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes = network.nodes
        readers = network.readers()
        self.last_reader = [max(r, default=-1) for r in readers]
        self._in_place = [self._is_free_to_overwrite(index, readers) for index in range(len(self.nodes))]
        self._read_by_relu = [len(r) == 1 and self._in_place[r[0]] and self._is_relu(r[0]) for r in readers]

    def _is_free_to_overwrite(self, index: int, readers: list[list[int]]) -> bool:
        """Whether an activation may overwrite its input: a fresh result that nobody else reads."""
        node = self.nodes[index]
        if not isinstance(node.rule, Pointwise) or node.rule.in_place is None:
            return False
        source = node.inputs[0]
        fresh = isinstance(self.nodes[source].rule, Convolution | FrozenBatchNorm | Join)
        return fresh and readers[source] == [index] and source not in self.network.boundary

    def _is_relu(self, index: int) -> bool:
        rule = self.nodes[index].rule
        return isinstance(rule, Pointwise) and rule.in_place is functional.relu_

    def works_in_place(self, index: int) -> bool:
        """Whether a node overwrites its input."""
        return self._in_place[index]

    def is_read_by_relu(self, index: int) -> bool:
        """Whether a node is read by nothing but a ReLU that may overwrite it."""
        return self._read_by_relu[index]

    def awake(self, plan: RowPlan, strip: int) -> list[bool]:
        """For every node whether its rows are read in the strip; pointwise work for nobody is left out."""
        result = [i in self.network.boundary and len(plan.new(i, strip)) > 0 for i in range(len(self.nodes))]
        for index in reversed(range(1, len(self.nodes))):
            node = self.nodes[index]
            works = result[index] if node.transparent else len(plan.new(index, strip)) > 0
            for source in node.inputs if works else ():
                result[source] = True
        return result

    def needs_grad(self, tensors: NodeTensors, image_needs_grad: bool) -> list[bool]:
        """For every node whether anything trained lies in front of it."""
        needs = [image_needs_grad]
        for node, own in zip(self.nodes[1:], tensors[1:], strict=True):
            trained = any(t is not None and t.requires_grad for t in own)
            needs.append(trained or any(needs[i] for i in node.inputs))
        return needs

    def shortcut(self, needs_grad: list[bool]) -> Shortcut | None:
        """How to compute a strip again without the nodes that need no gradient; None if there is nothing to spare."""
        read: set[int] = set()
        for index in reversed(range(len(self.nodes))):
            if needs_grad[index] or (index in read and self.nodes[index].transparent):
                read.update(source for source in self.nodes[index].inputs if not needs_grad[source])
        handed_over = frozenset(index for index in read - {0} if not self.nodes[index].transparent)
        skipped = frozenset(index for index in range(len(self.nodes)) if not needs_grad[index]) - read
        left_out = [self.nodes[index].rule for index in skipped | handed_over]
        if any(isinstance(rule, Pointwise) and rule.random for rule in left_out):
            return None  # the layers behind would draw other random numbers
        return Shortcut(skipped, handed_over, 0 in read) if skipped - {0} | handed_over else None

    def step(
        self,
        plan: RowPlan,
        strip: int,
        image_rows: Handover | None,
        carries: Carries,
        tensors: NodeTensors,
        seeds: dict[int, int],
        shortcut: Shortcut | None = None,
        given: Carries | None = None,
    ) -> Strip:
        """Send the rows of one strip through the network.

        Args:
            plan: The plan for the height of the image.
            strip: Number of the strip.
            image_rows: (B, C, rows, W), the rows of this strip; None if no node that runs reads them.
            carries: Rows kept by the strip before, by node.
            tensors: Weights and statistics of every node.
            seeds: Seeds of the channel-dropping nodes.
            shortcut: Without `given`, which rows to hand over; with it, how to make use of them.
            given: Rows handed over when the strip was computed before.
        """
        return StripRun(self, plan, strip, tensors, seeds, shortcut, given).through(image_rows, carries)


class StripRun:
    """One strip on its way through the network.

    Attributes:
        buffers: The rows of every node that its readers see in this strip, carried ones first; None when released.
        activated: Nodes whose buffer has already passed the ReLU that reads it.
    """

    def __init__(
        self,
        engine: Engine,
        plan: RowPlan,
        strip: int,
        tensors: NodeTensors,
        seeds: dict[int, int],
        shortcut: Shortcut | None = None,
        given: Carries | None = None,
    ) -> None:
        self.engine = engine
        self.nodes = engine.nodes
        self.plan = plan
        self.strip = strip
        self.tensors = tensors
        self.seeds = seeds
        self.given = given
        self.handed_over = frozenset() if shortcut is None else shortcut.handed_over
        self.skipped = frozenset() if shortcut is None or given is None else shortcut.skipped
        self.buffers: list[Tensor | None] = [None] * len(engine.nodes)
        self.activated: set[int] = set()
        self.result = Strip()

    def through(self, image_rows: Handover | None, carries: Carries) -> Strip:
        """Run all nodes; an error of torch says in which layer it arose."""
        awake = self.engine.awake(self.plan, self.strip)
        for index, node in enumerate(self.nodes):
            if index in self.skipped:
                continue
            try:
                self._run(index, image_rows, carries.get(index), awake[index])
            except RuntimeError as error:
                new = self.plan.new(index, self.strip)
                error.add_note(
                    f"in layer '{node.path}' of the streamed network, output rows {new.start}..{new.stop - 1}"
                )
                raise
            self.release(index)
        return self.result

    def _run(self, index: int, image_rows: Handover | None, carry: Tensor | None, awake: bool) -> None:
        """Run one node. When it returns, only the buffers hold what it computed."""
        at_boundary = index in self.engine.network.boundary
        if self.nodes[index].transparent:
            rows = self._pointwise(index) if awake else None
            self.buffers[index] = rows
            if at_boundary and rows is not None:
                self.result.emitted[index] = self._take(index, self.plan.new(index, self.strip))
            return
        rows = self._new_rows(index, image_rows)
        self._join_carry(index, rows, carry)
        if at_boundary and rows is not None:
            self.result.emitted[index] = rows

    def release(self, index: int) -> None:
        """Let go of the rows that nobody reads after node `index`, so that memory can be used again."""
        for source in self.nodes[index].inputs:
            if self.engine.last_reader[source] == index:
                self.buffers[source] = None

    def _new_rows(self, index: int, image_rows: Handover | None) -> Tensor | None:
        """The new rows of a node that is not transparent: given, or computed now."""
        if self.given is not None and index in self.handed_over:
            return self.given.get(index)
        rows = self._emit(index) if index > 0 else taken(image_rows)
        if index in self.handed_over and rows is not None:
            self.result.handed_over[index] = rows
        return rows

    def _join_carry(self, index: int, rows: Tensor | None, carry: Tensor | None) -> None:
        """Put the carried rows in front of the new ones, and set aside what the next strip will need."""
        keep, kept = len(self.plan.carried(index, self.strip)), None
        if carry is not None and rows is not None:
            relu = self.engine.is_read_by_relu(index)
            self.buffers[index], kept = join_rows(carry, rows, keep, relu)
            if relu:
                self.activated.add(index)
        else:
            only = carry if rows is None else rows
            self.buffers[index] = only
            kept = None if only is None else last_rows(None, only, keep)
        if kept is not None:
            self.result.carries[index] = kept

    def _take(self, source: int, wanted: range) -> Tensor:
        """Rows `wanted` of a node, out of those it holds."""
        rows, held = self.buffers[source], self.plan.held(source, self.strip)
        assert rows is not None
        assert held.start <= wanted.start <= wanted.stop <= held.stop
        return rows if wanted == held else rows[:, :, wanted.start - held.start : wanted.stop - held.start]

    def _pointwise(self, index: int) -> Tensor:
        """A deterministic pointwise node works on all the rows its readers see, carried ones included."""
        rule, source = self.nodes[index].rule, self.nodes[index].inputs[0]
        assert isinstance(rule, Pointwise)
        rows = self._take(source, self.plan.held(index, self.strip))
        if source in self.activated:
            return rows
        # Else the buffer is the carry itself, or rows that will be given once more.
        fresh = len(self.plan.new(source, self.strip)) > 0 and source not in self.handed_over
        if self.engine.works_in_place(index) and fresh and rule.in_place is not None:
            return rule.in_place(rows, *self.tensors[index])
        return rule.function(rows, *self.tensors[index])

    def _emit(self, index: int) -> Tensor | None:
        """The new rows of a node that keeps its own carry. Those of a reduction are reduced, and gone."""
        node, new = self.nodes[index], self.plan.new(index, self.strip)
        if len(new) == 0:
            return None
        if isinstance(node.rule, Convolution | MaxPool | AveragePool):
            return self._window(index)
        taken = [self._take(source, new) for source in node.inputs]
        if isinstance(node.rule, Join):
            return node.rule.function(*taken)
        if isinstance(node.rule, ChannelDropout):
            return node.rule.apply(taken[0], self.seeds.get(index, 0))
        if isinstance(node.rule, Reduction):
            self.result.reduced[index] = node.rule.partial(taken[0], *present(self.tensors[index]))
            self.result.reduced_from[index] = (taken[0].shape[3], taken[0].dtype)
            return None
        assert isinstance(node.rule, Pointwise)
        return node.rule.function(taken[0], *self.tensors[index])

    def _window(self, index: int) -> Tensor:
        """Convolution or pooling: the rows it reads, the padding where they reach a border, and the kernel."""
        rule, source, out = self.nodes[index].rule, self.nodes[index].inputs[0], self.plan.new(index, self.strip)
        assert isinstance(rule, Convolution | MaxPool | AveragePool)
        rows_in, held = self.plan.totals[source], self.plan.held(source, self.strip)
        read = rule.window.read(out, rows_in)
        vertical_pad = 0
        if rule.window.mode != "zeros" and (read.top or read.bottom):
            behind = [row - held.start for row in rule.window.padded_rows(out, rows_in)]
            buffer = self.buffers[source]
            assert buffer is not None
            rows = buffer.index_select(2, torch.tensor(behind, device=buffer.device))
        else:
            rows = self._take(source, range(read.start, read.stop))
            if read.top == read.bottom:
                vertical_pad = read.top
            else:
                rows = functional.pad(rows, (0, 0, read.top, read.bottom), value=rule.fill)
        result = rule.apply(rows, vertical_pad, self.tensors[index])
        if isinstance(rule, AveragePool):
            return rule.correct(result, out, rows_in, rows.shape[3])
        return result
