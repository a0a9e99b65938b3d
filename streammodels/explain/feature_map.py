"""The feature map before global pooling, and networks that continue differently from there.

Class activation maps need the same network with a 1x1 convolution in place of its pool, or with a shift added to its
channels. Both are made by copying the `torch.fx` graph; layers and weights are shared.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from streammodels.core.network import Network
from streammodels.core.reductions import GlobalAverage, Reduction
from streammodels.explain.heatmap import MapGrid, receptive_field_grid
from streammodels.models.pooling import GatedAttention

_REMEDY = "A class activation map needs a network that ends in global pooling of its last map, such as a ResNet."
_RESHAPING = frozenset({torch.flatten, torch.squeeze, "flatten", "squeeze", "view", "reshape", "size"})


@dataclass(frozen=True)
class PooledFeatureMap:
    """The feature map that all global pools of a network read.

    Attributes:
        module: The module.
        network: Its trace.
        node: Index of the map in the network.
        operation: The fx node of the map.
        pools: The fx nodes of the pools.
        reductions: The reductions of the pools.
    """

    module: nn.Module
    network: Network
    node: int
    operation: fx.Node
    pools: tuple[fx.Node, ...]
    reductions: tuple[Reduction, ...]

    @classmethod
    def of(cls, module: nn.Module, network: Network) -> PooledFeatureMap:
        """The pooled feature map of a traced module.

        Raises:
            ValueError: If the network does not end in global pooling of one map.
        """
        if network.vectors is not None:
            path = network.nodes[min(network.vectors.read)].path
            raise ValueError(
                f"layer '{path}' reads statistics of a whole map, and class activation maps are made for networks "
                "without. Use saliency maps, which are exact there too."
            )
        reductions, pools, nodes = [], [], set[int]()
        for index, operation in zip(network.boundary, network.boundary_names, strict=True):
            rule = network.nodes[index].rule
            if not isinstance(rule, Reduction):
                raise ValueError(f"the map of layer '{network.nodes[index].path}' is not pooled. {_REMEDY}")
            reductions.append(rule)
            pools.append(operation)
            nodes.update(network.nodes[index].inputs)
        if len(nodes) != 1 or nodes == {0}:
            found = "several maps are pooled" if len(nodes) > 1 else "the image itself is pooled"
            raise ValueError(f"{found}, so there is no single map to show. {_REMEDY}")
        operation = next(node for node in pools[0].all_input_nodes if node in network.streamed_names)
        return cls(module, network, nodes.pop(), operation, tuple(pools), tuple(reductions))

    @property
    def is_average(self) -> bool:
        """Whether the only pool is the average."""
        return len(self.reductions) == 1 and isinstance(self.reductions[0], GlobalAverage)

    @property
    def is_attention(self) -> bool:
        """Whether the only pool is gated attention whose result is a weighted mean."""
        if len(self.pools) != 1 or not is_gated_attention(self.module, self.pools[0]):
            return False
        pool: Any = self.module.get_submodule(str(self.pools[0].target))
        return bool(pool.weighs_linearly)

    @property
    def grid(self) -> MapGrid:
        """Receptive-field centers of the map's pixels."""
        return receptive_field_grid(self.network, self.node)

    def projected(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """The network with a 1x1 convolution, ``weight @ map + bias`` at every pixel, in place of the pool.

        Args:
            weight: (K, F), for a map of F channels.
            bias: (K,).
        """
        projection = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device=weight.device, dtype=weight.dtype)
        projection.weight = nn.Parameter(weight[:, :, None, None], requires_grad=False)
        projection.bias = nn.Parameter(bias, requires_grad=False)
        return nn.Sequential(
            OrderedDict(features=subgraph_to(self.module, self.network, self.operation), projection=projection)
        )

    def shifted(self, shift: Tensor) -> nn.Module:
        """The network with `shift` added to the map, as a parameter of that name.

        Its gradient is the gradient of the map summed over all pixels, whatever the pool.

        Args:
            shift: (B, F, 1, 1).
        """
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        graph.output(graph.graph_copy(self.operation.graph, copies))
        feature_map = copies[self.operation]
        with graph.inserting_after(feature_map):
            constant = graph.get_attr("shift")
        with graph.inserting_after(constant):
            added = graph.call_function(operator.add, (feature_map, constant))
        for pool in self.pools:
            copies[pool].replace_input_with(feature_map, added)
        parts = _parts(self.module, self.network, graph)
        return fx.GraphModule({**parts, "shift": nn.Parameter(shift)}, graph)

    def tail_is_affine(self) -> bool:
        """Whether the pooled vectors are only mapped by affine functions."""
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
    """Whether a module is known to be affine: linear layers, inactive dropout, or a sequence of them."""
    if isinstance(module, nn.Sequential):
        return all(is_affine(part) for part in module)
    inactive = isinstance(module, nn.modules.dropout._DropoutNd) and not module.training
    return inactive or type(module) in (nn.Linear, nn.Identity, nn.Flatten)


def is_gated_attention(root: nn.Module, operation: fx.Node) -> bool:
    """Whether an operation of a traced module is a `GatedAttention` layer."""
    layer = root.get_submodule(str(operation.target)) if operation.op == "call_module" else None
    return isinstance(layer, GatedAttention)


def subgraph_to(root: nn.Module, network: Network, last: fx.Node) -> fx.GraphModule:
    """The part of a traced module that returns the value of `last`, an fx node of its `network`."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in last.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node is last:
            break
    graph.output(copies[last])
    return fx.GraphModule(_parts(root, network, graph), graph)


def _parts(root: nn.Module, network: Network, graph: fx.Graph) -> dict[str, Any]:
    """The layers and tensors that a graph names, except for "shift"."""
    named = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")} - {"shift"}
    return {name: network.constants[name] if name in network.constants else root.get_submodule(name) for name in named}
