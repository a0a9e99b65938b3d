"""Losses of maps against torch's functions on whole maps, and against formulas, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from streammodels import (
    ConfusionCounts,
    Labels,
    PixelBinaryCrossEntropy,
    PixelCrossEntropy,
    PixelDice,
    PixelDivergence,
    PixelFocalLoss,
    PixelJaccard,
    PixelLoss,
    PixelSquaredError,
    UnsupportedLayerError,
    stream,
)

WEIGHT = (0.5, 2.0, 1.25)


class Trained(nn.Module):
    """A convolution and a loss of its map."""

    def __init__(self, loss: nn.Module, channels: int) -> None:
        super().__init__()
        self.net, self.loss = nn.Conv2d(3, channels, 3, padding=1), loss

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.loss(self.net(image), target)
        return loss


def _numbers(classes: int, ignored: bool = False) -> Tensor:
    target = torch.randint(classes, (2, 19, 14))
    return target.masked_fill(torch.rand(2, 19, 14) < 0.2, -100) if ignored else target


def _each(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of a batch as one of each image."""
    return lambda scores, target: torch.stack([function(s[None], t[None]) for s, t in zip(scores, target, strict=True)])


def _cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(scores, target, torch.tensor(WEIGHT, dtype=scores.dtype), label_smoothing=0.1)


def _binary(scores: Tensor, target: Tensor) -> Tensor:
    weight = torch.tensor([2.0, 3.0], dtype=scores.dtype)[:, None, None]
    return functional.binary_cross_entropy_with_logits(scores, target.to(scores.dtype), pos_weight=weight)


def _focal(scores: Tensor, target: Tensor) -> Tensor:
    p = scores.softmax(1)
    kept = target.ne(-100)
    p_t = (p * functional.one_hot(target.clamp(min=0), 3).permute(0, 3, 1, 2)).sum(1)
    return ((1 - p_t) ** 1.5 * -p_t.log())[kept].mean()


def _binary_focal(scores: Tensor, target: Tensor) -> Tensor:
    return sigmoid_focal_loss(scores[:, 0], target.to(scores.dtype), alpha=0.25, gamma=2, reduction="mean")


def _divergence(scores: Tensor, target: Tensor) -> Tensor:
    return functional.kl_div(scores.log_softmax(1), target, reduction="sum") / target[0, 0].numel()


def _dice(scores: Tensor, target: Tensor) -> Tensor:
    p, t = scores.softmax(1)[0], functional.one_hot(target[0], 3).permute(2, 0, 1)
    return torch.stack([1 - (2 * (p[k] * t[k]).sum() + 1) / (p[k].sum() + t[k].sum() + 1) for k in range(3)]).mean()


def _jaccard(scores: Tensor, target: Tensor) -> Tensor:
    p, t = scores.sigmoid()[0, 0], target[0]
    both = (p * t).sum()
    return 1 - (both + 1) / (p.sum() + t.sum() - both + 1)


CASES: dict[str, tuple[PixelLoss, int, Callable[[], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "cross entropy": (PixelCrossEntropy(), 3, lambda: _numbers(3, True), functional.cross_entropy),
    "weighted": (PixelCrossEntropy(WEIGHT, label_smoothing=0.1), 3, lambda: _numbers(3, True), _cross_entropy),
    "binary": (PixelBinaryCrossEntropy([2.0, 3.0]), 2, lambda: torch.rand(2, 2, 19, 14) > 0.4, _binary),
    "focal": (PixelFocalLoss(1.5), 3, lambda: _numbers(3, True), _focal),
    "binary focal": (PixelFocalLoss(2.0, alpha=(0.75, 0.25)), 1, lambda: _numbers(2), _binary_focal),
    "squared error": (PixelSquaredError(), 2, lambda: torch.randn(2, 2, 19, 14).double(), functional.mse_loss),
    "divergence": (PixelDivergence(), 3, lambda: torch.randn(2, 3, 19, 14).double().softmax(1), _divergence),
    "dice": (PixelDice(), 3, lambda: _numbers(3), _dice),
    "jaccard": (PixelJaccard(), 1, lambda: _numbers(2), _jaccard),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strip_rows", [1, 5])
def test_streamed_losses_are_those_of_whole_maps(name: str, strip_rows: int) -> None:
    loss, channels, make, plain = CASES[name]
    target, image = make(), torch.randn(2, 3, 19, 14, dtype=torch.float64, requires_grad=True)
    module = Trained(loss.double(), channels).double()
    results = []
    given = target if target.ndim == 4 else target[:, None]
    for value in (
        _each(plain)(module.net(image), target),
        module(image, target),
        stream(module, strip_rows=strip_rows)(image, Labels(given)),
    ):
        assert value.shape == (2,)
        (gradient, *others) = torch.autograd.grad(
            (value * torch.tensor([1.0, -2.5])).sum(), [image, *module.net.parameters()]
        )
        results.append([value.detach(), gradient, *others])
    for expected, *found in zip(*results, strict=True):
        for one in found:
            assert float((one - expected).norm()) <= 1e-12 * float(expected.norm())


@pytest.mark.parametrize("channels", [1, 4])
def test_confusion_counts_are_those_of_scikit_learn(channels: int) -> None:
    classes = max(2, channels)
    target, image = _numbers(classes, ignored=True), torch.randn(2, 3, 19, 14)
    module = Trained(ConfusionCounts(), channels)
    counts = stream(module, strip_rows=4)(image, Labels(target))
    scores = module.net(image)
    predicted = scores.argmax(1) if channels > 1 else (scores[:, 0] > 0).long()
    for found, p, t in zip(counts, predicted, target, strict=True):
        kept = t != -100
        assert found.tolist() == confusion_matrix(t[kept], p[kept], labels=range(classes)).tolist()


def test_an_image_without_counted_pixels_has_no_loss() -> None:
    module = Trained(PixelCrossEntropy(), 3)
    target = torch.full((2, 19, 14), -100)
    target[1, 3:6] = 1
    loss = stream(module, strip_rows=4)(torch.randn(2, 3, 19, 14), Labels(target))
    assert loss[0] == 0
    assert loss[1] > 0
    loss.sum().backward()
    assert all(bool(p.grad is not None and p.grad.isfinite().all()) for p in module.parameters())


def test_sums_are_of_float32_at_least() -> None:
    module, image = Trained(PixelCrossEntropy(), 3), torch.randn(1, 3, 300, 200)
    target = _numbers(3)[:1].repeat(1, 16, 15)[:, :300, :200]
    with torch.autocast("cpu", torch.bfloat16):
        loss = stream(module, strip_rows=16)(image, Labels(target))
        whole = functional.cross_entropy(module.net(image).float(), target)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss[0], whole, rtol=1e-5)


def test_wrong_targets_are_refused() -> None:
    module, image = Trained(PixelCrossEntropy(), 3), torch.randn(2, 3, 19, 14)
    streamed = stream(module, strip_rows=4)
    with pytest.raises(ValueError, match=r"class numbers 3, but the scores are of 3 classes"):
        streamed(image, Labels(_numbers(3).index_fill(1, torch.tensor([5]), 3)))
    with pytest.raises(ValueError, match="Labels"):
        streamed(image, _numbers(3)[:, None].to(torch.uint8))
    with pytest.raises(UnsupportedLayerError, match=r"streammodels\.Labels"):
        streamed(image, _numbers(3))
    with pytest.raises(ValueError, match="differ in size"):
        module(image, _numbers(3)[:, :-1])
    with pytest.raises(ValueError, match="2 channels and the targets 1"):
        Trained(PixelBinaryCrossEntropy(), 2)(image, _numbers(2))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Trained(PixelBinaryCrossEntropy(), 1)(image, _numbers(3).index_fill(1, torch.tensor([5]), 2))
    with pytest.raises(UnsupportedLayerError, match="a map and its targets"):
        stream(nn.Sequential(nn.Conv2d(3, 3, 1), PixelDice()), strip_rows=4)
    for make in (lambda: PixelDice(smooth=0), lambda: PixelFocalLoss(-1)):
        with pytest.raises(ValueError, match="needs a"):
            make()
