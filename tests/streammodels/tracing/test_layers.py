"""Layers that strips cannot call as the module does are refused by `stream()`, each with its own reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from streammodels import UnsupportedLayerError, stream


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())


def around(change: Callable[[nn.Module], object]) -> nn.Module:
    module = network()
    change(module[0])
    return module


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but users have such modules
        return torch.jit.script(network())


def with_old_norm(norm: str) -> nn.Module:
    if norm == "spectral_norm":
        return around(nn.utils.spectral_norm)
    with pytest.warns(FutureWarning):
        return around(nn.utils.weight_norm)


def compiled_in_place() -> nn.Module:
    module = network()
    module.compile(backend="eager")
    return module


@pytest.mark.parametrize(
    ("make", "reason", "remedy"),
    [
        (lambda: around(lambda layer: layer.register_forward_hook(lambda *_: None)), "hook", "Remove"),
        (lambda: around(lambda layer: layer.register_forward_pre_hook(lambda *_: None)), "hook", "Remove"),
        (lambda: around(lambda layer: layer.register_full_backward_hook(lambda *_: None)), "hook", "Remove"),
        (lambda: around(lambda layer: layer.register_full_backward_pre_hook(lambda *_: None)), "hook", "Remove"),
        (lambda: around(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)), "pruned", r"prune\.remove"),
        (lambda: with_old_norm("weight_norm"), "weight_norm", r"parametrizations\.weight_norm"),
        (lambda: with_old_norm("spectral_norm"), "spectral_norm", r"parametrizations\.spectral_norm"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "lazy", "on a small image"),
        (lambda: nn.Sequential(torch.compile(network(), backend="eager")), "compiled", "_orig_mod"),
        (compiled_in_place, "compiled", "_orig_mod"),
        (scripted, "scripted", "scripted from"),
        (lambda: nn.Sequential(stream(network(), strip_rows=4), nn.ReLU()), "streamed already", "'module'"),
        (lambda: stream(network(), strip_rows=4), "streamed already", "'module'"),
        (lambda: nn.DataParallel(network()), "DataParallel", "inside it"),
        (lambda: around(lambda layer: vars(layer).update(forward=torch.relu)), "forward was replaced", "subclass"),
    ],
)
def test_is_refused_when_it_is_made(make: Callable[[], nn.Module], reason: str, remedy: str) -> None:
    module = make()
    with pytest.raises(UnsupportedLayerError, match=reason) as caught:
        stream(module, strip_rows=4)
    assert "torch.fx" not in str(caught.value)
    with pytest.raises(UnsupportedLayerError, match=remedy):
        stream(module, strip_rows=4)


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_hook_registered_later_is_refused_at_the_call(register: str) -> None:
    module = network()
    trunk = stream(module, strip_rows=4)
    handle = getattr(module[0], register)(lambda *_: None)
    with pytest.raises(UnsupportedLayerError, match=r"'0'.*hook"):
        trunk(torch.randn(1, 3, 9, 8))
    handle.remove()
    assert trunk(torch.randn(1, 3, 9, 8)).shape == (1, 4, 9, 8)


def test_pruned_layer_is_exact_when_made_permanent(assert_exact: Callable[..., float]) -> None:
    module = around(lambda layer: prune.l1_unstructured(layer, "weight", 0.5))
    prune.remove(module[0], "weight")
    assert_exact(module, torch.randn(1, 3, 9, 8, dtype=torch.float64), 4)


def test_parametrized_weight_norm_is_exact(assert_exact: Callable[..., float]) -> None:
    module = around(nn.utils.parametrizations.weight_norm)
    assert_exact(module, torch.randn(1, 3, 9, 8, dtype=torch.float64), 4)


def test_lazy_layer_is_exact_once_it_has_weights(assert_exact: Callable[..., float]) -> None:
    module = nn.Sequential(nn.LazyConv2d(4, 3))
    module(torch.zeros(1, 3, 4, 4))
    assert_exact(module, torch.randn(1, 3, 9, 8, dtype=torch.float64), 4)


# ---------------------------------------------------------------- side effects


class Counting(nn.Module):
    """A forward with a side effect, given as a function."""

    def __init__(self, effect: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("steps", torch.zeros(1))
        self.offset = torch.zeros(1)
        self.seen: list[object] = []
        self.by_name: dict[str, object] = {}
        self.count = 0
        self.effect = effect

    def forward(self, x: Tensor) -> Tensor:
        self.effect(self, x)
        return self.conv(x)


OUTSIDE = torch.zeros(2)


@pytest.mark.parametrize(
    ("effect", "named"),
    [
        (lambda net, x: setattr(net, "count", net.count + 1), "'count'"),
        (lambda net, x: setattr(net, "last", x), "'last'"),
        (lambda net, x: net.seen.append(x), "'seen'"),
        (lambda net, x: net.by_name.update(x=x), "'by_name'"),
        (lambda net, x: setattr(net.conv, "bias", None), "'bias'"),
        (lambda net, x: net.conv.register_buffer("own", torch.zeros(1)), "'own'"),
        (lambda net, x: delattr(net, "count"), "'count'"),
        (lambda net, x: net.train(), "'training'"),
        (lambda net, x: net.steps.add_(1), "'add_'"),
        (lambda net, x: net.steps[:1].fill_(1), "'fill_'"),
        (lambda net, x: torch.add(net.steps, 1, out=net.steps), "'add'"),
        (lambda net, x: net.offset.copy_(torch.ones(1)), "'copy_'"),
        (lambda net, x: OUTSIDE.add_(1), "'add_'"),
        (lambda net, x: net.conv.weight.data.mul_(2), "'mul_'"),
    ],
)
def test_forward_with_a_side_effect_is_refused_and_changes_nothing(
    effect: Callable[[nn.Module, Tensor], object], named: str
) -> None:
    module = Counting(effect).eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    before = {layer: dict(vars(layer)) for layer in module.modules()}
    with pytest.raises(UnsupportedLayerError, match=named):
        stream(module, strip_rows=4)
    assert {layer: dict(vars(layer)) for layer in module.modules()} == before
    assert (module.count, module.seen, module.by_name) == (0, [], {})
    assert not OUTSIDE.any()
    assert not module.offset.any()
    assert module.conv.bias is not None
    assert state.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_tensors_of_its_own_may_be_changed_in_place(assert_exact: Callable[..., float]) -> None:
    def offset(net: nn.Module, x: Tensor) -> None:
        made = torch.tensor([0.0, 1.0])
        made[0] = 2
        made += torch.ones(2).mul_(2)
        made.clone().relu_()

    assert_exact(Counting(offset), torch.randn(1, 3, 9, 8, dtype=torch.float64), 4)


def test_constants_leave_nothing_behind(assert_exact: Callable[..., float]) -> None:
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.offsets = nn.Conv2d(3, 4, 3), {"a": torch.full((4, 1, 1), 3.0, dtype=torch.float64)}

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.offsets["a"] + torch.tensor(2.0, dtype=torch.float64)

    module = Offset()
    before = set(vars(module))
    assert_exact(module, torch.randn(1, 3, 9, 8, dtype=torch.float64), 4)
    assert set(vars(module)) == before
    assert set(dir(module)) == set(dir(Offset()))


# ---------------------------------------------------------------- modes


class InMode(nn.Module):
    def __init__(self, mode: Callable[[], object]) -> None:
        super().__init__()
        self.first, self.second, self.mode = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), mode

    def forward(self, x: Tensor) -> Tensor:
        with self.mode():  # type: ignore[attr-defined]
            x = self.first(x)
        return self.second(x)


@pytest.mark.parametrize("mode", [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16), torch.inference_mode])
def test_forward_that_changes_the_mode_is_refused(mode: Callable[[], object]) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"'first'.*gradients or autocast"):
        stream(InMode(mode), strip_rows=4)


def test_own_gradient_is_refused() -> None:
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return -grad

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Reversed.apply(x)

    with pytest.raises(UnsupportedLayerError, match=r"autograd\.Function"):
        stream(Net(), strip_rows=4)


@pytest.mark.parametrize(
    "register",
    [nn.modules.module.register_module_full_backward_hook, nn.modules.module.register_module_full_backward_pre_hook],
)
def test_backward_hooks_of_all_modules_are_refused(register: Callable[..., Any]) -> None:
    handle = register(lambda *_: None)
    try:
        with pytest.raises(UnsupportedLayerError, match="backward hook is registered for all modules"):
            stream(network(), strip_rows=4)
    finally:
        handle.remove()


def test_forward_hooks_of_all_modules_are_followed(assert_exact: Callable[..., float]) -> None:
    double = lambda layer, _, result: result * 2 if isinstance(layer, nn.ReLU) else None  # noqa: E731
    handle = nn.modules.module.register_module_forward_hook(double)
    try:
        assert_exact(network(), torch.randn(1, 3, 12, 9, dtype=torch.float64), 4)
    finally:
        handle.remove()
