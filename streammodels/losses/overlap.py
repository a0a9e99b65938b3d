"""Losses of overlap, Dice and Jaccard, whose intersections and areas are summed over all pixels first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from streammodels.core.reductions import Parts
from streammodels.losses.likelihood import binary_targets
from streammodels.losses.pixel_loss import IGNORE, PixelLoss, class_numbers


class _Overlap(PixelLoss):
    """Base class of losses of the intersection and the areas of prediction and truth, per class and image.

    Args:
        smooth: Added to numerator and denominator, so that a class that is neither predicted nor there has no loss.
        background: Whether class 0 counts, with scores of more than one channel.
        ignore_index: Class number of pixels that do not count.
    """

    def __init__(self, smooth: float = 1.0, background: bool = True, ignore_index: int = IGNORE) -> None:
        super().__init__()
        if smooth <= 0:
            raise ValueError(f"{type(self).__name__} needs a positive smooth, got {smooth}: an absent class is 0 / 0.")
        self.smooth = smooth
        self.background = background
        self.ignore_index = ignore_index

    def sums(self, scores: Tensor, target: Tensor, *tensors: Tensor) -> Parts:
        """Intersections, predicted areas and true areas: (B, K) each."""
        if scores.shape[1] == 1:
            truth, counted = binary_targets(target, scores, self.ignore_index)
            predicted = scores.sigmoid() * counted
        else:
            numbers = class_numbers(target, scores.shape[1], self.ignore_index)
            inside = numbers != self.ignore_index
            one_hot = functional.one_hot(numbers.where(inside, 0), scores.shape[1]).permute(0, 3, 1, 2)
            counted = inside[:, None].to(scores.dtype)
            truth, predicted = one_hot.to(scores.dtype) * counted, scores.softmax(1) * counted
        if not self.background and scores.shape[1] > 1:
            truth, predicted = truth[:, 1:], predicted[:, 1:]
        return (truth * predicted).sum((2, 3)), predicted.sum((2, 3)), truth.sum((2, 3))


class PixelDice(_Overlap):
    """Dice loss ``1 - (2 I + smooth) / (P + T + smooth)`` of each image, the mean over classes.

    I is the sum of predicted probabilities over the true pixels of a class, P that over all pixels, and T the number of
    true pixels (Milletari et al. 2016, https://arxiv.org/abs/1606.04797, without squares, as MONAI's DiceLoss).
    Probabilities are the softmax of several channels, or the sigmoid of one. Targets are class numbers.
    """

    def total(self, sums: Parts) -> Tensor:
        """One minus the mean coefficient."""
        both, predicted, true = sums
        return 1 - ((2 * both + self.smooth) / (predicted + true + self.smooth)).mean(1)


class PixelJaccard(_Overlap):
    """Jaccard loss ``1 - (I + smooth) / (P + T - I + smooth)`` of each image, the mean over classes.

    I, P and T are those of `PixelDice`.
    """

    def total(self, sums: Parts) -> Tensor:
        """One minus the mean index."""
        both, predicted, true = sums
        return 1 - ((both + self.smooth) / (predicted + true - both + self.smooth)).mean(1)


class ConfusionCounts(PixelLoss):
    """Pixels of every true class (row) that are predicted as every class (column): (B, K, K) int64, without gradient.

    The prediction is the class of the largest score, the first among equals; for scores of one channel class 1 where
    the logit is positive, so that K is 2.

    Args:
        ignore_index: Class number of pixels that do not count.
    """

    def __init__(self, ignore_index: int = IGNORE) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def sums(self, scores: Tensor, target: Tensor, *tensors: Tensor) -> Parts:
        """The counts of a strip."""
        classes = max(2, scores.shape[1])
        numbers = class_numbers(target, classes, self.ignore_index)
        predicted = predicted_classes(scores)[:, 0]
        counted = numbers != self.ignore_index
        images = torch.arange(len(scores), device=scores.device)[:, None, None]
        cells = ((images * classes + numbers.where(counted, 0)) * classes + predicted).flatten()
        counts = torch.zeros(len(scores) * classes**2, dtype=torch.int64, device=scores.device)
        counts.scatter_add_(0, cells, counted.flatten().long())
        return (counts.view(len(scores), classes, classes),)

    def total(self, sums: Parts) -> Tensor:
        """The counts."""
        return sums[0]


def predicted_classes(scores: Tensor) -> Tensor:
    """The class (B, 1, H, W) int64 of the largest score; with one channel class 1 where the logit is positive."""
    return (scores > 0).long() if scores.shape[1] == 1 else scores.argmax(1, keepdim=True)
