"""Layers that resize a map, and decoders of them, against plain autograd in float64."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from streammodels import Keeping, UnsupportedLayerError, stream
from streammodels.core.resampling import AdaptiveRows, Interpolation, TransposedWindow
from streammodels.core.row_plan import ResizedRows
from streammodels.explain.heatmap import receptive_field_grid
from streammodels.memory.summary import layer_facts
from streammodels.tracing.trace import trace

FACTORS = (1, 2, 3, 1.5, 0.5, 2.3, (2.0, 3.0), 0.7)


def _resized(draw: random.Random) -> tuple[nn.Module, int]:
    """A layer that resizes a map of 4 channels, and the channels of its result."""
    kind = draw.choice(("mode", "size", "transposed", "shuffle"))
    mode = draw.choice(("nearest", "nearest-exact", "bilinear", "bicubic"))
    aligned = draw.random() < 0.5 if mode.startswith("bi") else None
    if kind == "mode":
        return nn.Upsample(scale_factor=draw.choice(FACTORS), mode=mode, align_corners=aligned), 4  # type: ignore[arg-type]
    if kind == "size":
        return nn.Upsample(size=(draw.randint(1, 30), draw.randint(1, 30)), mode=mode, align_corners=aligned), 4
    if kind == "shuffle":
        return nn.PixelShuffle(2), 1
    stride, kernel, dilation = ((draw.randint(1, most), draw.randint(1, most)) for most in (3, 5, 2))
    padding = [draw.randint(0, min(2, d * (k - 1))) for d, k in zip(dilation, kernel, strict=True)]
    below = [draw.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
    return nn.ConvTranspose2d(4, 6, kernel, stride, padding, below, 2, dilation=dilation), 6  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(40))
def test_resized_maps_and_gradients_are_those_of_torch(seed: int, assert_exact: Callable[..., float]) -> None:
    draw = random.Random(seed)
    layer, channels = _resized(draw)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), layer, nn.Conv2d(channels, 2, 3, padding=1), nn.ReLU()
    )
    image = torch.randn(2, 2, draw.randint(5, 19), draw.randint(5, 19), dtype=torch.float64)
    assert_exact(network, image, draw.randint(1, 20))


class UNet(nn.Module):
    """An encoder and decoder with skip connections, whose result is as large as the image."""

    def __init__(self, up: Callable[[int], nn.Module], width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.third = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.up_third, self.up_second = up(width), up(width)
        self.join_second = nn.Conv2d(2 * width, width, 3, padding=1)
        self.join_first = nn.Conv2d(2 * width, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x).relu()
        second = self.second(first).relu()
        deep = self.third(second).relu()
        second = self.join_second(torch.cat([self.up_third(deep), second], 1)).relu()
        scores: Tensor = self.join_first(torch.cat([self.up_second(second), first], 1))
        return scores


@pytest.mark.parametrize(
    "up",
    [
        lambda width: nn.ConvTranspose2d(width, width, 2, 2),
        lambda width: nn.ConvTranspose2d(width, width, 4, 2, 1),
        lambda width: nn.UpsamplingNearest2d(scale_factor=2),
        lambda width: nn.Upsample(scale_factor=2, mode="bilinear"),
    ],
)
@pytest.mark.parametrize(("size", "rows"), [((32, 20), 1), ((28, 44), 7), ((24, 24), 100)])
def test_unet_is_exact(
    up: Callable[[int], nn.Module], size: tuple[int, int], rows: int, assert_exact: Callable[..., float]
) -> None:
    assert_exact(UNet(up), torch.randn(2, 3, *size, dtype=torch.float64), rows)


def test_carries_of_a_decoder_are_bounded_whatever_the_height() -> None:
    streamed = stream(UNet(lambda width: nn.UpsamplingBilinear2d(scale_factor=2)), strip_rows=16)
    carried = []
    for height in (128, 512):
        plan = streamed.plan(height, 32)
        carried.append(
            max(len(plan.carried(node, strip)) for node in range(len(plan.totals)) for strip in range(plan.strips))
        )
    assert carried[0] == carried[1] <= 16
    assert "join_first" in streamed.summary(128, 32)


def test_operations_of_a_decoder_are_those_forecast() -> None:
    network = UNet(lambda width: nn.Upsample(scale_factor=2, mode="bilinear"))
    streamed = stream(network, strip_rows=8, keeping=Keeping())
    image = torch.randn(1, 3, 48, 32)
    forecast = streamed.forecast(48, 32)
    with FlopCounterMode(display=False) as counter:
        streamed(image).sum().backward()
    assert counter.get_total_flops() == forecast.training_operations


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_sizes_seen_in_inference_mode_are_trained_on(mode: str, assert_exact: Callable[..., float]) -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Upsample(size=(61, 43), mode=mode)).double()
    image = torch.randn(1, 2, 47, 29, dtype=torch.float64)
    with torch.inference_mode():
        stream(network, strip_rows=7)(image)
    assert_exact(network, image, 7)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_types_under_autocast_are_those_of_torch(mode: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Upsample(scale_factor=2, mode=mode))
    image = torch.randn(1, 3, 20, 12)
    with torch.autocast("cpu", torch.bfloat16):
        plain, streamed = network(image), stream(network, strip_rows=3)(image)
    assert plain.dtype == streamed.dtype
    assert torch.allclose(plain.float(), streamed.float(), rtol=1e-2, atol=1e-2)


@given(
    st.one_of(
        st.builds(
            Interpolation,
            st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic"]),
            st.none(),
            st.floats(0.4, 4),
            st.booleans(),
        ),
        st.builds(Interpolation, st.sampled_from(["nearest", "bilinear"]), st.integers(1, 90)),
        st.builds(AdaptiveRows, st.integers(1, 9)),
        st.builds(TransposedWindow, st.integers(1, 6), st.integers(1, 4), st.integers(0, 1), st.integers(0, 1)),
    ),
    st.integers(3, 60),
)
def test_every_row_reads_what_is_there_and_carried(axis: ResizedRows, rows_in: int) -> None:
    """Rows that are ready read rows that were seen; rows that are needed later are not dropped."""
    total = axis.total(rows_in)
    for seen in range(rows_in + 1):
        ready = axis.ready(seen, rows_in)
        assert 0 <= ready <= max(total, 0)
        if ready:
            assert axis.span(range(ready - 1, ready), rows_in).stop <= max(seen, 1)
        for row in range(ready, max(total, 0)):
            assert axis.span(range(row, row + 1), rows_in).start >= axis.first_needed(ready, seen, rows_in)
    assert axis.ready(rows_in, rows_in) == total


def test_what_cannot_be_resized_strip_by_strip_is_refused() -> None:
    class By(nn.Module):
        def __init__(self, **options: object) -> None:
            super().__init__()
            self.options = options

        def forward(self, x: Tensor) -> Tensor:
            return functional.interpolate(x * 2, **self.options)  # type: ignore[arg-type]

    for options in (
        {"scale_factor": 2.0, "mode": "area"},
        {"scale_factor": 0.5, "mode": "bilinear", "antialias": True},
        {"scale_factor": 2.0, "recompute_scale_factor": True},
    ):
        with pytest.raises(UnsupportedLayerError, match=r"interpol|recompute"):
            stream(By(**options), strip_rows=4)


def test_strides_of_a_decoder_are_fractions_of_a_pixel_at_most() -> None:
    network = trace(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Upsample(scale_factor=4)).eval())
    assert [fact.stride for fact in layer_facts(network)] == [1, 2, Fraction(1, 2)]
    with pytest.raises(ValueError, match="not enlarged"):
        receptive_field_grid(network, 2)
