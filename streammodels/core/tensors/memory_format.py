"""Memory format of maps, with their channels first or last.

Convolutions of a GPU in half precision are fastest with the channels last, and rows in the other format are copied in
front of each. So what a strip makes has the format of what it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def format_of(rows: Tensor) -> torch.memory_format:
    """The format of a (B, C, H, W) tensor, also one of which it is a part; that of torch where both are the same."""
    last = rows.ndim == 4 and rows.stride(1) == 1 and not rows.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def dense(tensor: Tensor) -> Tensor:
    """The tensor, copied where it is no dense memory in its format.

    Torch takes channels for last only if all strides say so, also those of sides of one pixel, which mean nothing.
    Where one kernel asks for the strides and another for the order in memory, it stops or computes wrong gradients.
    """
    if format_of(tensor) == torch.contiguous_format:
        return tensor.contiguous()
    _, channels, height, width = tensor.shape
    strides = (height * width * channels, 1, width * channels, channels)
    if tensor.stride() == strides:
        return tensor
    if tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.as_strided(tensor.shape, strides)
    return empty_as(tensor, tensor.shape).copy_(tensor)


def proper(rows: Tensor) -> Tensor:
    """Some rows, and if they are of one image with its channels last, with the strides that say so; no copy."""
    if rows.shape[0] == 1 and format_of(rows) == torch.channels_last:
        batch = max(size * stride for size, stride in zip(rows.shape, rows.stride(), strict=True))
        return rows.as_strided(rows.shape, (batch, *rows.stride()[1:]))
    return rows


def format_of_weights(tensors: Iterable[Tensor | None]) -> torch.memory_format:
    """Channels last if any weight of a convolution is."""
    last = any(tensor is not None and format_of(tensor) == torch.channels_last for tensor in tensors)
    return torch.channels_last if last else torch.contiguous_format


def empty_as(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory for a (B, C, H, W) tensor of the type of `rows`, in its format and on its device."""
    return torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=format_of(rows))


def in_memory(memory: Tensor, like: Tensor) -> Tensor:
    """As many bytes as `like` has, as a tensor of its shape, type and memory format."""
    place = memory.view(like.dtype)
    if format_of(like) == torch.channels_last:
        batch, channels, height, width = like.shape
        return place.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return place.view(like.shape)


def swap_sides(rows: Tensor) -> Tensor:
    """Height and width swapped; a view, or with channels last, which a view would not be to torch, a copy."""
    return dense(rows.transpose(2, 3)) if format_of(rows) == torch.channels_last else rows.transpose(2, 3)


def select(rows: Tensor, dimension: int, chosen: Tensor) -> Tensor:
    """`Tensor.index_select` of rows (2) or columns (3), in the format of `rows`."""
    if format_of(rows) == torch.channels_last:
        return rows.permute(0, 2, 3, 1).index_select(dimension - 1, chosen).permute(0, 3, 1, 2)
    return rows.index_select(dimension, chosen)
