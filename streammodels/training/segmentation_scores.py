"""Intersection over union and Dice coefficient of every class, from summed confusion counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class SegmentationScores(Metric):
    """Scores of segmentations over all pixels of all images of an epoch, and of all processes.

    Args:
        classes: Names of the classes.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        empty = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)
        self.add_state("counts", empty, dist_reduce_fx="sum")

    def update(self, counts: Tensor) -> None:
        """Add counts (B, K, K): pixels of every true class (row) by predicted class (column)."""
        self.counts += counts.sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        """``iou`` and ``dice``, the means, ``iou_<class>`` and ``dice_<class>``, and the share of right pixels.

        A class that is neither there nor predicted has no score (NaN), and does not count in the means.
        """
        counts = self.counts.double()
        both, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        iou, dice = both / (true + predicted - both), 2 * both / (true + predicted)
        scores = {"iou": iou.nanmean(), "dice": dice.nanmean(), "pixel_accuracy": both.sum() / counts.sum()}
        for kind, values in (("iou", iou), ("dice", dice)):
            scores |= {f"{kind}_{name}": value for name, value in zip(self.classes, values, strict=True)}
        return {name: value.float() for name, value in scores.items()}
