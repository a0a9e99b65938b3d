"""Arena allocator for small tensors kept until the backward pass, against memory fragmentation.

A strip is computed in blocks of many megabytes that come and go, and leaves a few rows behind. Rows that lie between
the blocks keep the allocator from merging the blocks again, and the process grows by far more than the rows (measured:
twice the memory at 128 strips). Here they are copied side by side into large blocks of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from streammodels.core.tensors.copies import CopyStream
from streammodels.core.tensors.memory_format import in_memory

BLOCK_BYTES = 64 * 2**20
"""Largest shared block. Each block is as large as all before it together, so that small images need little. glibc maps
blocks above 32 MiB outside its heap, where only pages written to count."""

_ALIGNMENT = 64


class Arena:
    """Copies of tensors, in blocks on one device.

    Args:
        on_host: Whether the copies are in host memory.
        copies: What makes them there, beside the computation; None to wait for them.
    """

    def __init__(self, on_host: bool = False, copies: CopyStream | None = None) -> None:
        self._on_host = on_host
        self._copies = copies if on_host else None
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._total = 0

    def put(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` without graph, in its memory format.

        Args:
            tensor: Any tensor; those of one arena are on one device. Where a `CopyStream` makes the copies, it is
                not to be written again, and the copies are to be read by the same `CopyStream` only.
        """
        size = tensor.numel() * tensor.element_size()
        if self._used + size > len(self._block):
            block = max(size, min(BLOCK_BYTES, self._total))
            self._block, self._used = self._new_block(block, tensor.device), 0
        place = in_memory(self._block[self._used : self._used + size], tensor)
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._total += size
        with torch.no_grad():
            if self._copies is None:
                return place.copy_(tensor)
            self._copies.to_host(tensor, place)
            return place

    def _new_block(self, size: int, device: torch.device) -> Tensor:
        if self._copies is not None:
            return self._copies.pinned(size)
        return torch.empty(size, dtype=torch.uint8, device="cpu" if self._on_host else device)
