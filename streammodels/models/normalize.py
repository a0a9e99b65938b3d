"""Per-channel normalization as the first layer of a network, computed strip by strip on its device.

A whole-slide image stays uint8 until its rows are needed; a float copy, four times as large, is never held.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """``(image - mean) / std`` per channel.

    Args:
        mean: One value for each channel, on the scale of the image (0..1).
        std: Likewise, none zero.

    Raises:
        ValueError: If the lengths differ or a standard deviation is zero.
    """

    streams_pointwise = True

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or any(value == 0 for value in std):
            raise ValueError(f"mean and std need one value per channel, std not zero; got mean={mean}, std={std}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalize (B, C, H, W) floats."""
        return self.compute(image, self.mean, self.std)

    def tensors(self) -> list[Tensor | None]:
        """The further arguments of `compute`."""
        return [self.mean, self.std]

    @staticmethod
    def compute(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """``(image - mean) / std``."""
        return (image - mean) / std
