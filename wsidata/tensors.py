"""A picture in memory is rows of RGB pixels (HWC); a network wants (C, H, W). A view says both, without moving a byte.

Transposing in the worker (what a plain collate does unseen) costs more processor time than reading the slide, and
floats cost four times the memory. So samples stay channels-last views of their HWC memory, from decoding to the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyvips
import torch
from torch import Tensor
from torch.utils.data import default_collate

from wsidata.transform_base import Picture, TransformError

DType = Literal["uint8", "float"]


class BatchError(ValueError):
    """Samples do not fit into one batch."""


def to_tensor(picture: Picture, dtype: DType = "uint8") -> Tensor:
    """A picture as a (C, H, W) tensor that is a view of (H, W, C) memory wherever the picture allows it.

    Args:
        picture: A pyvips image or (H, W, C) array of uint8 (0..255), uint16 (0..65535) or float (0..1), or a (C, H, W)
            tensor of uint8 or float.
        dtype: What uint8 pixels become: "uint8" leaves them, "float" divides them by 255, and uint16 by 65535. Floats
            stay floats (float32).

    Returns:
        uint8 or float32, (C, H, W).

    Raises:
        TransformError: if `picture` is of another kind, shape or number format.
    """
    if isinstance(picture, pyvips.Image):
        picture = picture.numpy()  # decodes; (H, W, C), or (H, W) for one band
        picture = picture[:, :, None] if picture.ndim == 2 else picture
    if isinstance(picture, np.ndarray):
        if picture.dtype == np.uint16 and dtype == "float":
            picture = picture.astype(np.float32) / np.float32(65535)
        if picture.ndim == 3 and picture.dtype in (np.uint8, np.float16, np.float32, np.float64):
            if not picture.flags.writeable or any(stride < 0 for stride in picture.strides):
                picture = picture.copy()
            picture = torch.from_numpy(picture).permute(2, 0, 1)
        else:
            raise TransformError(
                f"the transform gave an array of shape {picture.shape} and type {picture.dtype}; a picture is "
                "(H, W, C) of uint8 in 0..255 or float in 0..1, or with dtype='float' of uint16."
            )
    if not isinstance(picture, Tensor):
        raise TransformError(
            f"the transform gave a {type(picture).__name__}; it must give a pyvips image, an (H, W, C) array or a "
            "(C, H, W) tensor."
        )
    if picture.ndim != 3 or not (picture.dtype == torch.uint8 or picture.is_floating_point()):
        raise TransformError(
            f"the transform gave a tensor of shape {tuple(picture.shape)} and type {picture.dtype}; "
            "a picture is (C, H, W) of uint8 in 0..255 or float in 0..1."
        )
    if picture.dtype == torch.uint8:
        return picture.float().div_(255) if dtype == "float" else picture
    return picture.float()


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack (C, H, W) tensors to (B, C, H, W) in channels-last memory.

    In a loader's worker the batch is built in shared memory (torch's own collate does that), so that it is copied once.

    Raises:
        BatchError: if the sizes differ.
    """
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise BatchError(
            f"images of different sizes (C, H, W) cannot be one batch: {', '.join(map(str, shapes))}. "
            "Pass image_size= (crops or pads), end your transform with CropOrPad, or use batch_size=1."
        )
    rows: Tensor = default_collate([image.permute(1, 2, 0) for image in images])
    return rows.permute(0, 3, 1, 2)


def batch_images(images: Sequence[Any]) -> Any:
    """Tensors are stacked; lazy images stay a list, and may differ in size."""
    return stack_images(images) if isinstance(images[0], Tensor) else list(images)


def collate(samples: Sequence[Any]) -> Any:
    """Make a batch of samples.

    Args:
        samples: `(image, target)` pairs, or images alone.

    Returns:
        `(images, targets)` with images (B, C, H, W), channels-last, or a list of lazy images; and class numbers (B,)
        int64, targets (B, K) float32, or masks (B, H, W) int64. Or the images alone.
    """
    if not isinstance(samples[0], tuple):
        return batch_images(samples)
    images, targets = zip(*samples, strict=True)
    if isinstance(targets[0], Tensor):
        return batch_images(images), default_collate(list(targets))
    return batch_images(images), torch.tensor(targets, dtype=torch.int64)
