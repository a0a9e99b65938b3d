"""Forwards that ask what a placeholder would answer otherwise than a tensor are refused, wherever they ask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streammodels import UnsupportedLayerError, stream

IMAGE = (2, 3, 15, 11)
TENSOR = torch.Tensor
KINDS = (list, Tensor)


class Calls(nn.Module):
    """A convolution, a function of its result, and another convolution."""

    def __init__(self, body: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.second(self.body(self.first(x)))


def doubled(x: Any) -> Any:
    return x * 2 if isinstance(x, Tensor) else x


def doubled_in_lines(x: Any) -> Any:
    if not isinstance(
        x,
        torch.Tensor,
    ):
        return x
    return x * 2


def caught(x: Any) -> Any:
    with contextlib.suppress(Exception):
        x = x * 2 if isinstance(x, Tensor) else x
    return x


@pytest.mark.parametrize(
    "body",
    [
        doubled,
        doubled_in_lines,
        caught,
        lambda x: x * 2 if isinstance(x, torch.Tensor) else x,
        lambda x: x * 2 if isinstance(x, TENSOR) else x,
        lambda x: x * 2 if isinstance(x, KINDS) else x,
        lambda x: x * 2 if isinstance(x * 1, Tensor | float) else x,
        lambda x: x * 2 if torch.is_tensor(x) else x,
    ],
)
def test_question_for_a_tensor_is_refused_wherever_it_stands(body: Callable[[Tensor], Any]) -> None:
    with pytest.raises(UnsupportedLayerError, match="depends on the type"):
        stream(Calls(body), strip_rows=4)


def test_other_questions_are_answered(assert_exact: Callable[..., float]) -> None:
    def body(x: Any) -> Any:
        if isinstance(x, (list, dict, nn.Parameter)) or hasattr(x, "features"):
            return x[0]
        return torch.cat([x, x], dim=1)[:, 2:6]

    assert_exact(Calls(body), torch.randn(IMAGE, dtype=torch.float64), 4)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return -grad


class ReversedView(Reversed):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.view_as(x)


reverse = Reversed.apply
FUNCTIONS = [Reversed.apply]


@pytest.mark.parametrize(
    "body",
    [
        lambda x: Reversed.apply(x),
        lambda x: ReversedView.apply(x),
        lambda x: reverse(x),
        lambda x: FUNCTIONS[0](x) if False else Reversed.apply(x),
    ],
)
def test_function_of_autograd_is_refused_though_it_returns_its_input(body: Callable[[Tensor], Any]) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"torch\.autograd\.Function"):
        stream(Calls(body), strip_rows=4)


def with_data(x: Tensor) -> Tensor:
    x.data = x.data * 2
    return x


def with_gradient(x: Tensor) -> Tensor:
    x.requires_grad = False
    return x


def with_part(x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


def with_part_in_place(x: Tensor) -> Tensor:
    x[:, :2] *= 2
    return x


def with_hook(x: Tensor) -> Tensor:
    x.register_hook(lambda grad: grad * 2)
    return x


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (with_data, r"sets '\.data' of"),
        (with_gradient, r"sets '\.requires_grad' of"),
        (with_part, "writes into a part"),
        (with_part_in_place, "writes into a part"),
        (with_hook, "passes function to an operation.*hooks on maps"),
        (lambda x: x * [1, 2], "something else than numbers and tensors"),
        (lambda x: x + "a", "something else than numbers and tensors"),
        (lambda x: x * torch.ones(1, 1, 1, 1, 1, dtype=torch.float64), "more dimensions"),
    ],
)
def test_what_a_placeholder_cannot_follow_is_refused(body: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=message) as error:
        stream(Calls(body), strip_rows=4)
    assert "_Value" not in str(error.value)
    assert "getattr" not in str(error.value)


def test_numbers_of_numpy_are_numbers(assert_exact: Callable[..., float]) -> None:
    np = pytest.importorskip("numpy")
    body: Callable[[Tensor], Any] = lambda x: np.float64(0.1) * x * np.float32(0.3) + x * np.int64(2)  # noqa: E731
    assert_exact(Calls(body), torch.randn(IMAGE, dtype=torch.float64), 4)


def test_layer_that_fails_is_named() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return self.nothing(x)  # type: ignore[operator, no-any-return]  # there is none

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Broken()))
    with pytest.raises(UnsupportedLayerError, match=r"AttributeError.*nothing") as error:
        stream(network, strip_rows=4)
    assert error.value.layer == "1.1"
