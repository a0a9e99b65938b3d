"""Back-propagation through time over the strips of an image.

    strip 0      strip 1      strip 2          forward, without autograd
    rows 0..h    rows h..2h   rows 2h..H
       |            |            |
     [net] -c1->  [net] -c2->  [net]           c: the carries, a few rows of each layer that looks beyond its own row
       |            |            |
      y0           y1           y2

A strip is one step of a recurrent network whose state is the carries. The backward pass is not truncated. It goes from
the last strip to the first, recomputes each with autograd from its rows and the carries that entered it, and passes the
gradient of these carries to the strip before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from streammodels.backprop.arena import Arena
from streammodels.backprop.checkpointing import BackwardStep, Keeping, backward_order
from streammodels.backprop.grad_sums import GradSums
from streammodels.backprop.returning import ReturningCarries
from streammodels.backprop.rng_state import RngState
from streammodels.core.carry import CopyRows, copy_rows
from streammodels.core.engine import Carries, Engine, NodeTensors, StripResult, StripRun
from streammodels.core.frozen_prefix import FrozenPrefix, nodes_needing_grad
from streammodels.core.reductions import Parts, Reduction, sum_dtype, without_none
from streammodels.core.row_plan import RowPlan
from streammodels.core.strip_reader import InputReader, SingleUseTensor
from streammodels.core.tensors.copies import Downloads, Uploads, bring, copy_stream, write
from streammodels.core.tensors.memory_format import empty_as, format_of

RowGradCallback = Callable[[range, Tensor], None]
"""Called with rows of an input and their gradient (B, C, rows, W), from the last rows to the first."""

NewMap = Callable[[Sequence[int], torch.dtype, torch.memory_format], Tensor]
"""Makes the tensor for a map of a shape, type and memory format."""


@dataclass
class ReductionState:
    """The partial results of a reduction.

    Attributes:
        pixels: Pixels of the map of one image.
        dtype: Type of the map.
        number: Number of tensors of a partial result.
        parts: The partial results, strip by strip; moved out when all are there.
        places: The place among them of each strip that has one.
    """

    pixels: int
    dtype: torch.dtype
    number: int
    parts: list[Parts] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)


@dataclass
class StripGraph:
    """A strip computed with autograd, its leaves (rows of inputs, carries that entered) and its result."""

    read_rows: Carries
    entered: Carries
    result: StripResult


@dataclass
class ImagePass:
    """The forward and backward pass of one image, or batch of images of one size.

    Attributes:
        engine: The engine.
        plan: The plan for the image's height.
        reader: Yields the strips of the inputs.
        rng_state: State at the call.
        tensors: The tensors of every node; leaves of autograd if there will be a backward pass.
        inputs_needing_grad: Inputs whose gradient the backward pass computes, by node.
        keeping: What is kept for the backward pass; None if there will be none.
        new_map: By boundary node, what makes the tensor for its map; on the device if missing.
        carries: The carries that enter every ``keeping.every``-th strip.
        prefix_rows: By strip, the rows of the outputs of the frozen prefix.
        graphs: Graphs of the last strips.
        reductions: State of each reduction.
    """

    engine: Engine
    plan: RowPlan
    reader: InputReader
    rng_state: RngState
    tensors: NodeTensors
    inputs_needing_grad: frozenset[int] = frozenset()
    keeping: Keeping | None = None
    new_map: Mapping[int, NewMap] = field(default_factory=dict)
    carries: dict[int, Carries] = field(default_factory=dict)
    prefix_rows: dict[int, Carries] = field(default_factory=dict)
    graphs: dict[int, StripGraph] = field(default_factory=dict)
    reductions: dict[int, ReductionState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = self.engine.nodes
        self.needs_grad = nodes_needing_grad(nodes, self.tensors, self.inputs_needing_grad)
        frozen = self.keeping is not None and self.keeping.frozen
        self.prefix = FrozenPrefix.find(nodes, self.needs_grad) if frozen else None
        on_host = self.keeping is not None and self.keeping.on_host
        self._copies = copy_stream(self.device) if on_host else None
        self._carry_arena, self._prefix_arena = Arena(on_host, self._copies), Arena()
        self._left_out: frozenset[int] = frozenset()
        self._prepared: NodeTensors = ()
        self._uploads: Uploads | None = None  # of gradients of maps in host memory

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.reader.device

    def forward(self) -> list[Tensor]:
        """Run all strips.

        Returns:
            Of every boundary node its map or, for a reduction, the partial results, without graph. See `finish`.
        """
        strips, keeping = self.plan.strips, self.keeping
        with_graph = strips if keeping is None else max(0, strips - keeping.graphs)
        maps: dict[int, Tensor] = {}
        carries: Carries = {}
        to_host = copy_stream(self.device) if self.new_map else None
        with torch.no_grad(), ExitStack() as stack:
            self.rng_state.enter_autocast(stack)
            stack.enter_context(self._prepare())
            downloads = None if to_host is None else stack.enter_context(Downloads(to_host))
            read = self.reader.strips([self._input_rows(strip) for strip in range(strips)])
            for strip, rows in enumerate(stack.enter_context(closing(read))):
                if keeping is not None:
                    self._keep(strip, carries, keeping, once=strip <= with_graph)
                if strip >= with_graph:
                    self.graphs[strip] = graph = self._run_with_graph(strip, rows, carries, copy=copy_rows)
                    result = graph.result
                else:
                    result = self._run(strip, rows, carries, copy=self._copy_for(strip + 1))
                if self.prefix is not None:
                    kept = {i: self._prefix_arena.put(rows) for i, rows in result.prefix_rows.items()}
                    self.prefix_rows[strip] = kept
                carries = result.carries
                self._collect(result, strip, maps, downloads)
            return [tensor for index in self.engine.network.boundary for tensor in self._outputs(index, maps)]

    @contextmanager
    def _prepare(self) -> Iterator[None]:
        """Prepare the tensors for the strips of one direction."""
        self._prepared = self.engine.prepared(self.tensors, self.rng_state.autocast_dtype(self.device))
        try:
            yield
        finally:
            self._prepared = ()

    def _input_rows(self, strip: int) -> dict[int, range]:
        """The new rows of every input in a strip."""
        return {index: self.plan.new(index, strip) for index in self.engine.network.inputs}

    def _copy_for(self, strip: int) -> CopyRows:
        """What copies the carries that enter a strip. Those that are kept where they are computed are copied once."""
        keeping = self.keeping
        once = keeping is not None and strip % keeping.every == 0 and not keeping.on_host
        return self._carry_arena.put if once and strip < self.plan.strips else copy_rows

    def _keep(self, strip: int, carries: Carries, keeping: Keeping, once: bool) -> None:
        """Keep the carries that enter a strip, and the random-number state.

        Args:
            strip: Number of the strip.
            carries: Its carries.
            keeping: What is kept.
            once: Whether they were made by `_copy_for`.
        """
        if strip % keeping.every == 0:
            skipped = frozenset() if self.prefix is None else self.prefix.skipped
            there, put = once and self._copy_for(strip) is not copy_rows, self._carry_arena.put
            self.carries[strip] = {i: c if there else put(c) for i, c in carries.items() if i not in skipped}
        if self.engine.network.has_random_nodes:
            self.rng_state.append_strip(self.device)

    def _run(
        self,
        strip: int,
        rows: Mapping[int, SingleUseTensor],
        carries: Carries,
        prefix_rows: Carries | None = None,
        leaves: Carries | None = None,
        copy: CopyRows | None = copy_rows,
    ) -> StripResult:
        kept = (self.prefix, prefix_rows, leaves or {}, self._left_out, copy)
        return StripRun(self.engine, self.plan, strip, self._prepared, self.rng_state.seeds, *kept).forward(
            rows, carries
        )

    def _run_with_graph(
        self,
        strip: int,
        rows: dict[int, SingleUseTensor],
        carries: Carries,
        prefix_rows: Carries | None = None,
        copy: CopyRows | None = None,
    ) -> StripGraph:
        """Run a strip with autograd, its rows and carries as leaves.

        Carries that need a gradient are leaves of at least float32, so that gradients from strip to strip are summed
        in that type; the strip computes with their values in the type of their map.
        """
        entered = {
            i: c.detach().to(sum_dtype(c.dtype)).requires_grad_() for i, c in carries.items() if self.needs_grad[i]
        }
        read = {i: rows.pop(i).take().detach().requires_grad_() for i in self.inputs_needing_grad & rows.keys()}
        rows |= {index: SingleUseTensor(leaf) for index, leaf in read.items()}
        with torch.enable_grad():
            return StripGraph(read, entered, self._run(strip, rows, carries, prefix_rows, entered, copy))

    def _outputs(self, index: int, maps: dict[int, Tensor]) -> list[Tensor]:
        """The map of a boundary node, or the tensors of its partial results, those of all strips stacked."""
        if index in maps:
            return [maps[index]]
        parts, self.reductions[index].parts = self.reductions[index].parts, []
        return [torch.stack(tensors) for tensors in zip(*parts, strict=True)]

    def finish(self, values: Iterable[Tensor], tensors: NodeTensors) -> list[Tensor]:
        """The values of the boundary nodes, differentiable.

        Args:
            values: The result of `forward`, connected by autograd.
            tensors: The tensors of every node, connected to the parameters.
        """
        remaining = iter(values)
        result = []
        for index in self.engine.network.boundary:
            if not isinstance(self.engine.nodes[index].rule, Reduction):
                result.append(next(remaining))
                continue
            parts = tuple(next(remaining) for _ in range(self.reductions[index].number))
            result.append(self.combine(index, parts, self.reductions[index].pixels, tensors))
        return result

    def combine(self, index: int, parts: Parts, pixels: int, tensors: NodeTensors) -> Tensor:
        """The result of a reduction, of partial results that may be those of several images with `pixels` pixels."""
        rule = self.engine.nodes[index].rule
        assert isinstance(rule, Reduction)
        return rule.combine(parts, pixels, self.reductions[index].dtype, *without_none(tensors[index]))

    def _collect(self, result: StripResult, strip: int, maps: dict[int, Tensor], downloads: Downloads | None) -> None:
        """Copy emitted rows into the feature maps, and append partial results."""
        for index, parts in result.reduced.items():
            width, dtype = result.reduced_from[index]
            state = ReductionState(self.plan.totals[index] * width, dtype, len(parts))
            state = self.reductions.setdefault(index, state)
            state.places[strip] = len(state.parts)
            state.parts.append(parts)
        for index, rows in result.emitted.items():
            if index not in maps:
                batch, channels, _, width = rows.shape
                shape = (batch, channels, self.plan.totals[index], width)
                make = self.new_map.get(index)
                maps[index] = empty_as(rows, shape) if make is None else make(shape, rows.dtype, format_of(rows))
            new = self.plan.new(index, strip)
            write(rows, maps[index][:, :, new.start : new.stop], downloads)

    def backward(self, grads: Sequence[Tensor | None], on_grad: Mapping[int, RowGradCallback] | None = None) -> None:
        """Run all strips from last to first; those without a kept graph are recomputed.

        Args:
            grads: Gradients of the result of `forward`, None where there is none. Those of `tensors` are accumulated in
                their ``.grad``.
            on_grad: By input, what is called with its gradient, strip by strip.
        """
        assert self.keeping is not None
        order = backward_order(self.plan.strips, self.keeping.every, len(self.graphs))
        self._left_out = self._without_gradient(grads)
        reads = [self._read_again(visit) for visit in order]
        leaves = (t for node in self.tensors for t in node if t is not None)
        self._sums = GradSums(leaves, together=self.device.type != "cpu")
        to_device = copy_stream(self.device) if self.new_map else None
        self._uploads = None if to_device is None else Uploads(to_device)
        with self._prepare(), closing(self.reader.strips(reads)) as strips:
            self._backward(order, strips, grads, on_grad or {})
        self._sums.finish()
        self._left_out, self._uploads = frozenset(), None

    def _without_gradient(self, grads: Sequence[Tensor | None]) -> frozenset[int]:
        """The nodes that lead to no value with a gradient; none if layers draw random numbers, which all have to do."""
        if self.engine.network.has_random_nodes:
            return frozenset()
        remaining, needed = iter(grads), set[int]()
        for index in self.engine.network.boundary:
            own = [next(remaining) for _ in range(self.reductions[index].number if index in self.reductions else 1)]
            if any(grad is not None for grad in own):
                needed.add(index)
        for index in reversed(range(len(self.engine.nodes))):
            if index in needed:
                needed.update(self.engine.nodes[index].inputs)
        return frozenset(range(len(self.engine.nodes))) - needed

    def _read_again(self, visit: BackwardStep) -> dict[int, range]:
        """The rows of inputs that a step reads; not those that only layers which are frozen and kept read."""
        rows = self._input_rows(visit.strip) if visit.reads else {}
        rows = {i: own for i, own in rows.items() if i not in self._left_out or i in self.inputs_needing_grad}
        return rows if self.prefix is None else {i: own for i, own in rows.items() if i in self.prefix.inputs}

    def _backward(
        self,
        order: list[BackwardStep],
        strips: Iterator[dict[int, SingleUseTensor]],
        grads: Sequence[Tensor | None],
        on_grad: Mapping[int, RowGradCallback],
    ) -> None:
        """The backward pass in a given order; `strips` yields the rows of the inputs that it reads."""
        carries: dict[int, Carries] = {}
        carry_grads: Carries = {}
        returned = dict.fromkeys(v.strip for v in order if v.strip in self.carries and v.strip not in self.graphs)
        returning = ReturningCarries(self.carries, returned, self.device, self._copies)
        for visit in order:
            strip = visit.strip
            rows = next(strips)
            prefix_rows = self.prefix_rows.get(strip)
            graph = self.graphs.pop(strip, None)
            if graph is None:
                if strip in self.carries and strip not in carries:
                    carries[strip] = returning.take()
                with ExitStack() as stack:
                    self.rng_state.restore(stack, strip, self.device)
                    if not visit.backward:
                        with torch.no_grad():
                            carries[strip + 1] = self._run(strip, rows, carries[strip], prefix_rows).carries
                        continue
                    graph = self._run_with_graph(strip, rows, carries.pop(strip), prefix_rows)
            carry_grads, read_grads = self._backward_through(graph, strip, grads, carry_grads)
            for index, read in graph.read_rows.items():
                if index in on_grad:
                    own = read_grads.get(index)
                    on_grad[index](self.plan.new(index, strip), torch.zeros_like(read) if own is None else own)

    def _backward_through(
        self, graph: StripGraph, strip: int, grads: Sequence[Tensor | None], carry_grads: Carries
    ) -> tuple[Carries, Carries]:
        """Gradients of the leaves of a strip.

        Args:
            graph: The strip.
            strip: Its number.
            grads: Those of the result of the image.
            carry_grads: Those of the carries that left the strip, by node.

        Returns:
            Those of the carries that entered it, and of the rows it read, by node.
        """
        left = graph.result.left
        roots = [(left[index], grad.to(left[index].dtype)) for index, grad in carry_grads.items()]
        roots += self._boundary_roots(graph.result, strip, grads)
        roots = [(root, grad) for root, grad in roots if root.requires_grad]
        if not roots:
            return {}, {}
        others = [*graph.entered.values(), *graph.read_rows.values()]
        found = self._sums.add_strip([root for root, _ in roots], [grad for _, grad in roots], others)
        of_carries = zip(graph.entered, found, strict=False)
        of_rows = zip(graph.read_rows, found[len(graph.entered) :], strict=True)
        return (
            {index: grad for index, grad in of_carries if grad is not None},
            {index: grad for index, grad in of_rows if grad is not None},
        )

    def _boundary_roots(
        self, result: StripResult, strip: int, grads: Sequence[Tensor | None]
    ) -> list[tuple[Tensor, Tensor]]:
        """The outputs of a strip at the boundary, with their gradients."""
        roots: list[tuple[Tensor, Tensor]] = []
        remaining = iter(grads)
        for index in self.engine.network.boundary:
            if index in self.reductions:
                of_parts = [next(remaining) for _ in range(self.reductions[index].number)]
                if index in result.reduced:
                    place, parts = self.reductions[index].places[strip], result.reduced[index]
                    roots += [(part, g[place]) for part, g in zip(parts, of_parts, strict=True) if g is not None]
                continue
            grad, new = next(remaining), self.plan.new(index, strip)
            if index in result.emitted and grad is not None:
                rows = result.emitted[index]
                own = grad[:, :, new.start : new.stop]
                roots.append((rows, bring(own, rows.device, self._uploads)))
        return roots

    def move_out(self) -> list[Tensor]:
        """The kept carries and rows, moved out for autograd to save, which frees them after the backward pass."""
        stores = (self.carries, self.prefix_rows)
        self._places = [[(strip, tuple(rows)) for strip, rows in store.items()] for store in stores]
        tensors = [tensor for store in stores for rows in store.values() for tensor in rows.values()]
        if self._copies is not None:  # hooks of the user may read what autograd saves
            self._copies.wait()
        self.carries, self.prefix_rows = {}, {}
        self._carry_arena, self._prefix_arena = Arena(), Arena()  # which hold the memory
        return tensors

    def move_in(self, tensors: Iterable[Tensor]) -> None:
        """Move the same tensors back in, as autograd returned them."""
        remaining = iter(tensors)
        for store, places in zip((self.carries, self.prefix_rows), self._places, strict=True):
            for strip, nodes in places:
                store[strip] = {index: next(remaining) for index in nodes}

    def release(self) -> None:
        """Release all that a backward pass needs. Before another one, call `move_in` and set `tensors`."""
        self.carries, self.prefix_rows, self.graphs, self.tensors = {}, {}, {}, ()
