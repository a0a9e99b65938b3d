"""Global pooling layers that can be streamed, and classifiers on what they return.

Each is an ordinary module on a (B, C, H, W) feature map. In a module passed to `stream` it reduces every strip to a few
numbers per channel, so that the map is never held, with the same result and gradients: see `reductions.py`.

    trunk = nn.Sequential(backbone, GatedAttention(512))
    streamed = stream(trunk, tile_size=2880)
    streamed(image)                         # (B, 512), or (B, heads, 512)
    attention_map(streamed, image)          # (B, heads, H', W'), see `attention.py`
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from streammodels.core.pools.masked import Masked
from streammodels.core.reductions import (
    Attention,
    GeneralizedMean,
    GlobalAverage,
    GlobalMaximum,
    LogMeanExponential,
    Reduction,
    without_none,
)


class GlobalPool(nn.Module, ABC):
    """Base class of streamable global pooling layers, each defined by a `Reduction`."""

    streams_reduction = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "forward" in vars(cls):
            raise TypeError(
                f"{cls.__name__} has a forward of its own, which strips would not call. Define the computation as a "
                "Reduction, in reduction(), or derive it from torch.nn.Module and use it behind the streamed part."
            )

    @abstractmethod
    def reduction(self) -> Reduction:
        """The reduction of the map."""

    def reduction_of(self, maps: int) -> Reduction:
        """The reduction of `maps` maps: the one to pool, and further ones that the layer is called with.

        A second one is a mask (B, 1, h, w) of any height and width: pixels are pooled where it is not zero.

        Raises:
            TypeError: If the layer takes no further ones.
        """
        if maps > 2:
            raise TypeError(
                f"{type(self).__name__} pools one map, limited to a mask if there is one, and was called with {maps} "
                "maps. Call it with one or two."
            )
        return self.reduction() if maps == 1 else Masked(self.reduction())

    def aligned(self, features: Tensor, *further: Tensor) -> tuple[Tensor, ...]:
        """The `further` maps as high and wide as `features`; a mask by its nearest pixels."""
        if type(self).reduction_of is not GlobalPool.reduction_of or not further:  # then they are no masks
            return further
        if any(len(one.shape) != 4 for one in further):
            raise ValueError(
                f"{type(self).__name__} takes a mask (B, 1, h, w) beside its map, got {tuple(further[0].shape)}. "
                "Add the channel with mask[:, None]."
            )
        size = tuple(features.shape[2:])
        return tuple(
            one if tuple(one.shape[2:]) == size else functional.interpolate(one.float(), size, mode="nearest-exact")
            for one in further
        )

    def tensors(self) -> list[Tensor | None]:
        """The further arguments of the reduction."""
        return []

    def forward(self, features: Tensor, *further: Tensor) -> Tensor:
        """The pooled vector (B, C) of a (B, C, H, W) map.

        Args:
            features: The map.
            further: A mask (B, 1, h, w), bool or numbers. Only pixels where it is not zero are pooled. It may have any
                height and width, and is brought to those of the map by its nearest pixels.

        Raises:
            EmptyMaskError: If the mask has no such pixel in an image.
        """
        reduction = self.reduction_of(1 + len(further))
        return reduction.whole(features, *without_none(self.tensors()), further=self.aligned(features, *further))


class GlobalAvgPool(GlobalPool):
    """Mean over all pixels, as `torch.nn.AdaptiveAvgPool2d(1)`, flattened to (B, C); no state."""

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        return GlobalAverage(keep_dimensions=False)


class GlobalMaxPool(GlobalPool):
    """Maximum over all pixels, as `torch.nn.AdaptiveMaxPool2d(1)`, flattened to (B, C); no state."""

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        return GlobalMaximum(keep_dimensions=False)


class GeM(GlobalPool):
    """Generalized-mean pooling ``mean(max(x, epsilon)^p)^(1/p)``, from the mean (p = 1) to the maximum (p to infinity).

    Radenovic, Tolias, Chum 2018 (https://arxiv.org/abs/1711.02512), equation 3. State dict: ``p``, of shape (1,).

    Args:
        p: Initial exponent, positive.
        epsilon: Lower bound that values are clamped to, positive.
        learnable: Whether p is trained.
    """

    p: Tensor

    def __init__(self, p: float = 3.0, epsilon: float = 1e-6, learnable: bool = True) -> None:
        super().__init__()
        if not (p > 0 and isfinite(p) and epsilon > 0):
            raise ValueError(f"GeM needs a positive p and a positive epsilon, got p={p} and epsilon={epsilon}")
        register_number(self, "p", p, learnable)
        self.epsilon = epsilon

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        return GeneralizedMean(self.epsilon)

    def tensors(self) -> list[Tensor | None]:
        """The exponent."""
        return [self.p]


class LogSumExp(GlobalPool):
    """Log-sum-exp pooling ``log(mean(exp(r x))) / r``, from the mean (r to 0) to the maximum (r to infinity).

    Pinheiro, Collobert 2015 (https://arxiv.org/abs/1411.6228), equation 6. State dict: ``r``, of shape (1,).

    Args:
        r: Initial sharpness, not 0; negative values tend toward the minimum.
        learnable: Whether r is trained.
    """

    r: Tensor

    def __init__(self, r: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        if r == 0 or not isfinite(r):
            raise ValueError(f"LogSumExp needs a finite r other than 0, got {r}. For the mean use GlobalAvgPool.")
        register_number(self, "r", r, learnable)

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        return LogMeanExponential()

    def tensors(self) -> list[Tensor | None]:
        """The sharpness."""
        return [self.r]


def register_number(module: nn.Module, name: str, value: float, learnable: bool) -> None:
    """Register a number as a parameter or, if it is not trained, as a buffer of the same name and shape."""
    tensor = torch.tensor([float(value)])
    if learnable:
        module.register_parameter(name, nn.Parameter(tensor))
    else:
        module.register_buffer(name, tensor)


class GatedAttention(GlobalPool):
    """Gated attention pooling, the mean of all pixels' features weighted by a softmax of learned scores.

        score(f) = w (tanh(V f) * sigmoid(U f))              gated
        score(f) = w tanh(V f)                               gated=False
        result   = sum_i softmax(score)_i f_i                over all pixels i

    Ilse, Tomczak, Welling 2018 (https://arxiv.org/abs/1802.04712), equations 7 to 9. With ``heads`` = number of classes
    it is the pooling of CLAM's multi-branch model (Lu et al. 2021, https://arxiv.org/abs/2004.09666); follow it by
    `PerClassLinear`. CLAM's bias of w is left out, since the softmax cancels it.

    State dict: ``.weight`` and ``.bias`` of ``tanh_branch`` (V; ``attention_a.0`` in CLAM) and ``sigmoid_branch`` (U;
    ``attention_b.0``), and ``score.weight`` (w; ``attention_c.weight``).

    Args:
        channels: Channels C of the map.
        hidden: Length of V f and U f.
        heads: None for one score and a (B, C) result; K for K scores and a (B, K, C) result.
        gated: Whether there is a sigmoid branch.
        dropout: Dropout probability of either branch in training. Streamed and plain modules draw different random
            numbers from the same distribution.
    """

    weighs_linearly: ClassVar[bool] = True
    """Whether the result is the weighted mean of the features."""

    def __init__(
        self, channels: int, hidden: int = 256, heads: int | None = None, gated: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "hidden": hidden, "heads": 1 if heads is None else heads}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"GatedAttention needs {name} of at least 1, got {size}")
        if not 0 <= dropout < 1:
            raise ValueError(f"GatedAttention needs a dropout of at least 0 and less than 1, got {dropout}")
        self.heads = heads
        self.dropout = dropout
        self.tanh_branch = nn.Linear(channels, hidden)
        self.sigmoid_branch = nn.Linear(channels, hidden) if gated else None
        self.score = nn.Linear(hidden, sizes["heads"], bias=False)

    def reduction(self) -> Reduction:
        """See `GlobalPool`."""
        dropout = self.dropout if self.training else 0.0
        return Attention(partial(self.scores_with, dropout=dropout), self.heads is None, random=dropout > 0)

    def tensors(self) -> list[Tensor | None]:
        """Weights and biases in the order of `scores_with`."""
        branches = [self.tanh_branch, *([] if self.sigmoid_branch is None else [self.sigmoid_branch])]
        for layer, biased in ((self.score, False), *((branch, True) for branch in branches)):
            if type(layer).forward is not nn.Linear.forward or (layer.bias is not None) != biased:
                raise TypeError(
                    f"GatedAttention computes with the tensors of its layers, and found {layer} among them. Use "
                    f"nn.Linear(..., bias={biased}) there, or write a GlobalPool with a Reduction of its own."
                )
        return [self.score.weight, *(tensor for branch in branches for tensor in (branch.weight, branch.bias))]

    def scores(self, features: Tensor) -> Tensor:
        """Scores (B, heads, H, W) of a (B, C, H, W) map, before the softmax and without dropout."""
        return self.scores_with(features, *without_none(self.tensors()))

    @staticmethod
    def scores_with(features: Tensor, *tensors: Tensor, dropout: float = 0.0) -> Tensor:
        """Scores computed with the given `tensors`."""
        hidden = functional.dropout(_project(features, *tensors[1:3]).tanh(), dropout)
        if len(tensors) > 3:
            hidden = hidden * functional.dropout(_project(features, *tensors[3:]).sigmoid(), dropout)
        return _project(hidden, tensors[0])


def _project(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer at every pixel."""
    return functional.conv2d(features, weight[:, :, None, None], bias)


class PerClassLinear(nn.Module):
    """One linear classifier per class on the vector of that class, (B, K, C) -> (B, K).

    State dict: ``weight`` (K, C) and ``bias`` (K,); row k is ``classifiers.k`` of CLAM's multi-branch model.

    Args:
        channels: Length C of the vectors.
        num_classes: Number K of classes, and of vectors.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.channels = channels
        self.num_classes = num_classes
        layer = nn.Linear(channels, num_classes)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (B, K) of (B, K, C) vectors, or of the same flattened to (B, K * C)."""
        of_classes = vectors.reshape(-1, self.num_classes, self.channels)
        return (of_classes * self.weight).sum(dim=2) + self.bias
