"""The streamed gradient of a class score equals plain autograd's, and asking for it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streammodels import StreamingResNet, saliency, stream

Randomize = Callable[[nn.Module], nn.Module]


class Rows:
    """An image that hands out its rows."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.shape = tuple(image.shape)
        self.dtype = image.dtype
        self.largest = 0

    def rows(self, start: int, stop: int) -> Tensor:
        self.largest = max(self.largest, stop - start)
        return self.image[:, start:stop]


@pytest.fixture
def trunk(randomize_batch_norm: Randomize) -> nn.Module:
    layers = (
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Dropout(0.5),
        nn.Conv2d(8, 12, 3, 2, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip
    return randomize_batch_norm(nn.Sequential(*layers)).double()


@pytest.fixture
def head() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4)).double()


def _plain(trunk: nn.Module, head: nn.Module, image: Tensor, classes: list[int] | None) -> tuple[Tensor, Tensor]:
    """Gradient and scores of the plain network in eval mode."""
    modes = [(layer, layer.training) for part in (trunk, head) for layer in part.modules()]
    for layer, _ in modes:
        layer.training = False
    entered = image.clone().requires_grad_()
    scores = head(trunk(entered).flatten(1))
    chosen = scores.argmax(dim=1) if classes is None else torch.tensor(classes)
    (gradient,) = torch.autograd.grad(scores.gather(1, chosen[:, None]).sum(), entered)
    for layer, training in modes:
        layer.training = training
    return gradient, scores.detach()


def _far(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("height", "width", "strip_rows"), [(61, 47, 7), (61, 47, 24), (40, 90, 100), (40, 90, 9), (16, 17, 1)]
)
@pytest.mark.parametrize("classes", [None, [2, 0]])
def test_gradient_equals_plain_autograd(
    trunk: nn.Module, head: nn.Module, height: int, width: int, strip_rows: int, classes: list[int] | None
) -> None:
    image = torch.rand(2, 3, height, width, dtype=torch.float64)
    expected, scores = _plain(trunk, head, image, classes)
    found = saliency(stream(trunk, strip_rows=strip_rows), image, classes, head=head)
    assert _far(found.values, expected) <= 1e-12
    assert _far(found.scores, scores) <= 1e-12
    assert found.class_index.tolist() == (scores.argmax(dim=1).tolist() if classes is None else classes)
    assert (found.method, found.image_size) == ("gradient", (height, width))


def test_network_with_its_own_classifier_needs_no_head(trunk: nn.Module, head: nn.Module) -> None:
    image = torch.rand(1, 3, 50, 40, dtype=torch.float64)
    expected, _ = _plain(trunk, head, image, [3])
    whole = nn.Sequential(trunk, nn.Flatten(), head)
    assert _far(saliency(stream(whole, strip_rows=11), image, 3).values, expected) <= 1e-12


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_blocks_are_reduced_from_the_gradient(trunk: nn.Module, head: nn.Module, reduce: str) -> None:
    image = torch.rand(1, 3, 48, 32, dtype=torch.float64)
    expected, _ = _plain(trunk, head, image, [1])
    found = saliency(stream(trunk, strip_rows=10), image, 1, head=head, stride=8, reduce=reduce)
    blocks = expected.abs().view(1, 3, 6, 8, 4, 8)
    assert _far(found.values, blocks.amax((1, 3, 5)) if reduce == "max" else blocks.mean((1, 3, 5))) <= 1e-12
    assert (found.grid.y.stride, found.grid.y.first) == (8, 3.5)


def test_uint8_counts_as_numbers_from_0_to_1(trunk: nn.Module, head: nn.Module) -> None:
    image = torch.randint(0, 256, (2, 3, 33, 20), dtype=torch.uint8)
    expected, _ = _plain(trunk, head, image.double() / 255, None)
    assert _far(saliency(stream(trunk, strip_rows=8), image, head=head).values, expected) <= 1e-12


def test_reduced_gradient_never_is_whole_in_memory(largest_tensor: Any) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    image = torch.randint(0, 256, (1, 3, 512, 32), dtype=torch.uint8)
    with largest_tensor:
        saliency(stream(network, strip_rows=16), image, 0, stride=8, reduce="mean")
    assert 0 < largest_tensor.numbers < image.numel() / 4


def test_image_read_by_rows_gives_the_same_and_never_is_whole(trunk: nn.Module, head: nn.Module) -> None:
    image = torch.randint(0, 256, (3, 100, 300), dtype=torch.uint8)
    rows, streamed = Rows(image), stream(trunk, strip_rows=16)
    found = saliency(streamed, rows, 1, head=head, stride=4, reduce="max")
    whole = saliency(streamed, image[None], 1, head=head, stride=4, reduce="max")
    assert torch.equal(found.values, whole.values)
    assert rows.largest == 16


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_network_is_left_as_it_was(trunk: nn.Module, head: nn.Module, training: bool, frozen: bool) -> None:
    streamed = stream(trunk, strip_rows=9)
    head.train(training)
    trunk[4].train(training)
    trunk.requires_grad_(not frozen)
    first = next(trunk.parameters())
    first.grad = torch.ones_like(first)
    parts = [layer for part in (trunk, head) for layer in part.modules()]
    before = [layer.training for layer in parts]
    saliency(streamed, torch.rand(1, 3, 30, 30, dtype=torch.float64), head=head)
    assert [layer.training for layer in parts] == before
    assert torch.equal(first.grad, torch.ones_like(first))
    others = [*list(trunk.parameters())[1:], *head.parameters()]
    assert all(parameter.grad is None for parameter in others)
    assert all(parameter.requires_grad is not frozen for parameter in trunk.parameters())
    assert all(parameter.requires_grad for parameter in head.parameters())


def test_network_is_left_as_it_was_after_an_error(trunk: nn.Module, head: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"class_index=9 is not one of 0\.\.3"):
        saliency(stream(trunk, strip_rows=9), torch.rand(1, 3, 30, 30, dtype=torch.float64), 9, head=head)
    assert head.training
    assert all(parameter.requires_grad for parameter in head.parameters())


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(
    trunk: nn.Module, head: nn.Module, surrounding: Callable[[], torch.inference_mode]
) -> None:
    image = torch.rand(1, 3, 30, 30, dtype=torch.float64)
    expected, _ = _plain(trunk, head, image, None)
    with surrounding():
        found = saliency(stream(trunk, strip_rows=9), image.clone(), head=head)
        assert torch.is_grad_enabled() is False
    assert _far(found.values, expected) <= 1e-12


def test_stride_without_reduction_is_refused(trunk: nn.Module) -> None:
    image = torch.rand(1, 3, 30, 30, dtype=torch.float64)
    for wrong in ({"stride": 4}, {"reduce": "sum"}, {"stride": 0, "reduce": "max"}):
        with pytest.raises(ValueError, match="give reduce='max' or 'mean'"):
            saliency(stream(trunk, strip_rows=9), image, **wrong)


@pytest.mark.parametrize("wrong", [-1, 4, [0, 1, 2], 1.0, True])
def test_class_that_does_not_exist_is_refused(trunk: nn.Module, head: nn.Module, wrong: object) -> None:
    with pytest.raises(ValueError, match=r"is not one of 0\.\.3 for each of 2 image"):
        saliency(stream(trunk, strip_rows=9), torch.rand(2, 3, 30, 30, dtype=torch.float64), wrong, head=head)


def test_map_is_no_score() -> None:
    with pytest.raises(ValueError, match="is no score of a class"):
        saliency(stream(nn.Conv2d(3, 4, 3), strip_rows=9), torch.rand(1, 3, 30, 30))


@pytest.mark.slow
def test_classifier_explains_itself_with_and_without_streaming() -> None:
    model = StreamingResNet("resnet18", tile_size=24, num_classes=3, weights=None).double()
    plain = StreamingResNet("resnet18", num_classes=3, weights=None, streaming=False).double()
    plain.load_state_dict(model.state_dict())
    image = torch.rand(2, 3, 70, 65, dtype=torch.float64)
    with torch.inference_mode():
        found, expected = model.saliency(image.clone()), plain.saliency(image.clone())
    entered = image.clone().requires_grad_()
    plain.eval()(entered).max(dim=1).values.sum().backward()
    assert _far(found.values, entered.grad) <= 1e-12
    assert _far(expected.values, entered.grad) <= 1e-12
    assert model.training
