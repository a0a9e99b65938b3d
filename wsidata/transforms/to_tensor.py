"""Conversion of images to (C, H, W) tensors."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyvips
import torch
from torch import Tensor

from wsidata.transforms.base import Picture, TransformError

DType = Literal["uint8", "float"]


def to_tensor(picture: Picture, dtype: DType = "uint8") -> Tensor:
    """A (C, H, W) tensor of an image, a view of (H, W, C) memory wherever possible.

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
