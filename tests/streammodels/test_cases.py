"""Cases, lists of images with one result, against pooling of their concatenated pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from streammodels import (
    GatedAttention,
    GeM,
    GlobalMaxPool,
    LogSumExp,
    StreamingClassifier,
    UnsupportedLayerError,
    attention_map,
    stream,
)

DOUBLE = torch.float64

POOLS: dict[str, Callable[[], nn.Module]] = {
    "avg": lambda: nn.AdaptiveAvgPool2d(1),
    "max": GlobalMaxPool,
    "gem": GeM,
    "lse": LogSumExp,
    "attention": lambda: GatedAttention(4, hidden=3, heads=2),
}


class Lazy:
    """An image whose rows are read when asked for."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.shape, self.dtype = image, tuple(image.shape), image.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.image[:, start:stop]


def trunk() -> nn.Sequential:
    norm = nn.BatchNorm2d(4).eval()
    nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), norm, nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1))


def network(pool: nn.Module) -> nn.Sequential:
    return nn.Sequential(trunk(), pool, nn.Flatten(), nn.LazyLinear(3))


def of_concatenated(module: nn.Sequential, case: list[Tensor]) -> Tensor:
    """The result for a case, of its maps put side by side as one long row of pixels."""
    maps = [module[0](image if image.ndim == 4 else image[None]).flatten(2) for image in case]
    scores: Tensor = module[1:](torch.cat(maps, dim=2)[:, :, None])
    return scores


def gradients(result: Tensor, module: nn.Module, images: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 2, result.numel(), dtype=DOUBLE).view_as(result)
    return [result, *torch.autograd.grad((result * weights).sum(), [*module.parameters(), *images], allow_unused=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_a_case_equals_pooling_of_concatenated_maps(name: str) -> None:
    module = network(POOLS[name]()).to(DOUBLE)
    module(torch.zeros(1, 2, 9, 9, dtype=DOUBLE))
    sizes = [(23, 14), (14, 25), (6, 6), (31, 9)]
    a, b, c, d = images = [torch.randn(2, *size, dtype=DOUBLE, requires_grad=True) for size in sizes]
    cases = [[a, b[None]], [c], [d, a, c]]
    expected = gradients(torch.cat([of_concatenated(module, case) for case in cases]), module, images)
    for options in ({"strip_rows": 5}, {"tile_size": 9}, {"memory": "1GB"}):
        found = gradients(stream(module, **options)(cases), module, images)  # type: ignore[arg-type]
        for actual, value in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, value, rtol=1e-11, atol=1e-13)
    lazy = [[Lazy(image.detach().view(2, *image.shape[-2:])) for image in case] for case in cases]
    torch.testing.assert_close(stream(module, strip_rows=4)(lazy), expected[0], rtol=1e-11, atol=1e-13)
    mixed = stream(module, strip_rows=4)([a, [a], [a, a]])
    torch.testing.assert_close(mixed[0], mixed[1], rtol=1e-12, atol=0)


class Masked(nn.Module):
    """Reads another image for each image of a case, and a vector for each case."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.pool = nn.Conv2d(2, 4, 3), nn.Conv2d(1, 4, 3), nn.AdaptiveMaxPool2d(1)

    def forward(self, image: Tensor, other: Tensor, *, age: Tensor | float = 1.0) -> Any:
        maps = self.first(image) * self.second(other)
        return {"most": self.pool(maps).flatten(1) * age, "mean": maps.mean((2, 3))}


def test_further_inputs_are_nested_alike_and_ties_go_to_the_first_image() -> None:
    module = Masked().to(DOUBLE)
    image, other = torch.randn(2, 17, 9, dtype=DOUBLE), torch.randn(1, 17, 9, dtype=DOUBLE)
    age = torch.randn(2, 4, dtype=DOUBLE)
    copies = [image.clone().requires_grad_() for _ in range(3)]
    streamed = stream(module, strip_rows=4)
    found = streamed([copies[:2], copies[2:]], [[other, other], [other]], age=age)
    expected = module(image[None].expand(2, -1, -1, -1), other[None].expand(2, -1, -1, -1), age=age)
    torch.testing.assert_close(found, expected)
    first, second, _ = torch.autograd.grad(found["most"].sum(), copies)
    assert first.count_nonzero()
    assert not second.count_nonzero()
    with pytest.raises(ValueError, match="input 1 of case 0 is not nested as its 2 images"):
        streamed([copies[:2], copies[2:]], [[other], [other]], age=age)
    with pytest.raises(TypeError, match="'age' of case 0 has a Tensor for each image"):
        streamed([copies[:2], copies[2:]], [[other, other], [other]], age=[[age, age], [age]])
    with pytest.raises(ValueError, match="input 1 is one image beside a list of 2"):
        streamed([copies[:2], copies[2:]], other[None], age=age)


class DividedByHand(nn.Module):
    """A mean whose divisor is a constant of the size."""

    def __init__(self, divisor: Callable[[int], Any]) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[1] == 2
        return image.sum((2, 3)) / self.divisor(image.shape[2] * image.shape[3])


def test_a_result_that_depends_on_the_size_of_one_image_is_refused() -> None:
    image, other = torch.randn(2, 12, 9, dtype=DOUBLE), torch.randn(2, 7, 9, dtype=DOUBLE)
    for divisor in (lambda pixels: pixels, lambda pixels: torch.tensor(float(pixels))):
        streamed = stream(DividedByHand(divisor), strip_rows=4)
        means = torch.stack([image.mean((1, 2)), other.mean((1, 2))])
        torch.testing.assert_close(streamed([[image], [other]]), means)
        for case in ([image, image], [image, other]):
            with pytest.raises(ValueError, match=r"depends on the size of the image.* not nested"):
                streamed([case])
    fixed = stream(DividedByHand(lambda pixels: 2.0), strip_rows=4)
    torch.testing.assert_close(fixed([[image, other]]), (image.sum((1, 2)) + other.sum((1, 2)))[None] / 2)


def test_what_no_case_has_is_refused() -> None:
    image = torch.randn(2, 12, 9, dtype=DOUBLE)
    with pytest.raises(UnsupportedLayerError, match=r"layer '3'.* every image of a case has its own"):
        stream(trunk().to(DOUBLE), strip_rows=4)([[image, image]])
    pooled = stream(nn.Sequential(trunk(), GeM()).to(DOUBLE), strip_rows=4)
    with pytest.raises(ValueError, match="case 1 has no images"):
        pooled([[image], []])
    with pytest.raises(ValueError, match="image 1 of case 0 is a batch of 2"):
        pooled([[image, torch.stack([image, image])]])
    squeeze = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), GeM()).to(DOUBLE)
    with pytest.raises(UnsupportedLayerError, match="statistics of a whole map, and of which"):
        stream(squeeze, strip_rows=4, global_statistics="host")([[image, image]])


def test_attention_maps_come_for_each_image_and_sum_to_one_over_the_case() -> None:
    module = network(POOLS["attention"]()).to(DOUBLE)
    images = [torch.randn(2, *size, dtype=DOUBLE) for size in ((23, 14), (14, 25), (8, 8))]
    module(images[0][None])
    scores = [module[1].scores(module[0](image[None])) for image in images]
    for call in (module, stream(module, strip_rows=5)):
        (first, second), single = attention_map(call, [images[:2], images[2]])
        assert (first.shape[2:], second.shape[2:]) == ((12, 7), (7, 13))
        both = torch.cat([own.flatten(2) for own in scores[:2]], dim=2).softmax(2)
        found = torch.cat([first.flatten(2), second.flatten(2)], dim=2)
        torch.testing.assert_close(found, both, rtol=1e-11, atol=1e-15)
        torch.testing.assert_close(single.flatten(2), scores[2].flatten(2).softmax(2), rtol=1e-11, atol=1e-15)


def test_a_classifier_takes_batches_of_cases(trainer: Callable[..., Trainer]) -> None:
    layers, head = nn.Sequential(trunk(), GeM()), nn.Linear(4, 2)
    model = StreamingClassifier(layers, head, tile_size=16)
    plain = StreamingClassifier(layers, head, streaming=False)
    cases = [[torch.rand(2, 23, 14), torch.rand(2, 14, 25)], [torch.rand(2, 40, 8)]]
    expected = torch.cat([of_concatenated(nn.Sequential(*layers, head), case) for case in cases])
    torch.testing.assert_close(model(cases), expected)
    torch.testing.assert_close(plain(cases), expected)
    labels = torch.tensor([0, 1])
    for batch in (cases, [cases, labels]):
        torch.testing.assert_close(model.predict_step(batch, 0), expected.softmax(1))
    before = head.weight.clone()
    trainer(max_steps=1).fit(model, DataLoader([(cases, labels)], batch_size=None))
    assert not torch.equal(before, head.weight)
