"""What a training step will take, said in advance: memory, and operations counted on tensors without numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from streammodels.backprop.checkpointing import Choice, Keeping
from streammodels.core.engine import NodeTensors, Strip
from streammodels.core.frozen_prefix import Shortcut
from streammodels.core.image_rows import Handover
from streammodels.core.row_plan import plan_rows
from streammodels.memory.estimate import StepMemory


@dataclass(frozen=True)
class Forecast:
    """What a training step on a batch of images of one size takes.

    Attributes:
        strips: Number of strips.
        strip_rows: Their height, in rows; in columns if `sideways`.
        sideways: Whether the strips run along the width of the image.
        keeping: What is kept of the forward pass.
        memory_bytes: Peak memory above that of the parameters, the optimizer and the image; an estimate.
        forward_operations: Floating point operations of a forward pass, as `torch.utils.flop_counter` counts them.
        training_operations: Of a training step: forward, backward, and what is computed again.
    """

    strips: int
    strip_rows: int
    sideways: bool
    keeping: Keeping
    memory_bytes: int
    forward_operations: int
    training_operations: int

    def __str__(self) -> str:
        lines = "columns" if self.sideways else "rows"
        again = self.keeping.recomputed(self.strips)
        return (
            f"{self.strips} strip(s) of {self.strip_rows} {lines}, {again:.0%} of them computed twice; "
            f"about {self.memory_bytes / 1e9:.3g} GB above model and image; {self.forward_operations / 1e12:.3g} TFLOP "
            f"forward, {self.training_operations / 1e12:.3g} TFLOP for a training step"
        )


def make_forecast(memory: StepMemory, tensors: NodeTensors, choice: Choice, sideways: bool) -> Forecast:
    """Forecast of a step on images that `memory` describes, computed as `choice` says."""
    strips, keeping = memory.strips(choice.strip_rows), choice.keeping
    shortcut = memory.engine.shortcut(list(memory.needs_grad)) if keeping.frozen else None
    forward, backward, again = _operations(memory, tensors, shortcut)
    training = forward + backward + round(again * keeping.passes_again(strips))
    return Forecast(strips, choice.strip_rows, sideways, keeping, memory.total(choice), forward, training)


def _operations(memory: StepMemory, tensors: NodeTensors, shortcut: Shortcut | None) -> tuple[int, int, int]:
    """Operations of the forward pass, of the gradients, and of computing once more what is trained."""
    engine = memory.engine
    plan = plan_rows([node.row_node() for node in engine.nodes], memory.height, memory.height)
    leaves = [
        [None if t is None else t.detach().to("meta").requires_grad_(t.requires_grad) for t in n] for n in tensors
    ]
    dtype = next((t.dtype for n in leaves for t in n if t is not None and t.is_floating_point()), torch.float32)
    image = torch.empty(
        memory.batch, memory.shapes[0].channels, memory.height, memory.width, dtype=dtype, device="meta"
    )

    def run(given: dict[int, Tensor] | None) -> tuple[Strip, int]:
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            seeds = dict.fromkeys(range(len(leaves)), 0)
            step = engine.step(plan, 0, Handover(image), {}, leaves, seeds, shortcut, given)
        return step, int(counter.get_total_flops())

    step, forward = run(None)
    roots = _roots(step)
    with FlopCounterMode(display=False) as counter:
        if roots:
            torch.autograd.backward(roots, [torch.empty_like(root) for root in roots])
    again = forward if shortcut is None else run({i: rows.detach() for i, rows in step.handed_over.items()})[1]
    return forward, int(counter.get_total_flops()), again


def _roots(step: Strip) -> list[Tensor]:
    """What a strip yields that has a gradient."""
    yielded = [*step.emitted.values(), *(part for parts in step.reduced.values() for part in parts)]
    return [value for value in yielded if value.requires_grad]
