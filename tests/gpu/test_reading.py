"""Copies beside the computation are exact on a GPU, whichever stream is late; skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streammodels import Keeping, stream
from streammodels.core.tensors.copies import CopyStream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CYCLES = 20_000_000
"""Of the clock of the GPU, about ten milliseconds."""


class Lazy:
    """An image that decodes into the same memory every time."""

    dtype = torch.uint8

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.shape = pixels, pixels.shape
        self.memory = torch.empty_like(pixels)

    def rows(self, start: int, stop: int) -> Tensor:
        self.memory[:, : stop - start] = self.pixels[:, start:stop]
        return self.memory[:, : stop - start]


class Excited(nn.Module):
    """A block with squeeze-and-excitation, in front of which a map waits in host memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, image: Tensor) -> Tensor:
        rows = self.conv(image).relu_()
        return rows * torch.sigmoid(self.squeeze(rows.mean((2, 3), keepdim=True)))


@pytest.fixture(params=["nothing", "computation", "copies"])
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the computation or the copies late, so that one that is not waited for gives other results."""
    if request.param == "copies":

        def delayed(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(self: CopyStream, *arguments: Tensor) -> Any:
                with torch.cuda.stream(self._stream):
                    torch.cuda._sleep(CYCLES)  # type: ignore[no-untyped-call]
                return method(self, *arguments)

            return call

        for name in ("to_device", "to_host"):
            monkeypatch.setattr(CopyStream, name, delayed(getattr(CopyStream, name)))
    elif request.param == "computation":
        return lambda: torch.cuda._sleep(10 * CYCLES)  # type: ignore[no-untyped-call]
    return lambda: None


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, right in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cuda(), right.cuda(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("keeping", [Keeping(), Keeping(on_host=True), Keeping(every=3, graphs=2, on_host=True)])
def test_rows_read_on_the_host_and_carries_kept_there(keeping: Keeping, late: Callable[[], None]) -> None:
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Conv2d(16, 8, 3)]
    module = nn.Sequential(*layers).double().cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.randint(0, 256, (3, 700, 300), dtype=torch.uint8)
    parameters = list(module.parameters())
    expected = torch.autograd.grad(module(pixels[None].cuda().double() / 255).square().sum(), parameters)
    trunk = stream(module, strip_rows=32, keeping=keeping)
    for _ in range(2):
        late()
        score = trunk(Lazy(pixels)).square().sum()
        late()
        assert_same(torch.autograd.grad(score, parameters), expected)


def test_gradients_and_maps_that_wait_on_the_host(late: Callable[[], None]) -> None:
    module = nn.Sequential(Excited(), nn.Conv2d(8, 4, 3)).double().cuda()
    image = torch.randn(1, 3, 500, 200, dtype=torch.float64, requires_grad=True)
    inputs = [image, *module.parameters()]
    expected = torch.autograd.grad(module(image.cuda()).square().sum(), inputs)
    trunk = stream(module, strip_rows=32, global_statistics="host")
    for _ in range(2):
        late()
        score = trunk(image).square().sum()
        late()
        assert_same(torch.autograd.grad(score, inputs), expected)


def test_the_host_waits_for_no_strip() -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).cuda()
    trunk, image = stream(module, strip_rows=32), Lazy(torch.randint(0, 256, (3, 700, 300), dtype=torch.uint8))
    trunk(image).sum().backward()  # for what is kept for a size
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trunk(image).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
