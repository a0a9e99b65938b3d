"""Base class of losses of maps, whose sums over pixels are taken strip by strip.

class Trained(nn.Module):
    def forward(self, image, target):
        scores = self.network(image)                  # (B, K, H, W), never whole
        return self.loss(scores, target)              # (B,)

streamed = stream(Trained(), tile_size=2880)
streamed(image, Labels(target)).mean().backward()
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from streammodels.core.reductions import Parts, Reduction, sum_dtype
from streammodels.models.pooling import GlobalPool

IGNORE = -100
"""Class number of pixels that do not count, as in torch."""


class PixelLoss(GlobalPool):
    """A loss of a (B, K, H, W) map of scores and a map of targets, one number for each image.

    It is called with targets (B, H, W) or (B, 1, H, W) of class numbers, or (B, K, H, W) of values; see the subclass.
    An image without a pixel that counts has a loss of 0 and no gradient, where torch has NaN.

    A subclass defines `sums` over the pixels of a strip, and `total`, the loss of the sums over all pixels. Sums are
    taken in at least float32.
    """

    def reduction(self) -> Reduction:
        """Raises, since a loss also needs targets."""
        raise TypeError(f"{type(self).__name__} takes a map and its targets. Call it as loss(scores, target).")

    def reduction_of(self, maps: int) -> Reduction:
        """The reduction of scores and targets."""
        if maps != 2:
            raise TypeError(f"{type(self).__name__} takes a map and its targets, and was called with {maps} map(s).")
        return PixelSums(self.sums, self.total)

    @abstractmethod
    def sums(self, scores: Tensor, target: Tensor, *tensors: Tensor) -> Parts:
        """Sums over the pixels of a strip.

        Args:
            scores: (B, K, rows, W), of at least float32.
            target: (B, C, rows, W), of its own type.
            tensors: Those of the layer.

        Returns:
            Tensors whose first dimension is that of the images.
        """

    def total(self, sums: Parts) -> Tensor:
        """The loss (B,) of the `sums` over all pixels; here the first divided by the second."""
        loss, weight = sums
        return loss / torch.where(weight == 0, 1, weight)


@dataclass(frozen=True)
class PixelSums(Reduction):
    """Sums over all pixels of two maps, and a function of them.

    Attributes:
        sums: See `PixelLoss.sums`.
        total: See `PixelLoss.total`.
    """

    sums: Callable[..., Parts]
    total: Callable[[Parts], Tensor]
    ignores_order: ClassVar[bool] = True
    saved_copies: ClassVar[int] = 2  # probabilities, and targets as whole numbers or one channel for each class

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The sums of a strip."""
        target, *own = tensors
        with torch.autocast("cpu" if rows.is_meta else rows.device.type, enabled=False):  # "meta" has no autocast
            return self.sums(rows.to(sum_dtype(rows.dtype)), target, *own)

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The result of the sums of all strips."""
        return self.total(tuple(part.sum(dim=0) for part in parts))

    def whole(self, features: Tensor, *tensors: Tensor, further: Sequence[Tensor] = ()) -> Tensor:
        """See `Reduction.whole`; targets may also be (B, H, W)."""
        targets = [one[:, None] if one.ndim == 3 else one for one in further]
        sizes = {tuple(one.shape[2:]) for one in (features, *targets)}
        if len(sizes) > 1:
            raise ValueError(
                f"scores of {tuple(features.shape)} and targets of {tuple(targets[0].shape)} differ in size. "
                "Resize the scores with torch.nn.functional.interpolate, or the targets to the size of the scores."
            )
        return super().whole(features, *tensors, further=targets)


def class_numbers(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Class numbers (B, rows, W) as int64, checked.

    Raises:
        ValueError: If they are no whole numbers, or a class does not exist.
    """
    if target.is_floating_point() or target.shape[1] != 1:
        found = f"{tuple(target.shape)} of {target.dtype}"
        raise ValueError(
            f"the loss takes a map of class numbers, (B, H, W) or (B, 1, H, W) of whole numbers, got {found}. Wrap a "
            "target of uint8 in streammodels.Labels, so that it is not scaled as an image."
        )
    numbers = target[:, 0].long()
    if numbers.device.type == "cpu":  # elsewhere the kernels check, without waiting for the values
        wrong = ((numbers < 0) | (numbers >= classes)) & (numbers != ignore_index)
        if bool(wrong.any()):
            unknown = sorted({int(number) for number in numbers[wrong]})[:5]
            raise ValueError(
                f"the targets have the class numbers {', '.join(map(str, unknown))}, but the scores are of {classes} "
                f"classes, 0..{classes - 1}. Give pixels that do not count the number ignore_index={ignore_index}."
            )
    return numbers
