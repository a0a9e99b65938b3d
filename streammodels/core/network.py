"""What the engine runs: the streamed part of a module as a list of nodes, and the small rest behind it.

Everything from the image to the feature map, or to the global pools, is a list of `Node`s, each with its rule
(`rules.py`). What only depends on pooled vectors (flatten, a linear classifier) is the *tail*: it runs once, in plain
PyTorch. `tracing.py` makes a `Network` out of a module.

A batch normalisation that follows a convolution is folded into it, under autograd:

    weight' = weight * gamma / sqrt(var + eps)        bias' = beta + (bias - mean) * gamma / sqrt(var + eps)

so the streamed pass computes with weight' and bias' only, and their gradients reach weight, gamma and beta by the chain
rule, outside the streamed pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx

from streammodels.core.operations import AveragePool, Convolution, MaxPool, Pointwise, Rule
from streammodels.core.reductions import Reduction
from streammodels.core.row_plan import RowNode, Window

Tensors = Callable[[], list[Tensor | None]]


def no_tensors() -> list[Tensor | None]:
    """What a node without weights computes with."""
    return []


@dataclass(frozen=True)
class Node:
    """One operation of the streamed part.

    Attributes:
        path: Dotted path of the layer, or the name of the operation.
        kind: Short name of the layer, for tables and messages.
        inputs: Indices of the nodes it reads; empty for the image, which is node 0.
        rule: What it computes; None for the image.
        tensors: Returns the weights and statistics it computes with, connected to the parameters by autograd.
        differs_by_column: Whether it computes with a constant that differs from column to column.
    """

    path: str
    kind: str
    inputs: tuple[int, ...]
    rule: Rule | None
    tensors: Tensors = no_tensors
    differs_by_column: bool = False

    @property
    def window(self) -> Window | None:
        """The vertical geometry, for a windowed node."""
        return getattr(self.rule, "window", None)

    @property
    def columns(self) -> Window | None:
        """The horizontal geometry, for a windowed node."""
        return getattr(self.rule, "columns", None)

    @property
    def transparent(self) -> bool:
        """Whether the node is deterministic and pointwise, so that its input can hold its carry."""
        return isinstance(self.rule, Pointwise) and not self.rule.random

    def sideways(self) -> Node:
        """The same operation on maps whose height and width are swapped."""
        if isinstance(self.rule, Convolution):
            return replace(self, rule=self.rule.sideways(), tensors=_swapped_weight(self.tensors))
        return replace(self, rule=self.rule.sideways()) if isinstance(self.rule, MaxPool | AveragePool) else self

    def row_node(self, quantum: int = 1) -> RowNode:
        """What the plan has to know; see `RowNode` for `quantum`."""
        return RowNode(self.inputs, self.window, self.transparent, quantum)


@dataclass(frozen=True)
class Network:
    """A traced module.

    Attributes:
        nodes: The streamed part in topological order; node 0 is the image.
        boundary: Nodes whose result leaves the streamed part: feature maps (whole) or reductions.
        tail: The whole graph; with the streamed nodes given, it computes the rest. None if there is no rest.
        boundary_names: fx nodes of `boundary`.
        streamed_names: fx nodes that the tail must not compute again.
    """

    nodes: tuple[Node, ...]
    boundary: tuple[int, ...]
    tail: fx.GraphModule | None
    boundary_names: tuple[fx.Node, ...]
    streamed_names: tuple[fx.Node, ...]

    @property
    def has_random_nodes(self) -> bool:
        """Whether the streamed part draws random numbers strip by strip."""
        return any(isinstance(node.rule, Pointwise | Reduction) and node.rule.random for node in self.nodes)

    def readers(self) -> list[list[int]]:
        """For every node the nodes that read it."""
        result: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for source in node.inputs:
                result[source].append(index)
        return result

    def row_nodes(self, batch: int, width: int, kernel_pixels: int) -> list[RowNode]:
        """What the plan has to know of every node.

        A layer that shrinks the image waits until it, and so the stage behind it, has `kernel_pixels` pixels to compute
        at once. The stages deep in a network have many weights for few pixels: at a strip or less at a time they would
        spend their time reading weights. What they wait for is carried, a bounded number of pixels.
        """
        strides = [1] * len(self.nodes)
        result = []
        for index, node in enumerate(self.nodes):
            own = node.window.stride if node.window else 1
            strides[index] = own * max((strides[source] for source in node.inputs), default=1)
            columns = batch * max(1, width // strides[index])
            result.append(node.row_node(-(-kernel_pixels // columns) if own > 1 else 1))
        return result

    def sideways(self) -> Network | None:
        """The same network for images whose height and width are swapped.

        Returns:
            The network, or None if a value of it depends on which side is which: of equal maxima of a global maximum
            the first one in reading order gets the gradient, and a constant may differ from column to column.
        """
        ordered = any(isinstance(node.rule, Reduction) and not node.rule.ignores_order for node in self.nodes)
        if ordered or any(node.differs_by_column for node in self.nodes):
            return None
        return replace(self, nodes=tuple(node.sideways() for node in self.nodes))

    def finish(self, values: Sequence[Tensor]) -> Tensor:
        """Run the tail on the values of the boundary nodes."""
        if self.tail is None:
            return values[0]
        known: dict[fx.Node, Any] = dict.fromkeys(self.streamed_names)
        known.update(zip(self.boundary_names, values, strict=True))
        result: Tensor = fx.Interpreter(self.tail).run(initial_env=known)
        return result


def _swapped_weight(convolution: Tensors) -> Tensors:
    """Weight and bias of a convolution whose kernel has height and width swapped."""

    def tensors() -> list[Tensor | None]:
        weight, bias = convolution()
        assert weight is not None
        return [weight.transpose(2, 3).contiguous(), bias]

    return tensors
