"""How many operations a strip asks the device for, since a GPU may wait longer for being asked than for the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import BasicBlock

from streammodels import stream
from streammodels.backprop import bptt
from streammodels.backprop.grad_sums import GradSums

NO_WORK = {
    "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "new_empty", "new_empty_strided",
    "permute", "select", "slice", "squeeze", "t", "transpose", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip


class Counted(TorchDispatchMode):
    """Counts the operations that read or write memory of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if name not in NO_WORK:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def narrow_resnet() -> nn.Module:
    """The layers of a ResNet-18, with few channels."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 2, 7, 2, 3, bias=False),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for stage in range(4):
        for block in range(2):
            shrinks = stage > 0 and block == 0
            shortcut = nn.Sequential(nn.Conv2d(2, 2, 1, 2, bias=False), nn.BatchNorm2d(2)) if shrinks else None
            layers.append(BasicBlock(2, 2, 2 if shrinks else 1, shortcut))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()


def add_together(monkeypatch: pytest.MonkeyPatch, together: bool = True) -> None:
    """Add the gradients of a strip as on a GPU, or else as on a CPU."""
    monkeypatch.setattr(bptt, "GradSums", lambda leaves, **_: GradSums(leaves, together))


def step(network: Callable[[Tensor], Tensor], rows: int) -> tuple[int, int]:
    """Operations of the forward and the backward pass on an image."""
    image = torch.rand(1, 3, rows, 40)
    with Counted() as forward:
        result = network(image)
    with Counted() as backward:
        result.sum().backward()
    return forward.names.total(), backward.names.total()


def test_a_strip_takes_few_operations_more_than_plain_training(monkeypatch: pytest.MonkeyPatch) -> None:
    add_together(monkeypatch)
    network = narrow_resnet()
    forward, backward = step(network, 320)
    streamed = stream(network, strip_rows=64)
    streamed.kernel_pixels = 1  # all layers run in every strip
    few, many = step(streamed, 6 * 64), step(streamed, 10 * 64)
    of_strip = [(after - before) / 4 for before, after in zip(few, many, strict=True)]
    assert of_strip[0] <= 1.65 * forward
    assert of_strip[1] <= 1.4 * (forward + backward)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_added_together_equal_those_added_one_by_one(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, 2)).to(dtype)
    image = torch.rand(2, 1, 70, 11, dtype=dtype, requires_grad=True)
    grads = []
    for together in (True, False):
        add_together(monkeypatch, together)
        loss = stream(network, strip_rows=7)(image).float().square().sum()
        grads.append(torch.autograd.grad(loss, [image, *network.parameters()]))
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12 if dtype == torch.float64 else 0, atol=0)
