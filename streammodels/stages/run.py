"""Computation of a network stage by stage, joined by plain autograd.

A stage is one differentiable function of the maps that it reads, of its parameters and of the vectors computed between
the stages. So autograd adds up the gradient of a vector over all strips of the stage that reads it before the stage in
front runs back, and every stage is run back once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from streammodels.backprop.bptt import NewMap
from streammodels.core.image_rows import ImageRows
from streammodels.core.network import Network
from streammodels.core.reductions import Reduction
from streammodels.core.statistics.norms import NormStatistics
from streammodels.core.tensors.memory_format import dense
from streammodels.errors import UnsupportedLayerError
from streammodels.orientation import Orientation, Planned, TracedModule
from streammodels.stages.cut import Stage, cut
from streammodels.stages.waiting import WaitingMaps, WaitingRows

ComputeStage = Callable[[Stage, Orientation, Sequence[ImageRows], Mapping[int, NewMap]], Sequence[Tensor]]
"""Returns the values of the boundary nodes of a stage, given its inputs and what makes the maps that wait."""


class StagedNetwork:
    """A network in stages.

    Attributes:
        network: The network.
        stages: Its stages in order.
    """

    def __init__(self, network: Network, planned: Planned) -> None:
        self.network = network
        self.stages = cut(network)
        self._traced = [TracedModule(stage.network, planned) for stage in self.stages]

    def orientations(self, height: int, width: int, has_columns: bool) -> list[Orientation]:
        """Every stage with strips along the longer side of the image, if all stages allow it."""
        found = [traced.orientation(height, width, has_columns) for traced in self._traced]
        return found if all(one.sideways for one in found) else [traced.upright for traced in self._traced]

    def check_image_is_read_once(self) -> None:
        """Check that no stage behind the first reads an image.

        Raises:
            UnsupportedLayerError: Naming the layer that does.
        """
        for stage in self.stages[1:]:
            for place, index in zip(stage.network.inputs, stage.inputs, strict=True):
                if index in self.network.inputs:
                    reader = next(node for node in stage.network.nodes if place in node.inputs)
                    reason = "it reads the image behind a statistic of a whole map"
                    remedy = "Call the module on a tensor that requires a gradient."
                    raise UnsupportedLayerError(reader.path, reason, remedy)

    def compute(
        self, sources: Sequence[ImageRows], maps: WaitingMaps, compute: ComputeStage, upright: bool = False
    ) -> Any:
        """What the module returns.

        Args:
            sources: The images.
            maps: Makes memory for the maps that wait.
            compute: Computes a stage.
            upright: Whether strips run along the height of any image.
        """
        has_columns = not upright and all(source.has_columns for source in sources)
        orientations = self.orientations(*sources[0].shape[2:], has_columns)
        values = _Values(self.network, sources, maps, orientations[0].sideways)
        for stage, orientation in zip(self.stages, orientations, strict=True):
            values.enter(stage)
            new_map = dict.fromkeys(stage.waiting, maps.new)
            values.leave(stage, compute(stage, orientation, [values.rows(i) for i in stage.inputs], new_map))
        return values.result()


class _Values:
    """The values known so far.

    Attributes:
        vectors: Pooled vectors, and results of the network, by their fx node.
        waiting: The maps that wait, by node.
    """

    def __init__(self, network: Network, sources: Sequence[ImageRows], maps: WaitingMaps, sideways: bool) -> None:
        assert network.vectors is not None
        self.network = network
        self.flow = network.vectors
        self.images = dict(zip(network.inputs, sources, strict=True))
        self.maps = maps
        self.sideways = sideways
        self.vectors: dict[fx.Node, Any] = {}
        self.packed: dict[int, Tensor] = {}
        self.waiting: dict[int, Tensor] = {}
        self.last_stages: dict[int, int] = {}
        self.stage = 0

    def enter(self, stage: Stage) -> None:
        """Compute the vectors that a stage reads."""
        for operation in stage.operations:
            self.flow.run(self.vectors, operation)
        for _, vector in stage.vectors:
            packed = isinstance(vector.source, int)
            vector.set(self.packed[vector.source] if packed else self.vectors[vector.source])  # type: ignore[index]

    def rows(self, index: int) -> ImageRows:
        """The rows of an image or of a map that waits."""
        if index in self.images:
            return copy.copy(self.images[index])  # which several stages may read
        name = f"the map of '{self.network.nodes[index].path}'"
        return WaitingRows(self.waiting[index], name, self.sideways, self.maps)

    def leave(self, stage: Stage, results: Sequence[Tensor]) -> None:
        """Take the results of a stage, and drop the maps that no later one reads."""
        for _, vector in stage.vectors:
            vector.value = None  # held by autograd, if at all
        own = dict(zip(stage.boundary, results, strict=True))
        for place, index in zip(stage.network.boundary, stage.boundary, strict=True):
            rule, value = self.network.nodes[index].rule, own[index]
            if isinstance(rule, Reduction):
                self.packed[index] = value
                if isinstance(rule, NormStatistics):
                    rule.track(value)
            elif place in stage.waiting:
                self.waiting[index], self.last_stages[index] = value, stage.waiting[place]
        for name, index in [*zip(self.network.boundary_names, self.network.boundary, strict=True)]:
            if index in own:
                reduced = isinstance(self.network.nodes[index].rule, Reduction)
                self.vectors[name] = own[index] if reduced else self._upright(own[index])
        self.waiting = {index: value for index, value in self.waiting.items() if self.last_stages[index] > self.stage}
        self.stage += 1

    def _upright(self, value: Tensor) -> Tensor:
        """A map that is a result, on the device that computes."""
        return dense((value.transpose(2, 3) if self.sideways else value).to(self.maps.device))

    def result(self) -> Any:
        """What the module returns."""
        for operation in self.flow.operations:
            if operation not in self.vectors:
                self.flow.run(self.vectors, operation)
        leaves = [self.vectors[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in self.network.outputs]
        return pytree.tree_unflatten(leaves, self.network.form)
