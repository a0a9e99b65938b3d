"""Copies in an arena equal the originals, side by side."""

from __future__ import annotations

import pytest
import torch

from streammodels.backprop import arena
from streammodels.backprop.arena import Arena


def test_copies_keep_values_types_and_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "BLOCK_BYTES", 1000)
    store, tensors = Arena(), []
    for size in (1, 3, 50, 7, 200, 0, 5):
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.uint8):
            tensors.append((torch.rand(1, size, 2, 3) * 200).to(dtype))
    copies = [store.put(tensor) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        assert torch.equal(copy, tensor)
        assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
        tensor.zero_()
    assert float(copies[-1].sum()) > 0  # a copy, not the tensor itself


def test_copies_share_a_block() -> None:
    store = Arena(on_host=True)
    store.put(torch.rand(1000))
    first, second = store.put(torch.rand(4)), store.put(torch.rand(2, 3))
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert second.storage_offset() * 4 >= 16


def test_small_images_need_small_blocks() -> None:
    store = Arena()
    copies = [store.put(torch.rand(1000)) for _ in range(20)]
    blocks = {copy.untyped_storage().data_ptr(): copy.untyped_storage().nbytes() for copy in copies}
    assert len(blocks) <= 7
    assert sum(blocks.values()) <= 2.2 * 20 * 4000


def test_copies_have_no_graph() -> None:
    assert not Arena().put(torch.rand(3, requires_grad=True) * 2).requires_grad
