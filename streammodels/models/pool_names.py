"""Global pooling layers by their names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from streammodels.models.pooling import GatedAttention, GeM, LogSumExp
from streammodels.models.weighted_pooling import AttentionGeM, GlobalSumPool, SigmoidAttention, SoftmaxPool


def make_pool(pooling: str | nn.Module, channels: int) -> nn.Module:
    """The named global pooling layer, which returns as many features as the map has channels.

    Args:
        pooling: "avg", "max", "sum", "gem", "lse", "softmax", "attention", "sigmoid-attention", "attention-gem", or
            a module, which is returned.
        channels: Channels of the map.

    Raises:
        ValueError: If the name is unknown, or the module returns another number of features.
    """
    if isinstance(pooling, nn.Module):
        with torch.no_grad():
            like = next(pooling.parameters(), torch.zeros(()))
            features = pooling(like.new_zeros(1, channels, 8, 8)).flatten(1).shape[1]
        if features != channels:
            raise ValueError(
                f"pooling={pooling} makes {features} features of a map with {channels} channels, but the classifier "
                f"takes {channels}. Use StreamingClassifier, with a head for {features} features."
            )
        return pooling
    pools: dict[str, Callable[[], nn.Module]] = {
        "avg": lambda: nn.AdaptiveAvgPool2d(1),
        "max": lambda: nn.AdaptiveMaxPool2d(1),
        "gem": GeM,
        "lse": LogSumExp,
        "sum": GlobalSumPool,
        "softmax": SoftmaxPool,
        "attention": lambda: GatedAttention(channels),
        "sigmoid-attention": lambda: SigmoidAttention(channels),
        "attention-gem": lambda: AttentionGeM(channels),
    }
    if pooling not in pools:
        raise ValueError(f"pooling '{pooling}' is not known. Choose one of {', '.join(pools)}, or pass a module.")
    return pools[pooling]()
