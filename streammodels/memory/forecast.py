"""Forecast of a training step, its memory and its operations, counted on the meta device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from streammodels.backprop.checkpointing import Keeping, Schedule
from streammodels.core.engine import Carries, StripResult, StripRun
from streammodels.core.frozen_prefix import FrozenPrefix
from streammodels.core.row_plan import plan_rows
from streammodels.core.strip_reader import SingleUseTensor
from streammodels.memory.estimate import StepMemory


@dataclass(frozen=True)
class Forecast:
    """Memory and operations of a training step on a batch of images of one size.

    Attributes:
        strips: Number of strips.
        strip_rows: Their height, in rows; in columns if `sideways`.
        sideways: Whether the strips run along the width of the image.
        keeping: What is kept of the forward pass.
        memory_bytes: Estimated peak memory above that of the parameters, the optimizer and the image.
        forward_operations: Floating-point operations of a forward pass, as `torch.utils.flop_counter` counts them.
        training_operations: Those of a training step, with the backward pass and all that is recomputed.
        waiting_bytes: The most bytes of maps, and of their gradients, that wait in host memory or in files for
            statistics of the whole image. On a CPU, where host memory is that of the device, they are among
            `memory_bytes`.
        stages: Number of parts that such statistics cut the network into; strips and `keeping` are those of the first.
    """

    strips: int
    strip_rows: int
    sideways: bool
    keeping: Keeping
    memory_bytes: int
    forward_operations: int
    training_operations: int
    waiting_bytes: int = 0
    stages: int = 1

    def __str__(self) -> str:
        lines = "columns" if self.sideways else "rows"
        again = self.keeping.recomputed(self.strips)
        waits = f"; {self.stages} stages, {self.waiting_bytes / 1e9:.3g} GB wait between" if self.stages > 1 else ""
        return (
            f"{self.strips} strip(s) of {self.strip_rows} {lines}, {again:.0%} of them computed twice; "
            f"about {self.memory_bytes / 1e9:.3g} GB above model and image; {self.forward_operations / 1e12:.3g} TFLOP "
            f"forward, {self.training_operations / 1e12:.3g} TFLOP for a training step{waits}"
        )


def make_forecast(memory: StepMemory, schedule: Schedule, sideways: bool) -> Forecast:
    """The forecast of a step on the images of `memory`, computed by `schedule`."""
    strips, keeping = memory.strips(schedule.strip_rows), schedule.keeping
    forward, backward, again = _operations(memory, memory.prefix if keeping.frozen else None)
    training = forward + backward + round(again * keeping.recomputed_passes(strips))
    return Forecast(strips, schedule.strip_rows, sideways, keeping, memory.total(schedule), forward, training)


def _operations(memory: StepMemory, prefix: FrozenPrefix | None) -> tuple[int, int, int]:
    """Operations of the forward pass, of the backward pass, and of the recomputation behind the frozen prefix."""
    engine = memory.engine
    nodes, heights = [node.row_node() for node in engine.nodes], [one.height for one in memory.further]
    plan = plan_rows(nodes, memory.height, memory.height, heights)
    leaves = [
        [None if t is None else t.detach().to("meta").requires_grad_(t.requires_grad) for t in node]
        for node in memory.tensors
    ]
    dtype = next((t.dtype for n in leaves for t in n if t is not None and t.is_floating_point()), torch.float32)
    image = torch.empty(
        memory.batch, memory.shapes[0].channels, memory.height, memory.width, dtype=dtype, device="meta"
    )

    images = [image, *(one.empty(memory.batch, dtype) for one in memory.further)]
    inputs = dict(zip(engine.network.inputs, images, strict=True))

    def run(prefix_rows: Carries | None) -> tuple[StripResult, int]:
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            strip_run = StripRun(engine, plan, 0, engine.prepared(leaves), {}, prefix, prefix_rows)
            result = strip_run.forward({i: SingleUseTensor(one) for i, one in inputs.items()}, {})
        return result, int(counter.get_total_flops())

    result, forward = run(None)
    roots = _roots(result)
    with FlopCounterMode(display=False) as counter:
        if roots:
            torch.autograd.backward(roots, [torch.empty_like(root) for root in roots])
    again = forward if prefix is None else run({i: rows.detach() for i, rows in result.prefix_rows.items()})[1]
    return forward, int(counter.get_total_flops()), again


def _roots(result: StripResult) -> list[Tensor]:
    """The outputs of a strip that need a gradient."""
    outputs = [*result.emitted.values(), *(part for parts in result.reduced.values() for part in parts)]
    return [output for output in outputs if output.requires_grad]
