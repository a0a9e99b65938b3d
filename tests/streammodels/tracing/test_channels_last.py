"""Maps with channels last are exact between two permutations, and raise if an operation is not row-local."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from streammodels import UnsupportedLayerError, stream

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class Permuted(nn.Module):
    """A convolution, `body` on the map with its channels last, and a convolution."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.norm, self.linear, self.other = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 4, bias=False)
        self.bare = nn.LayerNorm(4, elementwise_affine=False)
        self.scale, self.shift = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.rand(1, 1, 1, 4))
        self.columns, self.rows = nn.Parameter(torch.rand(11, 4)), nn.Parameter(torch.rand(15, 1, 1))
        self.slope = nn.PReLU(4)
        self.body = body

    def forward(self, image: Tensor) -> Any:
        return self.second(self.body(self, self.first(image).permute(TO_LAST)).permute(TO_FIRST))


def fused(net: Any, x: Tensor) -> Tensor:
    result: Tensor = functional.layer_norm(x, (4,), bias=net.shift.flatten(), weight=net.scale, eps=1e-3)
    return result


@pytest.mark.parametrize(
    "body",
    [
        lambda net, x: x,
        lambda net, x: x.contiguous(),
        lambda net, x: net.norm(x),
        lambda net, x: net.bare(x),
        lambda net, x: net.other(functional.gelu(net.linear(x))),
        lambda net, x: net.norm(x) * net.scale + net.shift,
        lambda net, x: net.columns * x,
        lambda net, x: x - x.mean(-1, keepdim=True),
        lambda net, x: torch.cat((net.linear(x), x), dim=-1)[:, :, :, 3:7],
        lambda net, x: functional.layer_norm(x, [4]),
        lambda net, x: functional.layer_norm(x, (4,), None, net.scale),
        fused,
        lambda net, x: torch.movedim(torch.movedim(x, -1, 1), 1, 3),
        lambda net, x: x.permute(0, -1, 1, 2).permute([0, 2, 3, 1]),
        lambda net, x: torch.permute(x, dims=(0, 1, 2, 3)),
        lambda net, x: nn.functional.dropout(x, 0.5, training=False),
    ],
)
@pytest.mark.parametrize("strip_rows", [1, 4])
def test_bodies_are_exact(body: Callable[[Any, Tensor], Tensor], strip_rows: int, assert_exact: Any) -> None:
    assert_exact(Permuted(body), torch.randn(2, 3, 15, 11, dtype=torch.float64), strip_rows)


def test_wide_images_are_exact(assert_exact: Any) -> None:
    for body in (lambda net, x: net.norm(x) * net.scale, lambda net, x: net.other(net.linear(x)) + net.shift):
        assert_exact(Permuted(body), torch.randn(1, 3, 9, 40, dtype=torch.float64), 4)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda net, x: net.slope(x), "channels come last"),
        (lambda net, x: net.first(x), "channels come last"),
        (lambda net, x: functional.dropout2d(x), "channels come last"),
        (lambda net, x: functional.max_pool2d(x, 1), "channels come last"),
        (lambda net, x: x * x.mean((2, 3), keepdim=True), "channels come last"),
        (lambda net, x: x * net.rows, "row to row"),
        (lambda net, x: torch.cat((x, x), 1), "concatenation along dimension 1"),
        (lambda net, x: x.permute(0, 2, 1, 3), "works along rows"),
        (lambda net, x: torch.movedim(x, (1, 2), (2, 1)), "works along rows"),
        (lambda net, x: functional.layer_norm(x, (11, 4)), "rows or columns"),
        (lambda net, x: functional.layer_norm(x.permute(TO_FIRST), (11,)).permute(TO_LAST), "rows or columns"),
        (lambda net, x: functional.layer_norm(x, (4,), x), "computed from a map"),
        (lambda net, x: x + x.permute(TO_FIRST), "meets one"),
        (lambda net, x: x[:, :2], "other end of the map"),
        (lambda net, x: x.chunk(2, dim=1)[0], "something else than channels"),
    ],
)
def test_what_is_not_row_local_is_refused(body: Callable[[Any, Tensor], Tensor], reason: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=reason):
        stream(Permuted(body), strip_rows=4)


def test_result_with_channels_last_is_refused() -> None:
    class Ends(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.permute(TO_LAST)

    with pytest.raises(UnsupportedLayerError, match="channels come last"):
        stream(Ends(), strip_rows=4)


def test_view_written_in_place_is_not_taken_for_a_copy() -> None:
    class Writes(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            image = image + 1
            functional.relu(image.permute(TO_LAST), inplace=True)
            return image * 2

    with pytest.raises(UnsupportedLayerError, match="reads afterwards"):
        stream(Writes(), strip_rows=4)


def test_linear_layers_compute_nothing_twice() -> None:
    network, image = Permuted(lambda net, x: net.other(net.linear(x))), torch.randn(1, 3, 15, 11)
    counts = []
    for call in (network, stream(network, strip_rows=2)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call(image)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
