"""Class activation maps, Grad-CAM and attention of the streamed network equal those of the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from streammodels import GatedAttention, GeM, LogSumExp, PerClassLinear, StreamingResNet, class_activation_map, stream
from streammodels.explain.cam import Link

Randomize = Callable[[nn.Module], nn.Module]
CHANNELS = 12
MLP = nn.Sequential(nn.Linear(CHANNELS, 6), nn.Tanh(), nn.Linear(6, 4))


class AverageAndMaximum(nn.Module):
    """Two pools of one map."""

    def __init__(self) -> None:
        super().__init__()
        self.average, self.maximum = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.average(x), self.maximum(x)], dim=1)


@pytest.fixture
def features(randomize_batch_norm: Randomize) -> nn.Module:
    layers = (
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Dropout(0.5),
        nn.Conv2d(8, CHANNELS, 3, 2, 1), nn.GELU(),
    )  # fmt: skip
    return randomize_batch_norm(nn.Sequential(*layers)).double()


def _far(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return float((actual - expected).detach().norm() / expected.detach().norm())


def _eval(*parts: nn.Module) -> None:
    for part in parts:
        part.eval()


def _grad_cam(features: nn.Module, rest: nn.Module, image: Tensor, classes: Tensor) -> Tensor:
    """As in the paper, from the whole map."""
    feature_map = features(image).detach().requires_grad_()
    score = rest(feature_map).gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, feature_map)
    return torch.einsum("bk,bkhw->bhw", gradient.mean(dim=(2, 3)), feature_map.detach()).relu()


@pytest.mark.parametrize(("height", "width", "strip_rows"), [(61, 47, 7), (40, 90, 100), (16, 17, 1)])
@pytest.mark.parametrize("classes", [4, 20])
@pytest.mark.parametrize("asked", [None, [3, 1]])
def test_linear_head_gives_the_class_activation_map(
    features: nn.Module, height: int, width: int, strip_rows: int, classes: int, asked: list[int] | None
) -> None:
    head = nn.Sequential(nn.Dropout(), nn.Linear(CHANNELS, classes)).double()
    trunk = nn.Sequential(features, nn.AdaptiveAvgPool2d(1))
    image = torch.rand(2, 3, height, width, dtype=torch.float64)
    found = class_activation_map(stream(trunk, strip_rows=strip_rows), image, asked, head=head)
    _eval(trunk, head)
    scores, feature_map, linear = head(trunk(image).flatten(1)), features(image), head[1]
    chosen = scores.argmax(dim=1) if asked is None else torch.tensor(asked)
    expected = torch.einsum("bk,bkhw->bhw", linear.weight[chosen], feature_map) + linear.bias[chosen, None, None]
    assert found.method == "class activation map"
    assert _far(found.values, expected) <= 1e-12
    assert _far(found.scores, scores) <= 1e-12
    assert torch.equal(found.class_index, chosen)
    assert _far(found.values.mean(dim=(1, 2)), scores.gather(1, chosen[:, None])[:, 0]) <= 1e-12
    assert (found.grid.y.stride, found.grid.y.first) == (8, 0.0)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
@pytest.mark.parametrize("classes", [3, 20])
def test_probability_of_a_location_is_that_of_its_logits(features: nn.Module, link: Link, classes: int) -> None:
    head, trunk = nn.Linear(CHANNELS, classes).double(), nn.Sequential(features, nn.AdaptiveAvgPool2d(1))
    image = torch.rand(1, 3, 40, 33, dtype=torch.float64)
    found = class_activation_map(stream(trunk, strip_rows=7), image, 2, head=head, probability=link)
    _eval(trunk, head)
    logits = torch.einsum("ck,bkhw->bchw", head.weight, features(image)) + head.bias[:, None, None]
    expected = logits.softmax(dim=1) if link == "softmax" else logits.sigmoid()
    assert found.unit == "probability"
    assert _far(found.values, expected[:, 2]) <= 1e-12
    assert _far(found.scores, logits.mean(dim=(2, 3))) <= 1e-12


def test_other_pools_have_no_probability_per_location(features: nn.Module) -> None:
    trunk = nn.Sequential(features, nn.AdaptiveMaxPool2d(1))
    with pytest.raises(ValueError, match=r"only average pooling .* Leave probability out"):
        class_activation_map(
            stream(trunk, strip_rows=9), torch.rand(1, 3, 30, 30, dtype=torch.float64),
            head=nn.Linear(CHANNELS, 4).double(), probability="softmax",
        )  # fmt: skip


@pytest.mark.slow
def test_whole_resnet_gives_the_class_activation_map(randomize_batch_norm: Randomize) -> None:
    network = randomize_batch_norm(resnet18(num_classes=5).eval()).double()
    image = torch.rand(1, 3, 97, 70, dtype=torch.float64)
    found = class_activation_map(stream(network, strip_rows=20), image, 4)
    feature_map = nn.Sequential(*list(network.children())[:-2])(image)
    expected = torch.einsum("k,bkhw->bhw", network.fc.weight[4], feature_map) + network.fc.bias[4]
    assert found.method == "class activation map"
    assert _far(found.values, expected) <= 1e-12
    assert not found.values.requires_grad


@pytest.mark.parametrize(
    ("pool", "head"),
    [
        (nn.AdaptiveMaxPool2d(1), nn.Linear(CHANNELS, 4)),
        (nn.AdaptiveAvgPool2d(1), MLP),
        (GeM(), nn.Linear(CHANNELS, 4)),
        (LogSumExp(3.0), MLP),
        (AverageAndMaximum(), nn.Linear(2 * CHANNELS, 4)),
        (GatedAttention(CHANNELS, 5, heads=3), nn.Linear(3 * CHANNELS, 4)),
    ],
    ids=["maximum", "average and MLP", "GeM", "log-sum-exp", "two pools", "attention of three heads"],
)
@pytest.mark.parametrize("inside", [True, False], ids=["head inside", "head behind"])
@pytest.mark.parametrize("asked", [None, [3, 1]])
def test_other_pools_and_heads_give_grad_cam(
    features: nn.Module, pool: nn.Module, head: nn.Module, inside: bool, asked: list[int] | None
) -> None:
    rest = nn.Sequential(pool, nn.Flatten(), head).double()
    image = torch.rand(2, 3, 61, 47, dtype=torch.float64)
    trunk = nn.Sequential(features, *rest[: 3 if inside else 1])
    found = class_activation_map(stream(trunk, strip_rows=13), image, asked, head=None if inside else head)
    _eval(features, rest)
    scores = rest(features(image))
    chosen = scores.argmax(dim=1) if asked is None else torch.tensor(asked)
    expected = _grad_cam(features, rest, image, chosen)
    assert found.method == "Grad-CAM"
    assert float((found.values - expected).norm()) <= 1e-12 * float(features(image).detach().norm())
    assert _far(found.scores, scores) <= 1e-12
    assert torch.equal(found.class_index, chosen)
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in (*trunk.parameters(), *head.parameters())
    )


@pytest.mark.parametrize("heads", [None, 4])
def test_attention_gives_the_weights_of_the_class_or_the_only_ones(features: nn.Module, heads: int | None) -> None:
    pool = GatedAttention(CHANNELS, 5, heads=heads).double()
    head = nn.Linear(CHANNELS, 4).double() if heads is None else PerClassLinear(CHANNELS, 4).double()
    image = torch.rand(2, 3, 61, 47, dtype=torch.float64)
    found = class_activation_map(stream(nn.Sequential(features, pool), strip_rows=13), image, [2, 0], head=head)
    _eval(features, pool, head)
    weights = pool.scores(features(image)).flatten(2).softmax(dim=2).view(2, heads or 1, 8, 6)
    expected = weights[:, 0] if heads is None else torch.stack([weights[0, 2], weights[1, 0]])
    assert found.method == "attention"
    assert _far(found.values, expected) <= 1e-12
    assert _far(found.scores, head(pool(features(image)).flatten(1))) <= 1e-12


def test_network_is_left_as_it_was(features: nn.Module) -> None:
    trunk, head = nn.Sequential(features, nn.AdaptiveMaxPool2d(1)), nn.Linear(CHANNELS, 4).double()
    for parameter in features[0].parameters():
        parameter.requires_grad_(False)
    features[4].train()
    head.train()
    parts = [layer for part in (trunk, head) for layer in part.modules()]
    parameters = [*trunk.parameters(), *head.parameters()]
    before = [layer.training for layer in parts], [parameter.requires_grad for parameter in parameters]
    with torch.inference_mode():
        class_activation_map(stream(trunk, strip_rows=9), torch.rand(1, 3, 30, 30, dtype=torch.float64), head=head)
    assert before == ([layer.training for layer in parts], [parameter.requires_grad for parameter in parameters])
    assert all(parameter.grad is None for parameter in parameters)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)])
def test_features_never_are_whole_in_memory(pool: nn.Module, largest_tensor: Any) -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 64, 4, 4), nn.ReLU(), pool)
    image = torch.randint(0, 256, (1, 3, 512, 64), dtype=torch.uint8)
    with largest_tensor:
        class_activation_map(stream(trunk, strip_rows=16), image, head=nn.Linear(64, 2))
    assert 0 < largest_tensor.numbers < 64 * 128 * 16


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "layer '1' is not pooled"),
        (nn.AdaptiveAvgPool2d(1), "the image itself is pooled"),
    ],
)
def test_network_without_a_pooled_map_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_activation_map(stream(network, strip_rows=9), torch.rand(1, 3, 30, 30))


def test_pools_of_different_maps_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.pool = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.pool(x) + self.pool(self.second(x))

    with pytest.raises(ValueError, match="several maps are pooled"):
        class_activation_map(stream(Two(), strip_rows=9), torch.rand(1, 3, 30, 30))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avg", "max", "attention"])
def test_classifier_maps_its_class_with_and_without_streaming(pooling: str) -> None:
    torch.manual_seed(1)
    model = StreamingResNet("resnet9", tile_size=24, num_classes=3, weights=None, pooling=pooling).double()
    plain = StreamingResNet("resnet9", num_classes=3, weights=None, pooling=pooling, streaming=False).double()
    plain.load_state_dict(model.state_dict())
    image = torch.randint(0, 256, (2, 3, 70, 65), dtype=torch.uint8)
    with torch.no_grad():
        found, expected = model.class_activation_map(image, 2), plain.class_activation_map(image, [2, 2])
        scores = model.eval()(image)
    assert found.method == expected.method
    assert found.values.shape == (2, 3, 3)
    assert _far(found.values, expected.values) <= 1e-12
    assert _far(found.scores, scores) <= 1e-12
    if pooling == "avg":
        every = [model.class_activation_map(image, one, probability=True).values for one in range(3)]
        assert _far(torch.stack(every).sum(dim=0), torch.ones(2, 3, 3).double()) <= 1e-12
