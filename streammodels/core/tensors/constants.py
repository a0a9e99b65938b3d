"""Small tensors of numbers that are known beforehand, made once for each device.

Copying numbers of Python to a GPU makes the host wait until the GPU has done all that was asked of it, so the loop over
the strips must not do it. Indices of padded rows and counts of pixels are the same in most strips.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Numbers = tuple[int, ...] | tuple[float, ...]


def on_device(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of one dimension, which the caller must not write into.

    Args:
        numbers: Its values.
        dtype: Its type.
        device: Where it is.
    """
    if device.type != "cpu":
        return _kept(numbers, dtype, device)
    return torch.tensor(numbers, dtype=dtype)


@lru_cache(maxsize=1024)
def _kept(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # tensors made in inference mode cannot be used outside it
        return torch.tensor(numbers, dtype=dtype, device=device)
