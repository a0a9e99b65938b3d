"""Convolutions with computed weights, pads, slices and functions over channels are exact in every spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from streammodels import UnsupportedLayerError, stream


class Calls(nn.Module):
    """A convolution, a body, and another convolution."""

    def __init__(self, body: Callable[[Any, Tensor], Any], channels: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(channels, 2, 3, padding=1)
        self.weight, self.gain = nn.Parameter(torch.randn(4, 4, 3, 3)), nn.Parameter(torch.rand(4, 1, 1, 1) + 0.5)
        self.register_buffer("blur", torch.rand(1, 1, 4, 4))
        self.norm = nn.BatchNorm2d(4)
        self.body = body

    def forward(self, image: Tensor) -> Any:
        x = self.body(self, self.first(image))
        return self.second(x) if x.ndim == 4 and x.shape[2] > 1 else x


def standardized(net: Any) -> Tensor:
    """As timm's ScaledStdConv2d."""
    flat = net.weight.reshape(1, 4, -1)
    gain = (net.gain * 0.3).view(-1)
    return functional.batch_norm(flat, None, None, gain, training=True, momentum=0.0).reshape_as(net.weight)


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """As timm's pad_same."""
    rows, columns = ((-(-size // stride) - 1) * stride + kernel - size for size in x.shape[-2:])
    return functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), value=0.0)


BODIES: dict[str, Callable[[Any, Tensor], Any]] = {
    "conv": lambda net, x: functional.conv2d(x, net.weight, stride=(2, 1), padding=(0, 2), dilation=2),
    "conv same": lambda net, x: torch.conv2d(x, net.weight[:, :, :2], net.gain.flatten(), 1, "same"),
    "conv standardized": lambda net, x: net.norm(functional.conv2d(same(x, 3, 2), standardized(net), None, 2)),
    "conv transposed": lambda net, x: functional.conv_transpose2d(x, net.weight * net.gain, None, 2, 1, 1),
    "conv grouped": lambda net, x: functional.conv2d(x, net.weight[:, :2], groups=2),
    "blur": lambda net, x: functional.conv2d(
        functional.pad(x, [1, 2, 1, 2], mode="reflect"), net.blur.expand(x.shape[1], 1, 4, 4), None, 2, groups=4
    ),
    "pad": lambda net, x: functional.pad(x, (3, 0, 1, 4), value=0.7),
    "pad far": lambda net, x: functional.pad(x, (0, 0, 7, 8)),
    "pad replicated": lambda net, x: functional.pad(x, (3, 1, 0, 2), "replicate"),
    "pad negative": lambda net, x: functional.avg_pool2d(functional.pad(x, (-1, 1, -1, 1)), 1, 2),
    "cropped": lambda net, x: functional.pad(x, (-2, 0, 1, -3)) * 2,
    "pad channels": lambda net, x: functional.pad(x[..., ::2, ::2][:, :2], [0] * 4 + [1, 1]),
    "pad columns": lambda net, x: functional.pad(x, (1, 2)),
    "pad layers": lambda net, x: nn.ZeroPad2d((1, 0, 2, 1))(nn.ConstantPad2d(1, -0.3)(x)),
    "focus": lambda net, x: sum(same(x, 2, 2)[..., i::2, j::2] * (i + 2 * j) for i in (0, 1) for j in (0, 1)),
    "slices": lambda net, x: x[:, :, 2:-1, :-3] + x[..., 1:-2, 3:],
    "softmax": lambda net, x: x.softmax(1) + functional.log_softmax(x, dim=-3) + torch.softmax(x, 1),
    "normalize": lambda net, x: functional.normalize(x) + functional.normalize(x.tanh(), p=1, dim=1),
    "glu": lambda net, x: torch.cat([functional.glu(x, 1), nn.GLU(1)(x)], 1) + nn.Softmax(1)(x) - nn.Softmax2d()(x),
    "statistics": lambda net, x: (x - x.mean(1, True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-3).rsqrt(),
    "reduced": lambda net, x: x * x.amax(dim=1, keepdim=True) + x.sum(1, keepdim=True) + x.norm(2, 1, True),
    "pointwise": lambda net, x: (x.clone().square().add(1).log().sigmoid_() + x.clamp_max(-0.4)).reciprocal(),
    "sum": lambda net, x: torch.sum(x, dim=(2, 3)),
    "mean": lambda net, x: x.mean((-1, -2), keepdim=True),
    "extremes": lambda net, x: torch.cat([x.relu().amax((2, 3)), torch.amin(torch.relu(x), [2, 3])], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_spelling_is_exact(name: str, assert_exact: Callable[..., float]) -> None:
    network = Calls(BODIES[name]).double().eval()
    for shape in ((2, 3, 21, 14), (1, 3, 15, 22)):
        assert_exact(network, torch.randn(shape, dtype=torch.float64), 4)


class Standardized(nn.Conv2d):
    """A convolution whose weight is computed in `_conv_forward`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        return super()._conv_forward(input, weight / weight.norm(), bias)


def test_layers(assert_exact: Callable[..., float]) -> None:
    pads = (
        nn.ReflectionPad2d((1, 2, 3, 0)),
        nn.ReplicationPad2d(2),
        nn.ZeroPad2d((-1, 1, -1, 1)),
        nn.ConstantPad2d(1, 2.0),
    )
    network = nn.Sequential(Standardized(3, 4, 3, padding=1), *pads, nn.LogSoftmax(1), nn.Conv2d(4, 2, 3))
    assert_exact(network.double(), torch.randn(1, 3, 21, 14, dtype=torch.float64), 4)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda net, x: functional.pad(x, (1, 1, 1, 1), "circular"), "circular"),
        (lambda net, x: functional.conv2d(x, x), "weight is computed from a map"),
        (lambda net, x: x[:, :, :5], "counted from the other end"),
        (lambda net, x: x.softmax(2), "not known to work row by row"),
        (lambda net, x: functional.group_norm(x, 2), "statistics over rows"),
    ],
)
def test_what_mixes_rows_is_refused(body: Callable[[Any, Tensor], Any], reason: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=reason):
        stream(Calls(body).eval(), strip_rows=4)
