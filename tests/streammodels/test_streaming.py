"""Streamed results and gradients equal the plain network's, over generated networks and sizes."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.convnext import CNBlock, LayerNorm2d

from streammodels import StreamedModule, UnsupportedLayerError, stream
from streammodels.models.pool_names import make_pool

Spec = tuple[Any, ...]
MODES = ("zeros", "zeros", "reflect", "replicate")
ACTIVATIONS = (
    nn.ReLU,
    nn.SiLU,
    nn.GELU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.PReLU,
    nn.Hardswish,
    nn.ELU,
    nn.Sigmoid,
    nn.Identity,
)
ADDITIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    operator.add, operator.iadd, torch.add, lambda a, b: a.add(b), lambda a, b: torch.sub(b, a), operator.sub,
    operator.mul, torch.mul, torch.maximum, torch.minimum, lambda a, b: torch.add(a, b, alpha=2),
)  # fmt: skip


class Residual(nn.Module):
    """``combine(body(x), x)``; with a projection where the shapes differ."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, combine: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.shortcut, self.combine = body, shortcut, combine

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.combine(self.body(x), self.shortcut(x)), inplace=True)


class Dense(nn.Module):
    """Densely joined layers: each reads the concatenation of all before it."""

    def __init__(self, layers: list[nn.Module], functional_pool: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.functional_pool = functional_pool

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        if self.functional_pool:
            features.append(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
            features.append(functional.max_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat(features, 1)


class Parts(nn.Module):
    """Some channels pass a convolution, the others do not."""

    def __init__(self, channels: int, first: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.sizes = [first, channels - first]
        self.conv = nn.Conv2d(first, first, kernel, padding="same", groups=first)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.split(x, self.sizes, dim=1)
        return torch.cat((rest - rest.mean(1, keepdim=True), self.conv(first)), dim=1)


class Functional(nn.Module):
    """The same operations as functions, methods and operators."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(x) * self.scale + functional.hardtanh(x).relu()
        return functional.leaky_relu(-x, 0.2).clamp(-3, 3) + x.contiguous()


kernels = st.one_of(
    st.tuples(st.integers(1, 7), st.integers(1, 7)), st.sampled_from([(1, 11), (11, 1), (3, 3), (1, 1), (3, 3)])
)


@st.composite
def convolutions(draw: st.DrawFn, channels: int) -> tuple[nn.Module, int]:
    kernel = draw(kernels)
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    half = tuple(e // 2 for e in extent)
    other = (draw(st.integers(0, 4)), draw(st.integers(0, 4)))
    paddings: list[Any] = [half, half, other, "valid"] + (["same"] if stride == (1, 1) else [])
    groups = draw(st.sampled_from([1, 1, 2, channels])) if channels % 2 == 0 else 1
    out = draw(st.sampled_from([2, 4])) * (channels if groups == channels else 1)
    layer = nn.Conv2d(
        channels, out, kernel, stride, draw(st.sampled_from(paddings)), dilation, groups,
        draw(st.booleans()), draw(st.sampled_from(MODES)),
    )  # fmt: skip
    return layer, out


@st.composite
def pools(draw: st.DrawFn) -> nn.Module:
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = draw(st.one_of(st.none(), st.integers(1, 5), st.tuples(st.integers(1, 3), st.integers(1, 3))))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    ceil_mode = draw(st.booleans())
    if draw(st.booleans()):
        # torch's own maximum pool writes outside its memory if a dilated window lies in the padding alone.
        dilation = draw(st.integers(1, 2)) if padding == (0, 0) else 1
        return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    divisor = draw(st.sampled_from([None, None, 3]))
    return nn.AvgPool2d(kernel, stride, padding, ceil_mode, draw(st.booleans()), divisor)


def same_size_convolution(draw: st.DrawFn, channels: int, out: int) -> nn.Module:
    kernel = draw(st.sampled_from([1, 3, 5]))
    dilation = draw(st.integers(1, 2))
    mode = draw(st.sampled_from(MODES))
    return nn.Conv2d(channels, out, kernel, 1, dilation * (kernel // 2), dilation, bias=draw(st.booleans()),
                     padding_mode=mode)  # fmt: skip


class Decoder(nn.Module):
    """A coarser map that is enlarged to the size of the map it came from, and joined to it."""

    def __init__(self, channels: int, mode: str) -> None:
        super().__init__()
        self.down, self.mode = nn.Conv2d(channels, 2, 3, 2, 1), mode

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.down(x).tanh()
        return torch.cat([functional.interpolate(coarse, size=x.shape[-2:], mode=self.mode), x], dim=1)


@st.composite
def resized(draw: st.DrawFn, channels: int) -> tuple[nn.Module, int]:
    """A layer that resizes a map, and its output channels."""
    if draw(st.booleans()):
        kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        padding, below = draw(st.integers(0, kernel // 2)), draw(st.integers(0, stride - 1))
        return nn.ConvTranspose2d(channels, 2, kernel, stride, padding, below), 2
    if channels % 4 == 0 and draw(st.booleans()):
        return nn.PixelShuffle(2), channels // 4
    mode = draw(st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic"]))
    aligned = draw(st.booleans()) if mode.startswith("bi") else None
    return nn.Upsample(scale_factor=draw(st.sampled_from([2, 1.5, 0.7])), mode=mode, align_corners=aligned), channels


@st.composite
def stages(draw: st.DrawFn, channels: int) -> tuple[nn.Module, int]:
    """One stage of a network, and its output channels."""
    kinds = ["conv", "conv", "conv-norm", "norm", "pool", "act", "residual", "dense", "calls", "channels-last", "parts"]
    kinds += ["resized", "decoder"]
    kind = draw(st.sampled_from(kinds))
    if kind == "resized":
        return draw(resized(channels))
    if kind == "decoder":
        return Decoder(channels, draw(st.sampled_from(["nearest", "bilinear"]))), channels + 2
    if kind in ("conv", "conv-norm"):
        layer, out = draw(convolutions(channels))
        norm = [nn.BatchNorm2d(out, affine=draw(st.booleans()))] if kind == "conv-norm" else []
        act = [nn.ReLU(inplace=True)] if draw(st.booleans()) else []
        return nn.Sequential(layer, *norm, *act), out
    if kind == "norm":
        return nn.BatchNorm2d(channels, affine=draw(st.booleans())), channels
    if kind == "pool":
        return draw(pools()), channels
    if kind == "act":
        return draw(st.sampled_from(ACTIVATIONS))(), channels
    if kind == "calls":
        return Functional(channels), channels
    if kind == "channels-last":
        # A small epsilon would divide by next to nothing where two channels are nearly equal, and rounding with it.
        block = CNBlock(channels, 1.0, 0.0, norm_layer=partial(nn.LayerNorm, eps=0.1))
        return nn.Sequential(LayerNorm2d(channels, eps=0.1), block), channels
    if kind == "parts":
        return Parts(channels, draw(st.integers(1, channels - 1)), draw(kernels)), channels
    if kind == "dense":
        layers: list[nn.Module] = []
        for index in range(draw(st.integers(1, 2))):
            body = same_size_convolution(draw, channels + 2 * index, 2)
            layers.append(nn.Sequential(nn.BatchNorm2d(channels + 2 * index), nn.ReLU(inplace=index > 0), body))
        functional_pool = draw(st.booleans())
        return Dense(layers, functional_pool), channels + 2 * len(layers) + 2 * channels * functional_pool
    stride, mode = draw(st.integers(1, 3)), draw(st.sampled_from(MODES))
    body = nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride, 1, padding_mode=mode), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        same_size_convolution(draw, 4, 4),
    )  # fmt: skip
    shortcut = nn.Sequential(nn.Conv2d(channels, 4, 1, stride, bias=False), nn.BatchNorm2d(4))
    identity = stride == 1 and channels == 4
    return Residual(body, nn.Identity() if identity else shortcut, draw(st.sampled_from(ADDITIONS))), 4


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A random trunk, sometimes with a global pool and a classifier behind it."""
    channels, layers = 2, []
    for _ in range(draw(st.integers(1, 5))):
        layer, channels = draw(stages(channels))
        layers.append(layer)
        if channels > 16:
            break
    tail = draw(st.sampled_from(["map", "map", "avg", "max", "torch-avg", "torch-max", "lse"]))
    if tail != "map":
        torch_pools = {"torch-avg": nn.AdaptiveAvgPool2d(1), "torch-max": nn.AdaptiveMaxPool2d((1, 1))}
        layers += [torch_pools.get(tail) or make_pool(tail, channels), nn.Flatten(), nn.Linear(channels, 3)]
    return nn.Sequential(*layers)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(network=networks(), batch=st.integers(1, 3), height=st.integers(1, 41), width=st.integers(1, 23), data=st.data())
def test_generated_networks_are_exact(
    network: nn.Module,
    batch: int,
    height: int,
    width: int,
    data: st.DataObject,
    assert_exact: Callable[..., float],
    randomize_batch_norm: Callable[[nn.Module], nn.Module],
) -> None:
    strip_rows = data.draw(st.one_of(st.integers(1, 9), st.integers(1, height + 3)), label="strip_rows")
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    randomize_batch_norm(network).double()
    image = torch.randn(batch, 2, height, width, dtype=torch.float64)
    note(str(network))
    try:
        network(image)
    except RuntimeError:  # the plain network does not take so small an image: neither may the streamed one
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            stream(network, strip_rows=strip_rows)(image)
        return
    assert_exact(network, image, strip_rows)


@pytest.mark.parametrize("strip_rows", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 100])
@pytest.mark.parametrize("height", [1, 15, 16, 17, 31, 32, 33])
def test_sizes_around_multiples_of_strip_and_stride(
    height: int, strip_rows: int, assert_exact: Callable[..., float]
) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 7, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Conv2d(2, 2, 3, 2, 1)
    )
    assert_exact(network, torch.randn(1, 1, height, 9, dtype=torch.float64), strip_rows)


# ---------------------------------------------------------------- autograd


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3).eval(), nn.SiLU(), nn.AvgPool2d(2),
        nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2),
    )  # fmt: skip


@pytest.mark.slow
def test_gradcheck() -> None:
    network = small_network().double()
    names = [name for name, _ in network.named_parameters()]
    trunk = stream(network, strip_rows=3)
    image = torch.randn(1, 2, 7, 4, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        parameters = {f"module.{name}": value for name, value in zip(names, values, strict=True)}
        result: Tensor = torch.func.functional_call(trunk, parameters, (x,))
        return result

    values = [p.detach().clone().requires_grad_() for p in network.parameters()]
    assert torch.autograd.gradcheck(call, (image, *values))


def test_double_backward_is_refused() -> None:
    image = torch.randn(1, 2, 9, 5, requires_grad=True)
    [grad] = torch.autograd.grad(stream(small_network(), strip_rows=3)(image).square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


def test_retained_graph_gives_the_same_gradients_again() -> None:
    network = small_network().double()
    loss = stream(network, strip_rows=3)(torch.randn(1, 2, 9, 5, dtype=torch.float64)).square().sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    loss.backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(first, network.parameters(), strict=True) if p.grad is not None)


def test_second_backward_without_retained_graph_raises() -> None:
    loss = stream(small_network(), strip_rows=3)(torch.randn(1, 2, 9, 5)).square().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


CHANGED = ("0.weight", "0.bias", "1.running_mean", "1.running_var", "1.weight", "4.weight", "image")


@pytest.mark.parametrize("size", [(9, 5), (5, 9)], ids=["rows", "columns"])
@pytest.mark.parametrize("changed", CHANGED)
def test_change_in_place_before_backward_raises(changed: str, size: tuple[int, int]) -> None:
    network, image = small_network(), torch.randn(1, 2, *size)
    loss = stream(network, strip_rows=3)(image).square().sum()
    tensors = {"image": image, **dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():
        tensors[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_two_passes_of_two_sizes_before_one_backward() -> None:
    network = small_network().double()
    trunk = stream(network, strip_rows=3)
    images = [torch.randn(1, 2, 9, 5, dtype=torch.float64), torch.randn(3, 2, 14, 8, dtype=torch.float64)]
    sum(trunk(image).square().sum() for image in images).backward()  # type: ignore[union-attr]
    streamed = [p.grad for p in network.parameters()]
    network.zero_grad(set_to_none=True)
    sum(network(image).square().sum() for image in images).backward()  # type: ignore[union-attr]
    for actual, parameter in zip(streamed, network.parameters(), strict=True):
        torch.testing.assert_close(actual, parameter.grad, rtol=1e-12, atol=1e-14)


def test_gradients_accumulate_over_passes() -> None:
    network, image = small_network().double(), torch.randn(1, 2, 9, 5, dtype=torch.float64)
    trunk = stream(network, strip_rows=3)
    trunk(image).sum().backward()
    once = network.get_parameter("0.weight").grad
    assert once is not None
    once = once.clone()
    trunk(image).sum().backward()
    torch.testing.assert_close(network.get_parameter("0.weight").grad, 2 * once)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_graph_without_gradients(mode: Callable[[], Any]) -> None:
    network, image = small_network(), torch.randn(1, 2, 9, 5)
    trunk = stream(network, strip_rows=2)
    with mode():
        result = trunk(image)
    assert result.grad_fn is None
    torch.testing.assert_close(result, network(image))
    trunk(image).sum().backward()
    assert network.get_parameter("0.weight").grad is not None


def test_wholly_frozen_module_makes_no_graph() -> None:
    network = small_network().requires_grad_(False)
    assert stream(network, strip_rows=2)(torch.randn(1, 2, 9, 5)).grad_fn is None


@pytest.mark.parametrize(
    "frozen", [["0.weight"], ["0.weight", "0.bias", "1.weight"], ["4.weight"], ["1.bias", "4.bias"]]
)
def test_frozen_parameters_among_trainable_ones(frozen: list[str]) -> None:
    network, image = small_network().double(), torch.randn(2, 2, 9, 5, dtype=torch.float64)
    for name in frozen:
        network.get_parameter(name).requires_grad_(False)
    grads = []
    for call in (network, stream(network, strip_rows=2)):
        network.zero_grad(set_to_none=True)
        call(image).square().sum().backward()
        grads.append([p.grad for p in network.parameters()])
    for expected, actual in zip(*grads, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "expanded"])
def test_image_in_any_memory_layout(layout: str, assert_exact: Callable[..., float]) -> None:
    image = torch.randn(2, 2, 13, 7, dtype=torch.float64)
    if layout == "channels_last":
        image = image.contiguous(memory_format=torch.channels_last)
    elif layout == "transposed":
        image = image.transpose(2, 3)
    else:
        image = image[:1].expand(3, -1, -1, -1)
    assert_exact(small_network(), image, 3)


def test_uint8_image_equals_floats_of_0_to_1() -> None:
    network, image = small_network(), torch.randint(0, 256, (2, 2, 9, 5), dtype=torch.uint8)
    assert torch.equal(stream(network, strip_rows=2)(image), stream(network, strip_rows=2)(image.float() / 255))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 9, 9), r"image\[None\]"),
        (torch.zeros(0, 2, 0, 9), "no pixels"),
        (torch.zeros(1, 2, 0, 9), "no pixels"),
        (torch.zeros(9), "Reshape"),
    ],
)
def test_what_is_not_an_image_is_refused(image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stream(small_network(), strip_rows=2)(image)


def test_image_too_small_names_the_layer() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 3), nn.MaxPool2d(5))
    with pytest.raises(ValueError, match=r"layer '1'.*image of 6 rows is too small"):
        stream(network, strip_rows=2)(torch.zeros(1, 2, 6, 30))
    with pytest.raises(ValueError, match=r"layer '1'.*image of 5 columns is too small"):
        stream(network, strip_rows=2)(torch.zeros(1, 2, 30, 5))


# ---------------------------------------------------------------- the object


@pytest.mark.parametrize(
    "sizes",
    [
        {"tile_size": 5, "strip_rows": 5},
        {"tile_size": 0},
        {"strip_rows": -1},
        {"tile_size": 2.5},
        {"memory": "8 x"},
    ],
)
def test_one_sensible_size_has_to_be_given(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give one of|whole number|not understood"):
        stream(nn.Sequential(nn.ReLU()), **sizes)


@pytest.mark.parametrize("size", [(1000, 50), (50, 1000), (4000, 900), (30, 10)])
def test_tile_size_bounds_the_pixels_of_a_strip_and_the_memory_of_a_step(size: tuple[int, int]) -> None:
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(*layers)
    long, short = max(size), min(size)
    most = max(1, 100**2 // short)
    chosen = stream(network, tile_size=100).forecast(*size)
    ordered = stream(network, strip_rows=most).forecast(*size)
    assert chosen.strip_rows <= most
    assert chosen.memory_bytes <= ordered.memory_bytes
    assert chosen.training_operations <= ordered.training_operations
    assert chosen.strip_rows == long or most < long  # a small image is whole
    if size == (1000, 50):
        assert chosen.keeping.graphs > 1
        assert chosen.strip_rows == 32  # a power of two, so that layers see few shapes
    frozen = stream(network.requires_grad_(False), tile_size=100).forecast(*size)
    assert frozen.training_operations == frozen.forward_operations


def test_parameters_are_shared_not_copied() -> None:
    network = small_network()
    assert [id(p) for p in stream(network, strip_rows=2).parameters()] == [id(p) for p in network.parameters()]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda trunk: pickle.loads(pickle.dumps(trunk))])
def test_copies_are_independent(duplicate: Callable[[StreamedModule], StreamedModule]) -> None:
    trunk, image = stream(small_network(), strip_rows=2), torch.randn(1, 2, 9, 5)
    before = trunk(image)
    twin = duplicate(trunk)
    assert torch.equal(twin(image), before)
    with torch.no_grad():
        twin.module.get_parameter("0.weight").zero_()
    assert torch.equal(trunk(image), before)
    assert not torch.equal(twin(image), before)


def test_moving_and_casting_afterwards_is_seen() -> None:
    network, image = small_network(), torch.randn(1, 2, 9, 5, dtype=torch.float64)
    trunk = stream(network, strip_rows=2)
    trunk(image.float())
    trunk.double()
    torch.testing.assert_close(trunk(image), network(image), rtol=1e-12, atol=1e-14)


def test_layer_replaced_afterwards_is_seen() -> None:
    network, image = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()), torch.randn(1, 2, 19, 5)
    trunk = stream(network, strip_rows=2)
    for kernel in (1, 2, 3, 4, 5, 1):
        network[0] = nn.Conv2d(2, 2, kernel)
        torch.testing.assert_close(trunk(image), network(image))


def test_training_flags_are_read_at_every_call() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    trunk, image = stream(network, strip_rows=2), torch.randn(1, 2, 9, 5)
    with pytest.raises(UnsupportedLayerError, match=r"'1'.*training mode"):
        trunk(image)
    trunk.eval()
    torch.testing.assert_close(trunk(image), network(image))
    network[2].train()
    assert (trunk(image) == 0).any()


def test_repr_names_the_size() -> None:
    assert "strip_rows=3" in repr(stream(nn.Sequential(nn.ReLU()), strip_rows=3))
    assert "tile_size=3" in repr(stream(nn.Sequential(nn.ReLU()), tile_size=3))
    assert "memory='3kB'" in repr(stream(nn.Sequential(nn.ReLU()), memory="3kB"))
