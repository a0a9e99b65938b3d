"""Parametrizations run once for each image, as in the plain network, and not at all for forecasts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import register_parametrization

from streammodels import StreamedModule, stream


class Noisy(nn.Module):
    """Multiplies a weight by a random number, and counts how often."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, weight: Tensor) -> Tensor:
        self.count += 1
        return weight * torch.rand((), dtype=weight.dtype)


def normalized() -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4).eval(), nn.ReLU(), spectral_norm(nn.Conv2d(4, 5, 3)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), spectral_norm(nn.Linear(5, 2)),
    ).double()  # fmt: skip


def noisy() -> nn.Sequential:
    layer = nn.Conv2d(3, 4, 3).double()
    register_parametrization(layer, "weight", Noisy())
    return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("make", [normalized, noisy])
@pytest.mark.parametrize(
    "ask", [lambda s: s.forecast(40, 30), lambda s: s.plan(40, 30), lambda s: s.summary(30, 40)], ids=["a", "b", "c"]
)
def test_forecasts_leave_the_module_and_the_random_numbers_alone(
    make: Callable[[], nn.Sequential], ask: Callable[[StreamedModule], Any]
) -> None:
    module = make()
    before, random = state(module), torch.get_rng_state()
    versions = {id(buffer): buffer._version for buffer in module.buffers()}
    ask(stream(module, memory="1MB"))
    torch.testing.assert_close(state(module), before, rtol=0, atol=0)
    assert {id(buffer): buffer._version for buffer in module.buffers()} == versions
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("make", [normalized, noisy])
@pytest.mark.parametrize("sizes", [{"strip_rows": 5}, {"memory": "1MB"}], ids=["rows", "memory"])
def test_images_of_a_list_read_the_weights_as_often_as_in_the_plain_network(
    make: Callable[[], nn.Sequential], sizes: dict[str, Any]
) -> None:
    module = make()
    twin, images = copy.deepcopy(module), [torch.randn(1, 3, *size).double() for size in ((20, 9), (9, 20), (31, 9))]
    results = []
    for network, call in (
        (module, lambda: torch.cat([module(image) for image in images])),
        (twin, lambda: stream(twin, **sizes)(images)),
    ):
        torch.manual_seed(1)
        output = call()
        output.square().sum().backward()
        results.append((output.detach(), {n: p.grad for n, p in network.named_parameters()}, state(network)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
