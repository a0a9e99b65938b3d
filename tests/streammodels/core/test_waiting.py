"""Layers that wait for enough pixels (`StreamedModule.kernel_pixels`) change no result."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from streammodels import StreamedModule, stream


def narrow_resnet() -> ResNet:
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)
    for layer in list(network.modules()):
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.Conv2d):
                narrow = nn.Conv2d(
                    max(child.in_channels // 16, 3), child.out_channels // 16, child.kernel_size, child.stride,
                    child.padding, bias=False,
                )  # fmt: skip
                setattr(layer, name, narrow)
            elif isinstance(child, nn.BatchNorm2d):
                setattr(layer, name, nn.BatchNorm2d(child.num_features // 16))
    network.fc = nn.Linear(32, 3)
    return network


@pytest.mark.slow
@pytest.mark.parametrize(("kernel_pixels", "strip_rows"), [(2, 1), (100_000, 1), (9, 16), (40, 16), (2, 33), (40, 33)])
def test_results_do_not_depend_on_waiting(
    kernel_pixels: int,
    strip_rows: int,
    assert_exact: Callable[..., float],
    randomize_batch_norm: Callable[[nn.Module], nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StreamedModule, "kernel_pixels", kernel_pixels)
    network = randomize_batch_norm(narrow_resnet())
    assert_exact(network, torch.randn(2, 3, 99, 67, dtype=torch.float64), strip_rows)


def test_deep_stages_run_less_often_than_strips_come() -> None:
    trunk = stream(narrow_resnet().eval(), strip_rows=16)
    trunk.kernel_pixels = 64
    plan = trunk.plan(1024, 128)
    index = next(i for i, node in enumerate(trunk._trace().network.nodes) if node.path == "layer4.0.conv1")
    working = sum(len(plan.new(index, strip)) > 0 for strip in range(plan.strips))
    assert working == 2  # 32 rows of 4 columns, 16 of them at a time


def test_what_is_waited_for_is_bounded_whatever_the_height() -> None:
    def most_carried(height: int) -> int:
        trunk = stream(narrow_resnet().eval(), strip_rows=16)
        trunk.kernel_pixels = 64
        plan = trunk.plan(height, 128)
        return max(len(plan.carried(node, strip)) for node in range(len(plan.keep)) for strip in range(plan.strips))

    assert most_carried(2048) == most_carried(8192)
