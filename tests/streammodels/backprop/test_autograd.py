"""Memory that a result keeps after its backward pass, and the state after a failed one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from streammodels import ImageReadError, Keeping, stream

KEPT = [Keeping(), Keeping(graphs=3), Keeping(every=2, graphs=1)]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, 2, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.AdaptiveAvgPool2d(1)
    ).double().eval()  # fmt: skip


def bytes_alive() -> int:
    gc.collect()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if _is_plain(t)}
    return sum(storages.values())


def _is_plain(found: object) -> bool:
    return type(found) in (Tensor, nn.Parameter) and not found.is_meta  # type: ignore[attr-defined]  # narrowed by type()


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """What is there already is neither collected nor seen, which takes a second for all that is imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("keeping", KEPT, ids=str)
def test_backward_pass_frees_all_though_the_result_lives_on(keeping: Keeping) -> None:
    trunk = stream(network(), strip_rows=8, keeping=keeping)
    trunk(torch.rand(1, 3, 64, 32, dtype=torch.float64)).sum().backward()
    image = torch.rand(1, 3, 64, 32, dtype=torch.float64)
    gone, before = weakref.ref(image), bytes_alive() - image.numel() * 8
    result = trunk(image)
    result.sum().backward()
    del image
    gc.collect()
    assert gone() is None
    assert bytes_alive() - before <= result.numel() * 8


@pytest.mark.parametrize("keeping", KEPT, ids=str)
@pytest.mark.parametrize("size", [(64, 32), (32, 64)])
def test_retained_graph_gives_image_gradients_again(keeping: Keeping, size: tuple[int, int]) -> None:
    module, image = network(), torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    inputs = [image, *module.parameters()]
    expected = torch.autograd.grad(module(image).square().sum(), inputs)
    score = stream(module, strip_rows=8, keeping=keeping)(image).square().sum()
    for retain in (True, True, False):
        for found, right in zip(torch.autograd.grad(score, inputs, retain_graph=retain), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-14)


class Failing:
    """An image whose upper rows cannot be read while it `fails`."""

    shape, dtype, fails = (3, 64, 32), torch.float64, False

    def __init__(self) -> None:
        self.pixels = torch.rand(self.shape, dtype=self.dtype)

    def rows(self, start: int, stop: int) -> Tensor:
        if self.fails and start < 24:
            raise OSError("gone")
        return self.pixels[:, start:stop]


@pytest.mark.parametrize("keeping", KEPT, ids=str)
def test_backward_pass_that_failed_leaves_no_gradients_for_the_next(keeping: Keeping) -> None:
    module, image = network(), Failing()
    expected = torch.autograd.grad(module(image.pixels[None]).square().sum(), list(module.parameters()))
    score = stream(module, strip_rows=8, keeping=keeping)(image).square().sum()
    image.fails = True
    with pytest.raises(ImageReadError, match="gone"):
        score.backward(retain_graph=True)
    image.fails = False
    found = torch.autograd.grad(score, list(module.parameters()))
    for one, right in zip(found, expected, strict=True):
        torch.testing.assert_close(one, right, rtol=1e-12, atol=1e-14)


class Fork(nn.Module):
    """Two pooled branches, of which one passes no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.first(image).mean((2, 3)) + self.second(image).relu().mean((2, 3)).detach()


@pytest.mark.parametrize("keeping", KEPT, ids=str)
def test_branch_without_a_gradient_has_none_as_in_the_plain_network(keeping: Keeping) -> None:
    module, image = Fork().double(), torch.rand(1, 3, 30, 9, dtype=torch.float64, requires_grad=True)
    inputs = [image, *module.parameters()]
    right = torch.autograd.grad(module(image).square().sum(), inputs, allow_unused=True)
    streamed = stream(module, strip_rows=4, keeping=keeping)(image).square().sum()
    found = torch.autograd.grad(streamed, inputs, allow_unused=True)
    assert [grad is None for grad in found] == [grad is None for grad in right] == [False] * 3 + [True] * 2
    for one, expected in zip(found[:3], right[:3], strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("value", [0.0, float("inf")])
def test_gradient_of_zeros_gives_zeros_or_nan_as_in_the_plain_network(value: float) -> None:
    module, image = network(), torch.rand(1, 3, 64, 32, dtype=torch.float64)
    image[0, 0, 40, 5] = value
    grads = []
    for call in (module, stream(module, strip_rows=8)):
        module.zero_grad()
        (call(image) * 0).sum().backward()
        grads.append([parameter.grad for parameter in module.parameters()])
    for found, right in zip(*reversed(grads), strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=0, equal_nan=True)


def smooth() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 3)).double()


def test_second_derivatives_are_refused_also_where_the_first_was_of_a_constant() -> None:
    """Their value would be zero, which torch takes for the derivative of what no path leads to."""
    streamed, image = stream(smooth(), strip_rows=4), torch.rand(1, 3, 9, 7, dtype=torch.float64, requires_grad=True)
    inputs = [image, *streamed.parameters()]
    for score in (streamed(image).sum(), streamed(image).square().sum()):
        first = torch.autograd.grad(score, inputs, create_graph=True)
        for grad in first:
            for one in inputs:
                with pytest.raises(RuntimeError, match="differentiate twice"):
                    torch.autograd.grad(grad.sum(), one, retain_graph=True, allow_unused=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            (score + sum(grad.square().sum() for grad in first)).backward(retain_graph=True)  # gradient penalty


def test_hessians_are_refused() -> None:
    streamed, image = stream(smooth(), strip_rows=4), torch.rand(1, 3, 5, 5, dtype=torch.float64)
    for function, more in ((torch.autograd.functional.hessian, ()), (torch.autograd.functional.hvp, (image,))):
        with pytest.raises(RuntimeError, match=r"differentiate twice.*plain module"):
            function(lambda x: streamed(x).sum(), image, *more)  # type: ignore[operator]  # of either kind


def test_first_derivatives_with_a_graph_are_exact() -> None:
    module, image = smooth(), torch.rand(1, 3, 9, 7, dtype=torch.float64, requires_grad=True)
    inputs = [image, *module.parameters()]
    grads = [
        torch.autograd.grad(call(image).square().sum(), inputs, create_graph=True)
        for call in (module, stream(module, strip_rows=4))
    ]
    for right, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-14)
