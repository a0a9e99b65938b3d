"""What the stages of a network will compute for images that are not loaded, found on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode

from streammodels.core.engine import NodeTensors
from streammodels.core.reductions import Reduction, without_none
from streammodels.memory.estimate import StepMemory
from streammodels.orientation import Orientation
from streammodels.stages.cut import Stage
from streammodels.stages.run import StagedNetwork
from streammodels.tracing.fx_graph import TracedInput

MakeMemory = Callable[[Orientation, NodeTensors, Sequence[TracedInput], Collection[int], Collection[int]], StepMemory]
"""Estimates for a network, given its tensors, its inputs, those that need a gradient, and the maps that will wait."""


@dataclass(frozen=True)
class StageStep:
    """A training step of one stage.

    Attributes:
        stage: The stage.
        orientation: Its network, as the strips see it.
        memory: Estimates for it.
    """

    stage: Stage
    orientation: Orientation
    memory: StepMemory

    def bytes_of(self, nodes: Collection[int]) -> int:
        """Bytes of the maps of some of its nodes, in the type of autocast where that is on."""
        kind = self._device.type
        short = torch.is_autocast_enabled(kind)
        shapes, batch = self.memory.shapes, self.memory.batch
        size = torch.get_autocast_dtype(kind).itemsize if short else 8
        return sum(
            shapes[node].rows
            * shapes[node].row_bytes(batch)
            * min(size, shapes[node].item_bytes)
            // shapes[node].item_bytes
            for node in nodes
        )

    @property
    def _device(self) -> torch.device:
        tensors = (tensor for own in self.memory.tensors for tensor in own if tensor is not None)
        return next((tensor.device for tensor in tensors), torch.device("cpu"))


def expected_steps(
    staged: StagedNetwork,
    inputs: Sequence[TracedInput],
    has_columns: bool,
    needing: Collection[int],
    make_memory: MakeMemory,
    device: torch.device,
) -> list[StageStep]:
    """The steps of all stages.

    Args:
        staged: The network.
        inputs: Its inputs.
        has_columns: Whether all of them can be read by columns.
        needing: Those that need a gradient.
        make_memory: Makes the estimates for a stage.
        device: The device that computes.
    """
    network = staged.network
    known = dict(zip(network.inputs, inputs, strict=True))
    expected = _Expected(staged, known, {*needing}, device)
    orientations = staged.orientations(*inputs[0].known_shape[2:], has_columns)
    steps = []
    for stage, orientation in zip(staged.stages, orientations, strict=True):
        expected.enter(stage)
        tensors = orientation.tensors()
        needs = [place for place, i in zip(stage.network.inputs, stage.inputs, strict=True) if i in expected.needing]
        inputs = [expected.inputs[index] for index in stage.inputs]
        memory = make_memory(orientation, tensors, inputs, needs, stage.waiting)
        steps.append(StageStep(stage, orientation, memory))
        expected.leave(steps[-1])
    return steps


class _Expected:
    """What is known of the values in front of a stage.

    Attributes:
        inputs: The images, and the maps that wait, by node.
        needing: Those that need a gradient.
        vectors: Pooled vectors without values.
    """

    def __init__(
        self, staged: StagedNetwork, inputs: dict[int, TracedInput], needing: set[int], device: torch.device
    ) -> None:
        assert staged.network.vectors is not None
        self.flow = staged.network.vectors
        self.inputs = inputs
        self.needing = needing
        self.device = device
        self.vectors: dict[fx.Node, Any] = {}
        self.packed: dict[int, Tensor] = {}
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)  # which changes no running statistics either

    def enter(self, stage: Stage) -> None:
        """Compute the shapes of the vectors that a stage reads."""
        with self.mode:
            for operation in stage.operations:
                self.flow.run(self.vectors, operation)
        for _, vector in stage.vectors:
            source = vector.source
            found = self.packed[source] if isinstance(source, int) else self.vectors[source]
            if isinstance(found, Tensor):
                empty = torch.zeros(found.shape, dtype=found.dtype, device=self.device)
                found = empty.requires_grad_(found.requires_grad)
            vector.set(found)

    def leave(self, step: StageStep) -> None:
        """Take the shapes of what a stage computes."""
        stage, shapes, needs = step.stage, step.memory.shapes, step.memory.needs_grad
        for place, index in zip(stage.network.boundary, stage.boundary, strict=True):
            node = stage.network.nodes[place]
            if isinstance(node.rule, Reduction):
                value = self._reduced(step, place, node.rule)
                self.packed[index] = value
                names = [name for name, own in self.flow.reductions.items() if own == index]
                self.vectors.update(dict.fromkeys(names, value))
            elif place in stage.waiting:
                rows, width = step.orientation.extent(shapes[place].rows, shapes[place].width)
                shape = (step.memory.batch, shapes[place].channels, rows, width)
                self.inputs[index] = TracedInput(node.path, shape)
                self.needing |= {index} if needs[place] else set()

    def _reduced(self, step: StageStep, place: int, rule: Reduction) -> Tensor:
        """The result of a reduction, without value."""
        node, shapes, batch = step.stage.network.nodes[place], step.memory.shapes, step.memory.batch
        tensors = without_none(step.memory.tensors[place])
        floating = next((t.dtype for own in step.memory.tensors for t in own if t is not None), torch.float32)
        with self.mode:
            read = [shapes[source] for source in node.inputs]
            maps = [
                torch.empty(batch, one.channels, one.rows, one.width, dtype=floating, device=self.device)
                for one in read
            ]
            parts = tuple(part[None] for part in rule.partial(*maps, *tensors))
            value = rule.combine(parts, read[0].rows * read[0].width, floating, *tensors).detach()
            return value.requires_grad_(step.memory.needs_grad[place])
