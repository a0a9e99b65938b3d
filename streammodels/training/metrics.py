"""The area under the ROC curve, where there is one: a class that no image has, or that all have, has no such curve.

torchmetrics counts the area of such a class as 0, which pulls the mean over classes down by as much as is missing: with
31 classes, two of them without a validation image, a perfect network would get 0.94. Here the mean is over the classes
that have a curve, and nan if none has.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, MulticlassAUROC, MultilabelAUROC
from torchmetrics.utilities.data import dim_zero_cat


class MulticlassROCArea(MulticlassAUROC):
    """Mean area of the classes that some of the images have, and not all.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes=num_classes, average=None)

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics itself narrows it
        """A number in 0..1, or nan."""
        target = dim_zero_cat(self.target)
        positives = torch.bincount(target.flatten(), minlength=self.num_classes)
        return _mean_where_defined(_quietly(super().compute), positives, target.numel())


class MultilabelROCArea(MultilabelAUROC):
    """Mean area of the labels that some of the images have, and not all.

    Args:
        num_labels: Number of labels.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels=num_labels, average=None)

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics itself narrows it
        """A number in 0..1, or nan."""
        target = dim_zero_cat(self.target)
        return _mean_where_defined(_quietly(super().compute), target.sum(dim=0), len(target))


class BinaryROCArea(BinaryAUROC):
    """Area of a single label."""

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics itself narrows it
        """A number in 0..1, or nan."""
        target = dim_zero_cat(self.target)
        return _mean_where_defined(_quietly(super().compute)[None], target.sum()[None], target.numel())


def _quietly(compute: Callable[[], Tensor]) -> Tensor:
    """Without torchmetrics' warnings about classes that have no curve."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No (positive|negative) samples in targets")
        return compute()


def _mean_where_defined(areas: Tensor, positives: Tensor, images: int) -> Tensor:
    defined = (positives > 0) & (positives < images)
    return areas[defined].mean()  # of nothing: nan
