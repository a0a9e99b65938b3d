"""Conversion of images to (C, H, W) tensors."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyvips
import torch
from torch import Tensor

from wsidata.transforms.base import ImageLike, TransformError

DType = Literal["uint8", "float"]


def to_tensor(image: ImageLike, dtype: DType = "uint8") -> Tensor:
    """A (C, H, W) tensor of an image, a view of (H, W, C) memory wherever possible.

    Args:
        image: A pyvips image or (H, W, C) array of uint8 (0..255), uint16 (0..65535) or float (0..1), or a (C, H, W)
            tensor of uint8 or float.
        dtype: What uint8 pixels become: "uint8" leaves them, "float" divides them by 255, and uint16 by 65535. Floats
            stay floats (float32).

    Returns:
        uint8 or float32, (C, H, W).

    Raises:
        TransformError: if `image` is of another kind, shape or number format.
    """
    if isinstance(image, pyvips.Image):
        image = image.numpy()  # decodes; (H, W, C), or (H, W) for one band
        image = image[:, :, None] if image.ndim == 2 else image
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint16 and dtype == "float":
            image = image.astype(np.float32) / np.float32(65535)
        if image.ndim == 3 and image.dtype in (np.uint8, np.float16, np.float32, np.float64):
            if not image.flags.writeable or any(stride < 0 for stride in image.strides):
                image = image.copy()
            image = torch.from_numpy(image).permute(2, 0, 1)
        else:
            raise TransformError(
                f"the transform gave an array of shape {image.shape} and type {image.dtype}; an image is "
                "(H, W, C) of uint8 in 0..255 or float in 0..1, or with dtype='float' of uint16."
            )
    if not isinstance(image, Tensor):
        raise TransformError(
            f"the transform gave a {type(image).__name__}; it must give a pyvips image, an (H, W, C) array or a "
            "(C, H, W) tensor."
        )
    if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise TransformError(
            f"the transform gave a tensor of shape {tuple(image.shape)} and type {image.dtype}; "
            "an image is (C, H, W) of uint8 in 0..255 or float in 0..1."
        )
    if image.dtype == torch.uint8:
        return image.float().div_(255) if dtype == "float" else image
    return image.float()
