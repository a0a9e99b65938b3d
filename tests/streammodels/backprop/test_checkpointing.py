"""Gradients do not depend on what is kept, and operations are those documented."""

from __future__ import annotations

import copy

import pytest
import torch
from covering import pairs
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from streammodels import stream
from streammodels.backprop.checkpointing import BackwardStep, Keeping, backward_order

KEPT = [
    Keeping(),
    Keeping(every=3),
    Keeping(every=100),
    Keeping(graphs=1),
    Keeping(graphs=4),
    Keeping(graphs=100),
    Keeping(every=4, graphs=3),
    Keeping(every=2, graphs=5, frozen=False),
    Keeping(on_host=True),
]


class Block(nn.Module):
    """A residual block with an activation that works in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + x)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 5, 2, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Block(4),
        nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU6(), Block(6), nn.Conv2d(6, 3, 1),
    ).double().eval()  # fmt: skip


def gradients(trunk: nn.Module, module: nn.Module, image: Tensor, image_grad: bool) -> list[Tensor | None]:
    module.zero_grad()
    entered = image.clone().requires_grad_(image_grad)
    output = trunk(entered)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    return [output.detach(), entered.grad, *(parameter.grad for parameter in module.parameters())]


def assert_same(actual: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("keeping", "frozen", "size"), pairs(KEPT, [0, 1, 4, 5, 8], [(67, 30), (30, 67)]), ids=str)
def test_gradients_are_the_plain_ones(keeping: Keeping, frozen: int, size: tuple[int, int]) -> None:
    module, image = network(), torch.randn(2, 2, *size, dtype=torch.float64)
    module[:frozen].requires_grad_(False)
    trunk = stream(module, strip_rows=6, keeping=keeping)
    for image_grad in (False, True):
        expected = gradients(module, module, image, image_grad)
        assert_same(gradients(trunk, module, image, image_grad), expected)


@pytest.mark.parametrize("keeping", KEPT, ids=str)
def test_a_second_backward_pass_gives_the_same(keeping: Keeping) -> None:
    module, image = network(), torch.randn(1, 2, 67, 30, dtype=torch.float64, requires_grad=True)
    output = stream(module, strip_rows=6, keeping=keeping)(image).square().sum()
    inputs = [image, *module.parameters()]
    first = torch.autograd.grad(output, inputs, retain_graph=True)
    second = torch.autograd.grad(output, inputs)
    assert_same(list(second), list(first))


@pytest.mark.parametrize("keeping", KEPT, ids=str)
def test_changed_weights_are_noticed(keeping: Keeping) -> None:
    module, image = network(), torch.randn(1, 2, 67, 30, dtype=torch.float64)
    output = stream(module, strip_rows=6, keeping=keeping)(image).sum()
    with torch.no_grad():
        module[5].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


@pytest.mark.parametrize("keeping", KEPT, ids=str)
@pytest.mark.parametrize("frozen", [0, 2])
def test_dropout_draws_the_same_numbers_again(keeping: Keeping, frozen: int) -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Dropout(0.4), nn.Conv2d(3, 3, 3), nn.Dropout(0.4), nn.Conv2d(3, 1, 3))
    module[:frozen].requires_grad_(False)
    module.double()
    image = torch.randn(1, 1, 40, 11, dtype=torch.float64)
    trunk = stream(module, strip_rows=5, keeping=keeping)
    torch.manual_seed(1)
    trunk(image).sum().backward()
    bias, shift = module[2].bias, torch.zeros(3, dtype=torch.float64)
    shift[1] = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            moved = copy.deepcopy(module)
            moved[2].bias.add_(sign * shift)
        torch.manual_seed(1)
        values.append(float(stream(moved, strip_rows=5, keeping=keeping)(image).sum().detach()))
    assert bias.grad is not None
    assert float(bias.grad[1]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def operations(trunk: nn.Module, image: Tensor) -> int:
    trunk(image)  # the schedule is cached
    with FlopCounterMode(display=False) as counter:
        trunk(image).sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.slow
def test_operations_are_what_the_table_says() -> None:
    module = nn.Sequential(*(nn.Conv2d(2, 2, 3, 1, 1) for _ in range(3)))
    image = torch.randn(1, 2, 64, 16)
    forward = 3 * 2 * 2 * 2 * 9 * 64 * 16
    backward = 2 * forward - forward // 3
    for graphs, recomputed in {0: 16, 1: 15, 8: 8, 16: 0}.items():
        count = operations(stream(module, strip_rows=4, keeping=Keeping(graphs=graphs)), image)
        assert count == pytest.approx(forward + backward + forward * recomputed / 16, rel=0.05)
    count = operations(stream(module, strip_rows=4, keeping=Keeping(every=4)), image)
    assert count == pytest.approx(2 * forward + backward + forward * 3 / 4, rel=0.05)


def test_backward_order_goes_up_group_by_group() -> None:
    assert [(v.strip, v.backward) for v in backward_order(5, 1, 0)] == [(s, True) for s in (4, 3, 2, 1, 0)]
    order = backward_order(5, 3, 1)
    assert [(v.strip, v.backward) for v in order] == [
        (4, True),
        (3, True),
        (0, False),
        (1, False),
        (2, True),
        (1, True),
        (0, True),
    ]
    assert order[0] == BackwardStep(4, backward=True, reads=False)
    assert all(visit.reads for visit in order[1:])


@pytest.mark.parametrize("options", [{"every": 0}, {"graphs": -1}])
def test_nonsense_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Keeping(**options)
