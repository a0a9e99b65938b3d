"""Changes of a module after `stream()` take effect, as in a plain module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streammodels import StreamingClassifier, StreamingResNet, stream


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()


class Switched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.negate = False
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        rows = self.conv(image)
        rows = -rows if self.negate else rows
        return rows.mean((2, 3)) + self.offset


def new_offset(module: Switched) -> None:
    module.offset = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (network, lambda m: setattr(m[1], "eps", 1.0)),
        (network, lambda m: setattr(m[0], "stride", (2, 2))),
        (network, lambda m: m.__setitem__(3, nn.Conv2d(4, 5, 1))),
        (Switched, lambda m: setattr(m, "negate", True)),
        (Switched, new_offset),
    ],
    ids=["epsilon", "stride", "layer", "flag", "parameter"],
)
def test_later_changes_count(make: Callable[[], nn.Module], change: Callable[[nn.Module], None]) -> None:
    module, image = make(), torch.randn(1, 3, 20, 12)
    streamed = stream(module, strip_rows=3)
    before = streamed(image)
    change(module)
    after = streamed(image)
    assert after.shape != before.shape or not torch.allclose(after, before)
    torch.testing.assert_close(after, module(image))


def test_frozen_sync_batch_norm_streams(assert_exact: Callable[..., float]) -> None:
    module = nn.SyncBatchNorm.convert_sync_batchnorm(network()).eval()
    assert_exact(module, torch.randn(1, 3, 20, 12, dtype=torch.float64), 3)


def test_replaced_stage_of_a_resnet_is_used() -> None:
    model = StreamingResNet(weights=None, tile_size=32)
    model.layer4 = nn.Identity()
    model.fc = nn.Linear(256, 2)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_replaced_trunk_of_a_classifier_is_used() -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    model = StreamingClassifier(trunk, nn.Linear(4, 2), tile_size=8)
    model.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1))
    image = torch.rand(2, 3, 20, 20)
    torch.testing.assert_close(model(image), model.head(model.trunk(image).flatten(1)))


def test_error_of_a_kernel_says_in_which_layer() -> None:
    streamed = stream(nn.Sequential(nn.Identity(), nn.Conv2d(5, 2, 3)), strip_rows=2)
    with pytest.raises(RuntimeError) as caught:
        streamed(torch.randn(1, 3, 8, 4))
    assert any("layer '1'" in note for note in caught.value.__notes__)


# ---------------------------------------------------------------- what a forward can read


class Options:
    """An object that is no module."""

    def __init__(self) -> None:
        self.scale = 1.0
        self.inner = {"use": [True]}


OPTIONS = {"scale": 1.0}


class Steered(nn.Module):
    """A forward steered by attributes of every kind."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.use, self.k, self.act, self.nested = [True, False], {"a": 1.0}, torch.sigmoid, [{"a": (1.0, [2.0])}]
        self.options, self.tensors = Options(), [torch.ones(1)]
        self.layers = [self.conv, nn.ReLU()]
        self.body = body

    def forward(self, image: Tensor) -> Tensor:
        return self.body(self, image)


def closure() -> tuple[Callable[[Any, Tensor], Tensor], Callable[[Any], None]]:
    scale = 1.0

    def body(net: Any, x: Tensor) -> Tensor:
        return net.conv(x) * scale

    def change(net: Any) -> None:
        nonlocal scale
        scale = 3.0

    return body, change


@pytest.mark.parametrize(
    ("body", "change"),
    [
        (lambda m, x: m.conv(x) if m.use[0] else x, lambda m: m.use.__setitem__(0, False)),
        (lambda m, x: m.conv(x) * m.k["a"], lambda m: m.k.update(a=3.0)),
        (lambda m, x: m.act(m.conv(x)), lambda m: setattr(m, "act", torch.tanh)),
        (lambda m, x: m.conv(x) * m.nested[0]["a"][1][0], lambda m: m.nested[0]["a"][1].__setitem__(0, 5.0)),
        (lambda m, x: m.conv(x) * m.options.scale, lambda m: setattr(m.options, "scale", 3.0)),
        (lambda m, x: m.conv(x) if m.options.inner["use"][0] else x, lambda m: m.options.inner["use"].reverse()
            or m.options.inner["use"].__setitem__(0, False)),
        (lambda m, x: m.conv(x) * m.tensors[0], lambda m: m.tensors[0].add_(1)),
        (lambda m, x: m.conv(x) * m.tensors[0], lambda m: m.tensors.__setitem__(0, torch.full((1,), 3.0))),
        (lambda m, x: m.layers[1](m.conv(x)), lambda m: m.layers.__setitem__(1, nn.Tanh())),
        (lambda m, x: m.conv(x) * OPTIONS["scale"], lambda m: OPTIONS.update(scale=OPTIONS["scale"] + 1)),
        (lambda m, x: m.conv(x) * (m.conv.bias.detach().sum() > 0), lambda m: nn.init.constant_(m.conv.bias, -1.0)),
        closure(),
    ],
    ids=["list", "dict", "callable", "nested", "object", "in object", "tensor in place", "tensor", "layer in a list",
         "global", "parameter", "closure"],
)  # fmt: skip
def test_all_that_a_forward_reads_counts_at_every_call(
    body: Callable[[Any, Tensor], Tensor], change: Callable[[Any], Any]
) -> None:
    module, image = Steered(body), torch.randn(1, 3, 20, 12)
    nn.init.constant_(module.conv.bias, 1.0)
    streamed = stream(module, strip_rows=3)
    before = streamed(image)
    torch.testing.assert_close(before, module(image))
    change(module)
    after = streamed(image)
    assert after.shape != before.shape or not torch.allclose(after, before)
    torch.testing.assert_close(after, module(image))


def test_random_choice_of_a_forward_is_made_at_every_call() -> None:
    module = Steered(lambda m, x: m.conv(x) * (2.0 if torch.rand(()) < 0.5 else 1.0))
    image, results = torch.randn(1, 3, 20, 12), []
    for make in (lambda: module, lambda: stream(module, strip_rows=3)):
        torch.manual_seed(3)
        call = make()
        results.append(torch.stack([call(image) for _ in range(8)]))
    torch.testing.assert_close(*results)
    assert len(results[0].mean((1, 2, 3, 4)).unique()) == 2


def test_forecast_draws_no_random_numbers() -> None:
    streamed = stream(Steered(lambda m, x: m.conv(x) * float(torch.rand(()))), strip_rows=3)
    torch.manual_seed(3)
    streamed.forecast(20, 12)
    streamed.summary(20, 12)
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(()))


def test_gradient_of_arithmetic_of_parameters_is_exact_at_every_call(assert_exact: Callable[..., float]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 2, 3), nn.Parameter(torch.rand(2, 1, 1))
            self.more = nn.ParameterList([torch.rand(1)])

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * torch.exp(self.scale) * self.more[0].square() + self.scale.sum()

    module, image = Scaled(), torch.randn(1, 3, 20, 12, dtype=torch.float64)
    for _ in range(2):
        assert_exact(module, image, 3)
        with torch.no_grad():
            module.scale.add_(1)


def test_plans_are_used_again_for_the_same_geometry() -> None:
    module, image = network(), torch.randn(1, 3, 20, 12)
    streamed = stream(module, memory="1MB")
    for _ in range(3):
        streamed(image)
        nn.init.normal_(module[0].weight)
    assert len(streamed._planned.plans) == len(streamed._planned.schedules) == 1
    module[1].eps = 1.0
    streamed(image)
    assert len(streamed._planned.plans) == 1
    module[0].stride = (2, 2)
    streamed(image)
    assert len(streamed._planned.plans) == len(streamed._planned.schedules) == 2


# ---------------------------------------------------------------- between the forward and the backward pass


@pytest.mark.parametrize(
    ("activation", "change"),
    [
        (nn.LeakyReLU(0.1), {"negative_slope": 0.9}),
        (nn.Hardtanh(-0.5, 0.5), {"max_val": 0.1}),
        (nn.ELU(0.5), {"alpha": 2.0}),
        (nn.CELU(0.5), {"alpha": 2.0}),
        (nn.GELU(), {"approximate": "tanh"}),
        (nn.Softplus(), {"beta": 3.0}),
        (nn.Hardshrink(0.1), {"lambd": 0.6}),
        (nn.Softshrink(0.1), {"lambd": 0.6}),
        (nn.Threshold(0.1, 2.0), {"threshold": 0.9}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_gradients_are_those_of_the_options_of_the_forward_pass(activation: nn.Module, change: dict[str, Any]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 2, 3)).double()
    before, image = {name: getattr(activation, name) for name in change}, torch.randn(1, 3, 20, 12, dtype=torch.float64)
    grads = []
    for call in (module, stream(module, strip_rows=3)):
        vars(activation).update(before)
        module.zero_grad()
        score = call(image).square().sum()
        vars(activation).update(change)
        score.backward()
        grads.append([parameter.grad for parameter in module.parameters()])
    for found, right in zip(*reversed(grads), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
