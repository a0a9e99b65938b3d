"""`StreamingResNet`: a `StreamingClassifier` whose layers and state dict have the names of torchvision's ResNets.

So checkpoints interchange with torchvision in both directions, which a trunk and a head of their own would not allow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from streammodels.models.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from streammodels.models.pooling import make_pool
from streammodels.models.resnet import build_resnet
from streammodels.training.classifier import StreamingClassifier
from streammodels.training.steps import OptimizerFactory, SchedulerFactory

_IMAGENET_GREY = (0.449, 0.226)  # mean and std over ImageNet's three channels, for images with other channels


class StreamingResNet(StreamingClassifier):
    """A ResNet that trains end to end on images too large for memory, with the results of the plain one.

    Its state dict has the keys of torchvision's ResNet, so checkpoints interchange both ways, and its layers are found
    under torchvision's names (``model.layer4``, ``model.fc``).

    Args:
        model_name: One of `streammodels.models.resnet.RESNETS`: "resnet9" (no pretrained weights: give
            ``weights=None``), "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", and their wide and ResNeXt
            variants.
        tile_size: A budget of ``tile_size**2`` pixels of each image in flight.
        num_classes: Number of classes. If the weights have a classifier of another size, a new one takes its place.
        train_streaming_layers: False freezes the trunk (all but the pool and ``fc``).
        loss_fn: ``loss_fn(logits, labels)``; None for that of the task.
        weights: "DEFAULT" (torchvision's ImageNet weights), another of torchvision's names for them, a path to a
            state dict, or None for random weights.
        in_channels: Channels of the images. For other than 3 the first layer of pretrained weights is adapted: the
            mean over its three channels, repeated, times 3 / in_channels.
        mean: Per channel, on the scale 0..1; None for ImageNet's.
        std: Likewise.
        metrics: See `StreamingClassifier`.
        pooling: How the feature map becomes a vector: "avg", "max", "gem" (`GeM`), "lse" (`LogSumExp`), "attention"
            (`GatedAttention` with one head), or a module, which maps (B, F, H, W) to as many features as ``fc`` takes.
            It is trained with ``fc``, also while the trunk is frozen. Its weights are found under ``avgpool``, and a
            module of your own has to be given again to ``load_from_checkpoint``.
        optimizer: See `StreamingClassifier`.
        lr_scheduler: See `StreamingClassifier`.
        streaming: False computes the plain network.
        frozen_batch_norm: Keep batch normalisations in eval mode during training. Streaming needs it.
        verbose: Print the layer table at the first image.
        task: See `StreamingClassifier`.
        memory: Budget of the trunk's training step, such as "8GB", instead of `tile_size`: see `stream`.
        remove_last_stage: Leave out the last stage (``layer4``; ``layer3`` of resnet9): half the stride, most of the
            weights gone. ``fc`` reads the stage before it.

    Raises:
        ValueError: If a name or a combination is not known.
        WeightsUnavailableError: If the weights cannot be downloaded; the message names the alternatives.

    Example:
        >>> model = StreamingResNet("resnet18", tile_size=2880, num_classes=2, weights=None)
        >>> model(torch.zeros(1, 3, 300, 200, dtype=torch.uint8)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        model_name: str = "resnet18",
        tile_size: int = 2880,
        num_classes: int = 2,
        train_streaming_layers: bool = False,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
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
    ) -> None:
        # Past StreamingClassifier; and save_hyperparameters only finds the arguments of an __init__ that says `super`.
        super(StreamingClassifier, self).__init__()
        own = ["pooling"] if isinstance(pooling, nn.Module) else []
        self.save_hyperparameters(ignore=["loss_fn", "metrics", "optimizer", "lr_scheduler", *own])
        self.hparams["weights"] = None  # a checkpoint brings its own weights: loading one downloads nothing
        network = build_resnet(model_name, num_classes, weights, in_channels, remove_last_stage)
        default_mean, default_std = ([value] * in_channels for value in _IMAGENET_GREY)
        if in_channels == 3:
            default_mean, default_std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        self.normalize = Normalize(mean or default_mean, std or default_std)
        for name, layer in network.named_children():
            self.add_module(name, make_pool(pooling, network.fc.in_features) if name == "avgpool" else layer)
        layers = OrderedDict((name, layer) for name, layer in self.named_children() if name != "fc")
        self._configure(
            nn.Sequential(layers), num_classes, tile_size, loss_fn, metrics, optimizer, lr_scheduler,
            train_streaming_layers, streaming, frozen_batch_norm, verbose, task, memory,
        )  # fmt: skip
        self.hparams["task"] = self.task.name  # it may follow from a loss, which a checkpoint does not hold

    @property
    def _head(self) -> nn.Module:
        return self.get_submodule("fc")

    def _is_pool(self, layer: nn.Module) -> bool:
        return layer is self.get_submodule("avgpool")
