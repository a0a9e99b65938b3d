"""Which pixels the score of a class depends on: the exact gradient of the score with respect to the whole image.

The gradient comes strip by strip and can be reduced as it comes, so that it never has to be as large as the image.

The score (logit) is that of the network as it predicts: in eval mode, whatever mode it is in. No trace is left:
gradients, training flags and ``requires_grad`` are afterwards as they were before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .block_map import BlockMap, Reduce
from .explained import ClassIndex, Explained, choose, differentiable, score_of
from .heatmap import Heatmap
from .map_grid import block_grid
from .sources import Image, as_image_rows
from .streaming import StreamedModule


def saliency(
    trunk: StreamedModule,
    image: Image,
    class_index: ClassIndex = None,
    *,
    head: nn.Module | None = None,
    stride: int = 1,
    reduce: Reduce | None = None,
) -> Heatmap:
    """The gradient of a class score with respect to the image, exact to rounding.

    Args:
        trunk: Maps images to feature vectors, or to scores.
        image: (B, C, H, W), float, or uint8, whose gradient is on the scale 0..1; or one image read by rows.
        class_index: The class, one for all images or one for each; None for the one with the highest score.
        head: Maps the feature vectors (B, F) to scores (B, K); None if the trunk's result is the scores.
        stride: With `reduce`, side of the blocks of pixels that become one number.
        reduce: None for the gradient itself, as large as a float copy of the image. "max" for the largest absolute
            value over the channels and pixels of each block (Simonyan et al., https://arxiv.org/abs/1312.6034), "mean"
            for the mean absolute value; then the gradient never is whole in memory.

    Returns:
        Values of shape (B, C, H, W), or (B, ceil(H / stride), ceil(W / stride)) with `reduce`; on the image's device.

    Raises:
        ValueError: If the class does not exist, or `stride` and `reduce` do not go together.
    """
    if reduce not in (None, "max", "mean") or stride < 1 or (reduce is None and stride != 1):
        raise ValueError(f"stride={stride}, reduce={reduce!r}: give reduce='max' or 'mean', and a stride from 1 up.")
    explained, shape = Explained(trunk, head), as_image_rows(image).shape
    said: list[tuple[Tensor, Tensor]] = []

    def score(features: Tensor) -> Tensor:
        scores = explained.scores_of(features)
        said.append((scores.detach(), choose(scores, class_index)))
        return score_of(scores, said[0][1])

    with explained.predicting():
        device = image.device if isinstance(image, Tensor) else torch.device("cpu")
        dtype = explained.zeros().dtype
        taker = _Whole(shape, device, dtype) if reduce is None else BlockMap(shape, stride, reduce, device, dtype)
        trunk.image_gradient(differentiable(image), score, taker.add)
    (scores, chosen) = said[0]
    return Heatmap(taker.result(), chosen, scores, "gradient", block_grid(stride), shape[2:])


class _Whole:
    """Puts the strips of the gradient together."""

    def __init__(self, image_shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self._gradient = torch.empty(image_shape, device=device, dtype=dtype)

    def add(self, rows: range, gradient: Tensor) -> None:
        self._gradient[:, :, rows.start : rows.stop] = gradient

    def result(self) -> Tensor:
        return self._gradient
