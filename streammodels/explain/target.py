"""The network that is explained: a streamed trunk and the head behind it, as they predict, and the class chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streammodels.core.image_rows import Image
from streammodels.streaming import StreamedModule

ClassIndex = int | Sequence[int] | Tensor | None


@dataclass(frozen=True)
class Explained:
    """A streamed trunk and its head.

    Attributes:
        trunk: Maps images to feature vectors, or to scores.
        head: Maps the feature vectors to scores; None if the trunk's result is the scores.
    """

    trunk: StreamedModule
    head: nn.Module | None

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Eval mode, no gradients of weights, and no inference mode, in which nothing can be differentiated."""
        layers = [layer for part in (self.trunk, self.head) if part is not None for layer in part.modules()]
        flags = [(layer, layer.training) for layer in layers]
        trained = [tensor for layer in layers for tensor in layer.parameters(recurse=False) if tensor.requires_grad]
        try:
            for layer in layers:
                layer.training = False
            for tensor in trained:
                tensor.requires_grad_(False)
            with torch.inference_mode(False):
                yield
        finally:
            for layer, training in flags:
                layer.training = training
            for tensor in trained:
                tensor.requires_grad_(True)

    def scores(self, image: Image) -> Tensor:
        """(B, K) scores of images."""
        return self.scores_of(self.trunk(image))

    def scores_of(self, features: Tensor) -> Tensor:
        """(B, K) scores of what the trunk returned.

        Raises:
            ValueError: If there is not one score for a class.
        """
        if features.ndim == 4 and features[0, 0].numel() > 1:
            raise ValueError(
                f"the network returns a map of shape {tuple(features.shape)}, which is no score of a class. Explain a "
                "network that ends in global pooling."
            )
        scores: Tensor = features.flatten(1) if self.head is None else self.head(features.flatten(1))
        if scores.ndim != 2:
            raise ValueError(f"the head returns {tuple(scores.shape)}; a class is chosen from scores of shape (B, K).")
        return scores

    def with_end(self, module: nn.Module) -> Explained:
        """The same head behind another module, which is streamed as the trunk is."""
        streamed = self.trunk.alike(module)
        streamed.kernel_pixels = self.trunk.kernel_pixels
        return Explained(streamed, self.head)

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the type and on the device that the trunk computes with."""
        own = next((tensor for tensor in self.trunk.parameters() if tensor.is_floating_point()), torch.empty(0))
        return own.new_zeros(shape)


def choose(scores: Tensor, class_index: ClassIndex) -> Tensor:
    """The class to explain, of every image.

    Args:
        scores: (B, K).
        class_index: One for all images, one for each, or None for the one with the highest score.

    Returns:
        (B,) int64.

    Raises:
        ValueError: If there is no such class.
    """
    batch, classes = scores.shape
    if class_index is None:
        return scores.detach().argmax(dim=1)
    chosen = torch.as_tensor(class_index, device=scores.device)
    whole = not (chosen.is_floating_point() or chosen.dtype == torch.bool)
    if not whole or chosen.numel() not in (1, batch) or chosen.min() < 0 or chosen.max() >= classes:
        raise ValueError(
            f"class_index={class_index} is not one of 0..{classes - 1} for each of {batch} image(s). "
            "Give one number, one for each image, or None for the class with the highest score."
        )
    return chosen.flatten().expand(batch).long()


def score_of(scores: Tensor, classes: Tensor) -> Tensor:
    """The sum over the images of the score of each one's class; no image's gradient depends on another image."""
    return scores.gather(1, classes[:, None]).sum()


def differentiable(image: Image) -> Image:
    """The image as autograd can keep it: what inference mode made has to be copied."""
    return image.clone() if isinstance(image, Tensor) and image.is_inference() else image
