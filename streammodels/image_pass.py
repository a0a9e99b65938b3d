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

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .engine import Carries, Engine, NodeTensors, Strip
from .reductions import Parts, Reduction, present
from .rows import RowPlan
from .surroundings import Surroundings


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
class Pass:
    """One image on its way through the engine.

    Attributes:
        engine: The engine.
        plan: The plan for the image's height.
        rows: Returns the image's rows of a strip on the device that computes.
        device: That device.
        surroundings: Global state at the call.
        carries: The carries that entered each strip, if kept for a backward pass.
        reduced: What each reduction has seen.
    """

    engine: Engine
    plan: RowPlan
    rows: Callable[[int], Tensor]
    device: torch.device
    surroundings: Surroundings
    carries: list[Carries] = field(default_factory=list)
    reduced: dict[int, Reduced] = field(default_factory=dict)

    def forward(self, tensors: NodeTensors, keep_carries: bool) -> list[Tensor]:
        """All strips, without autograd.

        Returns:
            For every boundary node its map or, for a reduction, the partial results: see `finish`.
        """
        maps: dict[int, Tensor] = {}
        carries: Carries = {}
        random = self.engine.network.has_random_nodes
        with torch.no_grad(), ExitStack() as stack:
            self.surroundings.enter_autocast(stack)
            for strip in range(self.plan.strips):
                if keep_carries:
                    self.carries.append(carries)
                    if random:
                        self.surroundings.note_random_state(self.device)
                step = self.engine.step(self.plan, strip, self.rows(strip), carries, tensors, self.surroundings.seeds)
                carries = step.carries
                self._collect(step, strip, maps)
        return [value for index in self.engine.network.boundary for value in self._yielded(index, maps)]

    def _yielded(self, index: int, maps: dict[int, Tensor]) -> list[Tensor]:
        """The map of a boundary node, or the partial results of all strips, each tensor of them stacked."""
        if index in maps:
            return [maps[index]]
        parts, self.reduced[index].parts = self.reduced[index].parts, []
        return [torch.stack(tensors) for tensors in zip(*parts, strict=True)]

    def finish(self, values: Iterable[Tensor], tensors: NodeTensors) -> list[Tensor]:
        """The values of the boundary nodes, out of what `forward` returned; differentiable."""
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

    def backward(self, tensors: NodeTensors, grads: Sequence[Tensor], image_grad: Tensor | None) -> None:
        """All strips from last to first, recomputed with autograd.

        Args:
            tensors: The tensors of every node as leaves; gradients are accumulated in their ``.grad``.
            grads: Gradients of what `forward` returned.
            image_grad: Gets the gradient of the image; None if nobody asks for it.
        """
        image_needs_grad = image_grad is not None
        needs = self._needs_grad(tensors, image_needs_grad)
        leaves = [t for node in tensors for t in node if t is not None and t.requires_grad]
        carry_grads: Carries = {}
        for strip in reversed(range(self.plan.strips)):
            entered = {i: c.detach().requires_grad_(needs[i]) for i, c in self.carries[strip].items()}
            image_rows = self.rows(strip).detach().requires_grad_(image_needs_grad)
            with torch.enable_grad(), ExitStack() as stack:
                self.surroundings.restore(stack, strip, self.device)
                step = self.engine.step(self.plan, strip, image_rows, entered, tensors, self.surroundings.seeds)
            roots = [(step.carries[index], grad) for index, grad in carry_grads.items()]
            roots += self._boundary_roots(step, strip, grads)
            roots = [(root, grad) for root, grad in roots if root.requires_grad]
            inputs = leaves + [c for c in entered.values() if c.requires_grad] + [image_rows] * image_needs_grad
            if roots:
                torch.autograd.backward([r for r, _ in roots], [g for _, g in roots], inputs=inputs)
            carry_grads = {i: c.grad for i, c in entered.items() if c.grad is not None}
            if image_grad is not None:
                new = self.plan.new(0, strip)
                rows_grad = image_rows.grad
                image_grad[:, :, new.start : new.stop] = 0 if rows_grad is None else rows_grad.to(image_grad.device)

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

    def _needs_grad(self, tensors: NodeTensors, image_needs_grad: bool) -> list[bool]:
        """For every node whether anything trained lies in front of it."""
        needs = [image_needs_grad]
        for node, own in zip(self.engine.nodes[1:], tensors[1:], strict=True):
            trained = any(t is not None and t.requires_grad for t in own)
            needs.append(trained or any(needs[i] for i in node.inputs))
        return needs
