"""Attention maps, the weight that attention pooling gives to every pixel of the feature map.

Pooling does not keep them. The network is streamed once more, forward only, and returns the attention scores of all
pixels (heads x H' x W') instead of their weighted mean; the softmax is taken at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from streammodels.calls import add_batch_dimension
from streammodels.core.image_rows import scale_to_unit
from streammodels.core.reductions import sum_dtype
from streammodels.explain.feature_map import is_gated_attention, subgraph_to
from streammodels.models.pooling import GatedAttention
from streammodels.streaming import StreamedModule
from streammodels.tracing.trace import trace


@torch.no_grad()
def attention_map(module: nn.Module, image: Any) -> Any:
    """The attention weights of every pixel of the feature map.

    Layers keep their mode: call ``module.eval()`` first, as for a prediction.

    Args:
        module: A network that pools by `GatedAttention`, streamed or plain.
        image: An image the module takes, or a list of such images and of cases, lists of images that are one sample.

    Returns:
        (B, heads, H', W') at the stride of the feature map; the weights of each head and image sum to 1. A list of
        such maps for a list. For a case a list of maps whose weights sum to 1 over all of them.

    Raises:
        ValueError: If the module does not pool by attention, or more than once.
    """
    scores = _scores(module)
    if not isinstance(image, list | tuple):
        return _softmax([scores(image)])[0]
    results: list[Any] = []
    for one in image:
        is_case = isinstance(one, list | tuple)
        maps = _softmax([scores(add_batch_dimension(own)) for own in (one if is_case else [one])])
        results.append(maps if is_case else maps[0])
    return results


def _scores(module: nn.Module) -> Callable[[Any], Tensor]:
    """A function that returns the scores of an image's pixels."""
    if isinstance(module, StreamedModule):
        return module.alike(_up_to_scores(module.module))
    network, parameter = _up_to_scores(module), next(module.parameters())

    def scores(image: Any) -> Tensor:
        whole: Any = add_batch_dimension(image)
        computed: Tensor = network(scale_to_unit(whole.to(parameter.device), parameter.dtype))
        return computed

    return scores


def _softmax(scores: Sequence[Tensor]) -> list[Tensor]:
    """The softmax of each head's scores over all pixels of all maps."""
    flat = [one.to(sum_dtype(one.dtype)).flatten(2) for one in scores]
    weights = torch.split(torch.cat(flat, dim=2).softmax(dim=2), [one.shape[2] for one in flat], dim=2)
    return [own.reshape(one.shape) for own, one in zip(weights, scores, strict=True)]


class _Scores(nn.Module):
    """The scores of attention pooling as a pointwise layer."""

    streams_pointwise = True

    def __init__(self, pool: GatedAttention) -> None:
        super().__init__()
        self.pool = pool
        self.compute = pool.scores_with

    def tensors(self) -> list[Tensor | None]:
        """The further arguments of `compute`."""
        return self.pool.tensors()

    def forward(self, features: Tensor) -> Tensor:
        """(B, heads, H, W)."""
        return self.pool.scores(features)


def _up_to_scores(module: nn.Module) -> nn.Module:
    """The network up to its attention pool, followed by the pool's scores."""
    root = nn.Sequential(module)
    network = trace(root)
    operations = [node for node in network.boundary_names if is_gated_attention(root, node)]
    if len(operations) != 1:
        raise ValueError(
            f"{type(module).__name__} pools by GatedAttention {len(operations)} times; a map needs exactly one. "
            "Build it with pooling='attention' or a streammodels.GatedAttention behind the trunk."
        )
    pool: Any = root.get_submodule(str(operations[0].target))
    return nn.Sequential(subgraph_to(root, network, operations[0].all_input_nodes[0]), _Scores(pool))
