"""Networks with statistics of whole maps, computed in stages: exact, at one forward pass more, in bounded memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import EcaModule, GlobalContext, SelectiveKernel, SplitAttn
from timm.layers.cbam import CbamModule
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.regnet import BlockParams, RegNet

from streammodels import StreamedModule, UnsupportedLayerError, stream
from streammodels.errors import ImageReadError

TALL, WIDE = (2, 3, 37, 22), (2, 3, 22, 37)


def efficientnet() -> nn.Module:
    settings = [(1, 3, 1, 4, 4, 1), (2, 3, 2, 4, 8, 2), (2, 5, 2, 8, 8, 1)]
    blocks = [MBConvConfig(*setting) for setting in settings]
    return EfficientNet(blocks, dropout=0.0, stochastic_depth_prob=0.0, num_classes=3, last_channel=8)


def regnet() -> nn.Module:
    return RegNet(BlockParams([1, 2], [8, 16], [4, 8], [1.0, 1.0], [2, 2], se_ratio=0.25), num_classes=3, stem_width=4)


class Call(nn.Module):
    """Convolutions in front of and behind a function of a map."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.front, self.behind = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.Conv2d(4, 4, 3, 1, 1)
        self.norm, self.gate = nn.BatchNorm2d(4), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.response, self.response_last = GlobalResponseNorm(4, channels_last=False), GlobalResponseNorm(4)
        for norm in (self.response, self.response_last):
            nn.init.normal_(norm.weight)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.behind(self.function(self, self.front(x)))


def global_context() -> nn.Module:
    layer = GlobalContext(4, rd_channels=8, fuse_add=True)
    layer.conv_attn.bias.requires_grad_(False)  # its gradient is zero: a softmax does not change with it
    return layer


class LazyImage:
    def __init__(self, pixels: Tensor, damaged_from: int = 10**6) -> None:
        self.pixels, self.damaged_from = pixels, damaged_from
        self.shape, self.dtype = pixels.shape, pixels.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        if stop > self.damaged_from:
            raise OSError("a damaged tile")
        return self.pixels[:, start:stop]


Randomize = Callable[[nn.Module], nn.Module]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    module = efficientnet().double().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module


def gradients(call: Callable[[], Tensor], module: nn.Module) -> list[Tensor]:
    module.zero_grad()
    result = call()
    (result * torch.arange(1.0, result.numel() + 1).view_as(result)).sum().backward()
    return [result.detach(), *(p.grad for p in module.parameters() if p.grad is not None)]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("make", [efficientnet, regnet])
def test_squeeze_and_excitation_is_exact(
    make: Callable[[], nn.Module], assert_exact: Callable[..., float], randomize_batch_norm: Randomize, tmp_path: Path
) -> None:
    module = randomize_batch_norm(make()).eval()
    assert_exact(module, torch.randn(TALL, dtype=torch.float64), 5, global_statistics="host")
    assert_exact(module, torch.randn(WIDE, dtype=torch.float64), 6, global_statistics="host", spill_dir=tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
        lambda net, x: x + functional.adaptive_max_pool2d(torch.relu(x), 1) - x.relu(),
        lambda net, x: x * net.gate(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2)[..., None],  # ECA
        lambda net, x: (y := x - functional.adaptive_avg_pool2d(x, 1)) * functional.adaptive_avg_pool2d(y * y, 1),
        lambda net, x: x * x.clamp(max=0.3).amax((2, 3), keepdim=True) + x.amax((-1, -2), True).expand_as(x),
        lambda net, x: net.response(x) + net.response_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda net, x: x + ((y := x.permute(0, 2, 3, 1)) * y.mean((1, 2))[:, None, None]).permute(0, 3, 1, 2),
    ],
)
def test_vectors_of_a_map_act_on_maps(function: Any, assert_exact: Callable[..., float]) -> None:
    assert_exact(Call(function), torch.randn(TALL, dtype=torch.float64), 5, global_statistics="host")
    assert_exact(Call(function), torch.randn(WIDE, dtype=torch.float64), 30, global_statistics="host")


def test_maps_one_pixel_wide_are_exact(assert_exact: Callable[..., float], randomize_batch_norm: Randomize) -> None:
    # torch (2.14) computes wrong gradients of batch normalization for some orders of such maps in memory
    module = Call(lambda net, x: (y := net.norm(x * x.mean((2, 3), True))) * y.mean((2, 3), True))
    for size in ((2, 3, 17, 2), (1, 3, 2, 17)):
        assert_exact(randomize_batch_norm(module), torch.randn(size, dtype=torch.float64), 5, global_statistics="host")


@pytest.mark.parametrize(
    "vector",
    [
        lambda v: functional.interpolate(v, size=(19, 11), mode="bilinear", align_corners=False),  # as in DeepLab
        lambda v: v.expand(-1, -1, 19, 11),
        lambda v: v.mean(1, keepdim=True).expand(2, 4, 19, 11),
    ],
)
def test_vectors_repeated_over_a_map_are_exact(vector: Any, assert_exact: Callable[..., float]) -> None:
    module = Call(lambda net, x: vector(x.mean((2, 3), keepdim=True)) * x)
    assert_exact(module, torch.randn(TALL, dtype=torch.float64), 5, global_statistics="host")
    module = Call(lambda net, x: torch.cat([x[:, 1:], vector(x.mean((2, 3), keepdim=True))], 1).split([3, 4], 1)[1])
    assert_exact(module, torch.randn(TALL, dtype=torch.float64), 5, global_statistics="host")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: EcaModule(4),
        lambda: CbamModule(4, rd_channels=2),
        lambda: SelectiveKernel(4, 4, rd_channels=2),
        lambda: SplitAttn(4, 4, rd_channels=2),
        lambda: global_context(),
    ],
)
def test_attention_of_timm_over_channels_is_exact(layer: Any, assert_exact: Callable[..., float]) -> None:
    module = Call(lambda net, x: net.layer(x))
    module.layer = layer()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert_exact(module.eval(), torch.randn(TALL, dtype=torch.float64), 5, global_statistics="host")


def test_lists_of_lazy_images_are_exact(network: nn.Module) -> None:
    streamed = stream(network, strip_rows=6, global_statistics="host")
    images = [torch.randn(3, 30, 21, dtype=torch.float64), torch.randn(3, 19, 33, dtype=torch.float64)]
    expected = gradients(lambda: torch.cat([network(image[None]) for image in images]), network)
    assert_close(gradients(lambda: streamed([LazyImage(image) for image in images]), network), expected)
    with torch.no_grad():
        torch.testing.assert_close(streamed(images), expected[0], rtol=1e-11, atol=1e-13)


def test_a_step_takes_one_forward_pass_more_than_the_plain_network(network: nn.Module) -> None:
    image = torch.randn(TALL, dtype=torch.float64)
    streamed = stream(network, strip_rows=6, global_statistics="host")

    def operations(call: Callable[[], Any]) -> int:
        with FlopCounterMode(display=False) as counter:
            call()
        return int(counter.get_total_flops())

    forward = operations(lambda: network(image))
    assert operations(lambda: streamed(image)) == forward
    step = operations(lambda: network(image).sum().backward())
    assert step < operations(lambda: streamed(image).sum().backward()) <= step + forward


def test_forecast_counts_stages_and_what_waits(network: nn.Module, tmp_path: Path) -> None:
    batch, _, height, width = TALL
    forecast = stream(network, strip_rows=6, global_statistics="host").forecast(height, width, batch)
    assert forecast.stages == 5
    # The maps in front of the gates, and the inputs of blocks with a shortcut: 8, 4 x 8, 8 ... channels.
    waits = 2 * 8 * (8 * 19 * 11 + 8 * 19 * 11 + 16 * 10 * 6 + 8 * 10 * 6 + 32 * 10 * 6)
    assert waits < forecast.waiting_bytes < 2 * waits
    assert forecast.waiting_bytes < forecast.memory_bytes
    assert "5 stages" in str(forecast)
    in_files = stream(network, strip_rows=6, global_statistics="host", spill_dir=tmp_path)
    assert in_files.forecast(height, width, batch).memory_bytes == forecast.memory_bytes - forecast.waiting_bytes
    summary = in_files.summary(height, width)
    assert "Stage 5 of 5" in summary
    assert "Waiting for later stages: features.0.2 (0.01 MB)" in summary
    with pytest.raises(UnsupportedLayerError, match=r"each stage has a row plan.*summary"):
        in_files.plan(height, width)


def test_budget_is_that_of_all_stages(network: nn.Module) -> None:
    image = torch.randn(2, 3, 96, 22, dtype=torch.float64)
    need = stream(network, strip_rows=96, global_statistics="host").forecast(96, 22, 2)
    streamed = stream(network, memory=int(0.75 * need.memory_bytes), global_statistics="host")
    forecast = streamed.forecast(96, 22, 2)
    assert forecast.memory_bytes <= 0.75 * need.memory_bytes
    assert_close(gradients(lambda: streamed(image), network), gradients(lambda: network(image), network))
    for memory, message in ((need.waiting_bytes // 2, "pass spill_dir="), (need.waiting_bytes + 9, "for 5 stages")):
        with pytest.raises(ValueError, match=message):
            stream(network, memory=memory, global_statistics="host")(image)


def test_gradient_of_the_image_strip_by_strip_is_exact(network: nn.Module) -> None:
    image = torch.randn(1, 3, 22, 37, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(network(image)[0, 1], image)
    found = torch.zeros_like(image)

    def take(rows: range, gradient: Tensor) -> None:
        found[:, :, rows.start : rows.stop] += gradient

    streamed = stream(network, strip_rows=6, global_statistics="host")
    streamed.image_gradient(image.detach(), lambda scores: scores[0, 1], take)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-15)
    again = Again().double()
    with pytest.raises(UnsupportedLayerError, match="reads the image behind a statistic"):
        stream(again, strip_rows=6, global_statistics="host").image_gradient(image.detach(), Tensor.sum, take)


class Again(nn.Module):
    """Reads the image in both stages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3), keepdim=True) * x + self.conv(x)


def test_an_image_that_several_stages_read_is_exact(assert_exact: Callable[..., float]) -> None:
    assert_exact(Again(), torch.randn(WIDE, dtype=torch.float64), 5, global_statistics="host")


def test_no_file_is_left_behind_an_error(network: nn.Module, tmp_path: Path) -> None:
    streamed = stream(network, strip_rows=6, global_statistics="host", spill_dir=tmp_path)
    image = torch.randn(3, 40, 21, dtype=torch.float64)
    with pytest.raises(ImageReadError, match="damaged tile"):
        streamed(LazyImage(image, 30))
    assert not [*tmp_path.iterdir()]
    streamed(image[None])
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    module = Call(lambda net, x: x * x.mean((2, 3), keepdim=True)).double()
    with pytest.raises(OSError, match=r"GB cannot wait in spill_dir=.*No space left"):
        stream(module, strip_rows=6, global_statistics="host", spill_dir=tmp_path)(torch.randn(TALL).double())
    assert not [*tmp_path.iterdir()]


def test_autocast_is_as_precise_as_in_the_plain_network(network: nn.Module) -> None:
    short, image = copy.deepcopy(network).float(), torch.randn(TALL)
    streamed = stream(short, strip_rows=6, global_statistics="host")
    exact = network(image.double()).detach()

    def error(call: Callable[[Tensor], Tensor]) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            result = call(image).detach()
        assert result.dtype == torch.bfloat16
        return float((result - exact).norm() / exact.norm())

    assert error(streamed) <= 1.2 * error(short)


def test_layers_in_front_of_the_first_trained_one_have_no_gradient(assert_exact: Callable[..., float]) -> None:
    module = Call(lambda net, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)))
    module.front.requires_grad_(False)
    assert_exact(module, torch.randn(TALL, dtype=torch.float64), 5, False, global_statistics="host")


def test_dropout_is_the_same_in_the_backward_pass() -> None:
    torch.manual_seed(0)
    module = Call(lambda net, x: functional.dropout(x * x.mean((2, 3), keepdim=True))).double()
    streamed, image = stream(module, strip_rows=5, global_statistics="host"), torch.randn(TALL).double()
    image.requires_grad_()
    torch.manual_seed(1)
    result = streamed(image)
    (grad,) = torch.autograd.grad((result * result).sum() / 2, image)
    step = 1e-6 * torch.randn_like(image)
    torch.manual_seed(1)
    moved = streamed((image + step).detach())
    torch.manual_seed(1)
    change = (moved.square().sum() - streamed((image - step).detach()).square().sum()) / 4
    torch.testing.assert_close(change, (grad * step).sum(), rtol=1e-5, atol=1e-14)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "group": lambda: nn.GroupNorm(2, 4),
    "group without weights": lambda: nn.GroupNorm(1, 4, affine=False),
    "instance": lambda: nn.InstanceNorm2d(4),
    "instance with statistics": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "batch": lambda: nn.BatchNorm2d(4, eps=0.1),
    "batch, mean of all": lambda: nn.BatchNorm2d(4, momentum=None),
    "batch without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "layer": lambda: nn.LayerNorm([4, 19, 11], elementwise_affine=False),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalization_by_the_whole_map_is_exact_and_counts_once(name: str, assert_exact: Callable[..., float]) -> None:
    module = Call(lambda net, x: net.norm(x))
    module.norm = NORMS[name]()  # type: ignore[assignment]
    nn.init.normal_(module.front.weight)
    image = 1.0 + torch.randn(TALL, dtype=torch.float64)
    assert_exact(module, image, 7, global_statistics="host")  # two calls, of which one is plain
    once = copy.deepcopy(module)
    for call in (once, stream(module, strip_rows=4, global_statistics="host")):
        call(image)
    for buffer, expected in zip(module.buffers(), once.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-11, atol=1e-13)
    if name != "layer":
        module.eval()
        assert_exact(module, torch.randn(WIDE, dtype=torch.float64), 7, global_statistics="host")


def test_functions_that_normalize_are_exact(assert_exact: Callable[..., float]) -> None:
    module = Call(
        lambda net, x: (
            functional.group_norm(x, 2, net.norm.weight, net.norm.bias)
            + functional.instance_norm(x, eps=0.1)
            + functional.layer_norm(x, [4, 19, 11])
            + functional.batch_norm(x, None, None, net.norm.weight, training=True)
        )
    )
    assert_exact(module, torch.randn(TALL, dtype=torch.float64), 7, global_statistics="host")


def test_a_large_mean_keeps_the_variance() -> None:
    norm, image = nn.GroupNorm(1, 2, affine=False), 1e4 + torch.rand(1, 2, 64, 48)
    exact = nn.functional.group_norm(image.double(), 1)
    streamed = stream(norm, strip_rows=5, global_statistics="host")(image)
    assert (streamed - exact).abs().max() < 2e-3  # the last bit of the image is 1e-3, of which 0.29 is the deviation


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.GroupNorm(1, 3), "GroupNorm takes"),
        (nn.BatchNorm2d(3, track_running_stats=False), "without running"),
        (Call(lambda net, x: x * x.mean((2, 3), keepdim=True)), "applies a global pool"),
        (Call(lambda net, x: functional.group_norm(x, 2)), "'group_norm' takes"),
    ],
)
def test_refusals_name_the_option(module: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=rf'{message}.*global_statistics="host"'):
        stream(module, strip_rows=4)


def test_a_vector_that_differs_from_row_to_row_is_refused() -> None:
    module = Call(lambda net, x: x * functional.pad(x.mean((2, 3), keepdim=True), (0, 0, 0, 18)))
    with pytest.raises(UnsupportedLayerError, match=r"a tensor of shape \(2, 4, 19, 1\).*one value for a channel"):
        stream(module, strip_rows=4, global_statistics="host")(torch.randn(TALL))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_statistics": "device"}, "has to be"),
        ({"spill_dir": "."}, "Pass that too"),
        ({"global_statistics": "host", "spill_dir": "missing"}, "is no folder"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamedModule(nn.ReLU(), strip_rows=4, **options)
