"""Model to explain, in eval mode, and its target class."""

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
class ExplainedModel:
    """A streamed trunk and its head.

    Attributes:
        trunk: Maps images to feature vectors, or to scores.
        head: Maps the feature vectors to scores; None if the trunk returns the scores.
    """

    trunk: StreamedModule
    head: nn.Module | None

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Eval mode, frozen parameters, and no inference mode, under which nothing can be differentiated."""
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
        """(B, K) scores of the trunk's output.

        Raises:
            ValueError: If there is not one score per class.
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

    def with_trunk(self, module: nn.Module) -> ExplainedModel:
        """The same head behind another module, streamed with the same settings."""
        return ExplainedModel(self.trunk.alike(module), self.head)

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the trunk's dtype, on its device."""
        own = next((tensor for tensor in self.trunk.parameters() if tensor.is_floating_point()), torch.empty(0))
        return own.new_zeros(shape)


def target_classes(scores: Tensor, class_index: ClassIndex) -> Tensor:
    """The target class of every image.

    Args:
        scores: (B, K).
        class_index: One for all images, one per image, or None for the class with the highest score.

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
            "Pass one number, one per image, or None for the class with the highest score."
        )
    return chosen.flatten().expand(batch).long()


def target_score(scores: Tensor, classes: Tensor) -> Tensor:
    """Each image's score of its target class, summed over images, whose gradients are independent of each other."""
    return scores.gather(1, classes[:, None]).sum()


def as_normal_tensor(image: Image) -> Image:
    """The image, copied if it was made in inference mode, since autograd cannot save such a tensor."""
    return image.clone() if isinstance(image, Tensor) and image.is_inference() else image
