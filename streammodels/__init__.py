"""CNNs that train end to end on images too large for memory, exact to rounding."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streammodels.backprop.checkpointing import Keeping
    from streammodels.core.image_rows import LazyRows
    from streammodels.core.reductions import Reduction
    from streammodels.errors import ImageReadError, UnsupportedLayerError
    from streammodels.explain.attention import attention_map
    from streammodels.explain.cam import class_activation_map
    from streammodels.explain.gradient import saliency
    from streammodels.explain.heatmap import Heatmap
    from streammodels.explain.heatmap_files import write_overlay, write_pyramid
    from streammodels.models.normalize import Normalize
    from streammodels.models.pooling import (
        GatedAttention,
        GeM,
        GlobalAvgPool,
        GlobalMaxPool,
        GlobalPool,
        LogSumExp,
        PerClassLinear,
    )
    from streammodels.models.resnet import WeightsUnavailableError, freeze_batch_norm
    from streammodels.streaming import StreamedModule, stream
    from streammodels.training.classifier import StreamingClassifier
    from streammodels.training.streaming_resnet import StreamingResNet

_HOMES = {
    "Reduction": "core.reductions",
    "ImageReadError": "errors",
    "Heatmap": "explain.heatmap",
    "Keeping": "backprop.checkpointing",
    "LazyRows": "core.image_rows",
    "GatedAttention": "models.pooling",
    "GeM": "models.pooling",
    "GlobalAvgPool": "models.pooling",
    "GlobalMaxPool": "models.pooling",
    "GlobalPool": "models.pooling",
    "LogSumExp": "models.pooling",
    "Normalize": "models.normalize",
    "PerClassLinear": "models.pooling",
    "StreamedModule": "streaming",
    "StreamingClassifier": "training.classifier",
    "StreamingResNet": "training.streaming_resnet",
    "UnsupportedLayerError": "errors",
    "WeightsUnavailableError": "models.resnet",
    "attention_map": "explain.attention",
    "class_activation_map": "explain.cam",
    "freeze_batch_norm": "models.resnet",
    "saliency": "explain.gradient",
    "stream": "streaming",
    "write_overlay": "explain.heatmap_files",
    "write_pyramid": "explain.heatmap_files",
}

__all__ = [
    "GatedAttention",
    "GeM",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GlobalPool",
    "Heatmap",
    "ImageReadError",
    "Keeping",
    "LazyRows",
    "LogSumExp",
    "Normalize",
    "PerClassLinear",
    "Reduction",
    "StreamedModule",
    "StreamingClassifier",
    "StreamingResNet",
    "UnsupportedLayerError",
    "WeightsUnavailableError",
    "attention_map",
    "class_activation_map",
    "freeze_batch_norm",
    "saliency",
    "stream",
    "write_overlay",
    "write_pyramid",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``import streammodels`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'streammodels' has no attribute '{name}'")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
