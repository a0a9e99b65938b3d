"""Forwards may ask for the sizes and types of maps, which are those of the image that is streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from streammodels import UnsupportedLayerError, stream
from streammodels.streaming import StreamedModule


class Asking(nn.Module):
    """A convolution with a stride, and what a body makes of its result and of the image."""

    def __init__(self, body: Callable[[Any, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x, self.norm(self.conv(x)))


def checked(net: Any, x: Tensor, y: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    torch._assert(channels == 3, "channels")
    assert len(x) == batch
    assert y.shape == (batch, 4, -(-height // 2), -(-width // 2))
    assert y.numel() == y.size(0) * y.size(1) * y.size(-2) * y.size()[3]
    assert y.ndim == y.dim() == 4
    assert y.dtype is net.conv.weight.dtype
    return y.to(y.device) * (1 / y.shape[2]) if y.is_floating_point() else x


BODIES: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "checked": checked,
    "flat": lambda net, x, y: net.head(functional.adaptive_avg_pool2d(y, 1).view(y.size(0), -1)),
    "vector": lambda net, x, y: net.head((v := y.mean((2, 3))).reshape(v.shape[0], v.shape[1])),
    "resized": lambda net, x, y: functional.interpolate(y, size=x.shape[-2:], mode="bilinear"),
    "joined": lambda net, x, y: functional.interpolate(y, x.shape[2:]) + x.mean(1, keepdim=True),
    "loop": lambda net, x, y: sum(net.head(y.mean((2, 3))) * i for i in range(y.shape[1])),
    "by size": lambda net, x, y: y * 2 if x.shape[2] > 24 else y,
    "constant": lambda net, x, y: torch.arange(1.0, 1 + y.shape[1], dtype=y.dtype).view(-1, 1, 1) * y,
}


@pytest.mark.parametrize("name", BODIES)
def test_sizes_and_types_are_known(name: str, assert_exact: Callable[..., float]) -> None:
    network = Asking(BODIES[name]).double().eval()
    for shape in ((2, 3, 31, 20), (1, 3, 22, 33)):
        assert_exact(network, torch.randn(shape, dtype=torch.float64), 5)


def test_images_of_a_list_are_each_asked_for_their_size() -> None:
    network = Asking(lambda net, x, y: y.mean((2, 3)) * x.shape[2]).double().eval()
    streamed = stream(network, strip_rows=5)
    images = [torch.randn(1, 3, height, 20, dtype=torch.float64) for height in (20, 31)]
    torch.testing.assert_close(streamed(images), torch.cat([network(image) for image in images]))
    assert streamed.forecast(200, 20).strip_rows == 5


def test_networks_of_a_fixed_size_are_checked_when_they_are_called() -> None:
    def fixed(net: Any, x: Tensor, y: Tensor) -> Tensor:
        assert x.shape[2:] == (40, 24), "the image has to be 40 x 24"
        return y

    streamed = StreamedModule(Asking(fixed).double().eval(), strip_rows=5)
    image = torch.randn(1, 3, 40, 24, dtype=torch.float64)
    torch.testing.assert_close(streamed(image), streamed.module(image))
    with pytest.raises(AssertionError, match="40 x 24"):
        streamed(image[:, :, 1:])
    with pytest.raises(ValueError, match=r"layer 'conv' cannot be computed for maps of shape .*channels"):
        StreamedModule(Asking(lambda net, x, y: y * y.shape[1]), strip_rows=5)(image[:, :1].float())


def test_asking_changes_nothing() -> None:
    network = Asking(lambda net, x, y: y * y.shape[0])
    with pytest.raises(UnsupportedLayerError, match="training mode"):
        stream(network, strip_rows=5)(torch.rand(1, 3, 20, 20))
    assert int(network.norm.num_batches_tracked) == 0
    with torch.autocast("cpu", torch.bfloat16):
        half = stream(network.eval(), strip_rows=5)(torch.rand(1, 3, 20, 20))
        assert half.dtype is network(torch.rand(1, 3, 20, 20)).dtype


def test_what_depends_on_values_is_refused() -> None:
    for body in (lambda net, x, y: y * len(y[y > 0]), lambda net, x, y: y if x.sum() > 0 else x):
        with pytest.raises(UnsupportedLayerError):
            stream(Asking(body).eval(), strip_rows=5)
