"""Operations that trace exactly, and those that raise `UnsupportedLayerError`."""

from __future__ import annotations

import contextlib
import operator
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from streammodels import UnsupportedLayerError, stream
from streammodels.tracing.trace import trace


class Calls(nn.Module):
    """A forward given as a function of the module and the image."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.linear = nn.Linear(4, 2)
        self.rows = nn.Parameter(torch.rand(1, 4, 15, 11))
        self.columns = nn.Parameter(torch.rand(1, 1, 1, 11))
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def then(function: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Any]:
    return lambda net, x: net.conv2(function(net.conv(x)))


IMAGE = (2, 3, 15, 11)


@pytest.mark.parametrize(
    "body",
    [
        then(lambda a: functional.relu(a, True)),
        then(lambda a: functional.leaky_relu(a, 0.1, inplace=True)),
        then(lambda a: functional.relu(a, inplace=True)),
        then(lambda a: a.relu_()),
        then(torch.relu_),
        then(lambda a: -a),
        then(lambda a: a * 0.1),
        then(lambda a: 1.1 - a),
        then(lambda a: a / 0.3),
        then(lambda a: torch.add(a, 0.1, alpha=0.3)),
        then(lambda a: torch.add(a, 2)),
        then(lambda a: torch.clamp(a, -0.5, 0.5)),
        then(lambda a: a.clamp(min=0)),
        then(lambda a: a + a),
        then(lambda a: a * torch.sigmoid(a)),
        then(lambda a: a / (a.abs() + 1)),
        then(lambda a: operator.iadd(-a, a)),
        then(lambda a: operator.imul(a, 0.1)),
        then(lambda a: operator.itruediv(a, 0.3)),
        then(lambda a: functional.avg_pool2d(a, (3, 2), stride=2, padding=1, ceil_mode=True, count_include_pad=False)),
        then(lambda a: functional.max_pool2d(a, 3, 1, padding=1, dilation=1)),
        then(lambda a: functional.max_pool2d(input=a, kernel_size=2)),
        then(lambda a: functional.dropout(a, 0.5, training=False)),
        then(lambda a: functional.dropout2d(a, 0.5, False)),
        lambda net, x: net.conv2(net.conv(x) * net.scale + torch.exp(net.scale)),
        lambda net, x: net.conv(x) + net.columns,
        lambda net, x: net.conv(x) * net.scale.shape[0],
        lambda net, x: net.conv(x) if net.scale.sum() > 0 else x,
        lambda net, x: net.conv(x) * net.linear(torch.ones(4, dtype=torch.float64)).sum(),
        lambda net, x: net.conv2(functional.relu(net.conv2(net.conv(x)))),
        lambda net, x: torch.cat([net.conv(x), x], 1),
        lambda net, x: torch.concat((x, net.conv(x), x), dim=-3),
        lambda net, x: net.linear(net.conv(x).mean((2, 3))),
        lambda net, x: net.linear(net.conv(x).mean([-1, -2])),
        lambda net, x: net.linear(torch.mean(net.conv(x), dim=(3, 2), keepdim=True).flatten(1)),
        lambda net, x: net.linear(functional.adaptive_avg_pool2d(net.conv(x), (1, 1)).flatten(1)).relu(),
        lambda net, x: net.linear(torch.flatten(functional.adaptive_max_pool2d(net.conv(x), 1), 1)) * 3,
        lambda net, x: net.conv(x).mean((2, 3)) + net.conv2(net.conv(x)).mean((2, 3)),
        lambda net, x: x,
    ],
)
def test_spellings_are_exact(body: Callable[[Any, Tensor], Any], assert_exact: Callable[..., float]) -> None:
    assert_exact(Calls(body), torch.randn(IMAGE, dtype=torch.float64), 4)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm2d(4).train(), "training mode"),
        (nn.BatchNorm2d(4, track_running_stats=False), "without running statistics"),
        (nn.GroupNorm(2, 4), "GroupNorm"),
        (nn.InstanceNorm2d(4), "InstanceNorm2d"),
        (nn.LayerNorm([4, 13, 9]), "LayerNorm"),
        (nn.LocalResponseNorm(2), "LocalResponseNorm"),
        (nn.Linear(9, 3), "mixes all rows"),
        (nn.Flatten(), "mixes all rows"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "circular"),
        (nn.AdaptiveAvgPool2d((1, None)), "keeps a side"),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), "indices"),
        (nn.MaxPool2d(2, return_indices=True), "indices"),
        (nn.Softmax(dim=2), "Softmax"),
        (nn.RReLU(), "RReLU"),
        (nn.AlphaDropout(0.5).train(), "training mode"),
        (nn.PixelUnshuffle(2), "PixelUnshuffle"),
    ],
)
def test_layer_is_refused_with_path_reason_and_remedy(layer: nn.Module, reason: str) -> None:
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(layer)))
    with pytest.raises(UnsupportedLayerError, match=reason) as caught:
        stream(network, strip_rows=4)(torch.randn(IMAGE))
    assert caught.value.layer == "0.1.0"
    assert caught.value.remedy
    assert "'0.1.0'" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        then(lambda a: torch.softmax(a, 2)),
        then(lambda a: torch.flip(a, [2])),
        then(lambda a: a.cumsum(2)),
        then(lambda a: a[:, :, -3:]),
        then(lambda a: a * torch.sigmoid(functional.adaptive_avg_pool2d(a, 1))),
        then(lambda a: a - a.mean((2, 3), keepdim=True)),
        then(lambda a: torch.cat([a, a], dim=2)),
        then(lambda a: functional.relu(a, inplace=True) + a),
        then(lambda a: operator.iadd(a, 1.0) + a),
        then(lambda a: functional.relu(+a, inplace=True) + a),
        then(lambda a: operator.iadd(a.double(), 1.0) + a),
        then(lambda a: torch.clamp(a, -a)),
        then(lambda a: a.clamp_(0) + a),
        lambda net, x: net.conv(x).mean((2, 3), dtype=torch.float64),
        lambda net, x: net.conv(x) + net.rows,
        lambda net, x: net.conv(x).mean(),
        lambda net, x: net.conv(x) if x.sum() > 0 else x,
        lambda net, x: None,
        lambda net, x: functional.adaptive_max_pool2d(net.conv(x), 1, return_indices=True)[0],
    ],
)
def test_what_cannot_be_exact_is_refused(body: Callable[[Any, Tensor], Any]) -> None:
    with pytest.raises(UnsupportedLayerError):
        stream(Calls(body), strip_rows=4)(torch.randn(IMAGE))


@pytest.mark.parametrize(
    "statement",
    [
        lambda x: functional.relu(x, inplace=True),
        lambda x: functional.relu(x, True),
        lambda x: x.clamp_(0),
        lambda x: x.div_(2),
        lambda x: x.mul_(2),
        lambda x: torch.clamp_(x, 0),
    ],
)
def test_statement_in_place_whose_result_is_unused_is_refused(statement: Callable[[Tensor], Tensor]) -> None:
    def body(net: Any, x: Tensor) -> Any:
        x = net.conv(x)
        statement(x)
        return net.conv2(x)

    with pytest.raises(UnsupportedLayerError, match="'conv2' reads afterwards"):
        stream(Calls(body), strip_rows=4)


class OptionalInput(nn.Module):
    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return torch.relu(x) * scale


class OptionalKeyword(nn.Module):
    def forward(self, x: Tensor, *, extra: Tensor | None = None) -> Tensor:
        return x if extra is None else x + extra


@pytest.mark.parametrize("network", [OptionalInput(), OptionalKeyword()])
def test_input_with_a_default_keeps_it(network: nn.Module, assert_exact: Callable[..., float]) -> None:
    assert_exact(network, torch.randn(IMAGE, dtype=torch.float64), 4)


def test_activation_in_place_behind_a_global_maximum(assert_exact: Callable[..., float]) -> None:
    pool = nn.AdaptiveMaxPool2d(1)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 2))
    assert_exact(network, torch.randn(IMAGE, dtype=torch.float64), 4)


def test_a_single_layer_streams(assert_exact: Callable[..., float]) -> None:
    assert_exact(nn.Conv2d(3, 4, 3, padding=1), torch.randn(IMAGE, dtype=torch.float64), 4)


def _caught(net: Any, x: Tensor) -> Tensor:
    x = net.conv(x)
    with contextlib.suppress(Exception):
        x = x * 2 if x.mean() > 0 else x
    return x


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda net, x: net.conv(x) * float(x.mean()), "depends on the values"),
        (lambda net, x: net.conv(x) * int(x.sum()), "depends on the values"),
        (lambda net, x: sum(net.conv(row) for row in x), "part of the rows, the columns or the batch"),
        (_caught, "depends on the values"),
    ],
)
def test_what_a_placeholder_does_not_know_is_refused_also_when_the_error_is_caught(
    body: Callable[[Any, Tensor], Any], reason: str
) -> None:
    with pytest.raises(UnsupportedLayerError, match=reason) as caught:
        stream(Calls(body), strip_rows=4)
    assert "symbolic" not in str(caught.value)


class ByType(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if isinstance(x, Tensor | np.ndarray) else x


class ByExactType(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if type(x) is torch.Tensor else x


class ByIsTensor(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if torch.is_tensor(x) else x


class ByCallable(nn.Module):
    def forward(self, x: Any) -> Any:
        return x() if callable(x) else x


@dataclass
class Output:
    features: Any


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (lambda net, x: Output(net.conv(x)), "no tensor but Output"),
        (lambda net, x: 3.0, "no tensor but float"),
        (lambda net, x: None, "nothing"),
    ],
)
def test_what_is_returned_instead_of_a_tensor_is_named(body: Callable[[Any, Tensor], Any], found: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=f"the module returns {found}.*Return tensors"):
        stream(Calls(body), strip_rows=4)


@pytest.mark.parametrize("container", [nn.ModuleList([nn.ReLU()]), nn.ModuleDict({"a": nn.ReLU()}), nn.Module()])
def test_containers_without_a_forward_say_so(container: nn.Module) -> None:
    name = type(container).__name__
    with pytest.raises(UnsupportedLayerError, match=r"has no forward.*nn\.Sequential\(\*layers\)") as caught:
        stream(container, strip_rows=4)
    assert caught.value.layer == name


def test_single_layer_that_does_not_stream_is_called_by_its_class() -> None:
    with pytest.raises(UnsupportedLayerError, match="layer 'Linear'"):
        stream(nn.Linear(3, 3), strip_rows=4)


def test_vision_transformer_is_told_why() -> None:
    network = torchvision.models.VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
    with pytest.raises(UnsupportedLayerError, match=r"'cat' works along rows.*attention"):
        stream(network, strip_rows=4)


def test_input_passed_as_a_keyword_is_named() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"passed as a keyword.*layer\(x\)"):
        stream(Calls(lambda net, x: net.conv(input=x)), strip_rows=4)


def _other_tensor_written(net: Any, x: Tensor) -> Any:
    total = torch.ones(2, 4, 1, 11, dtype=torch.float64)
    total.add_(net.conv(x))
    return net.conv2(total)


def _alias_written(net: Any, x: Tensor) -> Any:
    alias = total = torch.ones(2, 4, 1, 11, dtype=torch.float64)
    total += net.conv(x)
    return net.conv2(alias)


@pytest.mark.parametrize(
    "body",
    [
        _other_tensor_written,
        _alias_written,
        lambda net, x: torch.exp(net.conv(x), out=torch.zeros(2, 4, 1, 11, dtype=torch.float64)),
        lambda net, x: torch.add(net.conv(x), 1, out=torch.zeros(2, 4, 1, 11, dtype=torch.float64)),
    ],
)
def test_map_written_into_another_tensor_is_refused(body: Callable[[Any, Tensor], Any]) -> None:
    with pytest.raises(UnsupportedLayerError, match="writes into a tensor that was there before"):
        stream(Calls(body).double(), strip_rows=4)


def test_dropout_that_drops_nothing_is_an_alias_in_training_too() -> None:
    def body(net: Any, x: Tensor) -> Any:
        x = net.conv(x)
        if net.training:
            torch.relu_(net.drop(x))
        return net.conv2(x)

    module = Calls(body)
    module.drop = nn.Dropout(0.0)
    streamed = stream(module, strip_rows=4)
    with pytest.raises(UnsupportedLayerError, match="reads afterwards"):
        streamed(torch.randn(IMAGE))


@pytest.mark.parametrize("layer", [ByType(), ByExactType(), ByIsTensor(), ByCallable()])
def test_forward_that_asks_for_the_type_of_its_input_is_refused(layer: nn.Module) -> None:
    for module in (layer, nn.Sequential(nn.Conv2d(3, 4, 3), layer)):
        with pytest.raises(UnsupportedLayerError, match="depends on the type"):
            stream(module, strip_rows=4)


def test_forward_that_asks_for_a_list_is_exact(assert_exact: Callable[..., float]) -> None:
    class First(nn.Module):
        def forward(self, x: Any) -> Any:
            return x[0] if isinstance(x, list | tuple) and type(self) is First else x * 2

    assert_exact(First(), torch.randn(IMAGE, dtype=torch.float64), 4)


def test_attributes_are_those_of_a_tensor(assert_exact: Callable[..., float]) -> None:
    body: Callable[[Any, Tensor], Any] = lambda net, x: net.conv(x) * (2 if hasattr(x, "features") else 1)  # noqa: E731
    assert_exact(Calls(body), torch.randn(IMAGE, dtype=torch.float64), 4)


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        return super()._conv_forward(input, weight * 2, bias)


class OwnForward(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return functional.relu(input) + 1


class SameReLU(nn.ReLU):
    """A subclass that computes the same."""


def test_subclass_with_a_computation_of_its_own_is_not_taken_for_its_base(assert_exact: Callable[..., float]) -> None:
    image = torch.randn(IMAGE, dtype=torch.float64)
    assert_exact(nn.Sequential(OwnConvolution(3, 4, 3), OwnForward(), SameReLU()), image, 4)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_small"])
def test_squeeze_and_excitation_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedLayerError, match="squeeze-and-excitation") as caught:
        stream(getattr(torchvision.models, name)(weights=None).eval(), strip_rows=4)
    assert caught.value.layer.startswith("features.")


@pytest.mark.slow
def test_networks_that_do_not_stream_are_refused() -> None:
    with pytest.raises(UnsupportedLayerError):
        stream(torchvision.models.swin_t(weights=None).eval(), strip_rows=4)


def _vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for out in (4, "M", 6, "M", 8, 8, "M"):
        channels = next((layer.out_channels for layer in reversed(layers) if isinstance(layer, nn.Conv2d)), 3)
        if out == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(channels, int(out), 3, padding=1), nn.BatchNorm2d(int(out)), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _densenet() -> nn.Module:
    network: nn.Module = torchvision.models.DenseNet(4, (2, 2), num_init_features=4).features
    return network


def _googlenet() -> nn.Module:
    from torchvision.models.googlenet import Inception

    pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    return nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), pool, Inception(4, 2, 2, 3, 2, 2, 2), Inception(9, 2, 2, 3, 2, 2, 2))


def _squeezenet() -> nn.Module:
    fire = torchvision.models.squeezenet.Fire
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True), fire(4, 2, 3, 3))


def _regnet() -> nn.Module:
    parameters = torchvision.models.regnet.BlockParams.from_init_params(1, 8, 8.0, 2.0, 8)
    network = torchvision.models.RegNet(parameters, stem_width=4)
    return nn.Sequential(network.stem, network.trunk_output)


def _mobilenet() -> nn.Module:
    settings = [[1, 4, 1, 1], [2, 6, 2, 2]]
    network = torchvision.models.MobileNetV2(inverted_residual_setting=settings, width_mult=0.25)
    return network.features


def _resnext() -> nn.Module:
    return torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 3, groups=4, width_per_group=2,
        replace_stride_with_dilation=[False, False, True],
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("make", [_vgg, _densenet, _googlenet, _squeezenet, _regnet, _mobilenet, _resnext])
def test_known_architectures_are_exact(
    make: Callable[[], nn.Module],
    assert_exact: Callable[..., float],
    randomize_batch_norm: Callable[[nn.Module], nn.Module],
) -> None:
    network = randomize_batch_norm(make().eval())
    assert_exact(network, torch.randn(1, 3, 67, 45, dtype=torch.float64), 13)


def test_torchvisions_frozen_batch_norm_is_exact(assert_exact: Callable[..., float]) -> None:
    norm = torchvision.ops.FrozenBatchNorm2d(4)
    norm.weight.uniform_(0.5, 2)
    norm.running_mean.normal_()
    assert_exact(nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU()), torch.randn(IMAGE, dtype=torch.float64), 4)


def test_batch_norm_behind_a_convolution_is_folded_and_any_other_is_not() -> None:
    norm = nn.BatchNorm2d
    network = nn.Sequential(norm(3), nn.Conv2d(3, 4, 3), norm(4), norm(4), nn.ReLU(), norm(4)).eval()
    assert [node.kind for node in trace(network).nodes] == [
        "image", "BatchNorm2d", "Conv2d", "BatchNorm2d", "ReLU", "BatchNorm2d",
    ]  # fmt: skip


def test_convolution_read_twice_is_not_folded(
    assert_exact: Callable[..., float], randomize_batch_norm: Callable[[nn.Module], nn.Module]
) -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.norm(x) + x

    assert_exact(randomize_batch_norm(Fork()), torch.randn(IMAGE, dtype=torch.float64), 4)


def test_layers_shared_by_two_places_are_exact(
    assert_exact: Callable[..., float], randomize_batch_norm: Callable[[nn.Module], nn.Module]
) -> None:
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    twin = nn.Conv2d(3, 3, 5)
    twin.bias = conv.bias
    network = randomize_batch_norm(nn.Sequential(conv, norm, nn.ReLU(), conv, norm, twin))
    assert_exact(network, torch.randn(IMAGE, dtype=torch.float64), 4)


def test_error_survives_pickling() -> None:
    error = UnsupportedLayerError("layer1.0", "because", "Do this.")
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.layer, twin.reason, twin.remedy) == ("layer1.0", "because", "Do this.")
    assert re.search("layer1.0.*because.*Do this", str(twin))
