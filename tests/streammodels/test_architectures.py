"""Outputs and all gradients of published networks equal those of the plain modules in double precision."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlock

from streammodels import UnsupportedLayerError, stream

# Deep and wide ones have the blocks of ResNet-50, in as long a row or a longer one; here they are narrow inside.
RESNETS = {
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "resnext50_32x4d": models.resnext50_32x4d,
    "resnet101": partial(models.resnet101, width_per_group=4),
    "resnet152": partial(models.resnet152, width_per_group=4),
    "wide_resnet50_2": partial(models.resnet50, width_per_group=8),
}


def strengthen(network: nn.Module) -> nn.Module:
    """Let every branch count: ConvNeXt starts its residual branches at a millionth."""
    for layer in network.modules():
        if isinstance(layer, CNBlock):
            nn.init.uniform_(layer.layer_scale, 0.5, 1.0)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("name", RESNETS)
def test_resnets_with_their_classifier_are_exact(
    name: str, assert_exact: Any, randomize_batch_norm: Callable[[nn.Module], nn.Module]
) -> None:
    network = randomize_batch_norm(RESNETS[name](num_classes=3))
    assert_exact(network, torch.randn(1, 3, 67, 43, dtype=torch.float64), 20)


def narrow_vgg(letter: str, batch_norm: bool) -> nn.Module:
    """An eighth of the channels."""
    widths = [width if isinstance(width, str) else width // 8 for width in models.vgg.cfgs[letter]]
    return models.vgg.make_layers(widths, batch_norm=batch_norm)


@pytest.mark.parametrize(("letter", "batch_norm"), [("A", False), ("D", True)])
def test_features_of_vggs_are_exact(
    letter: str, batch_norm: bool, assert_exact: Any, randomize_batch_norm: Callable[[nn.Module], nn.Module]
) -> None:
    features = randomize_batch_norm(narrow_vgg(letter, batch_norm))
    assert_exact(features, torch.randn(1, 3, 83, 67, dtype=torch.float64), 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "mnasnet0_5", "googlenet", "squeezenet1_1"])
def test_features_of_known_networks_are_exact(
    name: str, assert_exact: Any, randomize_batch_norm: Callable[[nn.Module], nn.Module]
) -> None:
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    network = getattr(models, name)(weights=None, **options).eval()
    if name == "googlenet":  # a network without `features`: all up to its global pool
        network = nn.Sequential(*[layer for part, layer in network.named_children() if part not in ("dropout", "fc")])
    features = network.layers if name == "mnasnet0_5" else getattr(network, "features", network)
    assert_exact(randomize_batch_norm(features), torch.randn(1, 3, 83, 67, dtype=torch.float64), 20)


def narrow_convnext_tiny() -> nn.Module:
    """An eighth of the channels."""
    blocks = zip((12, 24, 48, 96), (24, 48, 96, None), (3, 3, 9, 3), strict=True)
    return models.ConvNeXt([models.convnext.CNBlockConfig(*block) for block in blocks])


@pytest.mark.slow
@pytest.mark.parametrize("make", [models.regnet_x_400mf, models.densenet121, narrow_convnext_tiny])
def test_whole_networks_with_global_pool_are_exact(
    make: Callable[[], nn.Module], assert_exact: Any, randomize_batch_norm: Callable[[nn.Module], nn.Module]
) -> None:
    network = randomize_batch_norm(make().eval())
    assert_exact(strengthen(network), torch.randn(2, 3, 70, 61, dtype=torch.float64), 18)


def small_convnext() -> nn.Module:
    """ConvNeXt of four narrow stages, with stochastic depth in each block but the first."""
    settings = [models.convnext.CNBlockConfig(4 + 2 * i, 6 + 2 * i, 1) for i in range(3)]
    settings.append(models.convnext.CNBlockConfig(10, None, 2))
    return strengthen(models.ConvNeXt(settings, stochastic_depth_prob=0.5, num_classes=3))


@pytest.mark.slow
@pytest.mark.parametrize("strip_rows", [1, 5, 32, 100])
def test_narrow_convnext_is_exact(strip_rows: int, assert_exact: Any) -> None:
    assert_exact(small_convnext().eval(), torch.randn(2, 3, 66, 41, dtype=torch.float64), strip_rows)


def test_convnext_in_training_has_the_gradients_of_one_draw() -> None:
    """With the seed fixed the training-mode network is a fixed function, whose derivative finite differences give."""
    network = small_convnext().double().train()
    trunk = stream(network, strip_rows=9)
    image, direction = torch.rand(2, 3, 40, 33, dtype=torch.float64), torch.randn(2, 3, 40, 33, dtype=torch.float64)

    def value(entered: Tensor) -> Tensor:
        torch.manual_seed(5)
        result: Tensor = trunk(entered).square().sum()
        return result

    leaf = image.clone().requires_grad_()
    [grad] = torch.autograd.grad(value(leaf), leaf)
    step = 1e-5
    expected = (value(image + step * direction) - value(image - step * direction)) / (2 * step)
    torch.testing.assert_close((grad * direction).sum(), expected, rtol=1e-6, atol=1e-9)


class InceptionNeXtBlock(nn.Module):
    """Depthwise 3x3, 1x11 and 11x1 on parts of the channels: https://arxiv.org/abs/2303.16900."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // 4
        self.square = nn.Conv2d(part, part, 3, padding=1, groups=part)
        self.wide = nn.Conv2d(part, part, (1, 11), padding=(0, 5), groups=part)
        self.tall = nn.Conv2d(part, part, (11, 1), padding=(5, 0), groups=part)
        self.sizes = (channels - 3 * part, part, part, part)
        self.norm = nn.BatchNorm2d(channels)
        self.mlp = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.GELU(), nn.Conv2d(2 * channels, channels, 1))
        self.gamma = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        same, square, wide, tall = torch.split(x, self.sizes, dim=1)
        mixed = torch.cat((same, self.square(square), self.wide(wide), self.tall(tall)), dim=1)
        return self.mlp(self.norm(mixed)).mul(self.gamma.reshape(1, -1, 1, 1)) + x


@pytest.mark.parametrize("strip_rows", [1, 4, 13])
def test_inceptionnext_blocks_are_exact(
    strip_rows: int, assert_exact: Any, randomize_batch_norm: Callable[[nn.Module], nn.Module]
) -> None:
    blocks = [nn.Conv2d(3, 8, 4, 4), InceptionNeXtBlock(8), nn.Conv2d(8, 12, 2, 2), InceptionNeXtBlock(12)]
    network = randomize_batch_norm(nn.Sequential(*blocks))
    assert_exact(network, torch.randn(2, 3, 67, 53, dtype=torch.float64), strip_rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("efficientnet_b0", "features.1.0.block.1"),
        ("efficientnet_v2_s", "features.4.0.block.2"),
        ("mobilenet_v3_small", "features.1.block.1"),
        ("regnet_y_400mf", "trunk_output.block1.block1-0.f.se"),
    ],
)
def test_squeeze_and_excitation_is_refused_by_name(name: str, layer: str) -> None:
    network = getattr(models, name)(weights=None).eval()
    with pytest.raises(UnsupportedLayerError, match=r"'SqueezeExcitation' applies a global pool.*RegNetX") as caught:
        stream(network, strip_rows=4)
    assert caught.value.layer == layer


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    """The benchmark that compares all families, of which the narrowest are compared here."""
    path = Path(__file__).resolve().parents[1] / "benchmarks/zoo.py"
    spec = importlib.util.spec_from_file_location("zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("test_resnet", "exact"),
        ("test_resnet:features_only", "exact"),
        ("test_convnext", "exact"),
        ("test_nfnet", "exact with global statistics"),
        ("test_efficientnet_ln", "exact with global statistics"),
        ("test_efficientnet", "exact with global statistics"),
        ("test_efficientnet_gn", "exact with global statistics"),
    ],
)
def test_narrow_families_of_timm_are_exact(name: str, result: str, zoo: ModuleType) -> None:
    record = zoo.judge(f"timm/{name}", seconds=60, check=zoo.QUICK)
    assert record["result"] == result, record
