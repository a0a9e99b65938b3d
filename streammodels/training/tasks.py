"""Tasks of classes, grades, labels, numbers and survival, with losses, metrics and label checks.

Labels are checked before the loss is computed: a loss that broadcasts (B, 1) against (B,) would silently train toward
the mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MultilabelAccuracy

from streammodels.losses.hazards import DiscreteHazardLoss, survival_curve
from streammodels.models.cumulative_link import CumulativeLink
from streammodels.training.metrics import (
    BinaryROCArea,
    ConcordanceIndex,
    MulticlassROCArea,
    MultilabelROCArea,
    OrdinalAccuracy,
    OrdinalDistance,
    OrdinalKappa,
)

Loss = Callable[[Tensor, Tensor], Tensor]


class Task(ABC):
    """The training objective of a network with `outputs` outputs.

    Attributes:
        name: The name for `make_task`.
        own_losses: torch losses that are specific to this task.
    """

    name: ClassVar[str]
    own_losses: ClassVar[tuple[type[nn.Module], ...]]

    def __init__(self, outputs: int) -> None:
        if outputs < 1:
            raise ValueError(f"num_classes has to be at least 1, got {outputs}")
        self.outputs = outputs

    @classmethod
    def head_outputs(cls, outputs: int) -> int:
        """How many numbers the last layer returns for `outputs` outputs."""
        return outputs

    def link(self) -> nn.Module | None:
        """The layer from the last layer's numbers to the outputs; None where they are the same."""
        return None

    @abstractmethod
    def default_loss(self) -> nn.Module:
        """The default loss."""

    @abstractmethod
    def default_metrics(self) -> MetricCollection:
        """The default metrics of `predictions` and `truth`."""

    @abstractmethod
    def target(self, label: Tensor, outputs: Tensor) -> Tensor:
        """The labels in the form the task's losses take.

        Args:
            label: The labels from the data loader.
            outputs: (B, outputs), the network's outputs.

        Raises:
            ValueError: If shape, type or values of the labels do not fit the task.
        """

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """(B, outputs) float32: probabilities, or predicted values."""

    def truth(self, target: Tensor) -> Tensor:
        """The target in the form the metrics take."""
        return target

    def _check_shape(self, label: Tensor, shapes: list[tuple[int, ...]], hint: str) -> None:
        if not isinstance(label, Tensor):
            raise TypeError(f"labels have to be a tensor, got {type(label).__name__}. Collate them with torch.tensor.")
        if tuple(label.shape) not in shapes:
            expected = " or ".join(str(shape) for shape in shapes)
            raise ValueError(f"task '{self.name}' takes labels of shape {expected}, got {tuple(label.shape)}. {hint}")


class _PerOutput(Task):
    """A task whose labels hold a number for each output: (B, outputs), for a single output also (B,)."""

    hint: ClassVar[str]

    def target(self, label: Tensor, outputs: Tensor) -> Tensor:
        """(B, outputs), of the outputs' type but at least float32, whatever autocast made of them."""
        shape = (len(outputs), self.outputs)
        self._check_shape(label, [shape, shape[:1]] if self.outputs == 1 else [shape], self.hint)
        self._check_values(label)
        return label.reshape(shape).to(outputs.device, torch.promote_types(outputs.dtype, torch.float32))

    @abstractmethod
    def _check_values(self, label: Tensor) -> None: ...


class Multiclass(Task):
    """One class per image: labels (B,) are class numbers 0 .. outputs - 1."""

    name = "multiclass"
    own_losses: ClassVar[tuple[type[nn.Module], ...]] = (nn.CrossEntropyLoss, nn.MultiMarginLoss)

    def __init__(self, outputs: int) -> None:
        if outputs == 1:
            raise ValueError(
                f"task='{self.name}' needs at least two classes, got num_classes=1. Use num_classes=2, or "
                "task='multilabel' for a single binary label."
            )
        super().__init__(outputs)

    def default_loss(self) -> nn.Module:
        """Cross entropy."""
        return nn.CrossEntropyLoss()

    def default_metrics(self) -> MetricCollection:
        """Accuracy (fraction of images) and the area under the ROC curve (see `metrics`)."""
        accuracy = MulticlassAccuracy(num_classes=self.outputs, average="micro")
        return MetricCollection({"accuracy": accuracy, "auroc": MulticlassROCArea(num_classes=self.outputs)})

    def target(self, label: Tensor, outputs: Tensor) -> Tensor:
        """(B,) int64."""
        hint = "One number per image: for (B, 1) use label.squeeze(1), for several per image task='multilabel'."
        self._check_shape(label, [(len(outputs),)], hint)
        if label.is_floating_point() or label.is_complex():
            raise ValueError(
                f"task '{self.name}' takes whole class numbers, got {label.dtype}. Use label.long(), or "
                "task='regression' if they are measurements."
            )
        low, high = (int(value) for value in torch.aminmax(label))
        if low < 0 or high >= self.outputs:
            raise ValueError(
                f"task '{self.name}' with num_classes={self.outputs} takes labels 0..{self.outputs - 1}, found "
                f"{low}..{high}. Count classes from 0, or raise num_classes."
            )
        return label.to(outputs.device, torch.int64)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Class probabilities, which sum to 1."""
        return torch.softmax(outputs.float(), dim=1)


class Ordinal(Multiclass):
    """One of several ordered classes per image: labels (B,) are class numbers 0 .. outputs - 1, from least to most.

    The network returns one score per image, and `CumulativeLink` makes the outputs of it: log-probabilities.
    """

    name = "ordinal"
    own_losses = (nn.CrossEntropyLoss,)  # of log-probabilities it is their negative log-likelihood

    @classmethod
    def head_outputs(cls, outputs: int) -> int:
        """The score."""
        return 1

    def link(self) -> nn.Module:
        """The thresholds."""
        return CumulativeLink(self.outputs)

    def default_metrics(self) -> MetricCollection:
        """Accuracy, mean distance in classes, and kappa with quadratic weights, of the median class."""
        metrics = {"accuracy": OrdinalAccuracy(self.outputs), "mae": OrdinalDistance()}
        return MetricCollection({**metrics, "kappa": OrdinalKappa(self.outputs)})


class Multilabel(_PerOutput):
    """Independent binary labels: (B, outputs) of 0 and 1, for a single output also (B,)."""

    name = "multilabel"
    own_losses = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)
    hint = "One 0 or 1 per class; for class numbers use torch.nn.functional.one_hot, or task='multiclass'."

    def default_loss(self) -> nn.Module:
        """Binary cross entropy, averaged over the labels."""
        return nn.BCEWithLogitsLoss()

    def default_metrics(self) -> MetricCollection:
        """Accuracy (fraction of labels) and the area under the ROC curve (see `metrics`)."""
        if self.outputs == 1:
            return MetricCollection({"accuracy": BinaryAccuracy(), "auroc": BinaryROCArea()})
        accuracy = MultilabelAccuracy(num_labels=self.outputs, average="micro")
        return MetricCollection({"accuracy": accuracy, "auroc": MultilabelROCArea(num_labels=self.outputs)})

    def _check_values(self, label: Tensor) -> None:
        if not bool(((label == 0) | (label == 1)).all()):
            raise ValueError("task 'multilabel' takes labels of 0 and 1, and found others. Threshold them first.")

    def predictions(self, outputs: Tensor) -> Tensor:
        """A probability for every label."""
        return torch.sigmoid(outputs.float())

    def truth(self, target: Tensor) -> Tensor:
        """As int64."""
        return target.to(torch.int64)


class Regression(_PerOutput):
    """Finite numbers as labels: (B, outputs), for a single output also (B,)."""

    name = "regression"
    own_losses = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
    hint = "num_classes is the number of values per image: num_classes=1 for a single one."

    def default_loss(self) -> nn.Module:
        """Mean squared error."""
        return nn.MSELoss()

    def default_metrics(self) -> MetricCollection:
        """Mean absolute error and root mean squared error over all outputs."""
        return MetricCollection({"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False)})

    def _check_values(self, label: Tensor) -> None:
        if label.dtype == torch.bool or label.is_complex() or not bool(label.isfinite().all()):
            raise ValueError("task 'regression' takes finite numbers, and found others. Leave out images without them.")

    def predictions(self, outputs: Tensor) -> Tensor:
        """The outputs themselves."""
        return outputs.float()


class Survival(Task):
    """Time to an event, or to the end of follow-up: labels (B, 3) are time, event (0 or 1) and intervals survived.

    The third says how many of the intervals, one for each output, were survived; see `DiscreteHazardLoss`.
    """

    name = "survival"
    own_losses = (DiscreteHazardLoss,)

    def default_loss(self) -> nn.Module:
        """Negative log-likelihood of discrete hazards."""
        return DiscreteHazardLoss()

    def default_metrics(self) -> MetricCollection:
        """The concordance index of the risk, the mean over the intervals of not surviving them."""
        return MetricCollection({"c_index": ConcordanceIndex()})

    def target(self, label: Tensor, outputs: Tensor) -> Tensor:
        """(B, 3), float32 or wider."""
        hint = "Columns are time, event and number of intervals survived; wsidata's target='survival' makes them."
        self._check_shape(label, [(len(outputs), 3)], hint)
        time, event, survived = label.unbind(dim=1)
        last = torch.where(event > 0, self.outputs - 1, self.outputs)
        right = time.isfinite() & (time >= 0) & ((event == 0) | (event == 1))
        right &= (survived >= 0) & (survived <= last) & (survived == survived.round())
        if not bool(right.all()):
            raise ValueError(
                f"task 'survival' takes times of at least 0, events of 0 or 1, and whole numbers of the "
                f"num_classes={self.outputs} intervals survived, found {label[~right][0].tolist()}. Use the intervals "
                "that the network was made for."
            )
        return label.to(outputs.device, torch.promote_types(label.dtype, torch.float32))

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probability of surviving each interval and those before it."""
        return survival_curve(outputs)


TASKS: dict[str, type[Task]] = {task.name: task for task in (Multiclass, Ordinal, Multilabel, Regression, Survival)}


def make_task(name: str | None, outputs: int, loss_fn: Loss | None) -> Task:
    """The named task, or the one that a torch loss is specific to.

    Args:
        name: One of `TASKS`; None for the task of `loss_fn`, or "multiclass" if that is not specific to one.
        outputs: Number of outputs of the network.
        loss_fn: The loss, or None for the task's default.

    Raises:
        ValueError: If the name is unknown, or the loss is specific to another task.
    """
    specific = [task.name for task in TASKS.values() if isinstance(loss_fn, task.own_losses)]
    chosen = name or next(iter(specific), Multiclass.name)
    if chosen not in TASKS:
        raise ValueError(f"task '{chosen}' is not known. Choose one of {', '.join(TASKS)}.")
    if specific and chosen not in specific:
        loss = type(loss_fn).__name__
        raise ValueError(f"{loss} is a loss for task='{specific[0]}', but task='{chosen}' is given. Leave one out.")
    return TASKS[chosen](outputs)


def head_outputs(name: str | None, outputs: int) -> int:
    """How many numbers the last layer of a network returns, for the task of that name; see `make_task`."""
    return TASKS[name].head_outputs(outputs) if name in TASKS else outputs
