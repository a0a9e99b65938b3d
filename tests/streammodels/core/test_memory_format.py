"""Channels that are last in memory stay last from the image to the output, in both passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from streammodels import Keeping, stream
from streammodels.backprop.arena import Arena
from streammodels.core import operations
from streammodels.core.carry import join_rows
from streammodels.core.convolution import convolution
from streammodels.core.tensors.memory_format import format_of, select, swap_sides

LAST, FIRST = torch.channels_last, torch.contiguous_format


class Block(nn.Module):
    """A residual block, as in ResNet-18, with a shortcut of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, rows: Tensor) -> Tensor:
        inner = self.relu(self.norm1(self.conv1(rows)))
        return self.relu(self.norm2(self.conv2(inner)) + self.shortcut(rows))


class Decoder(nn.Module):
    """Pooled maps, enlarged and concatenated, with mirrored borders."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect")
        self.norm, self.inner = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.last = nn.Conv2d(10, 5, (3, 1), padding=(1, 0))

    def forward(self, rows: Tensor) -> Tensor:
        stem = functional.gelu(self.stem(rows))
        low = self.inner(functional.avg_pool2d(functional.relu(self.norm(stem)), 3, 2, 1, count_include_pad=False))
        high = functional.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(torch.cat([high, functional.max_pool2d(stem, 3, 1, 1)], dim=1))


def residual() -> nn.Sequential:
    stem = [nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, Block(8, 6), Block(6, 7))


class Lazy:
    """An image whose rows have their channels last, as decoders return them."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.shape, self.dtype = pixels, tuple(pixels.shape), pixels.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.pixels[:, start:stop].permute(1, 2, 0).contiguous().permute(2, 0, 1)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.memory_format, ...]]:
    """The formats of rows and weight of every convolution, where only one is possible."""
    found: list[tuple[torch.memory_format, ...]] = []

    def record(compute: Any, rows: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        one_format = [tensor for tensor in (rows, weight) if min(tensor.shape[1], max(tensor.shape[2:])) > 1]
        if not rows.is_meta:  # which estimates of memory run
            found.append(tuple(format_of(tensor) for tensor in one_format))
        return convolution(compute, rows, weight, *rest)

    monkeypatch.setattr(operations, "convolution", record)
    return found


@pytest.mark.parametrize("network", [residual, Decoder])
@pytest.mark.parametrize(
    ("size", "batch", "keeping"),
    [((48, 16), 2, Keeping()), ((16, 48), 1, Keeping(every=2)), ((48, 18), 1, Keeping(graphs=1))],
)
def test_every_convolution_gets_rows_in_the_format_of_the_model(
    network: Callable[[], nn.Module],
    size: tuple[int, int],
    batch: int,
    keeping: Keeping,
    received: list[tuple[torch.memory_format, ...]],
) -> None:
    module = network().double().eval()
    image = torch.rand(batch, 3, *size, dtype=torch.float64)
    formats = {}
    for memory_format in (FIRST, LAST):
        module.to(memory_format=memory_format)  # type: ignore[call-overload]  # is missing there
        own = image.to(memory_format=memory_format).requires_grad_()
        plain = module(own)
        weight = torch.randn_like(plain)
        expected = torch.autograd.grad(plain, [own, *module.parameters()], weight)
        received.clear()
        result = stream(module, strip_rows=8, keeping=keeping)(own)
        found = torch.autograd.grad(result, [own, *module.parameters()], weight)
        formats[memory_format] = {one for formats in received for one in formats}
        assert format_of(result) == format_of(found[0]) == memory_format
        torch.testing.assert_close(result, plain, rtol=1e-12, atol=1e-13)
        for own_grad, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own_grad, other, rtol=1e-11, atol=1e-12)
    assert formats == {FIRST: {FIRST}, LAST: {LAST}}


def test_rows_that_are_decoded_take_the_format_of_the_model(
    received: list[tuple[torch.memory_format, ...]],
) -> None:
    pixels = torch.randint(0, 256, (3, 64, 24), dtype=torch.uint8)
    module = nn.Sequential(residual(), nn.Conv2d(7, 4, 3, padding=1)).double().eval()
    module[0].requires_grad_(False)  # so that rows are kept
    lazy, floats = Lazy(pixels), Lazy(pixels.double())
    for weights, image in [(FIRST, lazy), (FIRST, floats), (LAST, lazy), (LAST, floats), (LAST, pixels[None])]:
        module.to(memory_format=weights)  # type: ignore[call-overload]  # is missing there
        received.clear()
        stream(module, strip_rows=8)(image).sum().backward()
        assert {own for formats in received for own in formats} == {weights}


def test_rows_are_copied_in_their_format() -> None:
    rows = torch.randn(2, 3, 4, 5, dtype=torch.float64).to(memory_format=LAST)
    assert format_of(rows[:, :, 1:3]) == format_of(rows[:1, :, :1]) == LAST
    assert format_of(rows.contiguous()[:, :, 1:3]) == format_of(torch.ones(1, 3, 1, 1)) == FIRST
    for one in (rows, rows[:, :, 1:2]):
        assert format_of(Arena().put(one)) == LAST
        assert torch.equal(Arena().put(one), one)
    assert swap_sides(rows).is_contiguous(memory_format=LAST)
    chosen = torch.tensor([2, 0, 2])
    for own in (rows, rows.contiguous()):
        assert format_of(select(own, 2, chosen)) == format_of(own)
        assert torch.equal(select(own, 2, chosen), own[:, :, chosen])
        assert torch.equal(select(own, 3, chosen), own[:, :, :, chosen])
    for relu in (False, True):
        leaf = rows.clone().requires_grad_()
        joined, kept = join_rows(rows[:, :, :2].clone(), leaf, 1, relu)
        assert kept is not None
        assert format_of(joined) == format_of(kept) == LAST
        (grad,) = torch.autograd.grad(kept.sum(), leaf)
        assert format_of(grad) == LAST
