"""Strips are timed to choose their height, on CUDA by default, without a trace in results or random numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from streammodels import stream
from streammodels.memory import budget, timing
from streammodels.memory.budget import Sizes


class Trained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropout, self.pool = nn.Conv2d(3, 2, 3, 2, 1), nn.Dropout(0.3), nn.AdaptiveMaxPool2d(1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.pool(self.dropout(self.first(image)))


def test_heights_are_timed_once_and_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([8.0, 8.0, 8.0, 9.0])  # for each of four strips: the third height is as fast as can be
    timed: list[int] = []

    def time(memory, rows, *others):  # type: ignore[no-untyped-def]
        timed.append(rows)
        real(memory, rows, *others)  # which runs on this device, too
        return next(seconds) * 2.0 ** max(0, len(timed) - 3)

    real = timing._seconds
    monkeypatch.setattr(timing, "_seconds", time)
    monkeypatch.setattr(timing, "_LEAST_PIXELS", 2**8)
    monkeypatch.setattr(timing, "_known", {})
    module, image = Trained(), torch.rand(1, 3, 128, 32)
    streamed = stream(module, memory="10MB")
    streamed.timed_strips = True
    torch.manual_seed(3)
    streamed(image).sum().backward()
    assert timed == [8, 16, 32, 64]
    assert streamed.plan(128, 32).ready[0][0] >= 32
    assert streamed.alike(module).timed_strips
    streamed(torch.rand(1, 3, 64, 32))
    assert len(timed) == 4
    ordered = stream(module, strip_rows=streamed.plan(128, 32).ready[0][0])
    found, module.first.weight.grad = module.first.weight.grad, None
    torch.manual_seed(3)
    ordered(image).sum().backward()
    assert torch.equal(found, module.first.weight.grad)


def test_times_between_those_measured_are_interpolated() -> None:
    speed = timing.interpolated({100: 4.0, 200: 2.0, 400: 1.01, 800: 1.0})
    assert [speed(pixels) for pixels in (50, 100, 200, 400, 800, 9000)] == [8.0, 4.0, 2.0, 1.0, 1.0, 1.0]
    assert 2.0 < speed(141) < 4.0


def test_what_is_free_on_a_gpu_is_the_budget_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 32 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**30)
    assert Sizes().on(torch.device("cuda")) == Sizes(memory=9 * 2**30)
    assert Sizes(strip_rows=9).on(torch.device("cuda")) == Sizes(strip_rows=9)
    assert Sizes().on(torch.device("cpu")) == Sizes(tile_size=budget.DEFAULT_TILE_SIZE)
    network = nn.Sequential(nn.Conv2d(3, 2, 3))
    assert stream(network).forecast(900, 500) == stream(network, tile_size=2880).forecast(900, 500)
    assert "memory that is free" in repr(stream(network))
