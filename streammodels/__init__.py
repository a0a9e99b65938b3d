"""CNNs that train end to end on images too large for memory, exact to rounding."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import attention_map
    from .class_maps import class_activation_map
    from .classifier import StreamingClassifier
    from .errors import ImageReadError, UnsupportedLayerError
    from .heatmap import Heatmap
    from .heatmap_files import write_overlay, write_pyramid
    from .input_gradient import saliency
    from .keeping import Keeping
    from .normalize import Normalize
    from .pooling import GatedAttention, GeM, GlobalAvgPool, GlobalMaxPool, GlobalPool, LogSumExp, PerClassLinear
    from .resnet import WeightsUnavailableError, freeze_batch_norm
    from .sources import LazyRows
    from .streaming import StreamedModule, stream
    from .streaming_resnet import StreamingResNet

_HOMES = {
    "ImageReadError": "errors",
    "Heatmap": "heatmap",
    "Keeping": "keeping",
    "LazyRows": "sources",
    "GatedAttention": "pooling",
    "GeM": "pooling",
    "GlobalAvgPool": "pooling",
    "GlobalMaxPool": "pooling",
    "GlobalPool": "pooling",
    "LogSumExp": "pooling",
    "Normalize": "normalize",
    "PerClassLinear": "pooling",
    "StreamedModule": "streaming",
    "StreamingClassifier": "classifier",
    "StreamingResNet": "streaming_resnet",
    "UnsupportedLayerError": "errors",
    "WeightsUnavailableError": "resnet",
    "attention_map": "attention",
    "class_activation_map": "class_maps",
    "freeze_batch_norm": "resnet",
    "saliency": "input_gradient",
    "stream": "streaming",
    "write_overlay": "heatmap_files",
    "write_pyramid": "heatmap_files",
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
