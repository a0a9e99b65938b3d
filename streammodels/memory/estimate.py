"""How much memory a streamed training step takes, estimated from shapes.

Peak memory above the parameters is made of

* what autograd saves for one strip (all trained layers, strip height x image width), and for every strip kept as graph,
* the carries kept at the boundaries between strips,
* the rows that frozen layers hand to trained ones, if they are kept,
* the working space of the largest layer, its gradient included,
* copies of the weights: batch normalisation folded in, gradients of that, gradients of the parameters,
* the result, if it is a feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from streammodels.backprop.checkpointing import Choice
from streammodels.core.engine import Engine
from streammodels.core.operations import Join, MaxPool
from streammodels.core.reductions import Reduction
from streammodels.core.row_plan import RowsError, plan_rows
from streammodels.memory.shapes import ValueShape, boundary_bytes, value_shapes

_INDEX_BYTES = 8  # a maximum pool saves an int64 index for every output pixel


_WEIGHT_COPIES = 4  # folded weights, their gradients, the parameters' gradients, and one reordered by the kernels


_WORKING_COPIES = 3  # gradient of the largest value, a re-ordered copy of it, and one of its input


_SLACK = 1.1  # blocks that the allocator has taken back and not given away again: see docs/benchmarks.md


_SAMPLED_STRIPS = 96  # carries repeat from strip to strip; so many show their mean


@dataclass(frozen=True, eq=False)
class StepMemory:
    """Estimates the peak memory of training steps on a batch of images of one size.

    Attributes:
        engine: The network's engine.
        needs_grad: For every node whether it gets a gradient.
        batch: Images.
        channels: Of the image; None is read off the network.
        height: Of the image as the strips see it, pixels.
        width: Likewise.
        kernel_pixels: See `Network.row_nodes`.
        images: So many such batches are computed before one backward pass; only the last one's graphs are kept.
    """

    engine: Engine
    needs_grad: tuple[bool, ...]
    batch: int
    channels: int | None
    height: int
    width: int
    kernel_pixels: int = 1
    images: int = 1

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from estimates for other images with the same engine."""
        return (self.needs_grad, self.batch, self.channels, self.height, self.width, self.kernel_pixels, self.images)

    @cached_property
    def shapes(self) -> list[ValueShape]:
        """Of every value over the whole image."""
        return value_shapes(self.engine.network, self.height, self.width, self.channels)

    @cached_property
    def values(self) -> list[int]:
        """Bytes of every value over the whole image."""
        return [shape.rows * shape.row_bytes(self.batch) for shape in self.shapes]

    @cached_property
    def saved(self) -> int:
        """Bytes autograd saves of a whole image: values that a layer needs again for its gradient."""
        nodes, readers = self.engine.nodes, self.engine.network.readers()
        total = 0
        for index, node in enumerate(nodes):
            trained = [reader for reader in readers[index] if self.needs_grad[reader]]
            overwritten = any(self.engine.works_in_place(reader) for reader in readers[index])
            if not overwritten and any(not isinstance(nodes[r].rule, Join | Reduction) for r in trained):
                total += self.values[index]
            if isinstance(node.rule, MaxPool) and self.needs_grad[index]:
                total += self.values[index] // self.shapes[index].item_bytes * _INDEX_BYTES
        return total

    @cached_property
    def frozen(self) -> int:
        """Bytes of the rows that frozen layers hand to trained ones, of a whole image."""
        shortcut = self.engine.shortcut(list(self.needs_grad))
        return 0 if shortcut is None else sum(self.values[index] for index in shortcut.handed_over)

    @cached_property
    def _fixed(self) -> int:
        """Bytes that no choice changes."""
        nodes = self.engine.nodes
        weights = sum(t.numel() * t.element_size() for node in nodes for t in node.tensors() if t is not None)
        return _WEIGHT_COPIES * weights + 2 * sum(self.values[i] for i in self.engine.network.boundary)

    def in_strip(self, strip_rows: int) -> float:
        """Bytes of one strip with its gradients: what autograd saves, and the working space of the largest layer."""
        return (self.saved + _WORKING_COPIES * max(self.values)) * min(1.0, strip_rows / self.height)

    def strips(self, strip_rows: int) -> int:
        """Number of strips."""
        return -(-self.height // strip_rows)

    def carried(self, strip_rows: int) -> float:
        """Mean bytes carried from one strip to the next."""
        nodes = self.engine.network.row_nodes(self.batch, self.width, self.kernel_pixels)
        height = min(self.height, _SAMPLED_STRIPS * strip_rows)
        try:
            plan = plan_rows(nodes, height, strip_rows)
        except RowsError:  # too few rows for a layer
            height, plan = self.height, plan_rows(nodes, self.height, strip_rows)
        between = range(plan.strips // 2, plan.strips - 1) if height < self.height else range(plan.strips - 1)
        sizes = [boundary_bytes(plan, self.engine.network, self.shapes, self.batch, strip) for strip in between]
        return sum(sizes) / len(sizes) if sizes else 0.0

    def total(self, choice: Choice, carried: float | None = None) -> int:
        """Estimated peak bytes of a training step above the parameters and the image."""
        strips, keeping = self.strips(choice.strip_rows), choice.keeping
        carried = self.carried(choice.strip_rows) if carried is None else carried
        kept = -(-strips // keeping.every) - 1 + min(keeping.every, strips) - 1
        share = min(1.0, choice.strip_rows / self.height)
        graphs = min(1.0, max(1, keeping.graphs) * share)
        working = _WORKING_COPIES * max(self.values) * share
        frozen = self.frozen if keeping.frozen else 0
        waiting = self.images * (kept * carried + frozen)
        # Rows joined with carries hold these once more.
        of_graphs = self.saved * graphs + max(1, min(keeping.graphs, strips)) * carried
        return int(_SLACK * (waiting + of_graphs + working + self._fixed))
