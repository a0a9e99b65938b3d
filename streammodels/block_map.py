"""A gradient as large as the image becomes one number for each block of pixels, while it arrives strip by strip."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Reduce = Literal["max", "mean"]


class BlockMap:
    """Absolute values, reduced over the channels and over blocks of `side_px` x `side_px` pixels.

    Blocks begin at the image's first row and column; the last ones may be smaller. Strips of rows may come in any
    order, each row once, and need not end where blocks do.

    Args:
        image_shape: (B, C, H, W).
        side_px: Rows and columns of a block.
        reduce: "max" for the largest absolute value, "mean" for the mean absolute value.
        device: Where the result is kept.
        dtype: Its type, at least float32.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int, int],
        side_px: int,
        reduce: Reduce,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        batch, _, height, width = image_shape
        self.image_shape = image_shape
        self.side_px = side_px
        self.reduce = reduce
        rows, columns = -(-height // side_px), -(-width // side_px)
        kept = torch.promote_types(dtype, torch.float32)
        self._blocks = torch.zeros(batch, rows, columns, device=device, dtype=kept)

    def add(self, rows: range, gradient: Tensor) -> None:
        """Take in the gradient of some rows.

        Args:
            rows: Rows of the image.
            gradient: (B, C, len(rows), W).
        """
        magnitude = gradient.detach().abs().to(self._blocks.dtype)
        magnitude = magnitude.amax(dim=1) if self.reduce == "max" else magnitude.sum(dim=1)
        side = self.side_px
        top, bottom, right = rows.start % side, -rows.stop % side, -magnitude.shape[2] % side
        padded = functional.pad(magnitude, (0, right, top, bottom))  # zeros change no maximum and no sum
        target = self._blocks[:, rows.start // side : -(-rows.stop // side)]
        blocks = padded.view(len(padded), target.shape[1], side, target.shape[2], side)
        if self.reduce == "max":
            torch.maximum(target, blocks.amax(dim=(2, 4)).to(target.device), out=target)
        else:
            target += blocks.sum(dim=(2, 4)).to(target.device)

    def result(self) -> Tensor:
        """(B, ceil(H / side_px), ceil(W / side_px)), when all rows have come."""
        if self.reduce == "max":
            return self._blocks
        _, channels, height, width = self.image_shape
        pixels = torch.outer(self._covered(height), self._covered(width)) * channels
        return self._blocks / pixels.to(self._blocks)

    def _covered(self, size: int) -> Tensor:
        """Pixels of each block along one side of the image."""
        starts = torch.arange(0, size, self.side_px)
        return (size - starts).clamp(max=self.side_px)
