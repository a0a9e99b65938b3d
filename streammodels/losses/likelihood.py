"""Losses that are means over pixels, cross entropy, focal loss, squared error and divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from streammodels.core.reductions import Parts
from streammodels.losses.pixel_loss import IGNORE, PixelLoss, class_numbers


class PixelCrossEntropy(PixelLoss):
    """Cross entropy of softmax scores, as `torch.nn.CrossEntropyLoss` of each image; targets are class numbers.

    Args:
        weight: A weight for each class; the mean is weighted too, as in torch.
        ignore_index: Class number of pixels that do not count.
        label_smoothing: As in torch, 0..1.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", None if weight is None else torch.as_tensor(weight, dtype=torch.float32))
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def tensors(self) -> list[Tensor | None]:
        """The weights of the classes."""
        return [self.weight]

    def sums(self, scores: Tensor, target: Tensor, *tensors: Tensor) -> Parts:
        """The weighted losses, and the weights."""
        numbers = class_numbers(target, scores.shape[1], self.ignore_index)
        weight = tensors[0].to(scores.dtype) if tensors else None
        losses = functional.cross_entropy(
            scores, numbers, weight, ignore_index=self.ignore_index, reduction="none",
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
        counted = numbers != self.ignore_index
        weights = counted.to(scores.dtype) if weight is None else weight[numbers.where(counted, 0)] * counted
        return losses.sum((1, 2)), weights.sum((1, 2))


class PixelBinaryCrossEntropy(PixelLoss):
    """Binary cross entropy of each channel of logits, as `torch.nn.BCEWithLogitsLoss` of each image.

    Targets are 0 and 1 for each channel, (B, K, H, W), of any type; (B, H, W) for one channel. Pixels whose target is
    `ignore_index` do not count.

    Args:
        pos_weight: Weight of the targets of 1, one for all or one for each channel.
        ignore_index: Value of pixels that do not count.
    """

    pos_weight: Tensor | None

    def __init__(self, pos_weight: float | Sequence[float] | Tensor | None = None, ignore_index: int = IGNORE) -> None:
        super().__init__()
        weight = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=torch.float32).reshape(-1, 1, 1)
        self.register_buffer("pos_weight", weight)
        self.ignore_index = ignore_index

    def tensors(self) -> list[Tensor | None]:
        """The weights of the targets of 1."""
        return [self.pos_weight]

    def sums(self, scores: Tensor, target: Tensor, *tensors: Tensor) -> Parts:
        """The losses, and the number of pixels that count."""
        truth, counted = binary_targets(target, scores, self.ignore_index)
        weight = tensors[0].to(scores.dtype) if tensors else None
        losses = functional.binary_cross_entropy_with_logits(scores, truth, pos_weight=weight, reduction="none")
        return (losses * counted).sum((1, 2, 3)), counted.sum((1, 2, 3))


class PixelFocalLoss(PixelLoss):
    """Focal loss ``-alpha_t (1 - p_t)^gamma log(p_t)`` of each image, the mean over pixels.

    Lin et al. 2017 (https://arxiv.org/abs/1708.02002), equation 5. Scores of K > 1 channels are a softmax over classes,
    with class numbers as targets. Scores of one channel are a sigmoid, with targets of 0 and 1.

    Args:
        gamma: How much less pixels count that are right already; 0 is cross entropy.
        alpha: A weight for each class, which does not weight the mean; for one channel those of 0 and of 1.
        ignore_index: Class number of pixels that do not count.
    """

    alpha: Tensor | None

    def __init__(
        self, gamma: float = 2.0, alpha: Sequence[float] | Tensor | None = None, ignore_index: int = IGNORE
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"the focal loss needs a gamma of at least 0, got {gamma}")
        self.gamma = gamma
        self.register_buffer("alpha", None if alpha is None else torch.as_tensor(alpha, dtype=torch.float32))
        self.ignore_index = ignore_index

    def tensors(self) -> list[Tensor | None]:
        """The weights of the classes."""
        return [self.alpha]

    def sums(self, scores: Tensor, target: Tensor, *tensors: Tensor) -> Parts:
        """The losses, and the number of pixels that count."""
        classes = max(2, scores.shape[1])
        numbers = class_numbers(target, classes, self.ignore_index)
        counted = numbers != self.ignore_index
        chosen = numbers.where(counted, 0)
        if scores.shape[1] == 1:
            scores = torch.cat([torch.zeros_like(scores), scores], 1)  # the softmax of both is the sigmoid
        log_p = scores.log_softmax(1).gather(1, chosen[:, None])[:, 0]
        losses = -(1 - log_p.exp()).pow(self.gamma) * log_p
        if tensors:
            losses = losses * tensors[0].to(scores.dtype)[chosen]
        return (losses * counted).sum((1, 2)), counted.to(scores.dtype).sum((1, 2))


class PixelSquaredError(PixelLoss):
    """Mean squared error of each image, as `torch.nn.MSELoss`; targets (B, K, H, W) are of any type."""

    def sums(self, scores: Tensor, target: Tensor, *tensors: Tensor) -> Parts:
        """The squared errors, and the number of values."""
        _check_channels(scores, target)
        errors = (scores - target.to(scores.dtype)).square().sum((1, 2, 3))
        return errors, errors.new_full((len(scores),), scores[0].numel())


class PixelDivergence(PixelLoss):
    """Kullback-Leibler divergence of softmax scores from target probabilities (B, K, H, W), the mean over pixels.

    As ``torch.nn.KLDivLoss(reduction="sum")`` of the log-softmax of an image, divided by its pixels.
    """

    def sums(self, scores: Tensor, target: Tensor, *tensors: Tensor) -> Parts:
        """The divergences, and the number of pixels."""
        _check_channels(scores, target)
        divergence = functional.kl_div(scores.log_softmax(1), target.to(scores.dtype), reduction="none")
        total = divergence.sum((1, 2, 3))
        return total, total.new_full((len(scores),), scores.shape[2] * scores.shape[3])


def binary_targets(target: Tensor, scores: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Targets of 0 and 1, and 1 where they count, both of the type and shape of `scores`.

    Raises:
        ValueError: If they have other channels than the scores, or whole numbers are neither 0 nor 1.
    """
    _check_channels(scores, target)
    counted = target != ignore_index
    truth = target.where(counted, torch.zeros((), dtype=target.dtype, device=target.device)).to(scores.dtype)
    if target.device.type == "cpu" and bool(((truth < 0) | (truth > 1)).any()):
        raise ValueError("binary targets have to lie in 0..1. Give pixels that do not count the value ignore_index.")
    return truth, counted.to(scores.dtype)


def _check_channels(scores: Tensor, target: Tensor) -> None:
    """Check that every channel has a target; others would be repeated silently."""
    if scores.shape[1] != target.shape[1]:
        raise ValueError(
            f"the scores have {scores.shape[1]} channels and the targets {target.shape[1]}. Give one for each channel."
        )
