"""Arena allocator for small tensors kept until the backward pass, against memory fragmentation.

A strip is computed in blocks of many megabytes that come and go, and leaves a few rows behind. Rows that lie between
the blocks keep the allocator from merging the blocks again, and the process grows by far more than the rows (measured:
twice the memory at 128 strips). Here they are copied side by side into large blocks of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from streammodels.core.tensors.memory_format import format_of

BLOCK_BYTES = 64 * 2**20
"""Largest shared block. Each block is as large as all before it together, so that small images need little. glibc maps
blocks above 32 MiB outside its heap, where only pages written to count."""

_ALIGNMENT = 64


class Arena:
    """Copies of tensors, in blocks on one device."""

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._total = 0

    def put(self, tensor: Tensor, host: bool = False) -> Tensor:
        """A copy of `tensor` without graph, in its memory format.

        Args:
            tensor: Any tensor; those of one arena are on one device.
            host: Whether the copy is in host memory, pinned if the tensor is on a GPU, so that the computation goes on
                while it is made.
        """
        size = tensor.numel() * tensor.element_size()
        if self._used + size > len(self._block):
            block = max(size, min(BLOCK_BYTES, self._total))
            self._block, self._used = self._new_block(block, tensor.device, host), 0
        place = self._block[self._used : self._used + size].view(tensor.dtype)
        if format_of(tensor) == torch.channels_last:
            batch, channels, height, width = tensor.shape
            place = place.view(batch, height, width, channels).permute(0, 3, 1, 2)
        else:
            place = place.view(tensor.shape)
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._total += size
        with torch.no_grad():
            return place.copy_(tensor, non_blocking=host)

    def _new_block(self, size: int, device: torch.device, host: bool) -> Tensor:
        if host and device.type == "cuda":
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return torch.empty(size, dtype=torch.uint8, device="cpu" if host else device)
