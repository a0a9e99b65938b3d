"""Forecast operations are those that are counted."""

from __future__ import annotations

import pytest
import torch
from covering import pairs
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from streammodels import Keeping, stream


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(8, 6, 3, 2), nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip


KEPT = (Keeping(), Keeping(graphs=1), Keeping(graphs=4), Keeping(graphs=99), Keeping(every=4))


@pytest.mark.slow
@pytest.mark.parametrize(("keeping", "frozen", "size"), pairs(KEPT, [0, 1, 4], [(128, 48), (48, 128)]), ids=str)
def test_operations_are_those_counted(keeping: Keeping, frozen: int, size: tuple[int, int]) -> None:
    module, (height, width) = network(), size
    module[:frozen].requires_grad_(False)
    trunk, image = stream(module, strip_rows=8, keeping=keeping), torch.randn(2, 3, height, width)
    forecast = trunk.forecast(height, width, batch=2)
    trunk(image)  # the schedule is cached, and not counted
    with FlopCounterMode(display=False) as counter:
        output = trunk(image)
        assert counter.get_total_flops() == forecast.forward_operations
        output.sum().backward()
    # Strips are not all equal: the first and the last ones emit fewer or more rows.
    assert counter.get_total_flops() == pytest.approx(forecast.training_operations, rel=0.08)
    if keeping == Keeping():
        assert counter.get_total_flops() == forecast.training_operations
    assert forecast.strips == 16
    assert forecast.sideways == (width > height)


def test_never_more_operations_than_checkpointing() -> None:
    module = network()
    for keeping in (None, Keeping(), Keeping(graphs=3)):
        forecast = stream(module, strip_rows=8, keeping=keeping).forecast(128, 64)
        assert forecast.training_operations <= 4 * forecast.forward_operations


def test_forecast_reads_as_a_sentence() -> None:
    text = str(stream(network(), memory="1MB").forecast(400, 300))
    assert "strip(s) of" in text
    assert "GB above model and image" in text
    assert "TFLOP for a training step" in text
