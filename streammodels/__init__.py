"""CNNs that train end to end on images too large for memory, with exact gradients.

Names are imported when they are first used, so that `import streammodels` costs next to nothing.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streammodels.backprop.checkpointing import Keeping as Keeping
    from streammodels.core.image_rows import Labels as Labels
    from streammodels.core.image_rows import LazyRows as LazyRows
    from streammodels.core.reductions import Reduction as Reduction
    from streammodels.errors import EmptyMaskError as EmptyMaskError
    from streammodels.errors import ImageReadError as ImageReadError
    from streammodels.errors import UnsupportedLayerError as UnsupportedLayerError
    from streammodels.explain.attention import attention_map as attention_map
    from streammodels.explain.cam import class_activation_map as class_activation_map
    from streammodels.explain.gradient import saliency as saliency
    from streammodels.explain.heatmap import Heatmap as Heatmap
    from streammodels.explain.heatmap_files import write_color_pyramid as write_color_pyramid
    from streammodels.explain.heatmap_files import write_pyramid as write_pyramid
    from streammodels.explain.overlay import write_overlay as write_overlay
    from streammodels.explain.placement import PlacedPiece as PlacedPiece
    from streammodels.explain.placement import Placement as Placement
    from streammodels.explain.placement import place as place
    from streammodels.explain.regions import hottest_places as hottest_places
    from streammodels.explain.regions import hottest_regions as hottest_regions
    from streammodels.explain.regions import write_geojson as write_geojson
    from streammodels.losses.likelihood import PixelBinaryCrossEntropy as PixelBinaryCrossEntropy
    from streammodels.losses.likelihood import PixelCrossEntropy as PixelCrossEntropy
    from streammodels.losses.likelihood import PixelDivergence as PixelDivergence
    from streammodels.losses.likelihood import PixelFocalLoss as PixelFocalLoss
    from streammodels.losses.likelihood import PixelSquaredError as PixelSquaredError
    from streammodels.losses.overlap import ConfusionCounts as ConfusionCounts
    from streammodels.losses.overlap import PixelDice as PixelDice
    from streammodels.losses.overlap import PixelJaccard as PixelJaccard
    from streammodels.losses.pixel_loss import PixelLoss as PixelLoss
    from streammodels.models.normalize import Normalize as Normalize
    from streammodels.models.pooling import GatedAttention as GatedAttention
    from streammodels.models.pooling import GeM as GeM
    from streammodels.models.pooling import GlobalAvgPool as GlobalAvgPool
    from streammodels.models.pooling import GlobalMaxPool as GlobalMaxPool
    from streammodels.models.pooling import GlobalPool as GlobalPool
    from streammodels.models.pooling import LogSumExp as LogSumExp
    from streammodels.models.pooling import PerClassLinear as PerClassLinear
    from streammodels.models.resnet import freeze_batch_norm as freeze_batch_norm
    from streammodels.models.unet import UNet as UNet
    from streammodels.models.weighted_pooling import AttentionGeM as AttentionGeM
    from streammodels.models.weighted_pooling import GlobalSumPool as GlobalSumPool
    from streammodels.models.weighted_pooling import GlobalWeightedPool as GlobalWeightedPool
    from streammodels.models.weighted_pooling import SigmoidAttention as SigmoidAttention
    from streammodels.models.weighted_pooling import SoftmaxPool as SoftmaxPool
    from streammodels.models.weighted_pooling import TopPixelsPool as TopPixelsPool
    from streammodels.models.weights import WeightsUnavailableError as WeightsUnavailableError
    from streammodels.streaming import StreamedModule as StreamedModule
    from streammodels.streaming import stream as stream
    from streammodels.training.bags.mil_classifier import MILClassifier as MILClassifier
    from streammodels.training.classifier import StreamingClassifier as StreamingClassifier
    from streammodels.training.fine_tuning import FineTuning as FineTuning
    from streammodels.training.pretrained import ModelCard as ModelCard
    from streammodels.training.segmenter import StreamingSegmenter as StreamingSegmenter
    from streammodels.training.streaming_convnext import StreamingConvNeXt as StreamingConvNeXt
    from streammodels.training.streaming_network import StreamingNetwork as StreamingNetwork
    from streammodels.training.streaming_resnet import StreamingResNet as StreamingResNet

_NAMES = {
    "backprop.checkpointing": "Keeping",
    "core.image_rows": "Labels LazyRows",
    "core.reductions": "Reduction",
    "errors": "EmptyMaskError ImageReadError UnsupportedLayerError",
    "explain.attention": "attention_map",
    "explain.cam": "class_activation_map",
    "explain.gradient": "saliency",
    "explain.heatmap": "Heatmap",
    "explain.heatmap_files": "write_color_pyramid write_pyramid",
    "explain.overlay": "write_overlay",
    "explain.placement": "PlacedPiece Placement place",
    "explain.regions": "hottest_places hottest_regions write_geojson",
    "losses.likelihood": "PixelBinaryCrossEntropy PixelCrossEntropy PixelDivergence PixelFocalLoss PixelSquaredError",
    "losses.overlap": "ConfusionCounts PixelDice PixelJaccard",
    "losses.pixel_loss": "PixelLoss",
    "models.normalize": "Normalize",
    "models.pooling": "GatedAttention GeM GlobalAvgPool GlobalMaxPool GlobalPool LogSumExp PerClassLinear",
    "models.resnet": "freeze_batch_norm",
    "models.unet": "UNet",
    "models.weighted_pooling": (
        "AttentionGeM GlobalSumPool GlobalWeightedPool SigmoidAttention SoftmaxPool TopPixelsPool"
    ),
    "models.weights": "WeightsUnavailableError",
    "streaming": "StreamedModule stream",
    "training.bags.mil_classifier": "MILClassifier",
    "training.classifier": "StreamingClassifier",
    "training.fine_tuning": "FineTuning",
    "training.pretrained": "ModelCard",
    "training.segmenter": "StreamingSegmenter",
    "training.streaming_convnext": "StreamingConvNeXt",
    "training.streaming_network": "StreamingNetwork",
    "training.streaming_resnet": "StreamingResNet",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted([*_MODULES, "__version__"])

try:
    __version__ = version("slidestream")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'streammodels' has no attribute '{name}'. It offers {', '.join(__all__)}.")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
