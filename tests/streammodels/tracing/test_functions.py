"""Slices and means of channels, powers and stochastic depth are exact in every spelling."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth, stochastic_depth

from streammodels import UnsupportedLayerError, stream


class Calls(nn.Module):
    """A convolution, a function of its result, and another convolution."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.LazyConv2d(2, 3, padding=1)
        self.weight, self.bias = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.rand(4))
        self.register_buffer("mean", torch.rand(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)
        self.body = body
        self.eval()
        self(torch.zeros(1, 3, 9, 9))  # lets the last convolution know its channels

    def forward(self, image: Tensor) -> Any:
        return self.second(self.body(self, self.first(image)))


def inception(net: Any, x: Tensor) -> Tensor:
    a, b, c = torch.split(x, (1, 1, 2), dim=1)
    return torch.cat((c, a * 2, torch.relu(b)), dim=1)


def chunks(net: Any, x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    c, d = torch.chunk(b, chunks=2, dim=-3)
    return torch.cat((d, a, c), 1)


def pieces(net: Any, x: Tensor) -> Tensor:
    parts = x.split(split_size=3, dim=1)
    return torch.cat([parts[-1], parts[0]], 1)


def convnext_norm(net: Any, x: Tensor) -> Tensor:
    """The norm over channels of the first ConvNeXt code, written out."""
    center = x - x.mean(1, keepdim=True)
    spread = torch.sqrt(center.pow(2).mean(1, keepdim=True) + 1e-6)
    return net.weight[:, None, None] * (center / spread) + net.bias[:, None, None]


def frozen_norm(net: Any, x: Tensor) -> Tensor:
    return functional.batch_norm(x, net.mean, net.variance, net.weight, bias=net.bias, eps=1e-3)


@pytest.mark.parametrize(
    "body",
    [
        inception,
        chunks,
        pieces,
        convnext_norm,
        frozen_norm,
        lambda net, x: functional.batch_norm(x.relu(), net.mean, running_var=net.variance),
        lambda net, x: x[:, 1:3],
        lambda net, x: x[:, ::2, :, :],
        lambda net, x: x[:],
        lambda net, x: torch.cat((x[:, :2].relu(), x[:, 2:]), 1),
        lambda net, x: x**2,
        lambda net, x: 2**x,
        lambda net, x: x.pow(3) + torch.pow(x, 2),
        lambda net, x: x.abs() ** net.weight[:, None, None],
        lambda net, x: torch.mean(x, dim=[1], keepdim=True),
        lambda net, x: x * net.weight.view(1, -1, 1, 1),
    ],
)
def test_spellings_are_exact(body: Callable[[Any, Tensor], Tensor], assert_exact: Any) -> None:
    assert_exact(Calls(body), torch.randn(2, 3, 15, 11, dtype=torch.float64), 4)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda net, x: torch.cat(x.chunk(2, 1), 1), "as a whole|besides feature maps"),
        (lambda net, x: x.split(5, 2)[0], "something else than channels"),
        (lambda net, x: x.split(2)[0], "something else than channels"),
        (lambda net, x: x[0][:, None], "part of the rows"),
        (lambda net, x: x[..., :1], "other end of the map"),
        (lambda net, x: x[:1], "part of the rows"),
        (lambda net, x: operator.ipow(x, 2), "ipow"),
        (lambda net, x: x.mean(2), "'mean' is not known"),
        (lambda net, x: functional.batch_norm(x, None, None, training=True), "over rows that are not there yet"),
    ],
)
def test_what_mixes_rows_or_is_unclear_is_refused(body: Callable[[Any, Tensor], Tensor], reason: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=reason):
        stream(Calls(body), strip_rows=4)


def test_power_in_place_is_not_taken_for_a_copy() -> None:
    def body(net: Any, x: Tensor) -> Tensor:
        y = x
        y **= 2
        return x

    with pytest.raises(UnsupportedLayerError, match="ipow"):
        stream(Calls(body), strip_rows=4)


def test_part_written_in_place_is_seen_in_the_whole() -> None:
    def body(net: Any, x: Tensor) -> Tensor:
        x[:, :2].relu_()
        return x

    with pytest.raises(UnsupportedLayerError, match="reads afterwards"):
        stream(Calls(body), strip_rows=4)


# ---------------------------------------------------------------- stochastic depth


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth_is_drawn_once_for_the_whole_map(mode: str) -> None:
    torch.manual_seed(3)
    streamed = stream(nn.Sequential(nn.Identity(), StochasticDepth(0.5, mode)).train(), strip_rows=2)
    seen = set()
    for _ in range(10):
        image = torch.ones(4, 2, 9, 5, dtype=torch.float64, requires_grad=True)
        result = streamed(image)
        result.sum().backward()
        kept = result[:, 0, 0, 0]
        assert set(kept.tolist()) <= {0.0, 2.0}
        assert torch.equal(result, kept[:, None, None, None].expand_as(result))
        assert torch.equal(image.grad, result)  # the recomputation drops what the first computation dropped
        assert mode == "row" or len(set(kept.tolist())) == 1
        seen |= set(kept.tolist())
    assert seen == {0.0, 2.0}


@pytest.mark.parametrize(("probability", "mode"), [(0.0, "row"), (1.0, "row"), (1.0, "batch")])
def test_certain_stochastic_depth_is_exact(probability: float, mode: str, assert_exact: Any) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.depth = nn.Conv2d(3, 3, 3, padding=1), StochasticDepth(probability, mode)

        def forward(self, x: Tensor) -> Tensor:
            result = self.depth(self.conv(x))
            result += x
            return result

    assert_exact(Block().train(), torch.randn(2, 3, 15, 11, dtype=torch.float64), 4)


def test_stochastic_depth_follows_the_training_flag(assert_exact: Any) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), StochasticDepth(0.9, "row"), nn.ReLU()).eval()
    assert_exact(network, torch.randn(2, 3, 15, 11, dtype=torch.float64), 4)


@pytest.mark.parametrize("arguments", [(1.5, "row"), (0.5, "column")])
def test_stochastic_depth_with_bad_arguments_is_refused_as_by_torchvision(arguments: tuple[float, str]) -> None:
    network = nn.Sequential(StochasticDepth(*arguments))
    with pytest.raises(ValueError):  # noqa: PT011 - torchvision's own words
        network(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="stochastic depth needs"):
        stream(network.train(), strip_rows=1)(torch.zeros(1, 1, 2, 2))


def test_stochastic_depth_as_a_function(assert_exact: Any) -> None:
    body: Callable[[Any, Tensor], Tensor] = lambda net, x: stochastic_depth(x, 0.5, "row", training=False)  # noqa: E731
    assert_exact(Calls(body), torch.randn(2, 3, 15, 11, dtype=torch.float64), 4)
