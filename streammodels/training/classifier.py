"""`StreamingClassifier`, a LightningModule that streams any trunk with any head behind it.

It trains under a stock `Trainer` with automatic optimization, because a streamed trunk is an ordinary differentiable
module.
"""

from __future__ import annotations

from collections import OrderedDict
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from streammodels.calls import Images, add_batch_dimension, compute_whole, flat_images, has_cases
from streammodels.core.image_rows import Image, as_image_rows
from streammodels.explain.attention import attention_map
from streammodels.explain.cam import Link, class_activation_map
from streammodels.explain.gradient import Reduce, saliency
from streammodels.explain.heatmap import Heatmap
from streammodels.explain.target import ClassIndex
from streammodels.models.pooling import GlobalPool
from streammodels.models.resnet import freeze_batch_norm
from streammodels.stages.waiting import GlobalStatistics
from streammodels.streaming import StreamedModule, stream
from streammodels.training.fine_tuning import NONE, FineTuning, Unfreeze
from streammodels.training.pretrained import ModelCard, from_pretrained, push_to_hub, save_pretrained
from streammodels.training.steps import OptimizerFactory, SchedulerFactory, SupervisedModule
from streammodels.training.tasks import Loss, Multiclass, Multilabel

_LINKS: dict[str, Link] = {Multiclass.name: "softmax", Multilabel.name: "sigmoid"}


class StreamingClassifier(SupervisedModule):
    """An image classifier or regression model with a streamed trunk and a head on its pooled features.

    The task sets the form of the labels and the defaults for loss, metrics and predictions:

    | task | labels | loss | metrics | predictions |
    |---|---|---|---|---|
    | multiclass | (B,) class numbers from 0 | cross entropy | accuracy, AUROC | softmax |
    | ordinal | (B,) numbers of ordered classes | cross entropy | accuracy, MAE, quadratic kappa | softmax |
    | multilabel | (B, num_classes) of 0 and 1 | binary cross entropy | accuracy, AUROC | sigmoid of each |
    | regression | (B, num_classes) numbers | mean squared error | MAE, RMSE | the outputs |
    | survival | (B, 3) time, event, intervals survived | hazards' likelihood | C-index | survival of each interval |

    With ``num_classes=1`` the labels of multilabel and regression may also be (B,). Labels of another shape, type or
    range raise. With "ordinal" the head returns one score per image, and a `CumulativeLink` behind it,
    ``model.link``, makes log-probabilities of the classes; maps explain the score.

    Args:
        trunk: Maps (B, C, H, W) images to (B, F, 1, 1) or (B, F) features; it ends in a global pool.
        head: Maps (B, F) features to (B, num_classes) logits; with task "ordinal" to (B, 1) scores.
        num_classes: Number of classes, of values in a regression, or of intervals of time.
        tile_size: Upper bound for strips, and so for memory, as the side of a square tile in pixels: see `stream`.
        loss_fn: ``loss_fn(logits, labels)``; None for the task's default.
        metrics: A metric, or collection of metrics, of predictions and labels; None for the task's default.
        optimizer: Called with the parameters; returns the optimizer. None for AdamW with a learning rate of 1e-4.
        lr_scheduler: Called with the optimizer; returns a scheduler or a Lightning scheduler config, or None. A
            scheduler steps once an epoch; `OneCycleLR` and `CyclicLR`, once a batch.
        train_streaming_layers: False freezes the trunk, which then needs no backward pass. A `GlobalPool` in it
            belongs to the head and is still trained.
        streaming: False computes the plain trunk, with the same weights and results.
        frozen_batch_norm: Keep batch normalization in eval mode during training, as streaming requires. False: batches
            change the statistics of a trunk, too, whose weights are frozen.
        verbose: Print the trunk's layer table at the first image.
        task: "multiclass", "ordinal", "multilabel", "regression" or "survival". None derives it from `loss_fn`
            (``BCEWithLogitsLoss``: multi-label; ``MSELoss``, ``L1Loss``, ``SmoothL1Loss``, ``HuberLoss``: regression;
            else multi-class).
        memory: Memory budget of the trunk's training step, such as "8GB", instead of `tile_size`: see `stream`.
            With neither, what is free on a CUDA device.
        fine_tuning: When the trunk is unfrozen, its learning rate, MixUp, CutMix and RandAugment: see `FineTuning`.
        global_statistics: "host" to stream squeeze-and-excitation and other layers that read statistics of a whole map:
            see `stream`.
        spill_dir: Folder for files in which maps wait for these statistics, instead of host memory: see `stream`.
        strip_rows: Rows of a strip, exactly, instead of `tile_size` and `memory`: see `stream`.

    Raises:
        UnsupportedLayerError: If a layer of the trunk cannot be streamed exactly.
        ValueError: If streaming is combined with training-mode batch normalization, or the loss belongs to another
            task.
    """

    def __init__(
        self,
        trunk: nn.Module,
        head: nn.Module,
        num_classes: int = 2,
        tile_size: int | None = None,
        loss_fn: Loss | None = None,
        metrics: Metric | MetricCollection | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        train_streaming_layers: bool = True,
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
        super().__init__()
        streamed = self._add_layers(trunk, head)
        if streaming and not frozen_batch_norm and global_statistics is None:
            raise ValueError(
                "streaming=True needs frozen_batch_norm=True: a strip does not have the statistics of the whole image. "
                "Train with streaming=False if the images fit in memory, keep batch normalization frozen, or pass "
                "global_statistics='host', with which maps wait in host memory for their statistics."
            )
        self._configure_steps(num_classes, task, loss_fn, metrics, optimizer, lr_scheduler, fine_tuning)
        self.streaming = streaming
        self.frozen_batch_norm = frozen_batch_norm
        self._table_due = verbose
        self._range_checked = False
        if streaming:
            streamed = stream(
                streamed, None if memory or strip_rows else tile_size, strip_rows=strip_rows, memory=memory,
                global_statistics=global_statistics, spill_dir=spill_dir,
            )  # fmt: skip
        # Not registered, since it shares the registered layers: state dicts hold every weight once, under its own name.
        self.__dict__["_streamed"] = streamed
        if not train_streaming_layers or fine_tuning.unfreeze_at:
            self.freeze_streaming_layers()
        self.train()

    def _add_layers(self, trunk: nn.Module, head: nn.Module) -> nn.Module:
        """Register trunk and head under their names in the state dict; returns the module to stream."""
        self.trunk = trunk
        self.head = head
        return nn.Sequential(OrderedDict(trunk=trunk))

    @property
    def _head(self) -> nn.Module:
        return self.head

    @property
    def streamed_trunk(self) -> nn.Module:
        """The callable trunk: a `StreamedModule`, or the plain module with ``streaming=False``."""
        streamed: nn.Module = self.__dict__["_streamed"]
        trunk = streamed.module if isinstance(streamed, StreamedModule) else streamed
        for name, layer in list(trunk.named_children()):
            own = self._modules.get(name)
            if own is not None and own is not layer:  # assigned since, as by ``model.layer4 = ...``
                setattr(trunk, name, own)
        return streamed

    def _train_trunk(self, trained: bool) -> None:
        """Set `requires_grad` in the trunk except for its pools, which belong to the head."""
        for parameter in self._trunk_parameters():
            parameter.requires_grad_(trained)

    def _trunk_parameters(self) -> list[nn.Parameter]:
        """The parameters of the trunk except for its pools, which belong to the head."""
        pools = [layer for layer in self.streamed_trunk.modules() if self._is_pool(layer)]
        pooled = {id(parameter) for pool in pools for parameter in pool.parameters()}
        return [parameter for parameter in self.streamed_trunk.parameters() if id(parameter) not in pooled]

    def configure_callbacks(self) -> list[Callback]:
        """The callback that unfreezes the trunk, if `fine_tuning` says when."""
        epoch = self.fine_tuning.unfreeze_at
        return [] if epoch is None else [Unfreeze(epoch)]

    def _is_pool(self, layer: nn.Module) -> bool:
        return isinstance(layer, GlobalPool)

    def freeze_streaming_layers(self) -> None:
        """Freeze the trunk, which then needs no carries and no backward pass."""
        self._train_trunk(False)

    def unfreeze_streaming_layers(self) -> None:
        """Unfreeze the trunk. The optimizer already holds its parameters.

        Raises:
            RuntimeError: While fitting on several processes: DistributedDataParallel only averages gradients of
                parameters that are trained from the start.
        """
        trainer = self._trainer
        if trainer is not None and trainer.training and trainer.world_size > 1:
            raise RuntimeError(
                "the trunk cannot be unfrozen while fitting on several processes. Fit in two stages: call "
                "Trainer.fit, then unfreeze_streaming_layers(), then fit with a new Trainer."
            )
        self._train_trunk(True)

    def train(self, mode: bool = True) -> StreamingClassifier:
        """Set the training mode; batch normalization stays frozen."""
        super().train(mode)
        if "_streamed" in self.__dict__ and self.frozen_batch_norm:
            freeze_batch_norm(self.streamed_trunk)
        return self

    def forward(self, image: Images) -> Tensor:
        """Logits (B, num_classes) of (B, C, H, W) images: uint8, or floats in 0..1.

        Also takes an image read by rows, or a list of images of any sizes, in which a list of images is a case with one
        result: see `StreamedModule.forward`.
        """
        images = flat_images(image)
        for one in images:
            self._check_range(one)
        trunk = self.streamed_trunk
        if not isinstance(trunk, StreamedModule) and has_cases(image):  # which only strips pool together
            trunk = stream(
                trunk, strip_rows=max(max(as_image_rows(add_batch_dimension(one)).shape[2:]) for one in images)
            )
        if isinstance(trunk, StreamedModule):
            if self._table_due and images:
                self._table_due = False
                _print_once(trunk.summary(*images[0].shape[-2:]))
            features = trunk(image)
        else:
            features = compute_whole(trunk, images)
        logits: Tensor = self._head(features.flatten(1))
        return logits if self.link is None else self.link(logits)

    def save_pretrained(self, folder: str | Path, card: ModelCard | None = None) -> Path:
        """Write config.json, model.safetensors and README.md to a folder: see `pretrained.save_pretrained`."""
        return save_pretrained(self, folder, card)

    def push_to_hub(
        self, repo_id: str, card: ModelCard | None = None, *, private: bool = True, token: str | None = None
    ) -> str:
        """Publish the network on the Hugging Face Hub: see `pretrained.push_to_hub`."""
        return push_to_hub(self, repo_id, card, private=private, token=token)

    @classmethod
    def from_timm(
        cls, model_name: str, num_classes: int = 2, pretrained: bool = True, **options: Any
    ) -> StreamingClassifier:
        """A `StreamingNetwork` of a model of timm, which normalizes images as the model's weights expect.

        timm is an extra: ``pip install 'slidestream[timm]'``.

        Args:
            model_name: A name of ``timm.list_models()``, which may have the tag of its weights, such as "convnext_tiny"
                or "convnext_tiny.fb_in22k".
            num_classes: Number of classes. The model's classifier is replaced, unless it has as many.
            pretrained: Whether to download what timm publishes for the name. A path to weights is passed as `weights`.
            options: Further arguments of `StreamingNetwork`, such as `tile_size`, `pooling` and `global_statistics`.

        Raises:
            ImportError: If timm is not installed.
            TypeError: If called on a class that is made of something else than a name.
            UnsupportedLayerError: If a layer cannot be streamed exactly, unless ``streaming=False`` is passed.
            ValueError: If the name is unknown, or weights do not fit.
            WeightsUnavailableError: If the weights cannot be downloaded or read; the message lists the alternatives.

        Example:
            >>> model = StreamingClassifier.from_timm("convnext_atto", num_classes=3, pretrained=False)
            >>> model(torch.zeros(1, 3, 300, 200, dtype=torch.uint8)).shape
            torch.Size([1, 3])
        """
        # By its name, because it is a subclass, in a module that imports this one.
        network: Any = import_module("streammodels.training.streaming_network").StreamingNetwork
        if cls is not StreamingClassifier and not issubclass(cls, network):
            raise TypeError(
                f"{cls.__name__} cannot be made from a name of timm. Call StreamingClassifier.from_timm, or derive the "
                "class from StreamingNetwork."
            )
        made_of: Any = network if cls is StreamingClassifier else cls
        weights = {"weights": "DEFAULT" if pretrained else None} | options
        made: StreamingClassifier = made_of(
            f"timm/{model_name.removeprefix('timm/')}", num_classes=num_classes, **weights
        )
        return made

    @classmethod
    def from_pretrained(
        cls, source: str | Path, revision: str | None = None, token: str | None = None, **changed: Any
    ) -> Self:
        """The network of a folder, or of a repository of the Hub, in eval mode: see `pretrained.from_pretrained`."""
        model: Self = from_pretrained(cls, source, revision, token, **changed)
        return model

    def saliency(
        self, image: Image, class_index: ClassIndex = None, *, stride: int = 1, reduce: Reduce | None = None
    ) -> Heatmap:
        """The gradient of a class score with respect to a whole image: see `streammodels.saliency`."""
        trunk = self._explainable_trunk(image)
        return saliency(trunk, image, class_index, head=self._head, stride=stride, reduce=reduce)

    def class_activation_map(
        self, image: Image, class_index: ClassIndex = None, *, probability: bool = False
    ) -> Heatmap:
        """The class activation map of a whole image: see `streammodels.class_activation_map`.

        With `probability`, the values are probabilities as the task has them, softmax or sigmoid.

        Raises:
            ValueError: If the task has no probabilities; otherwise as `streammodels.class_activation_map`.
        """
        link: Link | None = None
        if probability:
            if self.task.name not in _LINKS:
                raise ValueError(f"task '{self.task.name}' has no probability at a location. Leave probability out.")
            link = _LINKS[self.task.name]
        trunk = self._explainable_trunk(image)
        return class_activation_map(trunk, image, class_index, head=self._head, probability=link)

    def _explainable_trunk(self, image: Image) -> StreamedModule:
        """The streamed trunk; the plain one as a single strip."""
        self._check_range(image)
        trunk = self.streamed_trunk
        whole = max(as_image_rows(image).shape[2:])
        return trunk if isinstance(trunk, StreamedModule) else stream(trunk, strip_rows=whole)

    def attention_map(self, image: Any) -> Any:
        """The weights (B, heads, H', W') of attention pooling: see `streammodels.attention_map`."""
        return attention_map(self.streamed_trunk, image)

    def _check_range(self, image: Image) -> None:
        """At the first float image: values far outside 0..1 are normalized already, and would be normalized twice."""
        if self._range_checked or not isinstance(image, Tensor) or not image.is_floating_point():
            return
        if image.is_meta or not image.numel():
            return
        self._range_checked = True
        low, high = (float(value) for value in torch.aminmax(image.detach()))
        if low < -0.5 or high > 1.5:
            raise ValueError(
                f"float images have to be in 0..1, found {low:.3g}..{high:.3g}. If they are 0..255, divide by 255 or "
                "pass uint8; if they are normalized already, leave that to the model, which does it strip by strip."
            )


@rank_zero_only
def _print_once(text: str) -> None:
    print(text, flush=True)
