"""Gradients in bfloat16 and float16 are as near to float64's as the plain network's, however many strips they sum."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from streammodels import GatedAttention, GeM, stream

SHORT = (torch.bfloat16, torch.float16)
HEIGHT = 64


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 5, padding=2))


def normalized() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip


def preactivated() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 16, 3, padding=1), nn.MaxPool2d(2), GeM())


def attended() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(), GatedAttention(16, 16))


def residual() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.AvgPool2d(2), BasicBlock(16, 16))


NETWORKS = (convolution, normalized, preactivated, attended, residual)


def gradients(call: Callable[[Tensor], Tensor], module: nn.Module, image: Tensor, dtype: Any = None) -> list[Tensor]:
    """Those of the image, then of all parameters; under autocast to `dtype`."""
    entered = image.clone().requires_grad_()
    with torch.autocast("cpu", dtype) if dtype is not None else nullcontext():
        output = call(entered)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16).to(output.dtype)
    return [*torch.autograd.grad((output * weights).sum(), [entered, *module.parameters()])]


def error(found: list[Tensor], right: list[Tensor]) -> float:
    """Relative distance of all together."""
    ours, exact = (torch.cat([grad.flatten().double() for grad in grads]) for grads in (found, right))
    return float((ours - exact).norm() / exact.norm())


def cases() -> Iterator[Any]:
    for make in NETWORKS:
        yield pytest.param(make, torch.bfloat16, False, id=f"{make.__name__}-bfloat16")
        yield pytest.param(make, torch.float16, False, id=f"{make.__name__}-float16")
        yield pytest.param(make, torch.bfloat16, True, id=f"{make.__name__}-autocast")


@pytest.mark.slow
@pytest.mark.parametrize(("make", "dtype", "mixed"), list(cases()))
def test_error_is_at_most_half_as_much_again_as_plains(
    make: Callable[[], nn.Module], dtype: torch.dtype, mixed: bool, randomize_batch_norm: Callable[..., nn.Module]
) -> None:
    module, image = randomize_batch_norm(make()), torch.randn(1, 3, HEIGHT, 24).to(dtype)
    module = module.to(dtype).to(torch.float32 if mixed else dtype)  # the same values
    image, cast = image.to(torch.float32 if mixed else dtype), dtype if mixed else None
    exact = gradients(double := copy.deepcopy(module).double(), double, image.double())
    plain = gradients(module, module, image, cast)
    for rows in (HEIGHT, 9, 1):
        streamed = gradients(stream(module, strip_rows=rows), module, image, cast)
        assert [grad.dtype for grad in streamed] == [grad.dtype for grad in plain]
        assert error(streamed[:1], exact[:1]) <= 1.5 * error(plain[:1], exact[:1])
        assert error(streamed[1:], exact[1:]) <= 1.5 * error(plain[1:], exact[1:])


@pytest.mark.parametrize(("dtype", "end"), [(torch.bfloat16, 256), (torch.float16, 2048)])
def test_hundreds_of_strips_sum_as_one(dtype: torch.dtype, end: int) -> None:
    """In bfloat16 a sum of ones ends at 256, in float16 at 2048, from whichever end of the image it is begun."""
    module, image = nn.Sequential(nn.Conv2d(1, 1, 1)).to(dtype), torch.ones(1, 1, 258, 1, dtype=dtype)
    image[:, :, [0, -1]] = end
    stream(module, strip_rows=1)(image).sum().backward()
    total = {name: float(p.grad) for name, p in module.named_parameters() if p.grad is not None}
    assert total == {"0.weight": 2 * end + 256, "0.bias": 258}


@pytest.mark.parametrize("dtype", SHORT)
def test_short_convolution_before_float32_batch_norm_is_that_of_plain(
    dtype: torch.dtype, randomize_batch_norm: Callable[..., nn.Module]
) -> None:
    module = randomize_batch_norm(normalized()).to(dtype)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.float()
    image = torch.randn(1, 3, 20, 9).to(dtype)
    assert torch.equal(stream(module[:4], strip_rows=20)(image), module[:4](image))
    right, found = gradients(module, module, image), gradients(stream(module, strip_rows=3), module, image)
    assert [grad.dtype for grad in found] == [grad.dtype for grad in right]
    assert error(found, right) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, *SHORT])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("size", [(20, 9), (9, 20)])
def test_normalized_convolutions_round_as_plain(
    dtype: torch.dtype, affine: bool, size: tuple[int, int], randomize_batch_norm: Callable[..., nn.Module]
) -> None:
    """Values that round otherwise put some behind the bend of a ReLU, and change its gradient altogether."""
    module: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=affine), nn.ReLU())
    module, image = randomize_batch_norm(module).to(dtype), torch.randn(2, 3, *size).to(dtype)
    if size[0] < size[1]:
        with torch.no_grad():  # the order of the sums
            module.get_parameter("0.weight").copy_(torch.randint(-4, 5, (8, 3, 3, 3)))
            module.get_parameter("0.bias").zero_()
        image = torch.randint(-4, 5, (2, 3, *size)).to(dtype)
    assert torch.equal(stream(module, strip_rows=99)(image), module(image))
