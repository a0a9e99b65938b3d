"""Ordered thresholds that turn one score per image into probabilities of ordered classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST_STEP = 1e-6


class CumulativeLink(nn.Module):
    """The cumulative logit model: ``P(class > k) = sigmoid(score - threshold[k])`` with K-1 increasing thresholds.

    It is the proportional odds model of McCullagh, Regression models for ordinal data (Journal of the Royal Statistical
    Society B 42, 1980). One score decides between all pairs of neighboring classes, as in CORAL (Cao, Mirjalili and
    Raschka, Pattern Recognition Letters 140, 2020); but thresholds cannot cross, and the probabilities of the classes
    add up to 1, so that the loss is their negative log-likelihood: cross entropy.

    Thresholds begin where a score of 0 makes all classes equally probable.

    Args:
        num_classes: Number of classes K, at least 2.

    Raises:
        ValueError: If there are fewer.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"ordered classes have to be at least two, got num_classes={num_classes}.")
        start = torch.logit(torch.arange(1, num_classes) / num_classes)
        self.first = nn.Parameter(start[:1])
        self.steps = nn.Parameter(torch.log(torch.expm1(start.diff())))  # softplus gives the differences

    def thresholds(self) -> Tensor:
        """(K-1,) increasing thresholds on the scale of the score, float32 or wider."""
        return torch.cat([self.first, self._differences()]).cumsum(0)

    def forward(self, score: Tensor) -> Tensor:
        """(B, K) log-probabilities of the classes, float32 or wider, of (B, 1) scores.

        Raises:
            ValueError: If there is not one score per image.
        """
        if score.ndim != 2 or score.shape[1] != 1:
            raise ValueError(
                f"ordered classes are told by one score per image, (B, 1), and the head returns {tuple(score.shape)}. "
                "End it in torch.nn.Linear(features, 1)."
            )
        with torch.autocast(score.device.type, enabled=False):
            above = score.to(torch.promote_types(score.dtype, torch.float32)) - self.thresholds()
            # P(k) = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), with a - b the step between.
            between = torch.log(-torch.expm1(-self._differences()))
            over = functional.pad(functional.logsigmoid(above), (1, 0))
            under = functional.pad(functional.logsigmoid(-above), (0, 1))
            return over + under + functional.pad(between, (1, 1))

    def _differences(self) -> Tensor:
        steps = self.steps.to(torch.promote_types(self.steps.dtype, torch.float32))
        return functional.softplus(steps) + _SMALLEST_STEP


def median_class(probabilities: Tensor) -> Tensor:
    """(B,) number of the class in which the cumulative probability reaches one half, of (B, K) probabilities.

    Of a cumulative logit model it is the class between whose thresholds the score lies. No other class has a smaller
    expected distance from the true one.
    """
    return (probabilities.cumsum(1)[:, :-1] < 0.5).sum(1)
