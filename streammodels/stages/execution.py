"""Computation, forecast and image gradient of a streamed module whose network has several stages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from streammodels.backprop.autograd import detach
from streammodels.backprop.bptt import ImagePass, NewMap, RowGradCallback
from streammodels.backprop.checkpointing import Schedule
from streammodels.core.engine import NodeTensors
from streammodels.core.image_rows import ImageRows
from streammodels.memory.budget import Sizes
from streammodels.memory.estimate import StepMemory
from streammodels.memory.forecast import Forecast
from streammodels.orientation import ONE_IMAGE, Orientation, PassOptions, Planned
from streammodels.stages.cut import Stage
from streammodels.stages.expected import StageStep, expected_steps
from streammodels.stages.run import StagedNetwork
from streammodels.stages.schedule import (
    stage_schedules,
    stage_sizes,
    stages_forecast,
    stages_table,
    waiting_bytes,
)
from streammodels.stages.waiting import Waiting
from streammodels.tracing.fx_graph import TracedInput
from streammodels.tracing.parametrizations import reading_undone


class Streamed(Protocol):
    """What stages need of a streamed module."""

    module: nn.Module
    waiting: Waiting
    kernel_pixels: int
    _planned: Planned

    def sizes_on(self, device: torch.device) -> Sizes:
        """The sizes passed or chosen."""
        ...

    def _values(
        self,
        orientation: Orientation,
        sources: Sequence[ImageRows],
        inputs: Sequence[TracedInput],
        tensors: NodeTensors,
        options: PassOptions = ONE_IMAGE,
    ) -> list[Tensor]: ...

    def _image_pass(
        self,
        orientation: Orientation,
        sources: Sequence[ImageRows],
        inputs: Sequence[TracedInput],
        tensors: NodeTensors,
        inputs_needing_grad: frozenset[int] | None,
        options: PassOptions = ONE_IMAGE,
    ) -> ImagePass: ...

    def _memory(
        self,
        orientation: Orientation,
        tensors: NodeTensors,
        inputs: Sequence[TracedInput],
        inputs_needing_grad: Collection[int] = (),
        elsewhere: Collection[int] = (),
        images: int = 1,
    ) -> StepMemory: ...


class StagedExecution:
    """The stages of a streamed module for one call.

    Attributes:
        streamed: The streamed module.
        staged: Its network.
        device: The device that computes.
    """

    def __init__(self, streamed: Streamed, staged: StagedNetwork, device: torch.device) -> None:
        self.streamed = streamed
        self.staged = staged
        self.device = device

    def compute(self, sources: Sequence[ImageRows], inputs: Sequence[TracedInput], options: PassOptions) -> Any:
        """What the module returns for one image of a call.

        Args:
            sources: The inputs.
            inputs: Their shapes and types.
            options: Which of the images it is.
        """
        streamed, within = self.streamed, self._within_budget(sources, inputs, options.images)

        def compute(
            stage: Stage, orientation: Orientation, rows: Sequence[ImageRows], new_map: Mapping[int, NewMap]
        ) -> list[Tensor]:
            sizes = within.get(stage.number) or self._sizes(orientation, sources[0].shape, rows[0].shape)
            is_last = options.last and stage is self.staged.stages[-1]
            own = PassOptions(options.images, is_last, sizes, new_map)
            return streamed._values(orientation, rows, _traced(rows), orientation.tensors(), own)

        return self.staged.compute(sources, streamed.waiting.maps(self.device), compute)

    def image_gradient(
        self, sources: Sequence[ImageRows], score: Callable[[Any], Tensor], take: RowGradCallback
    ) -> Tensor:
        """See `StreamedModule.image_gradient`. The first stage is run back here, the others by autograd.

        Raises:
            UnsupportedLayerError: If a stage behind the first reads the image.
        """
        self.staged.check_image_is_read_once()
        streamed, maps = self.streamed, self.streamed.waiting.maps(self.device)
        passes: list[ImagePass] = []
        values: list[Tensor] = []

        def compute(
            stage: Stage, orientation: Orientation, rows: Sequence[ImageRows], new_map: Mapping[int, NewMap]
        ) -> list[Tensor]:
            inputs, tensors = _traced(rows), orientation.tensors()
            has_budget = self._given.memory is not None
            sizes = None if has_budget else self._sizes(orientation, sources[0].shape, rows[0].shape)
            own = PassOptions(last=False, sizes=sizes, new_map=new_map)
            if passes:
                return streamed._values(orientation, rows, inputs, tensors, own)
            tensors = detach(tensors)
            first = streamed._image_pass(orientation, rows, inputs, tensors, frozenset({0}), own)
            passes.append(first)
            values.extend(value.requires_grad_() for value in first.forward())
            return first.finish(values, tensors)

        with torch.enable_grad():
            result = score(self.staged.compute(sources, maps, compute, upright=True))
        # Zeros for values without a gradient, such as the largest score of attention.
        passes[0].backward(torch.autograd.grad(result, values, materialize_grads=True), {0: take})
        return result.detach()

    def forecast(self, inputs: Sequence[TracedInput]) -> Forecast:
        """The forecast of a training step."""
        steps = self._steps(inputs)
        return stages_forecast(steps, self._schedules(steps), waiting_bytes(steps), self._waiting_on_device(steps))

    def summary(self, inputs: Sequence[TracedInput]) -> str:
        """The tables of the layers of all stages."""
        steps = self._steps(inputs)
        return stages_table(steps, self._schedules(steps))

    @property
    def _given(self) -> Sizes:
        """The sizes for the image."""
        return self.streamed.sizes_on(self.device)

    def _sizes(self, orientation: Orientation, image: Sequence[int], reads: Sequence[int]) -> Sizes:
        """The sizes for a stage, given the shapes of the image and of the first map that it reads."""
        seen, read = (orientation.extent(*shape[2:]) for shape in (image, reads))
        return stage_sizes(self._given, seen, read, self.streamed.kernel_pixels // reads[0])

    def _within_budget(
        self, sources: Sequence[ImageRows], inputs: Sequence[TracedInput], images: int
    ) -> dict[int, Sizes]:
        """The sizes of every stage, cached; none if their rows are set."""
        if self._given.strip_rows is not None:
            return {}
        streamed, network = self.streamed, self.staged.network
        has_columns = all(source.has_columns for source in sources)
        needing = tuple(i for i, one in zip(network.inputs, sources, strict=True) if one.needs_grad)
        trained = tuple(parameter.requires_grad for parameter in streamed.module.parameters())
        settings = (self._given, streamed.kernel_pixels, images, str(self.device))
        key: Hashable = (network.key, *inputs, has_columns, needing, trained, settings)

        def choose() -> dict[int, Sizes]:
            steps = self._steps(inputs, has_columns, needing, images)
            return {
                step.stage.number: Sizes(strip_rows=schedule.strip_rows, keeping=schedule.keeping)
                for step, schedule in zip(steps, self._schedules(steps), strict=True)
            }

        return streamed._planned.of_stages(key, choose)

    def _steps(
        self,
        inputs: Sequence[TracedInput],
        has_columns: bool = True,
        needing: Collection[int] = (),
        images: int = 1,
    ) -> list[StageStep]:
        """The steps of all stages."""
        make = partial(self.streamed._memory, images=images)
        with reading_undone(self.streamed.module):
            return expected_steps(self.staged, inputs, has_columns, needing, make, self.device)

    def _schedules(self, steps: Sequence[StageStep]) -> list[Schedule]:
        """The schedules of all stages."""
        streamed, waiting = self.streamed, self._waiting_on_device(steps)
        return stage_schedules(steps, self._given, streamed.kernel_pixels, self.device, waiting)

    def _waiting_on_device(self, steps: Sequence[StageStep]) -> int:
        """Bytes of the maps that wait in the memory of the device."""
        on_device = self.device.type == "cpu" and self.streamed.waiting.spill_dir is None
        return waiting_bytes(steps) if on_device else 0


def _traced(rows: Sequence[ImageRows]) -> list[TracedInput]:
    """The inputs of a stage; floats and images are of the type that its layers compute in."""
    return [TracedInput(one.name, one.shape, None if one.is_scaled else one.dtype) for one in rows]
