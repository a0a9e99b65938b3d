"""Metrics of a task that torchmetrics lacks, or defines for classes that all have images.

The area under the ROC curve is averaged over the classes that have both positive and negative images: torchmetrics
counts the area of any other class as 0, which lowers the mean. With 31 classes, two of them without a validation image,
a perfect network would score 0.94.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCohenKappa,
    MultilabelAUROC,
)
from torchmetrics.utilities.data import dim_zero_cat

from streammodels.losses.hazards import risk_of
from streammodels.models.cumulative_link import median_class


class MulticlassROCArea(MulticlassAUROC):
    """Mean one-versus-rest area under the ROC curve of the classes that some, but not all, images belong to.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes=num_classes, average=None)

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics itself narrows it
        """The mean in 0..1, or nan if no class has a curve."""
        target = dim_zero_cat(self.target)
        positives = torch.bincount(target.flatten(), minlength=self.num_classes)
        return _mean_where_defined(super().compute, positives, target.numel())


class MultilabelROCArea(MultilabelAUROC):
    """Mean area under the ROC curve of the labels that some, but not all, images have.

    Args:
        num_labels: Number of labels.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels=num_labels, average=None)

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics itself narrows it
        """The mean in 0..1, or nan if no label has a curve."""
        target = dim_zero_cat(self.target)
        return _mean_where_defined(super().compute, target.sum(dim=0), len(target))


class BinaryROCArea(BinaryAUROC):
    """Area under the ROC curve of a single label."""

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics itself narrows it
        """The area in 0..1, or nan if all images or none have the label."""
        target = dim_zero_cat(self.target)
        return _mean_where_defined(super().compute, target.sum(), target.numel())


class OrdinalAccuracy(MulticlassAccuracy):
    """Share of images whose median class (see `median_class`) is the true one.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes=num_classes, average="micro")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count (B, K) probabilities and (B,) class numbers."""
        super().update(median_class(preds), target)


class OrdinalKappa(MulticlassCohenKappa):
    """Cohen's kappa of median and true class with quadratic weights (Psychological Bulletin 70, 1968).

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes=num_classes, weights="quadratic")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count (B, K) probabilities and (B,) class numbers."""
        super().update(median_class(preds), target)


class OrdinalDistance(MeanAbsoluteError):  # noqa: N818
    """Mean distance of median and true class, in classes."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count (B, K) probabilities and (B,) class numbers."""
        super().update(median_class(preds), target)


class ConcordanceIndex(Metric):
    """Harrell's concordance index of the risk (JAMA 247, 1982), or nan if no two images can be compared.

    Of all pairs of which one is known to have had its event before the other, or before the other left at the same
    time, it is the share in which that one has the higher risk; equal risks count one half.
    """

    full_state_update = False
    risk: list[Tensor]
    observed: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("risk", [], dist_reduce_fx="cat")
        self.add_state("observed", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take (B, K) survival probabilities, and labels of which the first two columns are time and event."""
        self.risk.append(risk_of(preds))
        self.observed.append(target[:, :2])

    def compute(self) -> Tensor:
        """The index in 0..1."""
        risk, (time, event) = dim_zero_cat(self.risk).double(), dim_zero_cat(self.observed).double().T
        concordant = comparable = torch.zeros((), dtype=torch.float64, device=risk.device)
        for one in torch.nonzero(event).flatten().tolist():
            later = (time > time[one]) | ((time == time[one]) & (event == 0))
            comparable = comparable + later.sum()
            concordant = concordant + (risk[one] > risk[later]).sum() + 0.5 * (risk[one] == risk[later]).sum()
        return (concordant / comparable).float()


def _mean_where_defined(compute: Callable[[], Tensor], positives: Tensor, images: int) -> Tensor:
    """The mean of the areas that are defined, without torchmetrics' warnings about the others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No (positive|negative) samples in targets")
        areas = compute()
    return areas[(positives > 0) & (positives < images)].mean()  # nan if none is
