"""Blocks of a gradient that comes in strips equal blocks of the whole gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streammodels.explain.gradient import BlockReducedGradient, Reduce


def _expected(gradient: Tensor, side: int, reduce: Reduce) -> np.ndarray:
    absolute = gradient.abs().numpy()
    batch, _, height, width = absolute.shape
    function = np.max if reduce == "max" else np.mean
    result = np.empty((batch, -(-height // side), -(-width // side)))
    for image in range(batch):
        for row in range(result.shape[1]):
            for column in range(result.shape[2]):
                block = absolute[image, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
                result[image, row, column] = function(block)
    return result


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 23), width=st.integers(1, 23), side=st.integers(1, 9), strip=st.integers(1, 25),
    reduce=st.sampled_from(["max", "mean"]), upwards=st.booleans(),
)  # fmt: skip
def test_strips_give_what_the_whole_gives(
    height: int, width: int, side: int, strip: int, reduce: Reduce, upwards: bool
) -> None:
    gradient = torch.randn(2, 3, height, width, dtype=torch.float64)
    blocks = BlockReducedGradient((2, 3, height, width), side, reduce, torch.device("cpu"), torch.float64)
    strips = [range(start, min(start + strip, height)) for start in range(0, height, strip)]
    for rows in reversed(strips) if upwards else strips:
        blocks.add(rows, gradient[:, :, rows.start : rows.stop])
    np.testing.assert_allclose(blocks.result().numpy(), _expected(gradient, side, reduce), rtol=1e-13)


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_nan_is_not_hidden(reduce: Reduce) -> None:
    gradient = torch.ones(1, 3, 4, 4)
    gradient[0, 1, 3, 0] = float("nan")
    blocks = BlockReducedGradient((1, 3, 4, 4), 2, reduce, torch.device("cpu"), torch.float32)
    blocks.add(range(4), gradient)
    assert blocks.result().isnan().tolist() == [[[False, False], [True, False]]]


def test_half_precision_is_summed_in_single() -> None:
    gradient = torch.full((1, 1, 64, 64), 60000.0, dtype=torch.float16)
    blocks = BlockReducedGradient((1, 1, 64, 64), 64, "mean", torch.device("cpu"), torch.float16)
    blocks.add(range(64), gradient)
    assert blocks.result().item() == pytest.approx(60000, rel=1e-3)
