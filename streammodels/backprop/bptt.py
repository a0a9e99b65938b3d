"""All strips of an image, forwards and backwards: back-propagation through time.

    strip 0      strip 1      strip 2          forward, without autograd
    rows 0..h    rows h..2h   rows 2h..H
       |            |            |
     [net] -c1->  [net] -c2->  [net]           c: the carries, a few rows of each layer that looks beyond its own row
       |            |            |
      y0           y1           y2

A strip is one step of a recurrent network whose state is the carries. The backward pass is complete, not truncated:
strips from last to first, each recomputed with autograd from its rows and the carries that entered it; the gradient of
its carries is handed to the strip before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from streammodels.backprop.arena import Shelf
from streammodels.backprop.checkpointing import Keeping, Visit, visits
from streammodels.backprop.rng_state import Surroundings
from streammodels.core.engine import Carries, Engine, NodeTensors, Strip
from streammodels.core.image_rows import Handover, StripReader
from streammodels.core.reductions import Parts, Reduction, present
from streammodels.core.row_plan import RowPlan

TakeRows = Callable[[range, Tensor], None]
"""Receives the gradient of some rows of the image, (B, C, rows, W), from the last rows to the first."""


@dataclass
class Reduced:
    """What a reduction has seen of the image.

    Attributes:
        parts: The partial results, strip by strip; given away when all are there.
        strips: The strips they came from.
        number: How many tensors a partial result has.
        pixels: Pixels of the map, of one image.
        dtype: Type of the map.
    """

    pixels: int
    dtype: torch.dtype
    number: int
    parts: list[Parts] = field(default_factory=list)
    strips: list[int] = field(default_factory=list)


@dataclass
class Graph:
    """A strip computed with autograd: its leaves and what came out."""

    image_rows: Tensor | None
    entered: Carries
    step: Strip


@dataclass
class Pass:
    """One image on its way through the engine.

    Attributes:
        engine: The engine.
        plan: The plan for the image's height.
        reader: Hands out the image's rows on the device that computes.
        surroundings: Global state at the call.
        tensors: The tensors of every node; leaves of autograd if there will be a backward pass.
        image_needs_grad: Whether the gradient of the image will be asked for.
        keeping: What is kept for a backward pass; None if there will be none.
        carries: The carries that enter every ``keeping.every``-th strip.
        frozen_rows: By strip, the rows that layers in front of everything trained hand to trained ones.
        graphs: Graphs of the last strips.
        reduced: What each reduction has seen.
    """

    engine: Engine
    plan: RowPlan
    reader: StripReader
    surroundings: Surroundings
    tensors: NodeTensors
    image_needs_grad: bool = False
    keeping: Keeping | None = None
    carries: dict[int, Carries] = field(default_factory=dict)
    frozen_rows: dict[int, Carries] = field(default_factory=dict)
    graphs: dict[int, Graph] = field(default_factory=dict)
    reduced: dict[int, Reduced] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.needs = self.engine.needs_grad(self.tensors, self.image_needs_grad)
        frozen = self.keeping is not None and self.keeping.frozen
        self.shortcut = self.engine.shortcut(self.needs) if frozen else None
        self._carry_shelf, self._row_shelf = Shelf(), Shelf()

    @property
    def device(self) -> torch.device:
        """Where the strips are computed."""
        return self.reader.device

    def forward(self) -> list[Tensor]:
        """All strips.

        Returns:
            For every boundary node its map or, for a reduction, the partial results: see `finish`. Without graph.
        """
        strips, keeping = self.plan.strips, self.keeping
        with_graph = strips if keeping is None else max(0, strips - keeping.graphs)
        maps: dict[int, Tensor] = {}
        carries: Carries = {}
        with torch.no_grad(), ExitStack() as stack:
            self.surroundings.enter_autocast(stack)
            read = self.reader.strips([self.plan.new(0, strip) for strip in range(strips)])
            for strip, rows in enumerate(stack.enter_context(closing(read))):
                if keeping is not None:
                    self._keep(strip, carries)
                if strip >= with_graph:
                    self.graphs[strip] = graph = self._graph(strip, rows, carries, None)
                    step = graph.step
                else:
                    step = self._step(strip, rows, carries, None)
                if self.shortcut is not None:
                    self.frozen_rows[strip] = {i: self._row_shelf.put(rows) for i, rows in step.handed_over.items()}
                carries = step.carries
                self._collect(step, strip, maps)
            return [value for index in self.engine.network.boundary for value in self._yielded(index, maps)]

    def _keep(self, strip: int, carries: Carries) -> None:
        """Keep what entered a strip."""
        assert self.keeping is not None
        if strip % self.keeping.every == 0:
            wanted = {i: c for i, c in carries.items() if self.shortcut is None or i not in self.shortcut.skipped}
            self.carries[strip] = {i: self._carry_shelf.put(c, self.keeping.on_host) for i, c in wanted.items()}
        if self.engine.network.has_random_nodes:
            self.surroundings.note_random_state(self.device)

    def _step(self, strip: int, rows: Handover | None, carries: Carries, given: Carries | None) -> Strip:
        seeds = self.surroundings.seeds
        return self.engine.step(self.plan, strip, rows, carries, self.tensors, seeds, self.shortcut, given)

    def _graph(self, strip: int, rows: Handover | None, carries: Carries, given: Carries | None) -> Graph:
        """Compute a strip with autograd, its rows and carries as leaves."""
        entered = {i: c.detach().requires_grad_(self.needs[i]) for i, c in carries.items()}
        image_rows = None
        if rows is not None and self.image_needs_grad:
            image_rows = rows.take().detach().requires_grad_()
            rows = Handover(image_rows)
        with torch.enable_grad():
            return Graph(image_rows, entered, self._step(strip, rows, entered, given))

    def _yielded(self, index: int, maps: dict[int, Tensor]) -> list[Tensor]:
        """The map of a boundary node, or the partial results of all strips, each tensor of them stacked."""
        if index in maps:
            return [maps[index]]
        parts, self.reduced[index].parts = self.reduced[index].parts, []
        return [torch.stack(tensors) for tensors in zip(*parts, strict=True)]

    def finish(self, values: Iterable[Tensor], tensors: NodeTensors) -> list[Tensor]:
        """The values of the boundary nodes, out of what `forward` returned; differentiable.

        Args:
            values: What `forward` returned, connected by autograd.
            tensors: The tensors of every node, connected to the parameters.
        """
        remaining = iter(values)
        result = []
        for index in self.engine.network.boundary:
            rule = self.engine.nodes[index].rule
            if not isinstance(rule, Reduction):
                result.append(next(remaining))
                continue
            seen = self.reduced[index]
            parts = tuple(next(remaining) for _ in range(seen.number))
            result.append(rule.combine(parts, seen.pixels, seen.dtype, *present(tensors[index])))
        return result

    def _collect(self, step: Strip, strip: int, maps: dict[int, Tensor]) -> None:
        """Write emitted rows into the feature maps, and remember partial results."""
        for index, parts in step.reduced.items():
            width, dtype = step.reduced_from[index]
            seen = self.reduced.setdefault(index, Reduced(self.plan.totals[index] * width, dtype, len(parts)))
            seen.parts.append(parts)
            seen.strips.append(strip)
        for index, rows in step.emitted.items():
            if index not in maps:
                batch, channels, _, width = rows.shape
                maps[index] = rows.new_empty(batch, channels, self.plan.totals[index], width)
            new = self.plan.new(index, strip)
            maps[index][:, :, new.start : new.stop] = rows

    def backward(self, grads: Sequence[Tensor], take_image_grad: TakeRows | None = None) -> None:
        """All strips from last to first; those without a graph are computed again.

        Args:
            grads: Gradients of what `forward` returned. Those of the tensors are accumulated in their ``.grad``.
            take_image_grad: Receives the gradient of the image, rows by rows.
        """
        assert self.keeping is not None
        order = visits(self.plan.strips, self.keeping.every, len(self.graphs))
        reads = [self.plan.new(0, visit.strip) for visit in order if visit.reads and self._reads_image]
        with closing(self.reader.strips(reads)) as strips:
            self._visit(order, strips, grads, take_image_grad)

    def _visit(
        self, order: list[Visit], strips: Iterator[Handover], grads: Sequence[Tensor], take_image_grad: TakeRows | None
    ) -> None:
        """The backward pass in a given order of the strips, whose rows come from `strips`."""
        carries: dict[int, Carries] = {}
        carry_grads: Carries = {}
        for visit in order:
            strip = visit.strip
            rows = next(strips) if visit.reads and self._reads_image else None
            given = self.frozen_rows.get(strip)
            graph = self.graphs.pop(strip, None)
            if graph is None:
                if strip in self.carries:
                    carries[strip] = {i: c.to(self.device, non_blocking=True) for i, c in self.carries[strip].items()}
                with ExitStack() as stack:
                    self.surroundings.restore(stack, strip, self.device)
                    if not visit.backward:
                        with torch.no_grad():
                            carries[strip + 1] = self._step(strip, rows, carries[strip], given).carries
                        continue
                    graph = self._graph(strip, rows, carries.pop(strip), given)
            carry_grads = self._backward_through(graph, strip, grads, carry_grads)
            if take_image_grad is not None:
                assert graph.image_rows is not None
                rows_grad = graph.image_rows.grad
                rows_grad = torch.zeros_like(graph.image_rows) if rows_grad is None else rows_grad
                take_image_grad(self.plan.new(0, strip), rows_grad)

    @property
    def _reads_image(self) -> bool:
        """Whether the backward pass needs the image; not if everything that reads it is frozen and kept."""
        return self.shortcut is None or self.shortcut.reads_image

    def _backward_through(self, graph: Graph, strip: int, grads: Sequence[Tensor], carry_grads: Carries) -> Carries:
        """Gradients of a strip, given those of what it yielded and carried; returns those of what entered it."""
        roots = [(graph.step.carries[index], grad) for index, grad in carry_grads.items()]
        roots += self._boundary_roots(graph.step, strip, grads)
        roots = [(root, grad) for root, grad in roots if root.requires_grad]
        inputs = [t for node in self.tensors for t in node if t is not None and t.requires_grad]
        inputs += [c for c in graph.entered.values() if c.requires_grad]
        if graph.image_rows is not None and graph.image_rows.requires_grad:
            inputs.append(graph.image_rows)
        if roots:
            torch.autograd.backward([r for r, _ in roots], [g for _, g in roots], inputs=inputs)
        return {i: c.grad for i, c in graph.entered.items() if c.grad is not None}

    def _boundary_roots(self, step: Strip, strip: int, grads: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the strip yielded at the boundary, with its gradient."""
        roots: list[tuple[Tensor, Tensor]] = []
        remaining = iter(grads)
        for index in self.engine.network.boundary:
            if index in self.reduced:
                of_parts = [next(remaining) for _ in range(self.reduced[index].number)]
                if index in step.reduced:
                    place = self.reduced[index].strips.index(strip)
                    roots += [(part, grad[place]) for part, grad in zip(step.reduced[index], of_parts, strict=True)]
                continue
            grad, new = next(remaining), self.plan.new(index, strip)
            if index in step.emitted:
                roots.append((step.emitted[index], grad[:, :, new.start : new.stop]))
        return roots

    def give_away(self) -> list[Tensor]:
        """The kept carries and rows, for autograd to save: it frees them after the backward pass."""
        stores = (self.carries, self.frozen_rows)
        self._places = [[(strip, tuple(rows)) for strip, rows in store.items()] for store in stores]
        tensors = [tensor for store in stores for rows in store.values() for tensor in rows.values()]
        self.carries, self.frozen_rows = {}, {}
        self._carry_shelf, self._row_shelf = Shelf(), Shelf()
        return tensors

    def take_back(self, tensors: Iterable[Tensor]) -> None:
        """The same, as autograd returned them."""
        remaining = iter(tensors)
        for store, places in zip((self.carries, self.frozen_rows), self._places, strict=True):
            for strip, nodes in places:
                store[strip] = {index: next(remaining) for index in nodes}

    def drop(self) -> None:
        """Let go of all that a backward pass needs; `take_back` and new leaves make up for it."""
        self.carries, self.frozen_rows, self.graphs, self.tensors = {}, {}, {}, ()
