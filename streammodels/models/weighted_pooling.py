"""Further pooling layers that stream, with weights from the values themselves or from learned scores.

Each is used as those of `pooling.py`:

    streamed = stream(nn.Sequential(backbone, AttentionGeM(512)), tile_size=2880)
    classes = stream(nn.Sequential(backbone, nn.Conv2d(512, 4, 1), GlobalWeightedPool()), tile_size=2880)
"""

from __future__ import annotations

from functools import partial
from math import isfinite
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from streammodels.core.pools.largest import MeanOfLargest
from streammodels.core.pools.weighted import (
    AttentionGeneralizedMean,
    GlobalSum,
    NormalizedGlobalWeighted,
    SoftmaxWeighted,
)
from streammodels.core.reductions import Reduction
from streammodels.models.pooling import GatedAttention, GlobalPool, register_number


class GlobalSumPool(GlobalPool):
    """Sum over all pixels, (B, C); no state."""

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        return GlobalSum()


class TopPixelsPool(GlobalPool):
    """Mean of the largest values of each channel, between the maximum and the mean, (B, C); no state.

    Of class scores it is the pooling of top instances (Durand, Thome, Cord 2016, WELDON). Every strip keeps as many
    candidates, so memory does not depend on the size of the map. Of equal values the first are taken.

    Args:
        pixels: How many values, at least 1; all if the map has fewer pixels.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__()
        if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 1:
            raise ValueError(f"TopPixelsPool needs a whole number of pixels of at least 1, got {pixels!r}")
        self.pixels = pixels

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        return MeanOfLargest(self.pixels)


class SoftmaxPool(GlobalPool):
    """The mean of each channel weighted by a softmax of its own values, ``sum(softmax(r x) x)``.

    It goes from the mean (r = 0) to the maximum (r to infinity). McFee, Salamon, Bello 2018
    (https://arxiv.org/abs/1804.10070), auto-pool. State dict: ``r``, of shape (1,).

    Args:
        r: Initial sharpness.
        learnable: Whether r is trained.
    """

    r: Tensor

    def __init__(self, r: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        if not isfinite(r):
            raise ValueError(f"SoftmaxPool needs a finite r, got {r}. For the maximum use GlobalMaxPool.")
        register_number(self, "r", r, learnable)

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        return SoftmaxWeighted()

    def tensors(self) -> list[Tensor | None]:
        """The sharpness."""
        return [self.r]


class SigmoidAttention(GatedAttention):
    """Attention pooling with a sigmoid of the scores in place of their exponential.

        result = sum_i sigmoid(score_i) f_i / sum_i sigmoid(score_i)           over all pixels i

    Scores, arguments and state dict are those of `GatedAttention`. A pixel weighs at most 1, so that no single one
    takes all the weight. `scores` returns the logarithm of the sigmoid, of which the softmax is the weight.
    """

    @staticmethod
    def scores_with(features: Tensor, *tensors: Tensor, dropout: float = 0.0) -> Tensor:
        """See `GatedAttention.scores_with`."""
        return functional.logsigmoid(GatedAttention.scores_with(features, *tensors, dropout=dropout))


class AttentionGeM(GatedAttention):
    """Attention pooling by a generalized mean, ``(sum_i softmax(score)_i max(f_i, epsilon)^p)^(1/p)``.

    Scores and arguments are those of `GatedAttention`, and the mean is that of `GeM`: with p = 1 it is the first on
    positive features, and with equal scores the second. State dict: that of `GatedAttention`, and ``p`` of shape (1,).

    Args:
        channels: See `GatedAttention`.
        hidden: See `GatedAttention`.
        heads: See `GatedAttention`.
        gated: See `GatedAttention`.
        dropout: See `GatedAttention`.
        p: Initial exponent, positive.
        epsilon: Lower bound that values are clamped to, positive.
        learnable: Whether p is trained.
    """

    p: Tensor
    weighs_linearly: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        hidden: int = 256,
        heads: int | None = None,
        gated: bool = True,
        dropout: float = 0.0,
        p: float = 3.0,
        epsilon: float = 1e-6,
        learnable: bool = True,
    ) -> None:
        super().__init__(channels, hidden, heads, gated, dropout)
        if not (p > 0 and isfinite(p) and epsilon > 0):
            raise ValueError(f"AttentionGeM needs a positive p and a positive epsilon, got p={p} and epsilon={epsilon}")
        register_number(self, "p", p, learnable)
        self.epsilon = epsilon

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        dropout = self.dropout if self.training else 0.0
        scores = partial(self.scores_with, dropout=dropout)
        return AttentionGeneralizedMean(scores, self.heads is None, random=dropout > 0, epsilon=self.epsilon)

    def tensors(self) -> list[Tensor | None]:
        """Those of `GatedAttention`, and the exponent."""
        return [*super().tensors(), self.p]

    @staticmethod
    def scores_with(features: Tensor, *tensors: Tensor, dropout: float = 0.0) -> Tensor:
        """See `GatedAttention.scores_with`."""
        return GatedAttention.scores_with(features, *tensors[:-1], dropout=dropout)


class GlobalWeightedPool(GlobalPool):
    """Class logits of a map of class scores, so that labels of images train a segmentation; no state.

        m = softmax(background, x_1 ... x_K)                                     at every pixel
        result_c = sum(m_c x_c) / (epsilon + sum(m_c))                           over all pixels
                   + (1 - size_c)^power log(size_floor + size_c)                 with size_c = mean(m_c)

    The first term is normalized global weighted pooling, which does not favor large regions; the second, the focal mask
    penalty, keeps the masks from vanishing. Araslanov, Roth 2020, "Single-stage semantic segmentation from image
    labels" (https://arxiv.org/abs/2005.08104), section 3. The masks m are the segmentation.

    Args:
        background: Score of the background, of which there is no label; None if the map has a class for it.
        epsilon: See above, positive.
        power: See above, at least 0.
        size_floor: See above, positive.
        size_term: Whether the second term is added.
    """

    def __init__(
        self,
        background: float | None = 1.0,
        epsilon: float = 1.0,
        power: float = 3.0,
        size_floor: float = 0.01,
        size_term: bool = True,
    ) -> None:
        super().__init__()
        if not (epsilon > 0 and power >= 0 and size_floor > 0):
            raise ValueError(
                "GlobalWeightedPool needs a positive epsilon and size_floor and a power of at least 0, got "
                f"epsilon={epsilon}, size_floor={size_floor} and power={power}"
            )
        self.settings = (background, epsilon, power, size_floor, size_term)

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        return NormalizedGlobalWeighted(*self.settings)
