"""Frozen layers in front of the first trained one, which are not recomputed in the backward pass.

The rows that trained layers read from them are kept from the first computation of a strip instead:

    image -> [frozen] -> [frozen] -> rows kept -> [trained] -> [frozen] -> ...
             skipped     output                   computed again with autograd
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from streammodels.core.network import Node
from streammodels.core.operations import Pointwise


@dataclass(frozen=True)
class FrozenPrefix:
    """The nodes in front of everything trained.

    Attributes:
        skipped: Nodes that are not computed again.
        outputs: Nodes whose new rows are kept instead of computed again. They still have carries.
        inputs: Inputs of the network that are read when the others are computed again.
    """

    skipped: frozenset[int]
    outputs: frozenset[int]
    inputs: frozenset[int]

    @classmethod
    def find(cls, nodes: Sequence[Node], needs_grad: Sequence[bool]) -> FrozenPrefix | None:
        """The frozen prefix of a network; None if there is none, or it cannot be skipped.

        Args:
            nodes: The network.
            needs_grad: Whether each node needs a gradient.
        """
        read: set[int] = set()
        for index in reversed(range(len(nodes))):
            if needs_grad[index] or (index in read and nodes[index].transparent):
                read.update(source for source in nodes[index].inputs if not needs_grad[source])
        inputs = frozenset(index for index, node in enumerate(nodes) if not node.inputs)
        outputs = frozenset(index for index in read - inputs if not nodes[index].transparent)
        skipped = frozenset(index for index in range(len(nodes)) if not needs_grad[index]) - read
        left_out = [nodes[index].rule for index in skipped | outputs]
        if any(isinstance(rule, Pointwise) and rule.random for rule in left_out):
            return None  # the layers behind would draw other random numbers
        again = frozenset(index for index in inputs if index in read or needs_grad[index])
        return cls(skipped, outputs, again) if skipped - inputs | outputs else None


def nodes_needing_grad(
    nodes: Sequence[Node], tensors: Sequence[Sequence[Tensor | None]], inputs: Collection[int] = ()
) -> list[bool]:
    """Whether each node needs a gradient, because it or a node in front of it is trained.

    Args:
        nodes: The network.
        tensors: Weights and statistics of every node.
        inputs: Those of the network's inputs that need one.
    """
    needs: list[bool] = []
    for index, (node, own) in enumerate(zip(nodes, tensors, strict=True)):
        trained = any(tensor is not None and tensor.requires_grad for tensor in own)
        needs.append(trained or index in inputs or any(needs[source] for source in node.inputs))
    return needs
