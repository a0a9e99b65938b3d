"""`StreamingResNet`, a `StreamingClassifier` with torchvision's layer names and state dict.

Checkpoints are therefore interchangeable with torchvision in both directions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from torch import nn
from torchmetrics import Metric, MetricCollection

from streammodels.models.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from streammodels.models.pool_names import make_pool
from streammodels.models.resnet import build_resnet
from streammodels.training.classifier import StreamingClassifier
from streammodels.training.fine_tuning import NONE, FineTuning
from streammodels.training.steps import OptimizerFactory, SchedulerFactory
from streammodels.training.tasks import Loss, head_outputs

_IMAGENET_GRAY = (0.449, 0.226)  # mean and std over ImageNet's three channels, for other numbers of channels


class StreamingResNet(StreamingClassifier):
    """A ResNet that trains end to end on images too large for memory, with exact gradients.

    Its layers (``model.layer4``, ``model.fc``) and state dict keys have torchvision's names, so checkpoints are
    interchangeable both ways.

    Args:
        model_name: One of `streammodels.models.resnet.RESNETS`: "resnet9" (no pretrained weights: pass
            ``weights=None``), "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", and their wide and ResNeXt
            variants.
        tile_size: Upper bound for strips, and so for memory, as the side of a square tile in pixels: see `stream`.
        num_classes: Number of classes. A classifier of another size in the weights is replaced by a new one.
        train_streaming_layers: False freezes the trunk (all but the pool and ``fc``).
        loss_fn: ``loss_fn(logits, labels)``; None for the task's default.
        weights: "DEFAULT" (torchvision's ImageNet weights), another of torchvision's names for them, a path to a
            state dict, or None for random weights.
        in_channels: Channels of the images. Unless it is 3, the first layer of pretrained weights is averaged over its
            three channels, repeated, and scaled by 3 / in_channels.
        mean: Per channel, on the scale 0..1; None for ImageNet's.
        std: Per channel, likewise.
        metrics: See `StreamingClassifier`.
        pooling: Global pooling: "avg", "max", "gem" (`GeM`), "lse" (`LogSumExp`), "attention" (`GatedAttention` with
            one head), or a module that maps (B, F, H, W) to as many features as ``fc`` takes. It is named ``avgpool``
            and trained with ``fc``, also while the trunk is frozen. A module has to be passed again to
            ``load_from_checkpoint``.
        optimizer: See `StreamingClassifier`.
        lr_scheduler: See `StreamingClassifier`.
        streaming: False computes the plain network.
        frozen_batch_norm: Keep batch normalization in eval mode during training, as streaming requires.
        verbose: Print the layer table at the first image.
        task: See `StreamingClassifier`.
        memory: Memory budget of the trunk's training step, such as "8GB", instead of `tile_size`: see `stream`.
            With neither, what is free on a CUDA device.
        remove_last_stage: Leave out the last stage (``layer4``; ``layer3`` of resnet9), which holds most of the
            weights; ``fc`` then reads the stage before it, at half the stride.
        fine_tuning: See `StreamingClassifier`.
        strip_rows: Rows of a strip, exactly, instead of `tile_size` and `memory`: see `stream`.

    Raises:
        ValueError: If a name is unknown or a combination invalid.
        WeightsUnavailableError: If the weights cannot be downloaded; the message lists the alternatives.

    Example:
        >>> model = StreamingResNet("resnet18", tile_size=2880, num_classes=2, weights=None)
        >>> model(torch.zeros(1, 3, 300, 200, dtype=torch.uint8)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        model_name: str = "resnet18",
        tile_size: int | None = None,
        num_classes: int = 2,
        train_streaming_layers: bool = False,
        loss_fn: Loss | None = None,
        weights: str | Path | None = "DEFAULT",
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        metrics: Metric | MetricCollection | None = None,
        pooling: str | nn.Module = "avg",
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        streaming: bool = True,
        frozen_batch_norm: bool = True,
        verbose: bool = False,
        task: str | None = None,
        remove_last_stage: bool = False,
        memory: str | int | None = None,
        fine_tuning: FineTuning = NONE,
        strip_rows: int | None = None,
    ) -> None:
        network = build_resnet(model_name, head_outputs(task, num_classes), weights, in_channels, remove_last_stage)
        gray_mean, gray_std = ([value] * in_channels for value in _IMAGENET_GRAY)
        default_mean, default_std = (IMAGENET_MEAN, IMAGENET_STD) if in_channels == 3 else (gray_mean, gray_std)
        normalize = Normalize(mean or default_mean, std or default_std)
        layers = OrderedDict([("normalize", normalize), *network.named_children()])
        layers["avgpool"], head = make_pool(pooling, network.fc.in_features), layers.pop("fc")
        super().__init__(
            nn.Sequential(layers), head, num_classes, tile_size, loss_fn, metrics, optimizer, lr_scheduler,
            train_streaming_layers, streaming, frozen_batch_norm, verbose, task, memory, fine_tuning,
            strip_rows=strip_rows,
        )  # fmt: skip
        own = ["pooling"] if isinstance(pooling, nn.Module) else []
        self.save_hyperparameters(ignore=["loss_fn", "metrics", "optimizer", "lr_scheduler", "fine_tuning", *own])
        self.hparams["weights"] = None  # a checkpoint holds its own weights, so loading one downloads nothing
        self.hparams["task"] = self.task.name  # it may follow from a loss, which a checkpoint does not hold

    def _add_layers(self, trunk: nn.Module, head: nn.Module) -> nn.Module:
        """Register every layer under torchvision's name for it."""
        for name, layer in trunk.named_children():
            self.add_module(name, layer)
        self.fc = head
        return trunk

    @property
    def _head(self) -> nn.Module:
        return self.fc

    def _is_pool(self, layer: nn.Module) -> bool:
        return layer is self.get_submodule("avgpool")
