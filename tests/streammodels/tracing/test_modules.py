"""Every supported layer equals torch's own, also where other streaming libraries have silent errors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from streammodels import UnsupportedLayerError, stream
from streammodels.tracing import functions, modules

Assert = Callable[..., float]


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("kind", list(modules.POINTWISE_MODULES), ids=lambda kind: kind.__name__)
def test_every_pointwise_module_is_exact(kind: Any, assert_exact: Assert) -> None:
    activation = kind(0.1, 20.0) if kind is nn.Threshold else kind()
    assert_exact(nn.Sequential(nn.Conv2d(2, 3, 3), activation, nn.Conv2d(3, 2, 3)), 2 * image(2, 2, 13, 7), 4)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Hardtanh])
def test_activations_in_place_are_exact(kind: Any, assert_exact: Assert) -> None:
    assert_exact(nn.Sequential(nn.Conv2d(2, 3, 3), kind(inplace=True), nn.Conv2d(3, 2, 3)), 3 * image(1, 2, 13, 7), 2)


# what needs arguments, or positive numbers, is tried with them elsewhere
_WITH_ARGUMENTS = {
    functional.threshold, torch.threshold, torch.clamp, torch.clip, torch.sqrt, torch.pow, operator.pow, torch.addcmul,
    torch.clamp_min, torch.clamp_max, torch.log, torch.log1p, torch.rsqrt,
}  # fmt: skip
_PLAIN_FUNCTIONS = sorted(
    functions.POINTWISE_FUNCTIONS - _WITH_ARGUMENTS,
    key=lambda function: (function.__module__ or "", function.__name__),
)


@pytest.mark.parametrize("function", _PLAIN_FUNCTIONS, ids=lambda function: function.__name__)
def test_every_pointwise_function_is_exact(function: Any, assert_exact: Assert) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.second(function(self.first(x)))

    assert_exact(Net(), image(1, 2, 13, 7), 3)


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("divisor", [None, 5])
def test_average_pool_borders(
    count_include_pad: bool, ceil_mode: bool, divisor: int | None, assert_exact: Assert
) -> None:
    pool = nn.AvgPool2d(4, 3, 2, ceil_mode, count_include_pad, divisor)
    for height in (5, 6, 7, 8):
        assert_exact(nn.Sequential(nn.Conv2d(1, 2, 1), pool), image(1, 1, height, 9), 2)


def test_global_maximum_of_equal_values_gives_the_first_one_the_gradient(assert_exact: Assert) -> None:
    flat = torch.zeros(2, 3, 11, 5, dtype=torch.float64)
    flat[:, :, 4:9, 2] = 1
    assert_exact(nn.Sequential(nn.Identity(), nn.AdaptiveMaxPool2d(1)), flat, 2)


def test_global_maximum_keeps_nan() -> None:
    holed = torch.zeros(1, 2, 9, 5)
    holed[0, 0, 1, 1] = torch.nan
    result = stream(nn.Sequential(nn.Identity(), nn.AdaptiveMaxPool2d(1)), strip_rows=2)(holed)
    assert result.isnan().flatten().tolist() == [True, False]


# ---------------------------------------------------------------- silent errors of other codes


def trunk(name: str, blocks: list[int], bottleneck: bool = False) -> nn.Module:
    """The topology of a ResNet, narrow."""
    block = models.resnet.Bottleneck if bottleneck else models.resnet.BasicBlock
    network = models.ResNet(block, blocks, width_per_group=64)
    network.inplanes = 4
    network.conv1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
    network.bn1 = nn.BatchNorm2d(4)
    for index, count in enumerate(blocks):
        layer = network._make_layer(block, 4, count, stride=1 if index == 0 else 2)
        setattr(network, f"layer{index + 1}", layer)
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    return nn.Sequential(*(getattr(network, part) for part in names)).eval()


RESNETS = {"18": ([2, 2, 2, 2], False), "34": ([3, 4, 6, 3], False), "50": ([3, 4, 6, 3], True)}


@pytest.mark.slow
@pytest.mark.parametrize("depth", RESNETS)
@pytest.mark.parametrize("size", [(101, 67), (96, 64)])
def test_batch_norm_affine_gradients_and_odd_sizes_of_resnets(
    depth: str, size: tuple[int, int], assert_exact: Assert, randomize_batch_norm: Callable[[nn.Module], nn.Module]
) -> None:
    """L1, L2, L3, L16, H1: shift and scale of normalization, sides that are no multiple of the stride, batch of 2."""
    assert_exact(randomize_batch_norm(trunk(depth, *RESNETS[depth])), image(2, 3, *size), 33)


@pytest.mark.parametrize("strip_rows", [64, 65, 1000])
def test_image_smaller_than_a_strip(strip_rows: int, assert_exact: Assert) -> None:
    """L4, H1."""
    assert_exact(nn.Sequential(nn.Conv2d(2, 2, 3, 2, 1), nn.ReLU()), image(1, 2, 64, 5), strip_rows)


@pytest.mark.parametrize("strip_rows", [5, 7, 31])
def test_strip_that_is_no_multiple_of_the_stride(strip_rows: int, assert_exact: Assert) -> None:
    """L5."""
    assert_exact(nn.Sequential(*(nn.Conv2d(2, 2, 3, 2, 1) for _ in range(5))), image(1, 2, 97, 33), strip_rows)


@pytest.mark.parametrize("strip_rows", [1, 3])
def test_strip_shorter_than_the_receptive_field(strip_rows: int, assert_exact: Assert) -> None:
    """L6, H4."""
    assert_exact(nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(20))), image(1, 2, 23, 7), strip_rows)


def test_bias_gradient_is_exact_for_batch_of_two(assert_exact: Assert) -> None:
    """L7."""
    assert_exact(nn.Sequential(nn.Conv2d(2, 3, 3, bias=True), nn.Conv2d(3, 2, 3, bias=True)), image(2, 2, 19, 7), 4)


@pytest.mark.parametrize("dilation", [2, 3, (1, 2), (3, 1)])
def test_dilation(dilation: Any, assert_exact: Assert) -> None:
    """L8."""
    assert_exact(nn.Sequential(nn.Conv2d(2, 3, 3, padding=2, dilation=dilation)), image(1, 2, 19, 9), 4)


@pytest.mark.parametrize("kernel", [(1, 11), (11, 1)])
def test_band_kernels(kernel: tuple[int, int], assert_exact: Assert) -> None:
    """L9."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    assert_exact(nn.Sequential(nn.Conv2d(2, 4, kernel, padding=padding, groups=2)), image(1, 2, 19, 13), 3)


@pytest.mark.parametrize("kernel", [2, 3, 4, (5, 2)])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
def test_padding_same(kernel: Any, mode: str, assert_exact: Assert) -> None:
    """L10: with an even kernel torch pads one row more at the bottom."""
    layer = nn.Conv2d(2, 3, kernel, padding="same", dilation=(2, 1), padding_mode=mode)
    assert_exact(nn.Sequential(layer, nn.Conv2d(3, 2, kernel, padding="same")), image(1, 2, 19, 9), 4)


@pytest.mark.parametrize("strip_rows", [1, 2, 5, 18, 19, 40])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padding_mode_reflect(strip_rows: int, stride: int, assert_exact: Assert) -> None:
    """L11."""
    layers = [nn.Conv2d(2, 2, 7, stride, 3, padding_mode="reflect"), nn.Conv2d(2, 2, 3, 1, 1, padding_mode="reflect")]
    assert_exact(nn.Sequential(*layers), image(1, 2, 19, 11), strip_rows)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.Conv2d(3, 3, 5, padding=1)])
def test_input_gradients_behind_pools(pool: nn.Module, assert_exact: Assert) -> None:
    """L12."""
    assert_exact(
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), pool, nn.Conv2d(3, 2, 3, padding=1)), image(1, 2, 19, 9), 4
    )


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d((5, 2)), nn.AdaptiveAvgPool2d((1, 4))])
@pytest.mark.parametrize(("height", "width"), [(23, 9), (9, 23), (4, 3)])
def test_adaptive_pools_to_several_pixels_are_exact(
    pool: nn.Module, height: int, width: int, assert_exact: Callable[..., float]
) -> None:
    """L13."""
    pixels = torch.randint(4, (2, 2, height, width)).double()  # with equal maxima
    assert_exact(nn.Sequential(nn.Conv2d(2, 3, 1), pool, nn.Conv2d(3, 3, 1)), pixels, 3)


def test_what_is_pooled_to_fixed_size_may_be_flattened(assert_exact: Callable[..., float]) -> None:
    """As in AlexNet and VGG."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(18, 4), nn.ReLU())
    assert_exact(network, image(2, 2, 19, 9), 4)
    assert_exact(network, image(2, 2, 9, 19), 4)


@pytest.mark.parametrize("layer", [nn.GroupNorm(3, 3), nn.InstanceNorm2d(3), nn.LayerNorm((3, 17, 7))])
def test_norms_over_space_are_refused_in_eval_mode_too(layer: nn.Module) -> None:
    """L14."""
    with pytest.raises(UnsupportedLayerError, match="statistics"):
        stream(nn.Sequential(nn.Conv2d(2, 3, 3), layer).eval(), strip_rows=3)


def test_gradients_differ_between_equal_tiles_of_background(assert_exact: Assert) -> None:
    """H2: what came out alike may have to be differentiated unlike."""
    assert_exact(trunk("18", [1, 1, 1, 1]), torch.ones(1, 3, 97, 65, dtype=torch.float64), 16, image_grad=False)


def test_frozen_convolution_among_trained_ones(assert_exact: Assert) -> None:
    """H3."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 2, 3))
    network[1].requires_grad_(False)
    assert_exact(network, image(1, 2, 19, 9), 4)


def changed(layer: nn.Conv2d, **attributes: Any) -> nn.Sequential:
    for name, value in attributes.items():
        setattr(layer, name, value)
    return nn.Sequential(layer, nn.ReLU())


@pytest.mark.parametrize(
    "make",
    [
        lambda: changed(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), padding=(0, 0)),
        lambda: changed(nn.Conv2d(3, 4, 3, padding="same", padding_mode="replicate"), dilation=(2, 2)),
        lambda: changed(nn.Conv2d(3, 4, 3, padding=1), padding_mode="reflect"),
        lambda: changed(nn.Conv2d(3, 4, 3, padding=1), padding=(2, 0)),
        lambda: changed(nn.Conv2d(3, 4, 3, padding=1), kernel_size=(5, 5)),
        lambda: changed(nn.Conv2d(3, 4, 3, padding=1), weight=nn.Parameter(torch.randn(2, 3, 5, 1)), bias=None),
    ],
)
def test_convolution_changed_after_it_was_made(make: Callable[[], nn.Module], assert_exact: Assert) -> None:
    for shape in ((1, 3, 13, 9), (1, 3, 9, 13)):
        assert_exact(make(), image(*shape), 4)


def test_batch_norm_whose_gradient_has_channels_last_in_memory() -> None:
    """As of a head on ``features.flatten(2).transpose(1, 2)`` of one image, where torch 2.14 itself is wrong."""
    module, rows = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)).double().eval(), image(1, 3, 12, 9)
    nn.init.uniform_(module[2].weight, 0.5, 1.5)
    weights = image(70, 4)
    pixels = stream(module, strip_rows=4)(rows).flatten(2).transpose(1, 2)
    (torch.eye(70, dtype=torch.float64)[None] @ pixels * weights).sum().backward()
    found = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    scale = module[2].weight / torch.sqrt(module[2].running_var + module[2].eps)
    normalized = torch.relu(module[0](rows)) * scale[:, None, None] + module[2].bias[:, None, None]
    (normalized.flatten(2) * weights.T).sum().backward()
    for one, parameter in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-12, atol=1e-13)
