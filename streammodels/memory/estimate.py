"""Estimate of the peak memory of a streamed training step, from shapes.

Above the parameters, memory is taken by

* activations that autograd saves, of the trained layers, for one strip and for every strip whose graph is kept,
* the carries kept between strips,
* the rows kept of the frozen prefix,
* the working space of the largest layer, its gradient included,
* copies of the weights, with batch normalization folded in, and the gradients of both,
* the result, if it is a feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from streammodels.backprop.checkpointing import Schedule
from streammodels.core.engine import Engine, NodeTensors
from streammodels.core.frozen_prefix import FrozenPrefix
from streammodels.core.operations import Join, MaxPool, NormalizedConvolution
from streammodels.core.reductions import Reduction
from streammodels.core.row_plan import ResizedRows, RowPlan, RowsError, plan_rows
from streammodels.memory.shapes import InputShape, ValueShape, boundary_bytes, value_shapes

_INDEX_BYTES = 8  # a maximum pool saves an int64 index for every output pixel
_WEIGHT_COPIES = 4  # folded weights, their gradients, the parameters' gradients, and one reordered by the kernels
_WORKING_COPIES = 3  # gradient of the largest value, a re-ordered copy of it, and one of its input
_SLACK = 1.1  # memory that is free but not reusable, see docs/benchmarks.md
_SAMPLED_STRIPS = 96  # carries repeat from strip to strip, so their mean is that of so many strips


@dataclass(frozen=True, eq=False)
class StepMemory:
    """Memory estimates for training steps on a batch of images of one size.

    Attributes:
        engine: The network's engine.
        tensors: The tensors of every node.
        needs_grad: Whether each node needs a gradient.
        batch: Number of images.
        channels: Channels of the images; None to infer them from the network.
        height: Height of the images in pixels, as the strips see it.
        width: Likewise.
        kernel_pixels: See `Network.row_nodes`.
        images: Number of such batches before one backward pass. Graphs are kept of the last one only.
        elsewhere: Boundary nodes whose maps are in other memory.
        further: The inputs beside the image.
        added_together: Whether the gradients of a strip wait for each other, see `GradSums`.
    """

    engine: Engine
    tensors: NodeTensors
    needs_grad: tuple[bool, ...]
    batch: int
    channels: int | None
    height: int
    width: int
    kernel_pixels: int = 1
    images: int = 1
    further: tuple[InputShape, ...] = ()
    elsewhere: frozenset[int] = frozenset()
    added_together: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """All that the estimates depend on besides the engine."""
        size = (self.batch, self.channels, self.height, self.width)
        where = (self.elsewhere, self.added_together)
        return (self.needs_grad, *size, self.kernel_pixels, self.images, self.further, *where)

    def plan(self, strip_rows: int, height: int | None = None) -> RowPlan:
        """The row plan, or that of images of another height."""
        height = height or self.height
        nodes = self.engine.network.row_nodes(self.batch, self.width, self.kernel_pixels)
        return plan_rows(nodes, height, strip_rows, [-(-one.height * height // self.height) for one in self.further])

    @property
    def stride(self) -> int:
        """Image rows from one row of the deepest map to the next, at most."""
        return max(self.engine.network.strides)

    @cached_property
    def shapes(self) -> list[ValueShape]:
        """Shape of every value over the whole image."""
        return value_shapes(self.engine.network, self.tensors, self.height, self.width, self.channels, self.further)

    @cached_property
    def values(self) -> list[int]:
        """Bytes of every value over the whole image."""
        return [shape.rows * shape.row_bytes(self.batch) for shape in self.shapes]

    @cached_property
    def saved_values(self) -> list[int]:
        """Bytes that autograd saves of every value over the whole image, as a layer needs it for its gradient."""
        nodes, readers = self.engine.nodes, self.engine.readers
        saved = [0] * len(nodes)
        for index, node in enumerate(nodes):
            trained = [reader for reader in readers[index] if self.needs_grad[reader]]
            overwritten = any(self.engine.in_place[reader] for reader in readers[index])
            if not overwritten and any(not isinstance(nodes[r].rule, Join | Reduction) for r in trained):
                saved[index] = self.values[index]
            if isinstance(node.rule, MaxPool) and self.needs_grad[index]:
                saved[index] += self.values[index] // self.shapes[index].item_bytes * _INDEX_BYTES
            if isinstance(node.rule, Reduction) and self.needs_grad[index]:
                saved[node.inputs[0]] += node.rule.saved_copies * self.values[node.inputs[0]]
        return saved

    @property
    def saved(self) -> int:
        """The sum of them."""
        return sum(self.saved_values)

    @cached_property
    def prefix(self) -> FrozenPrefix | None:
        """The frozen prefix of the network."""
        return FrozenPrefix.find(self.engine.nodes, self.needs_grad)

    @cached_property
    def prefix_bytes(self) -> int:
        """Bytes of the rows kept of the frozen prefix, of a whole image."""
        return 0 if self.prefix is None else sum(self.values[index] for index in self.prefix.outputs)

    @cached_property
    def _fixed(self) -> int:
        """Bytes that do not depend on the schedule."""
        nodes = self.engine.nodes
        # The other tensors of a normalized convolution are the parameters themselves.
        own = [
            ts[-2:] if isinstance(n.rule, NormalizedConvolution) else ts
            for n, ts in zip(nodes, self.tensors, strict=True)
        ]
        weights = sum(t.numel() * t.element_size() for tensors in own for t in tensors if t is not None)
        results = {*self.engine.network.boundary} - self.elsewhere
        return (_WEIGHT_COPIES + self.added_together) * weights + 2 * sum(self.values[index] for index in results)

    def in_strip(self, strip_rows: int) -> float:
        """Bytes of one strip, those that autograd saves and the working space of the largest layer."""
        return (self.saved + _WORKING_COPIES * max(self.values)) * min(1.0, strip_rows / self.height)

    def strips(self, strip_rows: int) -> int:
        """Number of strips."""
        return -(-self.height // strip_rows)

    def carried(self, strip_rows: int) -> float:
        """Mean bytes carried from one strip to the next."""
        return self._planned(strip_rows)[0]

    def late(self, strip_rows: int) -> float:
        """Bytes that autograd saves of the last strip of a decoder more than of others: of rows that waited."""
        return self._planned(strip_rows)[1]

    @cached_property
    def _of_plans(self) -> dict[int, tuple[float, float]]:
        return {}

    def _planned(self, strip_rows: int) -> tuple[float, float]:
        """See `carried` and `late`."""
        if strip_rows not in self._of_plans:
            self._of_plans[strip_rows] = self._from_plan(strip_rows)
        return self._of_plans[strip_rows]

    def _from_plan(self, strip_rows: int) -> tuple[float, float]:
        sampled = self.height if self.engine.network.depends_on_size else _SAMPLED_STRIPS * strip_rows
        height = min(self.height, sampled)
        try:
            plan = self.plan(strip_rows, height)
        except RowsError:  # too few rows for a layer
            height, plan = self.height, self.plan(strip_rows)
        between = range(plan.strips // 2, plan.strips - 1) if height < self.height else range(plan.strips - 1)
        sizes = [boundary_bytes(plan, self.engine.network, self.shapes, self.batch, strip) for strip in between]
        carried = sum(sizes) / len(sizes) if sizes else 0.0
        last = plan.strips - 1
        if not last or not any(isinstance(node.window, ResizedRows) for node in self.engine.nodes):
            return carried, 0.0  # of other networks few bytes wait
        own = strip_rows / self.height
        parts = [len(plan.new(i, last)) / max(1, self.shapes[i].rows) for i in range(len(plan.totals))]
        late = sum(saved * max(0.0, part - own) for saved, part in zip(self.saved_values, parts, strict=True))
        return carried, late

    def total(self, schedule: Schedule, carried: float | None = None) -> int:
        """Estimated peak bytes of a training step above the parameters and the image."""
        strips, keeping = self.strips(schedule.strip_rows), schedule.keeping
        carried = self.carried(schedule.strip_rows) if carried is None else carried
        share = min(1.0, schedule.strip_rows / self.height)
        graphs = min(1.0, max(1, keeping.graphs) * share)
        working = _WORKING_COPIES * max(self.values) * share
        # The carries are copied once more when they are joined with rows.
        saved = min(self.saved, self.saved * graphs + self.late(schedule.strip_rows))
        of_graphs = saved + max(1, min(keeping.graphs, strips) if any(self.needs_grad) else 1) * carried
        return self.kept(schedule, carried) + int(_SLACK * (of_graphs + working + self._fixed))

    def kept(self, schedule: Schedule, carried: float | None = None) -> int:
        """Those of them that are kept for the backward pass of a strip that is computed again."""
        if not any(self.needs_grad):
            return 0
        strips, keeping = self.strips(schedule.strip_rows), schedule.keeping
        carried = self.carried(schedule.strip_rows) if carried is None else carried
        kept = -(-strips // keeping.every) - 1 + min(keeping.every, strips) - 1
        prefix = self.prefix_bytes if keeping.frozen else 0
        return int(_SLACK * self.images * (kept * carried + prefix))
