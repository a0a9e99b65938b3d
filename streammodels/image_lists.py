"""Images of different sizes in one call: each is computed by itself, and the results become one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .sources import Image, as_image_rows, scale_to_unit


def with_batch(image: Image) -> Image:
    """An image of a list: a (C, H, W) tensor counts as a batch of one."""
    return image[None] if isinstance(image, Tensor) and image.ndim == 3 else image


def put_together(results: list[Tensor]) -> Tensor:
    """The results of several images, one behind the other.

    Raises:
        ValueError: If they differ in shape.
    """
    shapes = [tuple(result.shape[1:]) for result in results]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"the images of the list give results of different shapes, {sorted(set(shapes))}, which cannot be stacked. "
            "End the module in a global pool, or call it on one image after the other."
        )
    return torch.cat(results)


def compute_whole(module: nn.Module, images: Sequence[Image]) -> Tensor:
    """A plain module on each image, whole; an image read by rows is read at once."""
    parameter, results = next(module.parameters()), []
    for index, image in enumerate(images):
        source = as_image_rows(with_batch(image), f"image {index}")
        pixels = source.read(0, source.shape[2]).to(parameter.device)
        results.append(module(scale_to_unit(pixels, parameter.dtype)))
    return put_together(results)
