"""The feature map in front of a global pool, and what can be put in the place of that pool.

Heat maps need the same network with another end: the class map itself instead of its mean, or the pool with a knob
turned. Both are made by copying the list of operations that `torch.fx` wrote down; layers and weights are shared.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from streammodels.core.network import Network
from streammodels.core.reductions import GlobalAverage, Reduction
from streammodels.explain.heatmap import MapGrid, map_grid
from streammodels.models.pooling import GatedAttention

_REMEDY = "A class activation map needs a network that ends in global pooling of its last map, such as a ResNet."
_RESHAPING = frozenset({torch.flatten, torch.squeeze, "flatten", "squeeze", "view", "reshape", "size"})


@dataclass(frozen=True)
class PooledMap:
    """The map that all global pools of a network read.

    Attributes:
        module: The module.
        network: Its trace.
        node: Index of the map in the network.
        operation: The map in the list of operations.
        pools: The pools.
        rules: Their rules.
    """

    module: nn.Module
    network: Network
    node: int
    operation: fx.Node
    pools: tuple[fx.Node, ...]
    rules: tuple[Reduction, ...]

    @classmethod
    def of(cls, module: nn.Module, network: Network) -> PooledMap:
        """Find it.

        Raises:
            ValueError: If the network does not end in global pooling of one map.
        """
        rules, pools, nodes = [], [], set[int]()
        for index, operation in zip(network.boundary, network.boundary_names, strict=True):
            rule = network.nodes[index].rule
            if not isinstance(rule, Reduction):
                raise ValueError(f"the map of layer '{network.nodes[index].path}' is not pooled. {_REMEDY}")
            rules.append(rule)
            pools.append(operation)
            nodes.update(network.nodes[index].inputs)
        if len(nodes) != 1 or nodes == {0}:
            found = "several maps are pooled" if len(nodes) > 1 else "the image itself is pooled"
            raise ValueError(f"{found}, so there is no one map to show. {_REMEDY}")
        operation = next(node for node in pools[0].all_input_nodes if node in network.streamed_names)
        return cls(module, network, nodes.pop(), operation, tuple(pools), tuple(rules))

    @property
    def is_average(self) -> bool:
        """Whether the one pool is the average."""
        return len(self.rules) == 1 and isinstance(self.rules[0], GlobalAverage)

    @property
    def is_attention(self) -> bool:
        """Whether the one pool is gated attention."""
        layers = [self.module.get_submodule(str(pool.target)) for pool in self.pools if pool.op == "call_module"]
        return len(self.pools) == 1 and any(isinstance(layer, GatedAttention) for layer in layers)

    @property
    def grid(self) -> MapGrid:
        """Where the map's pixels lie on the image."""
        return map_grid(self.network, self.node)

    def projected(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """The network that ends in ``weight @ map + bias`` at every pixel, in place of the pool.

        Args:
            weight: (K, F), for a map of F channels.
            bias: (K,).
        """
        graph, copies = self._copy_until(self.operation)
        graph.output(copies[self.operation])
        projection = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device=weight.device, dtype=weight.dtype)
        projection.weight = nn.Parameter(weight[:, :, None, None], requires_grad=False)
        projection.bias = nn.Parameter(bias, requires_grad=False)
        parts = OrderedDict(features=fx.GraphModule(self.module, graph), projection=projection)
        return nn.Sequential(parts)

    def shifted(self, shift: Tensor) -> nn.Module:
        """The network with a number added to each channel of the map, of each image.

        Its gradient is the sum over all pixels of the gradient of the map, whatever the pool.

        Args:
            shift: (B, F, 1, 1).
        """
        output = next(node for node in self.operation.graph.nodes if node.op == "output")
        graph, copies = self._copy_until(output)
        feature_map = copies[self.operation]
        with graph.inserting_after(feature_map):
            constant = graph.get_attr("shift")
        with graph.inserting_after(constant):
            added = graph.call_function(operator.add, (feature_map, constant))
        for pool in self.pools:
            copies[pool].replace_input_with(feature_map, added)
        targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")} - {"shift"}
        parts = {target: operator.attrgetter(target)(self.module) for target in targets}
        return fx.GraphModule({**parts, "shift": nn.Parameter(shift)}, graph)

    def _copy_until(self, last: fx.Node) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in last.graph.nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if node is last:
                break
        return graph, copies

    def tail_is_affine(self) -> bool:
        """Whether what follows the pools maps vectors by sums and factors only."""
        if self.network.tail is None:
            return True
        done = {*self.network.streamed_names}
        tail = [node for node in self.operation.graph.nodes if node not in done and node.op != "output"]
        return all(self._is_affine_operation(node) for node in tail)

    def _is_affine_operation(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return is_affine(self.module.get_submodule(str(node.target)))
        return node.op == "get_attr" or node.target in _RESHAPING


def is_affine(module: nn.Module) -> bool:
    """Whether a module is known to map vectors by sums and factors only: a linear layer, alone or with idle company."""
    if isinstance(module, nn.Sequential):
        return all(is_affine(part) for part in module)
    idle = isinstance(module, nn.modules.dropout._DropoutNd) and not module.training
    return idle or type(module) in (nn.Linear, nn.Identity, nn.Flatten)
