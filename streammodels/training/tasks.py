"""What a label says about an image - one class, several yes-or-no answers, or numbers - and all that follows from it.

Loss, metrics, predictions and the form of the labels belong together: a metric of class probabilities says nothing
about a regression, and a loss that broadcasts (B, 1) against (B,) trains towards the mean without a word. So labels are
checked here before a loss sees them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    MulticlassAccuracy,
    MultilabelAccuracy,
)

from streammodels.training.metrics import BinaryROCArea, MulticlassROCArea, MultilabelROCArea

Loss = Callable[[Tensor, Tensor], Tensor]


class Task(ABC):
    """What a network with `outputs` outputs is trained for.

    Attributes:
        name: As `make_task` knows it.
        own_losses: Losses of torch that are meant for this task and no other.
    """

    name: ClassVar[str]
    own_losses: ClassVar[tuple[type[nn.Module], ...]]

    def __init__(self, outputs: int) -> None:
        if outputs < 1:
            raise ValueError(f"num_classes has to be at least 1, got {outputs}")
        self.outputs = outputs

    @abstractmethod
    def default_loss(self) -> nn.Module:
        """The usual loss."""

    @abstractmethod
    def default_metrics(self) -> MetricCollection:
        """Metrics of `predictions` and of `truth`."""

    @abstractmethod
    def target(self, label: Tensor, outputs: Tensor) -> Tensor:
        """The labels in the form the task's losses take.

        Args:
            label: As the data give it.
            outputs: (B, outputs), what the network computed.

        Raises:
            ValueError: If its shape, type or values are not those of the task.
        """

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """(B, outputs) float: what the outputs of the network say, as probabilities or numbers."""

    def truth(self, target: Tensor) -> Tensor:
        """The target in the form that metrics take."""
        return target

    def _check_shape(self, label: Tensor, wanted: list[tuple[int, ...]], hint: str) -> None:
        if not isinstance(label, Tensor):
            raise TypeError(f"labels have to be a tensor, got {type(label).__name__}. Collate them with torch.tensor.")
        if tuple(label.shape) not in wanted:
            shapes = " or ".join(str(shape) for shape in wanted)
            raise ValueError(f"task '{self.name}' takes labels of shape {shapes}, got {tuple(label.shape)}. {hint}")


class Multiclass(Task):
    """Each image is of one class: labels (B,) are its number, 0 .. outputs - 1."""

    name = "multiclass"
    own_losses = (nn.CrossEntropyLoss, nn.MultiMarginLoss)

    def __init__(self, outputs: int) -> None:
        if outputs == 1:
            raise ValueError(
                "num_classes=1 leaves task='multiclass' nothing to choose from. Use num_classes=2, or "
                "task='multilabel' for one yes-or-no answer."
            )
        super().__init__(outputs)

    def default_loss(self) -> nn.Module:
        """Cross entropy."""
        return nn.CrossEntropyLoss()

    def default_metrics(self) -> MetricCollection:
        """Accuracy (share of images classified right) and the area under the ROC curve (see `roc_area`)."""
        accuracy = MulticlassAccuracy(num_classes=self.outputs, average="micro")
        return MetricCollection({"accuracy": accuracy, "auroc": MulticlassROCArea(num_classes=self.outputs)})

    def target(self, label: Tensor, outputs: Tensor) -> Tensor:
        """(B,) int64."""
        hint = "One number an image; for (B, 1) use label.squeeze(1), for several labels an image task='multilabel'."
        self._check_shape(label, [(len(outputs),)], hint)
        if label.is_floating_point() or label.is_complex():
            raise ValueError(
                f"task 'multiclass' takes whole class numbers, got {label.dtype}. Use label.long(), or "
                "task='regression' if they are measurements."
            )
        low, high = (int(value) for value in torch.aminmax(label))
        if low < 0 or high >= self.outputs:
            raise ValueError(
                f"task 'multiclass' with num_classes={self.outputs} takes labels 0..{self.outputs - 1}, found "
                f"{low}..{high}. Count classes from 0, or raise num_classes."
            )
        return label.to(outputs.device, torch.int64)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities of the classes, which add up to 1."""
        return torch.softmax(outputs.float(), dim=1)


class Multilabel(Task):
    """Every output is a yes-or-no question of its own: labels (B, outputs) are 0 or 1; for one output also (B,)."""

    name = "multilabel"
    own_losses = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)

    def default_loss(self) -> nn.Module:
        """Binary cross entropy, mean over the questions."""
        return nn.BCEWithLogitsLoss()

    def default_metrics(self) -> MetricCollection:
        """Accuracy (share of questions answered right) and the area under the ROC curve (see `roc_area`)."""
        if self.outputs == 1:
            return MetricCollection({"accuracy": BinaryAccuracy(), "auroc": BinaryROCArea()})
        accuracy = MultilabelAccuracy(num_labels=self.outputs, average="micro")
        return MetricCollection({"accuracy": accuracy, "auroc": MultilabelROCArea(num_labels=self.outputs)})

    def target(self, label: Tensor, outputs: Tensor) -> Tensor:
        """(B, outputs) of 0 and 1, floats."""
        shapes: list[tuple[int, ...]] = [(len(outputs), self.outputs)]
        hint = "One 0 or 1 for every class; for class numbers use torch.nn.functional.one_hot, or task='multiclass'."
        self._check_shape(label, shapes + [(len(outputs),)] * (self.outputs == 1), hint)
        if not bool(((label == 0) | (label == 1)).all()):
            raise ValueError("task 'multilabel' takes labels of 0 and 1, and found others. Threshold them first.")
        return label.reshape(shapes[0]).to(outputs.device, _loss_dtype(outputs))

    def predictions(self, outputs: Tensor) -> Tensor:
        """A probability for every question."""
        return torch.sigmoid(outputs.float())

    def truth(self, target: Tensor) -> Tensor:
        """As whole numbers."""
        return target.to(torch.int64)


class Regression(Task):
    """Every output is a number to predict: labels (B, outputs) are finite; for one output also (B,)."""

    name = "regression"
    own_losses = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)

    def default_loss(self) -> nn.Module:
        """Mean squared error."""
        return nn.MSELoss()

    def default_metrics(self) -> MetricCollection:
        """Mean absolute error and root of the mean squared error, over all outputs."""
        return MetricCollection({"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False)})

    def target(self, label: Tensor, outputs: Tensor) -> Tensor:
        """(B, outputs), floats."""
        shapes: list[tuple[int, ...]] = [(len(outputs), self.outputs)]
        hint = "num_classes is the number of values of an image: for a single one num_classes=1."
        self._check_shape(label, shapes + [(len(outputs),)] * (self.outputs == 1), hint)
        if label.dtype == torch.bool or label.is_complex() or not bool(label.isfinite().all()):
            raise ValueError("task 'regression' takes finite numbers, and found others. Leave out images without them.")
        return label.reshape(shapes[0]).to(outputs.device, _loss_dtype(outputs))

    def predictions(self, outputs: Tensor) -> Tensor:
        """The numbers themselves."""
        return outputs.float()


TASKS: dict[str, type[Task]] = {task.name: task for task in (Multiclass, Multilabel, Regression)}


def make_task(name: str | None, outputs: int, loss_fn: Loss | None) -> Task:
    """The task of a name, or the one that a loss of torch is meant for.

    Args:
        name: One of `TASKS`; None for the task of `loss_fn`, and "multiclass" if that says nothing.
        outputs: Outputs of the network.
        loss_fn: The loss, if one is given.

    Raises:
        ValueError: If the name is not known, or the loss is meant for another task.
    """
    meant = next((task.name for task in TASKS.values() if isinstance(loss_fn, task.own_losses)), None)
    chosen = name or meant or Multiclass.name
    if chosen not in TASKS:
        raise ValueError(f"task '{chosen}' is not known. Choose one of {', '.join(TASKS)}.")
    if meant not in (None, chosen):
        name = type(loss_fn).__name__
        raise ValueError(f"{name} is a loss for task='{meant}', but task='{chosen}' is given. Leave one of them out.")
    return TASKS[chosen](outputs)


def _loss_dtype(outputs: Tensor) -> torch.dtype:
    """The type of a target that is a number: that of the outputs, but at least float32, whatever autocast made them."""
    return torch.promote_types(outputs.dtype, torch.float32)
