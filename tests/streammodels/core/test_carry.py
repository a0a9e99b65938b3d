"""`join_rows` against the separate operations of torch that it replaces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from streammodels.core.carry import join_rows, last_rows


def reference(carry: Tensor, rows: Tensor, keep: int, relu: bool) -> tuple[Tensor, Tensor | None]:
    joined = torch.cat([carry, rows], dim=2)
    kept = joined[:, :, joined.shape[2] - keep :] if keep else None
    return (joined.relu() if relu else joined), kept


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("keep", "used"), [(0, "joined"), *((keep, used) for keep in (1, 4, 6) for used in ("both", "joined", "kept"))]
)
def test_values_and_gradients_equal_separate_operations(relu: bool, keep: int, used: str) -> None:
    carry = torch.randn(2, 3, 2, 5, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (join_rows, reference):
        joined, kept = function(carry, rows, keep, relu)
        assert (kept is None) == (keep == 0)
        parts = [part for part, name in ((joined, "joined"), (kept, "kept")) if used in ("both", name)]
        loss = sum((part * torch.arange(part.numel()).view_as(part)).sum() for part in parts if part is not None)
        assert isinstance(loss, Tensor)
        results.append((joined, *torch.autograd.grad(loss, [carry, rows], allow_unused=True, materialize_grads=True)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_gradient_that_comes_in_is_not_written_into() -> None:
    carry = torch.randn(1, 1, 1, 3, requires_grad=True)
    rows = torch.randn(1, 1, 2, 3, requires_grad=True)
    joined, kept = join_rows(carry, rows, 1, relu=False)
    assert kept is not None
    joined_grad = torch.ones_like(joined)
    torch.autograd.backward([joined, kept], [joined_grad, torch.ones_like(kept)])
    assert torch.equal(joined_grad, torch.ones_like(joined))


def test_kept_rows_are_a_copy() -> None:
    rows = torch.randn(1, 1, 4, 3)
    kept = last_rows(None, rows, 2)
    assert kept is not None
    rows.zero_()
    assert kept.abs().sum() > 0
