"""Where an attention pool looks: the weight it gives to every pixel of the feature map.

The pool itself keeps no map. For the map its network is streamed once more, forward only, with another end: the scores
of all pixels instead of their weighted mean. Those are few numbers (heads x H' x W'), and are normalised at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from streammodels.core.image_rows import scale_to_unit
from streammodels.core.reductions import sum_dtype
from streammodels.models.pooling import GatedAttention
from streammodels.streaming import StreamedModule
from streammodels.tracing.trace import trace


@torch.no_grad()
def attention_map(module: nn.Module, image: Any) -> Any:
    """The attention weights of every pixel of the feature map.

    Layers of the trunk work in the mode they are in: call ``module.eval()`` first, as for a prediction.

    Args:
        module: A network that pools by `GatedAttention`, streamed or plain.
        image: What the module takes, or a list of such images.

    Returns:
        (B, heads, H', W') at the stride of the feature map, each head's weights of an image summing to 1; a list of
        them for a list.

    Raises:
        ValueError: If the module does not pool by attention, or more than once.
    """
    scores = _scores(module)
    if isinstance(image, list | tuple):
        return [_softmax(scores([one])) for one in image]
    return _softmax(scores(image))


def _scores(module: nn.Module) -> Callable[[Any], Tensor]:
    """A function of an image, or of a list of one: the scores of its pixels."""
    if isinstance(module, StreamedModule):
        return module.alike(_up_to_scores(module.module))
    network, parameter = _up_to_scores(module), next(module.parameters())

    def scores(image: Any) -> Tensor:
        one = image if isinstance(image, Tensor) else image[0]
        whole = one if one.ndim == 4 else one[None]
        computed: Tensor = network(scale_to_unit(whole.to(parameter.device), parameter.dtype))
        return computed

    return scores


def _softmax(scores: Tensor) -> Tensor:
    """The scores of each head, over all pixels."""
    return scores.to(sum_dtype(scores.dtype)).flatten(2).softmax(dim=2).view(scores.shape)


class _Scores(nn.Module):
    """The scores of an attention pool as a layer that maps single pixels."""

    streams_pointwise = True

    def __init__(self, pool: GatedAttention) -> None:
        super().__init__()
        self.pool = pool
        self.compute = pool.scores_with

    def tensors(self) -> list[Tensor | None]:
        """What `compute` takes besides the map."""
        return self.pool.tensors()

    def forward(self, features: Tensor) -> Tensor:
        """(B, heads, H, W)."""
        return self.pool.scores(features)


def _up_to_scores(module: nn.Module) -> nn.Module:
    """The part of a network in front of its attention pool, and the pool's scores."""
    root = nn.Sequential(module)
    operations = [node for node in trace(root).boundary_names if _is_attention(root, node)]
    if len(operations) != 1:
        raise ValueError(
            f"{type(module).__name__} pools by GatedAttention {len(operations)} times; a map needs exactly one. "
            "Build it with pooling='attention' or a streammodels.GatedAttention behind the trunk."
        )
    features = operations[0].all_input_nodes[0]
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in features.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node is features:
            break
    graph.output(copies[features])
    pool: Any = root.get_submodule(str(operations[0].target))
    return nn.Sequential(fx.GraphModule(root, graph), _Scores(pool))


def _is_attention(root: nn.Module, operation: fx.Node) -> bool:
    layer = root.get_submodule(str(operation.target)) if operation.op == "call_module" else None
    return isinstance(layer, GatedAttention)
