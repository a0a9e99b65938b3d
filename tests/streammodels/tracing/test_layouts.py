"""Views and transpositions of channels, tokens, and branches of channels are exact; what mixes positions is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from streammodels import UnsupportedLayerError, stream


class Calls(nn.Module):
    """A convolution, a body, and another convolution if there is a map left."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.LazyConv2d(2, 3, padding=1)
        self.linear, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
        self.weight = nn.Parameter(torch.rand(6) + 0.5)
        self.body = body
        self.eval()
        if self.body(self, self.first(torch.zeros(1, 3, 9, 9))).ndim == 4:
            self(torch.zeros(1, 3, 9, 9))
        else:
            self.second = nn.Identity()

    def forward(self, image: Tensor) -> Any:
        x = self.body(self, self.first(image))
        return self.second(x) if x.ndim == 4 else x


def shuffle(net: Any, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)


def flattened_shuffle(net: Any, x: Tensor) -> Tensor:
    x = functional.relu(x.unflatten(1, (3, 2)).swapaxes(1, 2).contiguous())
    return torch.flatten(x, 1, 2)


def tokens(net: Any, x: Tensor) -> Tensor:
    shape = x.shape
    t = x.flatten(2).transpose(1, 2)
    t = t + net.linear(net.norm(functional.gelu(t))) * net.weight
    t = functional.layer_norm(functional.linear(t, net.linear.weight), (6,), net.weight)
    return t.transpose(-1, -2).reshape(shape)


def split_tokens(net: Any, x: Tensor) -> Tensor:
    t = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 3, 2)
    a, b = t.unbind(-1)
    c, d = torch.stack((a, a * b), 2).softmax(2).chunk(2, dim=2)
    t = torch.cat((c, d.tanh()), 3).squeeze(2)
    return t.permute(0, 2, 1).unflatten(2, x.shape[2:])


def branches(net: Any, x: Tensor) -> Tensor:
    t = torch.stack([x, x.relu(), 2 * x], dim=1)
    weights = net.weight[:3].view(1, 3, 1, 1, 1)
    return (t * weights.softmax(1)).sum(1) + t[:, 1] * t.amax(dim=1) + t.mean(1, keepdim=True).squeeze(1)


def radix(net: Any, x: Tensor) -> Tensor:
    t = x.reshape(x.shape[0], 2, 3, *x.shape[2:])
    return functional.normalize(t, dim=2).sum(dim=1) + t.softmax(1).flatten(1, 2)[:, ::2]


BODIES: dict[str, Callable[[Any, Tensor], Any]] = {
    "shuffle": shuffle,
    "flattened": flattened_shuffle,
    "tokens": tokens,
    "split tokens": split_tokens,
    "branches": branches,
    "radix": radix,
    "softmax of groups": lambda net, x: x.view(x.shape[0], 3, 2, *x.shape[2:]).softmax(2).view(x.shape),
    "one channel": lambda net, x: x[:, :1] * x.mean(1).unsqueeze(1) + x[:, 2, None],
    "batch of groups": lambda net, x: x.reshape(-1, 2, *x.shape[2:]).tanh().view(x.shape),
    "halves": lambda net, x: x.unflatten(1, (2, 3))[:, 0, 1:] - x.unflatten(1, (2, 3)).unbind(1)[1][:, :2],
    "concatenated": lambda net, x: torch.cat([x.unflatten(1, (2, 3)), x.unflatten(1, (2, 3)).exp()], 2).flatten(1, 2),
    "transposed space": lambda net, x: x.transpose(2, 3).relu().transpose(2, 3),
    "layers": lambda net, x: nn.Unflatten(1, (2, 3))(x).abs().sum(2) * nn.Flatten(2)(x).view(x.shape).sum(1, True),
    "mean": lambda net, x: net.linear(x.flatten(2).mean(-1)),
    "mean of tokens": lambda net, x: net.linear(net.norm(x.flatten(2).transpose(1, 2)).mean(dim=1)),
    "extremes": lambda net, x: x.view(*x.shape[:2], -1).amax(2) + x.flatten(2).sum(2),
}


@pytest.mark.parametrize("name", BODIES)
def test_layout_is_exact(name: str, assert_exact: Callable[..., float]) -> None:
    network = Calls(BODIES[name])
    for shape in ((2, 3, 15, 8), (1, 3, 9, 14)):
        assert_exact(network, torch.randn(shape, dtype=torch.float64), 4)


@pytest.mark.parametrize(
    "body",
    [
        lambda net, x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
        lambda net, x: x.flatten(2).softmax(-1).view(x.shape),
        lambda net, x: nn.Linear(144, 2)(x.flatten(2)),
        lambda net, x: x.flatten(1).sum(1),
        lambda net, x: x.view(x.shape[0], 6, -1, 2, x.shape[3]),
        lambda net, x: x.transpose(2, 3),
        lambda net, x: x.flatten(2)[:, :, :4],
        lambda net, x: x.flatten(2) * torch.rand(x.shape[2] * x.shape[3]),
        lambda net, x: net.second(x.flatten(0, 1).unsqueeze(1)),
        lambda net, x: functional.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3),
        lambda net, x: x.view(torch.int32) * 1.0,
        lambda net, x: x.transpose(2, 3) + x,
    ],
)
def test_what_mixes_positions_is_refused(body: Callable[[Any, Tensor], Any]) -> None:
    network = Calls(lambda net, x: x)
    network.body = body
    with pytest.raises(UnsupportedLayerError):
        stream(network, strip_rows=4)(torch.randn(1, 3, 12, 12))
