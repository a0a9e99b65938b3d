"""Stages of a network, cut where an operation on a map reads a vector computed from a whole map.

The stage of an operation is the number of such vectors that are computed one behind the other in front of it:

    stage 0                         | stage 1
    image -> conv -+-> pool -> ...  v
                   |         -> gate -+
                   +------ waits -----* -> conv -> ...

A stage is a network of its own. Its inputs are the images and maps of earlier stages that it reads, its boundary the
maps that later stages read, the reductions, and the results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import fx

from streammodels.core.network import Network, Node
from streammodels.core.reductions import Reduction
from streammodels.core.row_plan import users_of
from streammodels.core.statistics.vectors import Vector, VectorFlow


@dataclass(frozen=True)
class Stage:
    """A part of a network between statistics of whole maps.

    Attributes:
        number: Its number, from 0.
        network: The part, as a network.
        inputs: The nodes of the whole network that its inputs are.
        boundary: The nodes of the whole network that its boundary nodes are.
        waiting: Those of its own nodes whose maps later stages read, and the last of these stages.
        vectors: The vectors that it reads, with the index of the node that reads each.
        operations: The operations on vectors that can be computed in front of it, and in front of no earlier one.
    """

    number: int
    network: Network
    inputs: tuple[int, ...]
    boundary: tuple[int, ...]
    waiting: Mapping[int, int]
    vectors: tuple[tuple[int, Vector], ...]
    operations: tuple[fx.Node, ...]


def cut(network: Network) -> list[Stage]:
    """The stages of a network."""
    flow = network.vectors
    assert flow is not None
    numbers = _Numbers(network, flow)
    readers = users_of([node.inputs for node in network.nodes])
    last_read = [max((numbers.nodes[i] for i in own), default=-1) for own in readers]
    count = max(numbers.nodes) + 1
    return [_stage(network, flow, numbers, last_read, number) for number in range(count)]


class _Numbers:
    """The stage of every node, and the stage in front of which every operation on vectors is computed."""

    def __init__(self, network: Network, flow: VectorFlow) -> None:
        self.flow = flow
        self.nodes: list[int] = []
        self.operations: dict[fx.Node, int] = {}
        for index, node in enumerate(network.nodes):
            in_front = [self.nodes[source] for source in node.inputs]
            in_front += [self._known(vector.source) for vector in flow.read.get(index, ())]
            self.nodes.append(max(in_front, default=0))
        for operation in flow.operations:
            self._known(operation)

    def _known(self, source: fx.Node | int) -> int:
        """The first stage that can read a vector."""
        if isinstance(source, int):
            return self.nodes[source] + 1
        if source in self.flow.reductions:
            return self.nodes[self.flow.reductions[source]] + 1
        if source not in self.operations:
            self.operations[source] = max((self._known(own) for own in source.all_input_nodes), default=0)
        return self.operations[source]


def _stage(network: Network, flow: VectorFlow, numbers: _Numbers, last_read: list[int], number: int) -> Stage:
    """One stage."""
    own = [i for i, node in enumerate(network.nodes) if numbers.nodes[i] == number and node.inputs]
    returned = {i for i in network.inputs if i in network.boundary and number == 0}  # an image that is a result, too
    inputs = sorted({source for index in own for source in network.nodes[index].inputs} - {*own} | returned)
    moved = {old: new for new, old in enumerate([*inputs, *own])}
    nodes = [_input(network.nodes[index]) for index in inputs]
    nodes += [replace(node := network.nodes[i], inputs=tuple(moved[source] for source in node.inputs)) for i in own]
    waiting = [i for i in own if last_read[i] > number and not isinstance(network.nodes[i].rule, Reduction)]
    boundary = sorted({*waiting} | ({*own} & {*network.boundary}) | _packed(flow, own) | returned)
    part = replace(
        network,
        nodes=tuple(nodes),
        boundary=tuple(moved[index] for index in boundary),
        tail=None,
        boundary_names=(),
        streamed_names=(),
        description=(network.description, number),
        vectors=None,
    )
    vectors = tuple((moved[index], vector) for index in own for vector in flow.read.get(index, ()))
    operations = tuple(operation for operation in flow.operations if numbers.operations[operation] == number)
    last = {moved[index]: last_read[index] for index in waiting}
    return Stage(number, part, tuple(inputs), tuple(boundary), last, vectors, operations)


def _packed(flow: VectorFlow, own: Iterable[int]) -> set[int]:
    """The reductions of a stage whose value is read without an operation in between."""
    sources = {vector.source for vectors in flow.read.values() for vector in vectors}
    return {*own} & {source for source in sources if isinstance(source, int)}


def _input(node: Node) -> Node:
    """An input in place of a node."""
    return Node(node.path, node.kind, (), None)
