"""Where small tensors wait for the backward pass without scattering memory.

A strip computes in blocks of many megabytes, which come and go, and leaves a few rows behind. If those lie between the
blocks, an allocator cannot put the blocks together again, and the process grows by far more than the rows: measured,
twice the memory at 128 strips. Here they are copied side by side into large blocks of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_BYTES = 64 * 2**20
"""The largest block that is shared; each is as large as all before it together, so that small images need little. glibc
maps blocks above 32 MiB apart from its heap, and there only pages that are written count."""

_ALIGNMENT = 64


class Shelf:
    """Holds copies of tensors, in blocks of one device."""

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._put = 0

    def put(self, tensor: Tensor, host: bool = False) -> Tensor:
        """A copy of `tensor` without graph.

        Args:
            tensor: Any tensor; one shelf takes tensors of one device.
            host: Whether the copy waits in host memory: pinned if the tensor is on a GPU, so that the computation goes
                on while it is made.
        """
        size = tensor.numel() * tensor.element_size()
        if self._used + size > len(self._block):
            block = max(size, min(BLOCK_BYTES, self._put))
            self._block, self._used = self._new_block(block, tensor.device, host), 0
        place = self._block[self._used : self._used + size].view(tensor.dtype).view(tensor.shape)
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._put += size
        with torch.no_grad():
            return place.copy_(tensor, non_blocking=host)

    def _new_block(self, size: int, device: torch.device, host: bool) -> Tensor:
        if host and device.type == "cuda":
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return torch.empty(size, dtype=torch.uint8, device="cpu" if host else device)
