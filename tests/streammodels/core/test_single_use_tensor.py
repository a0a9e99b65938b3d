"""Rows of a strip are not kept in memory once the network has taken them."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from streammodels import stream
from streammodels.core.strip_reader import SingleUseTensor

STRIP_ROWS, WIDTH = 8, 21


def test_rows_are_taken_once() -> None:
    rows = torch.rand(1, 3, 4, 5)
    single = SingleUseTensor(rows)
    assert single.take() is rows
    with pytest.raises(AssertionError, match="taken before"):
        single.take()


class HeldWhilePooling(TorchDispatchMode):
    """How many float strips of the image are still in memory whenever a pool computes."""

    def __init__(self) -> None:
        super().__init__()
        self.strips: list[weakref.ref[Tensor]] = []
        self.counts: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.shape == (1, 3, STRIP_ROWS, WIDTH):
            self.strips.append(weakref.ref(result))
        if "max_pool" in str(func):
            self.counts.append(len({id(strip()) for strip in self.strips} - {id(None)}))
        return result


class Decoded:
    shape, dtype = (3, 5 * STRIP_ROWS, WIDTH), torch.uint8

    def rows(self, start: int, stop: int) -> Tensor:
        return torch.arange(start * WIDTH, stop * WIDTH).view(1, -1, WIDTH).expand(3, -1, -1).to(torch.uint8)


@pytest.mark.parametrize("image", [Decoded(), torch.zeros(1, 3, 5 * STRIP_ROWS, WIDTH, dtype=torch.uint8)])
def test_strips_are_gone_once_their_rows_are_joined(image: Any) -> None:
    module = stream(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)), strip_rows=STRIP_ROWS)
    with HeldWhilePooling() as held:
        module(image).sum().backward()
    assert len(held.strips) >= 9  # five forwards, the first four once more
    # The first strip has no carry in front: its rows themselves are what the convolution needs for its gradient.
    assert max(held.counts) == 1
    assert held.counts.count(1) <= 2
