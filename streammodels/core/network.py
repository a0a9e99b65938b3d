"""Traced network, a list of streamed nodes and the layers after pooling.

Everything from the image to the feature map, or to the global pools, is a list of `Node`s, each with a rule
(`operations.py`). Operations on pooled vectors only (flatten, a linear classifier) are the *tail*, which is computed
once, in plain PyTorch. `tracing` makes a `Network` of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from streammodels.core.operations import Convolution, Pointwise, Rule, Windowed
from streammodels.core.reductions import Reduction
from streammodels.core.resampling import Resized, TransposedConvolution
from streammodels.core.row_plan import ResizedRows, RowNode, SlidingWindow
from streammodels.core.statistics.vectors import VectorFlow

Tensors = Callable[[], list[Tensor | None]]


@dataclass(frozen=True)
class Node:
    """One operation of the streamed part.

    Attributes:
        path: Dotted path of the layer, or the name of the operation.
        kind: Short name of the layer, for tables and messages.
        inputs: Indices of the nodes it reads; empty for an input of the network. Node 0 is the image.
        rule: What it computes; None for an input.
        tensors: Returns its weights and statistics, connected to the parameters by autograd.
        differs_by_column: Whether one of its constants differs from column to column.
    """

    path: str
    kind: str
    inputs: tuple[int, ...]
    rule: Rule | None
    tensors: Tensors = list
    differs_by_column: bool = False

    @property
    def window(self) -> SlidingWindow | ResizedRows | None:
        """The vertical geometry of a windowed or resized node."""
        return getattr(self.rule, "window", None)

    @property
    def columns(self) -> SlidingWindow | ResizedRows | None:
        """The horizontal geometry of a windowed or resized node."""
        return getattr(self.rule, "columns", None)

    @property
    def transparent(self) -> bool:
        """Whether the node is deterministic and pointwise, so that its input can hold its carry."""
        return isinstance(self.rule, Pointwise) and not self.rule.random

    def sideways(self) -> Node:
        """The same operation for maps whose height and width are swapped."""
        if not isinstance(self.rule, Windowed | Resized):
            return self
        weighted = isinstance(self.rule, Convolution | TransposedConvolution)
        tensors = _swapped_weight(self.tensors) if weighted else self.tensors
        return replace(self, rule=self.rule.sideways(), tensors=tensors)

    def row_node(self, quantum: int = 1) -> RowNode:
        """The row geometry of the node; see `RowNode` for `quantum`."""
        return RowNode(self.inputs, self.window, self.transparent, quantum)


@dataclass(frozen=True)
class Network:
    """A traced module.

    Attributes:
        nodes: The streamed part in topological order, the inputs first; node 0 is the image.
        boundary: Nodes whose result leaves the streamed part, feature maps (whole) or reductions.
        tail: Computes the `outputs` from the values of the streamed nodes; None if they are among these.
        outputs: The fx nodes, or constants, that the module returns.
        form: How it returns them: as one tensor, a tuple, a dict ...
        boundary_names: fx nodes of `boundary`.
        streamed_names: fx nodes of the streamed part.
        constants: The tensors that the graph reads, by the target of the fx node.
        description: All that the shapes of the values depend on besides the rules.
        depends_on_size: Whether it is that of images of one size only, because the forward asked for it.
        vectors: How nodes read vectors computed from whole maps, for which it has to be cut; None if none does.
    """

    nodes: tuple[Node, ...]
    boundary: tuple[int, ...]
    tail: Callable[[dict[fx.Node, Any]], Sequence[Any]] | None
    outputs: tuple[Any, ...]
    form: pytree.TreeSpec
    boundary_names: tuple[fx.Node, ...]
    streamed_names: tuple[fx.Node, ...]
    constants: Mapping[str, Tensor]
    description: Hashable
    depends_on_size: bool = False
    vectors: VectorFlow | None = None

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """The nodes that are inputs."""
        return tuple(index for index, node in enumerate(self.nodes) if not node.inputs)

    @cached_property
    def key(self) -> Hashable:
        """Equal for networks with the same row plans and shapes, whatever their weights."""
        geometry = [(node.row_node(), node.columns, type(node.rule)) for node in self.nodes]
        return (tuple(geometry), self.boundary, self.description)

    @property
    def has_random_nodes(self) -> bool:
        """Whether the streamed part draws random numbers strip by strip."""
        return any(isinstance(node.rule, Pointwise | Reduction) and node.rule.random for node in self.nodes)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Of every node the product of the strides in front of it and its own, at most."""
        strides: list[int] = []
        for node in self.nodes:
            own = node.window.stride if isinstance(node.window, SlidingWindow) else 1
            strides.append(own * max((strides[source] for source in node.inputs), default=1))
        return tuple(strides)

    def row_nodes(self, batch: int, width: int, kernel_pixels: int) -> list[RowNode]:
        """The row geometry of every node.

        A layer with a stride waits until it, and so the stage behind it, has about `kernel_pixels` pixels to compute at
        once: the nearest power of two of rows, so that it computes as many of them in every strip, or in every second,
        fourth ..., where strips are a power of two of its rows. Deep stages have many weights for few pixels, and would
        spend most time reading weights if they ran in every strip. The rows that they wait for are carried, a bounded
        number of pixels. In a network that enlarges maps none waits, because rows at full resolution would wait with
        them, in front of the joins of a decoder.
        """
        of_image = {0}  # what depends on the image; a mask that is brought to the size of a map does not
        for index, node in enumerate(self.nodes):
            of_image |= {index} if of_image.intersection(node.inputs) else set()
        if any(isinstance(self.nodes[index].rule, Resized) for index in of_image):
            return [node.row_node() for node in self.nodes]
        result = []
        for node, stride in zip(self.nodes, self.strides, strict=True):
            waits = isinstance(node.window, SlidingWindow) and node.window.stride > 1
            rows = kernel_pixels / (batch * max(1, width // stride))
            result.append(node.row_node(2 ** max(0, round(log2(rows))) if waits else 1))
        return result

    def sideways(self) -> Network | None:
        """The same network for images whose height and width are swapped.

        Returns:
            The network; None if the result depends on the orientation, because a reduction depends on the order of
            pixels or a constant differs from column to column.
        """
        ordered = any(isinstance(node.rule, Reduction) and not node.rule.ignores_order for node in self.nodes)
        if ordered or any(node.differs_by_column for node in self.nodes):
            return None
        return replace(self, nodes=tuple(node.sideways() for node in self.nodes))

    def finish(self, values: Sequence[Tensor]) -> Any:
        """What the module returns, given the values of the boundary nodes."""
        known: dict[fx.Node, Any] = dict.fromkeys(self.streamed_names)
        known.update(zip(self.boundary_names, values, strict=True))
        if self.tail is None:
            leaves: Sequence[Any] = [known[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in self.outputs]
        else:
            leaves = self.tail(known)
        return pytree.tree_unflatten(leaves, self.form)


def _swapped_weight(convolution: Tensors) -> Tensors:
    """The tensors of a convolution whose kernel has height and width swapped, views in which a change is detected."""
    return lambda: [t.transpose(2, 3) if t is not None and t.ndim == 4 else t for t in convolution()]
