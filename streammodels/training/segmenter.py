"""`StreamingSegmenter`, a LightningModule for a class of every pixel of images too large for memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import Tensor, nn

from streammodels.calls import calls_of, concatenate
from streammodels.core.image_rows import Image, Labels
from streammodels.losses.likelihood import PixelCrossEntropy
from streammodels.losses.overlap import ConfusionCounts, predicted_classes
from streammodels.losses.pixel_loss import IGNORE
from streammodels.models.normalize import Normalize
from streammodels.models.resnet import freeze_batch_norm
from streammodels.models.unet import UNet
from streammodels.streaming import StreamedModule, stream
from streammodels.training.class_map import write_class_map
from streammodels.training.segmentation_scores import SegmentationScores
from streammodels.training.steps import OptimizerFactory, SchedulerFactory, SupervisedModule, default_optimizer

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect
_STAGES = ("train", "val", "test")


class StreamingSegmenter(SupervisedModule):
    """A network with a class for every pixel, trained end to end on images whose maps do not fit in memory.

    The loss and the confusion counts are summed strip by strip, so no map as large as the image exists. Batches are
    (image, target): tensors (B, C, H, W) and (B, H, W), or lists of images of any sizes and of their targets, tensors
    or read by rows. Targets are class numbers; `ignore_index` does not count.

    Logged are ``<stage>_loss``, and of the confusion counts of an epoch ``<stage>_iou``, ``<stage>_dice``,
    ``<stage>_pixel_accuracy``, and IoU and Dice of each class.

    Args:
        network: Name of the ResNet encoder of a `UNet`, or a module that maps (B, C, H, W) to scores (B, K, H, W).
        num_classes: Number K of classes.
        tile_size: Upper bound for strips, and so for memory, as the side of a square tile in pixels: see `stream`.
        loss_fn: Maps scores and targets to a loss for each image, made of `PixelLoss`es; None for cross entropy.
        class_names: Names of the classes, for the log; None for their numbers.
        weights: Of the encoder, if `network` is a name: see `StreamingResNet`.
        in_channels: Channels of the images, if `network` is a name.
        mean: Per channel, on the scale 0..1; None for ImageNet's with three channels, else for no normalization.
        std: Likewise.
        optimizer: Called with the parameters; returns the optimizer. None for AdamW with a learning rate of 1e-4.
        lr_scheduler: Called with the optimizer; returns a scheduler or a Lightning scheduler config, or None. A
            scheduler steps once an epoch; `OneCycleLR` and `CyclicLR`, once a batch.
        streaming: False computes the plain network.
        frozen_batch_norm: Keep batch normalization in eval mode during training, as streaming requires.
        memory: Memory budget of a training step, such as "8GB", instead of `tile_size`: see `stream`.
            With neither, what is free on a CUDA device.
        ignore_index: Class number of pixels that do not count in the scores and in the default loss.
        strip_rows: Rows of a strip, exactly, instead of `tile_size` and `memory`: see `stream`.

    Raises:
        UnsupportedLayerError: If a layer cannot be streamed exactly.
        ValueError: If names and classes differ in number, or streaming is combined with batch statistics.
    """

    def __init__(
        self,
        network: str | nn.Module = "resnet18",
        num_classes: int = 2,
        tile_size: int | None = None,
        loss_fn: nn.Module | None = None,
        class_names: Sequence[str] | None = None,
        weights: str | Path | None = "DEFAULT",
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        streaming: bool = True,
        frozen_batch_norm: bool = True,
        memory: str | int | None = None,
        ignore_index: int = IGNORE,
        strip_rows: int | None = None,
    ) -> None:
        super().__init__()
        if streaming and not frozen_batch_norm:
            raise ValueError(
                "streaming=True needs frozen_batch_norm=True: a strip does not have the statistics of the whole image. "
                "Train with streaming=False if the images fit in memory, or keep batch normalization frozen."
            )
        names = [str(index) for index in range(num_classes)] if class_names is None else list(class_names)
        if len(names) != num_classes or not 2 <= num_classes <= 256:
            raise ValueError(
                f"{num_classes} classes with {len(names)} names: give 2 to 256 classes, and a name for each."
            )
        built = UNet(network, num_classes, weights, in_channels) if isinstance(network, str) else network
        if mean is None and std is None and in_channels == len(_MEAN):
            mean, std = _MEAN, _STD
        layers = OrderedDict[str, nn.Module]()
        if mean is not None and std is not None:
            layers["normalize"] = Normalize(list(mean), list(std))
        self.network = nn.Sequential(OrderedDict(**layers, segment=built))
        self.num_classes = num_classes
        self.loss_fn = PixelCrossEntropy(ignore_index=ignore_index) if loss_fn is None else loss_fn
        self.optimizer_factory: OptimizerFactory = optimizer or default_optimizer
        self.scheduler_factory = lr_scheduler
        self.frozen_batch_norm = frozen_batch_norm
        self.train_scores, self.val_scores, self.test_scores = (SegmentationScores(names) for _ in _STAGES)
        computed: nn.Module = _Segmentation(self.network, self.loss_fn, ignore_index)
        if streaming:
            tile_size = None if memory or strip_rows else tile_size
            computed = stream(computed, tile_size, strip_rows=strip_rows, memory=memory)
        # Not registered, since it shares the registered layers: state dicts hold every weight once, under its own name.
        self.__dict__["_streamed"] = computed
        own = [] if isinstance(network, str) else ["network"]
        self.save_hyperparameters(ignore=["loss_fn", "optimizer", "lr_scheduler", *own])
        self.hparams["weights"] = None  # a checkpoint holds its own weights, so loading one downloads nothing
        self.train()

    @property
    def streamed(self) -> nn.Module:
        """The network with its loss: a `StreamedModule`, or the plain module with ``streaming=False``."""
        streamed: nn.Module = self.__dict__["_streamed"]
        return streamed

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; batch normalization stays frozen."""
        super().train(mode)
        if "_streamed" in self.__dict__:
            self.streamed.train(mode)
            if self.frozen_batch_norm:
                freeze_batch_norm(self.network)
        return self

    def forward(self, image: Image) -> Tensor:
        """Class numbers (B, 1, H, W) uint8 of (B, C, H, W) images, or of one read by rows, whole in memory."""
        classes: Tensor = self._computed(image)
        return classes

    def _computed(self, *inputs: Any) -> Any:
        """The result of the network and its loss, of lists and labels with the plain network, too."""
        if isinstance(self.streamed, StreamedModule):
            return self.streamed(*inputs)
        return concatenate([call.whole(self.streamed) for call in calls_of(inputs[0], inputs[1:], {})])

    def write_prediction(
        self, image: Image, path: str | Path, mpp: tuple[float, float] | None = None, folder: str | Path | None = None
    ) -> Path:
        """Write the class numbers of one image as a pyramidal, tiled TIFF, without holding them in memory.

        Args:
            image: A (1, C, H, W) tensor, or an image read by rows.
            path: The TIFF to write.
            mpp: Resolution (x, y) of the image in um/px, for the file.
            folder: Where the map of H x W bytes lies meanwhile; None for the folder of temporary files.

        Returns:
            The path.
        """
        training = self.training
        with ExitStack() as stack:
            self.eval()
            stack.callback(self.train, training)
            if isinstance(self.streamed, StreamedModule):
                place = folder or stack.enter_context(TemporaryDirectory())
                classes = self.streamed.map_on_disk(image, place)
            else:
                with torch.no_grad():
                    classes = self(image)
            if classes.shape[0] != 1:
                raise ValueError(f"a file holds the classes of one image, got a batch of {len(classes)}. Write each.")
            return write_class_map(classes[0, 0].cpu().numpy(), path, mpp)

    def _shared_step(self, batch: Any, stage: str) -> Tensor:
        images, targets = batch[0], batch[1]
        listed = isinstance(targets, list | tuple)
        labels = [_labels(one) for one in targets] if listed else _labels(targets)
        losses, counts = self._computed(images, labels)
        loss: Tensor = losses.mean()
        scores: SegmentationScores = getattr(self, f"{stage}_scores")
        scores.update(counts)
        self.log(
            f"{stage}_loss", loss, prog_bar=True, on_epoch=True, on_step=False, batch_size=len(losses), sync_dist=True
        )
        return loss

    def _log_scores(self, stage: str) -> None:
        """Log the scores of an epoch."""
        scores: SegmentationScores = getattr(self, f"{stage}_scores")
        found = {f"{stage}_{name}": value for name, value in scores.compute().items()}
        self.log_dict({name: value for name, value in found.items() if not value.isnan()}, prog_bar=False)
        scores.reset()

    def on_train_epoch_end(self) -> None:
        """Log the scores of the training images."""
        self._log_scores("train")

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation images."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test images."""
        self._log_scores("test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Class numbers of a batch of images with or without targets; a list of maps for a list of images."""
        images = batch[0] if isinstance(batch, list | tuple) and len(batch) == 2 else batch
        return [self(one) for one in images] if isinstance(images, list | tuple) else self(images)


class _Segmentation(nn.Module):
    """A network with its loss and confusion counts, or with class numbers if there is no target."""

    def __init__(self, network: nn.Module, loss: nn.Module, ignore_index: int) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.counts = ConfusionCounts(ignore_index)
        self.classes = _ClassNumbers()

    def forward(self, image: Tensor, target: Tensor | None = None) -> Any:
        scores = self.network(image)
        if target is None:
            return self.classes(scores)
        return self.loss(scores, target), self.counts(scores, target)


class _ClassNumbers(nn.Module):
    """The class (B, 1, H, W) uint8 of the largest score of every pixel."""

    streams_pointwise = True

    def tensors(self) -> list[Tensor | None]:
        """No tensors."""
        return []

    def compute(self, scores: Tensor) -> Tensor:
        """The classes of some rows."""
        return predicted_classes(scores).to(torch.uint8)

    def forward(self, scores: Tensor) -> Tensor:
        """The classes of a map."""
        return self.compute(scores)


def _labels(target: Any) -> Any:
    """A target as a map of labels."""
    return target if isinstance(target, Labels) else Labels(target)
