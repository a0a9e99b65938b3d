"""Training, validation, test and prediction steps of image classification and regression.

They only require that calling the module on images returns logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from streammodels.calls import add_batch_dimension
from streammodels.core.image_rows import is_image
from streammodels.training.fine_tuning import NONE, FineTuning, check_rates
from streammodels.training.tasks import Loss, make_task

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = (
    Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
    | Callable[[torch.optim.Optimizer], dict[str, Any]]
)


_CYCLES = torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR
"""Schedulers that count batches."""

default_optimizer: OptimizerFactory = partial(torch.optim.AdamW, lr=1e-4)


class SupervisedModule(LightningModule):
    """A LightningModule for (image, label) batches with the loss and metrics of a task.

    Attributes:
        trained_on: What the data module of its training run saved in the checkpoint this was loaded from, plain values,
            for data modules to compare with; None if that is not known.
    """

    trained_on: dict[str, Any] | None = None
    fine_tuning: FineTuning = NONE
    link: nn.Module | None

    def _configure_steps(
        self,
        num_classes: int,
        task: str | None,
        loss_fn: Loss | None,
        metrics: Metric | MetricCollection | None,
        optimizer: OptimizerFactory | None,
        lr_scheduler: SchedulerFactory | None,
        fine_tuning: FineTuning = NONE,
    ) -> None:
        """Set task, loss and metrics (None: the task's defaults) and optimizer (None: AdamW)."""
        self.num_classes = num_classes
        self.task = make_task(task, num_classes, loss_fn)
        self.link = self.task.link()
        self.loss_fn = self.task.default_loss() if loss_fn is None else loss_fn
        self.optimizer_factory: OptimizerFactory = optimizer or default_optimizer
        self.scheduler_factory = lr_scheduler
        fine_tuning.check_loss(self.task.name, self.loss_fn)
        self.fine_tuning = fine_tuning
        if isinstance(metrics, Metric):
            metrics = MetricCollection({type(metrics).__name__.lower(): metrics})
        collection = self.task.default_metrics() if metrics is None else metrics
        self.train_metrics, self.val_metrics, self.test_metrics = (
            collection.clone(prefix=f"{stage}_") for stage in ("train", "val", "test")
        )

    def _shared_step(self, batch: Any, stage: str) -> Tensor:
        images, label, mixed = batch[0], batch[1], None
        if stage == "train" and self.fine_tuning.changes_batches:
            self.fine_tuning.check_images(images)
            target = self.task.target(label, images)
            images, target = self.fine_tuning.batch(images, target, self.num_classes)
            mixed = target if self.fine_tuning.mixes else None
        logits = self(images)
        if mixed is None:
            target = self.task.target(label, logits)
            loss = self.loss_fn(logits, target)
        else:
            target = mixed.argmax(dim=1)
            loss = self.loss_fn(logits, mixed.to(logits.dtype))
        metrics: MetricCollection = getattr(self, f"{stage}_metrics")
        # Predictions, not logits: torchmetrics would take logits that happen to lie in 0..1 for probabilities.
        metrics.update(self.task.predictions(logits.detach()), self.task.truth(target))
        size = len(logits)
        self.log(f"{stage}_loss", loss, prog_bar=True, on_epoch=True, on_step=False, batch_size=size, sync_dist=True)
        self.log_dict(metrics, prog_bar=stage != "train", on_epoch=True, on_step=False, batch_size=size)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of an (image, label) batch."""
        return self._shared_step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss and metrics of an (image, label) batch."""
        return self._shared_step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss and metrics of an (image, label) batch."""
        return self._shared_step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Probabilities, or values in a regression, (B, num_classes) of a batch of images with or without labels."""
        image = batch[0] if _is_pair(batch) else batch
        return self.task.predictions(self(image))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which class to build from the hyperparameters, as a plain value."""
        checkpoint["model_class"] = f"{type(self).__module__}.{type(self).__qualname__}"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the data module, whatever its class: it names the classes, and has a digest."""
        states = [state for state in checkpoint.values() if isinstance(state, dict)]
        self.trained_on = next((state for state in states if state.keys() >= {"class_names", "digest"}), None)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights of the network, without class weights of the loss."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "") + "loss_fn."
        for key in [key for key in state if key.startswith(prefix)]:
            del state[key]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as `state_dict` or torchvision's network returns them."""
        own = super().state_dict()
        loss = {key: value for key, value in own.items() if key.startswith("loss_fn.")}
        return super().load_state_dict({**loss, **state_dict}, strict=strict, assign=assign)

    def _trunk_parameters(self) -> list[nn.Parameter]:
        """The parameters whose learning rate `FineTuning.trunk_lr_factor` scales."""
        return []

    def configure_optimizers(self) -> Any:
        """The optimizer of all parameters (it skips frozen ones, which have no gradient) and the scheduler."""
        factor = self.fine_tuning.trunk_lr_factor
        parameters: Any = self.parameters()
        if factor != 1:
            trunk = self._trunk_parameters()
            known = {id(parameter) for parameter in trunk}
            parameters = [{"params": [own for own in parameters if id(own) not in known]}, {"params": trunk}]
        optimizer = self.optimizer_factory(parameters)
        if factor != 1:
            optimizer.param_groups[1]["lr"] *= factor
        if self.scheduler_factory is None:
            return optimizer
        scheduler = self.scheduler_factory(optimizer)
        config = scheduler if isinstance(scheduler, dict) else {"scheduler": scheduler}
        if isinstance(config["scheduler"], _CYCLES):
            config = {"interval": "step", **config}  # Lightning's default is "epoch"
        if factor != 1:
            check_rates(optimizer, factor, config["scheduler"])
        return {"optimizer": optimizer, "lr_scheduler": config}


def _is_pair(batch: Any) -> bool:
    """Whether a batch is (images, labels) rather than a list of images, or of cases."""
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        return False
    first, second = batch
    if isinstance(second, list | tuple) and any(is_image(add_batch_dimension(one)) for one in second):
        return False
    return isinstance(first, list | tuple) or (isinstance(first, Tensor) and first.ndim == 4)
