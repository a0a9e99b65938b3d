"""Modules with several inputs, and with several results, against plain autograd."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from streammodels import (
    GlobalAvgPool,
    GlobalMaxPool,
    GlobalPool,
    Keeping,
    Labels,
    Reduction,
    UnsupportedLayerError,
    stream,
)

DOUBLE = torch.float64


class Maps(NamedTuple):
    fine: Tensor
    coarse: Tensor


class Pyramid(nn.Module):
    """Two maps, a vector and a constant, in nested containers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Any:
        fine = self.first(x).relu()
        coarse = self.second(fine)
        scores = self.head(coarse.mean((2, 3)))
        return OrderedDict(maps=Maps(fine, coarse), out=[scores, (scores.exp(), None)], image=x, levels=2)


class Stains(nn.Module):
    """Two images of one size, and a vector for each image, in one result."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(2, 4, 5, padding=2, stride=2)
        self.third = nn.Conv2d(4, 4, 3, padding=1, stride=2)
        self.pool = GlobalAvgPool()

    def forward(self, image: Tensor, other: Tensor, *, factor: Tensor | None = None, power: int = 1) -> Tensor:
        pooled: Tensor = self.pool(self.third(self.first(image).tanh()) * self.second(other)) ** power
        return pooled if factor is None else pooled * factor


def compared(plain: Any, streamed: Any, module: nn.Module, images: list[Tensor]) -> float:
    """The largest relative distance of all results and gradients of a random sum of them."""
    found = []
    for value in (plain, streamed):
        leaves, form = pytree.tree_flatten(value)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        generator = torch.Generator().manual_seed(3)
        score = sum((t * torch.randn(t.shape, dtype=DOUBLE, generator=generator)).sum() for t in tensors)
        grads = torch.autograd.grad(score, [*module.parameters(), *images])
        found.append((form, [*tensors, *grads]))
    assert found[0][0] == found[1][0]
    return max(
        float((a - b).detach().norm() / b.detach().norm()) for a, b in zip(found[1][1], found[0][1], strict=True)
    )


@pytest.mark.parametrize("strip_rows", [1, 4, 40])
@pytest.mark.parametrize("size", [(21, 13), (13, 22)])
def test_nested_results_equal_the_plain_ones(strip_rows: int, size: tuple[int, int]) -> None:
    module = Pyramid().to(DOUBLE)
    image = torch.randn(2, 3, *size, dtype=DOUBLE, requires_grad=True)
    streamed = stream(module, strip_rows=strip_rows)(image)
    assert isinstance(streamed["maps"], Maps)
    assert streamed["levels"] == 2
    assert compared(module(image), streamed, module, [image]) < 1e-12


def test_results_of_a_list_are_concatenated_one_by_one() -> None:
    module = Pyramid().to(DOUBLE)
    streamed = stream(nn.Sequential(module, _Vectors()), strip_rows=4)
    images = [torch.randn(3, 17 + i, 12, dtype=DOUBLE) for i in range(3)]
    scores, (exponentials,) = streamed(images)
    assert scores.shape == exponentials.shape == (3, 2)
    assert torch.allclose(exponentials, scores.exp())
    with pytest.raises(ValueError, match="different shapes"):
        stream(module, strip_rows=4)(images)


class _Vectors(nn.Module):
    def forward(self, results: Any) -> Any:
        scores, (exponentials, _) = results["out"]
        return scores, [exponentials]


def test_a_value_without_a_gradient_gives_none() -> None:
    module = Pyramid().to(DOUBLE)
    image = torch.randn(1, 3, 20, 12, dtype=DOUBLE)
    stream(module, strip_rows=3)(image)["maps"].fine.sum().backward()
    plain = Pyramid().to(DOUBLE)
    plain.load_state_dict(module.state_dict())
    plain(image)["maps"].fine.sum().backward()
    assert module.second.weight.grad is None
    assert torch.allclose(module.first.weight.grad, plain.first.weight.grad, rtol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(40, 12), (12, 40)])
def test_what_leads_to_no_gradient_is_not_computed_again(size: tuple[int, int]) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.cheap = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
            self.costly = nn.Sequential(nn.Conv2d(4, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, 2, 3, padding=1))

        def forward(self, image: Tensor, other: Tensor) -> Any:
            fine = self.trunk(image).relu()
            return self.cheap(fine).mean((2, 3)), self.costly(fine), other * 2

    module = Heads().to(DOUBLE)
    image, other = (torch.randn(1, 3, *size, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    streamed = stream(module, strip_rows=4, keeping=Keeping())
    operations, results = [], []
    for chosen in (slice(0, 1), slice(0, 3)):
        values = streamed(image, other)[chosen]
        with FlopCounterMode(display=False) as counter:
            given = [image, other, *module.parameters()]
            score = sum(value.square().sum() for value in values)
            results.append(torch.autograd.grad(score, given, allow_unused=True, materialize_grads=True))
        operations.append(counter.get_total_flops())
        expected = torch.autograd.grad(
            sum(value.square().sum() for value in module(image, other)[chosen]), given, allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        for found, plain in zip(results[-1], expected, strict=True):
            assert float((found - plain).norm()) <= 1e-12 * float(plain.norm())
    assert operations[0] < operations[1] / 8


@pytest.mark.parametrize("strip_rows", [1, 5, 64])
@pytest.mark.parametrize("size", [(23, 14), (14, 25)])
def test_two_images_are_read_together(strip_rows: int, size: tuple[int, int]) -> None:
    module = Stains().to(DOUBLE)
    image, other = (torch.randn(2, c, *size, dtype=DOUBLE, requires_grad=True) for c in (3, 2))
    factor = torch.randn(2, 4, dtype=DOUBLE, requires_grad=True)
    streamed = stream(module, strip_rows=strip_rows)
    assert compared(
        module(image, other, factor=factor, power=2),
        streamed(image, other, factor=factor, power=2),
        module,
        [image, other, factor],
    ) < 1e-12  # fmt: skip
    by_name = streamed(image, other=other.detach())
    assert torch.allclose(by_name, module(image, other), rtol=1e-12)
    assert streamed.forecast(*size).memory_bytes > 0
    assert "second" in streamed.summary(*size)


class Lazy:
    """Rows of a tensor."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.pixels[..., start:stop, :]


def test_lazy_images_of_a_list_go_with_their_further_inputs() -> None:
    module = Stains().to(DOUBLE)
    streamed = stream(module, strip_rows=4)
    images = [torch.randint(256, (3, 17 + i, 12), dtype=torch.uint8) for i in range(2)]
    others = [torch.randint(256, (2, 17 + i, 12), dtype=torch.uint8) for i in range(2)]
    factor = torch.randn(2, 4, dtype=DOUBLE)
    found = streamed([Lazy(one) for one in images], [Lazy(others[0]), others[1]], factor=factor)
    plain = [
        module(a[None] / 255.0, b[None] / 255.0)
        for a, b in zip(*([o.to(DOUBLE) for o in v] for v in (images, others)), strict=True)
    ]
    assert torch.allclose(found, torch.cat(plain) * factor, rtol=1e-12)
    for wrong in ([others[0]], others[0][None]):
        with pytest.raises(ValueError, match="input 1"):
            streamed(images, wrong)
    with pytest.raises(ValueError, match="of the same batch"):
        streamed(images[0][None], torch.zeros(2, 2, 17, 12))
    with pytest.raises(ValueError, match="meet"):
        streamed(images[0][None], torch.zeros(1, 2, 15, 12))


class _SquaredError(Reduction):
    def partial(self, rows: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        (target,) = tensors
        assert target.dtype in (torch.uint8, torch.int64, torch.bool)
        return ((rows - target.to(rows.dtype)).square().sum((1, 2, 3)),)

    def combine(self, parts: tuple[Tensor, ...], pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        return parts[0].sum(0) / pixels


class SquaredError(GlobalPool):
    """Of a map and labels."""

    def reduction(self) -> Reduction:
        return _SquaredError()

    def reduction_of(self, maps: int) -> Reduction:
        return self.reduction()


class Trained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.loss = nn.Conv2d(3, 1, 3, padding=1), SquaredError()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.loss(self.net(image).sigmoid(), target)
        return loss


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_labels_keep_their_type_and_meet_the_map_in_a_reduction(dtype: torch.dtype) -> None:
    module = Trained().to(DOUBLE)
    image = torch.randn(1, 3, 19, 14, dtype=DOUBLE, requires_grad=True)
    target = torch.randint(2, (1, 1, 19, 14)).to(dtype)
    expected = module(image, target)
    streamed = stream(module, strip_rows=4)
    given = [Labels(target), Labels(target[:, 0]), Labels(Lazy(target[0, 0])), Labels(Lazy(target[0]))]
    for labels in given if dtype == torch.uint8 else [*given, target]:
        assert compared(expected, streamed(image, labels), module, [image]) < 1e-12
        expected = module(image, target)


class _AsksTheSecond(nn.Module):
    """Asks for the size of its second input first."""

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return image.mean((2, 3)) * other.shape[2]


def test_sizes_are_those_of_the_input_that_is_asked() -> None:
    module, image, other = _AsksTheSecond(), torch.rand(1, 2, 9, 5), torch.rand(1, 1, 4, 7)
    torch.testing.assert_close(stream(module, strip_rows=4)(image, other), module(image, other))


class _Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = GlobalMaxPool()

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        pooled: Tensor = self.pool(image, mask, mask * 2)
        return pooled


def test_what_takes_no_image_or_no_further_map_is_refused() -> None:
    class Nothing(nn.Module):
        def forward(self) -> None: ...

    pools = _Masked()
    with pytest.raises(TypeError, match="pools one map"):
        pools.pool(torch.zeros(1, 3, 9, 9), torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9))
    with pytest.raises(UnsupportedLayerError, match="takes no image"):
        stream(Nothing(), strip_rows=4)
    with pytest.raises(UnsupportedLayerError, match="pools one map"):
        stream(pools, strip_rows=4)
    with pytest.raises(TypeError, match="Labels takes a tensor"):
        Labels("mask.tif")  # type: ignore[arg-type]
