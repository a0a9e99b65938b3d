"""Options of fine-tuning, such as when a frozen trunk is trained and how batches are mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchvision.transforms import v2


@dataclass(frozen=True)
class FineTuning:
    """How a pretrained network is adapted to few images; the defaults change nothing.

    Attributes:
        unfreeze_at: Epoch, counted from 0, at which the trunk is unfrozen; until then only the head is trained,
            whatever `train_streaming_layers`. Works in one ``Trainer.fit``, also resumed, on a single process.
        trunk_lr_factor: Learning rate of the trunk relative to the head's: 0.1 trains it ten times slower. Optimizer
            state then has two groups, head and trunk.
        mixup: Alpha of MixUp (https://arxiv.org/abs/1710.09412), such as 0.2; 0 for none.
        cutmix: Alpha of CutMix (https://arxiv.org/abs/1905.04899), such as 1.0; 0 for none. With `mixup`, each batch
            draws one of them. Both need image tensors in batches of at least two, task "multiclass", and
            `torch.nn.CrossEntropyLoss`; training metrics then count the class of the larger share. Class weights of
            the loss scale its terms, of which it then takes the plain mean.
        rand_augment: Operations of RandAugment (https://arxiv.org/abs/1909.13719) on each training image, such as 2;
            0 for none. They move and recolor the image, by amounts of magnitude 9 of 30.

    Raises:
        ValueError: If a value is out of range.
    """

    unfreeze_at: int | None = None
    trunk_lr_factor: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    rand_augment: int = 0

    def __post_init__(self) -> None:
        for name in ("unfreeze_at", "mixup", "cutmix", "rand_augment"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"fine_tuning.{name} has to be at least 0, got {value}")
        if not self.trunk_lr_factor > 0:
            raise ValueError(
                f"fine_tuning.trunk_lr_factor has to be positive, got {self.trunk_lr_factor}. To keep the trunk as it "
                "is, pass train_streaming_layers=False."
            )

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def check_loss(self, task: str, loss: object) -> None:
        """Raise `ValueError` if images are mixed and a loss does not take the mixed labels, the shares of classes."""
        if self.mixes and (task != "multiclass" or not isinstance(loss, nn.CrossEntropyLoss)):
            found = f"task='{task}'" if task != "multiclass" else type(loss).__name__
            raise ValueError(
                f"MixUp and CutMix make labels that are shares of classes, which {found} does not take. Use "
                "task='multiclass' with torch.nn.CrossEntropyLoss, or mixup=0 and cutmix=0."
            )

    @property
    def changes_batches(self) -> bool:
        """Whether training batches are mixed or augmented."""
        return self.mixes or self.rand_augment > 0

    def check_images(self, images: Any) -> None:
        """Raise `TypeError` if images that are to be mixed or augmented are no single tensor."""
        if self.changes_batches and (not isinstance(images, Tensor) or images.ndim != 4):
            raise TypeError(
                f"MixUp, CutMix and RandAugment take a tensor (B, C, H, W) of images, got {_kind(images)}: images of "
                "several sizes cannot be mixed, and images read by rows are never whole in memory. Use a fixed "
                "image_size= and lazy=False, or fine_tuning without them."
            )

    def batch(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """A training batch, augmented and mixed.

        Args:
            images: (B, C, H, W), uint8 or floats in 0..1.
            labels: (B,) class numbers, if images are mixed.
            classes: Number of classes.

        Returns:
            Images, and labels: (B, classes) shares if they are mixed, else as they came.
        """
        if self.rand_augment:
            images = torch.stack([self._augment(image) for image in images])
        if not self.mixes:
            return images, labels
        if len(images) < 2:
            rank_zero_warn("MixUp and CutMix mix the images of a batch: one of a single image stays as it is.")
        mixers = [
            kind(alpha=alpha, num_classes=classes)
            for kind, alpha in ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if alpha > 0
        ]
        mixer = mixers[int(torch.randint(len(mixers), ()))]
        floats = images if images.is_floating_point() else images.float() / 255
        mixed: tuple[Tensor, Tensor] = mixer(floats, labels)
        return mixed

    def _augment(self, image: Tensor) -> Tensor:
        if image.shape[0] not in (1, 3):
            raise ValueError(
                f"RandAugment changes colors, for which images need 1 or 3 channels, not {image.shape[0]}. Use "
                "rand_augment=0."
            )
        augmented: Tensor = v2.RandAugment(self.rand_augment)(image)
        return augmented


NONE = FineTuning()


def _kind(images: Any) -> str:
    if isinstance(images, Tensor):
        return f"one of shape {tuple(images.shape)}"
    return f"a {type(images).__name__}"


class Unfreeze(Callback):
    """A callback that freezes the trunk of a `StreamingClassifier` until an epoch, and trains it from there on.

    Args:
        epoch: The epoch, counted from 0.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._trained: bool | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse several processes, which average only gradients of what is trained from the start.

        Raises:
            ValueError: If there are several.
        """
        self._trained = None
        if stage == "fit" and trainer.world_size > 1:
            raise ValueError(
                f"fine_tuning.unfreeze_at={self.epoch} works on a single process, and this run has "
                f"{trainer.world_size}: they share gradients only of what is trained from the start. Train in two "
                f"runs: with train_streaming_layers=False and max_epochs={self.epoch}, then with "
                "train_streaming_layers=True from the checkpoint of the first (ckpt_path=), both without unfreeze_at."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze or unfreeze, also where training resumes within an epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Freeze or unfreeze, where that changes: layers that the user froze meanwhile stay frozen."""
        trained = trainer.current_epoch >= self.epoch
        if trained != self._trained:
            self._trained = trained
            (pl_module.unfreeze_streaming_layers if trained else pl_module.freeze_streaming_layers)()


def check_rates(optimizer: torch.optim.Optimizer, factor: float, scheduler: Any) -> None:
    """Raise `ValueError` if a scheduler gave head and trunk, the two groups of an optimizer, another ratio of rates."""
    head, trunk = (float(group["lr"]) for group in optimizer.param_groups)
    if abs(trunk - factor * head) > 1e-6 * factor * head:
        raise ValueError(
            f"fine_tuning.trunk_lr_factor={factor} makes the trunk's learning rate {factor} of the head's, but "
            f"{type(scheduler).__name__} sets them to {trunk:.3g} and {head:.3g}. Give it a rate for each group, head "
            f"and trunk, such as max_lr=[1e-3, {1e-3 * factor:.3g}]."
        )
