"""Saliency, the exact gradient of a class score with respect to the pixels of a whole image.

The gradient is computed strip by strip and can be reduced over blocks on the way, so that it is never held whole.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from streammodels.core.image_rows import Image, as_image_rows
from streammodels.explain.heatmap import Heatmap, block_grid
from streammodels.explain.target import ClassIndex, ExplainedModel, as_normal_tensor, target_classes, target_score
from streammodels.streaming import StreamedModule

Reduce = Literal["max", "mean"]


def saliency(
    trunk: StreamedModule,
    image: Image,
    class_index: ClassIndex = None,
    *,
    head: nn.Module | None = None,
    stride: int = 1,
    reduce: Reduce | None = None,
) -> Heatmap:
    """The exact gradient of a class score (logit) with respect to the image.

    It is computed in eval mode; training modes, gradients and ``requires_grad`` are left unchanged.

    Args:
        trunk: Maps images to feature vectors, or to scores.
        image: (B, C, H, W), float, or uint8, whose gradient is on the scale 0..1; or one image read by rows.
        class_index: The class, one for all images or one per image; None for the one with the highest score.
        head: Maps the feature vectors (B, F) to scores (B, K); None if the trunk returns the scores.
        stride: With `reduce`, side in pixels of the blocks that are reduced to one value.
        reduce: None for the gradient itself, as large as a float copy of the image. "max" for the largest absolute
            value over the channels and pixels of each block (Simonyan et al., https://arxiv.org/abs/1312.6034), "mean"
            for the mean absolute value; the gradient is then never held whole.

    Returns:
        Values of shape (B, C, H, W), or (B, ceil(H / stride), ceil(W / stride)) with `reduce`; on the image's device.

    Raises:
        ValueError: If the class does not exist, or `stride` and `reduce` cannot be combined.
    """
    if reduce not in (None, "max", "mean") or stride < 1 or (reduce is None and stride != 1):
        raise ValueError(f"stride={stride}, reduce={reduce!r}: give reduce='max' or 'mean', and a stride from 1 up.")
    model, shape = ExplainedModel(trunk, head), as_image_rows(image).shape
    found: list[tuple[Tensor, Tensor]] = []

    def score(features: Tensor) -> Tensor:
        scores = model.scores_of(features)
        found.append((target_classes(scores, class_index), scores.detach()))
        return target_score(scores, found[0][0])

    with model.eval_mode():
        device = image.device if isinstance(image, Tensor) else torch.device("cpu")
        dtype = model.zeros().dtype
        gradient = (
            WholeGradient(shape, device, dtype)
            if reduce is None
            else BlockReducedGradient(shape, stride, reduce, device, dtype)
        )
        trunk.image_gradient(as_normal_tensor(image), score, gradient.add)
    return Heatmap(gradient.result(), *found[0], "gradient", block_grid(stride), shape[2:])


class WholeGradient:
    """The gradient of all pixels, assembled from strips."""

    def __init__(self, image_shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self._gradient = torch.empty(image_shape, device=device, dtype=dtype)

    def add(self, rows: range, gradient: Tensor) -> None:
        """Add the gradient (B, C, len(rows), W) of a strip."""
        self._gradient[:, :, rows.start : rows.stop] = gradient

    def result(self) -> Tensor:
        """(B, C, H, W)."""
        return self._gradient


class BlockReducedGradient:
    """Absolute gradient, reduced over channels and over blocks of `side_px` x `side_px` pixels.

    Blocks start at the image's first row and column; the last ones may be smaller. Strips may be added in any order,
    each row once, and need not end at block boundaries.

    Args:
        image_shape: (B, C, H, W).
        side_px: Rows and columns of a block.
        reduce: "max" for the largest absolute value, "mean" for the mean absolute value.
        device: Device of the result.
        dtype: Its dtype, promoted to at least float32.
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
        self._blocks = torch.zeros(batch, rows, columns, device=device, dtype=torch.promote_types(dtype, torch.float32))

    def add(self, rows: range, gradient: Tensor) -> None:
        """Add the gradient (B, C, len(rows), W) of a strip."""
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
        """(B, ceil(H / side_px), ceil(W / side_px)), after all rows were added."""
        if self.reduce == "max":
            return self._blocks
        _, channels, height, width = self.image_shape
        pixels = torch.outer(self._covered(height), self._covered(width)) * channels
        return self._blocks / pixels.to(self._blocks)

    def _covered(self, size: int) -> Tensor:
        """Pixels of each block along one side of the image."""
        starts = torch.arange(0, size, self.side_px)
        return (size - starts).clamp(max=self.side_px)
