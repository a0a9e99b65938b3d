"""`StreamingSegmenter`, its scores and its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchmetrics.functional import jaccard_index
from torchmetrics.functional.segmentation import dice_score

from streammodels import PixelCrossEntropy, PixelDice, StreamingSegmenter, UNet
from streammodels.training.class_map import write_class_map
from streammodels.training.segmentation_scores import SegmentationScores

MakeTrainer = Callable[..., Trainer]
SIZES = ((40, 28), (26, 34), (32, 32))


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 2, 3, padding=1),
    )  # fmt: skip


def sample(size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A noisy image, and the class of every pixel: 1 where a smooth field is high, which is redder there."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(1, 1, 5, 5, generator=generator)
    target = (functional.interpolate(field, size, mode="bicubic")[0, 0] > 0.3).long()
    image = torch.rand(3, *size, generator=generator) * 0.4
    image[0] += 0.5 * target
    return image, target


class Lazy:
    """Rows of a tensor."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.pixels[..., start:stop, :]


class Both(nn.Module):
    """Cross entropy and Dice."""

    def __init__(self) -> None:
        super().__init__()
        self.entropy, self.dice = PixelCrossEntropy(), PixelDice()

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.entropy(scores, target) + 0.5 * self.dice(scores, target)
        return loss


def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[list[Any], list[Any]]:
    return [Lazy(image) for image, _ in samples], [Lazy(target) for _, target in samples]


def loader() -> DataLoader[Any]:
    samples = [sample(size, seed) for seed, size in enumerate(SIZES)]
    return DataLoader(samples, batch_size=3, collate_fn=collate)  # type: ignore[arg-type]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_step_is_that_of_the_plain_network(lazy: bool) -> None:
    pairs = [sample((40, 28), 1), sample((40, 28), 2)]
    images, targets = (torch.stack(values) for values in zip(*pairs, strict=True))
    torch.manual_seed(0)
    network = small()
    results = []
    for streaming in (True, False):
        model = StreamingSegmenter(network, 2, 12, Both(), streaming=streaming).double()
        batch: Any = (images.double(), targets)
        if lazy and streaming:
            batch = ([Lazy(one) for one in images.double()], [*targets])
        model.zero_grad()
        model.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        loss = model.training_step(batch, 0)
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for p in network.parameters() if p.grad is not None]))
        assert model(images.double()).dtype == torch.uint8
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert float((a - b).norm()) <= 1e-11 * float(b.norm())


@pytest.mark.slow
def test_it_learns_what_is_red_from_lists_of_lazy_images(
    trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = StreamingSegmenter(
        small(), 2, 24, class_names=["rest", "red"], optimizer=lambda parameters: torch.optim.Adam(parameters, 0.1)
    )
    fit = trainer(
        max_epochs=16, max_steps=-1, gradient_clip_val=5.0, accumulate_grad_batches=2, limit_val_batches=1,
        check_val_every_n_epoch=16,
    )  # fmt: skip
    fit.fit(model, loader(), loader())
    logged = fit.callback_metrics
    assert logged["val_iou"] > 0.85
    assert logged["val_dice_red"] > 0.9
    assert {"train_loss", "train_iou", "val_pixel_accuracy", "val_iou_rest"} <= logged.keys()
    (classes, *_) = fit.predict(model, loader())  # type: ignore[misc]
    assert [tuple(one.shape) for one in classes] == [(1, 1, *size) for size in SIZES]
    fit.save_checkpoint(tmp_path / "model.ckpt")
    again = StreamingSegmenter.load_from_checkpoint(tmp_path / "model.ckpt", network=small(), weights_only=True)
    image, target = sample((40, 28), 0)
    assert torch.equal(again.eval()(image[None]), model.eval()(image[None]))
    path = again.write_prediction(Lazy(image), tmp_path / "classes.tif", mpp=(0.5, 0.5))
    with tifffile.TiffFile(path) as file:
        assert np.array_equal(file.pages[0].asarray(), again(image[None])[0, 0].numpy())
        assert file.pages[0].tags["XResolution"].value[0] / file.pages[0].tags["XResolution"].value[1] == 20_000  # type: ignore[union-attr]
    assert float((again(image[None])[0, 0] == target).float().mean()) > 0.9


def test_scores_are_those_of_torchmetrics() -> None:
    predicted, target = torch.randint(3, (2, 500)), torch.randint(3, (2, 500))
    counts = torch.stack(
        [torch.bincount(t * 4 + p, minlength=16).view(4, 4) for t, p in zip(target, predicted, strict=True)]
    )
    scores = SegmentationScores(["a", "b", "c", "absent"])
    scores.update(counts)
    found = scores.compute()
    expected = jaccard_index(predicted, target, "multiclass", num_classes=3)
    assert found["iou"] == pytest.approx(float(expected), rel=1e-6)
    dice = dice_score(
        predicted.view(1, -1), target.view(1, -1), 3, include_background=True, average="macro", input_format="index"
    )
    assert found["dice"] == pytest.approx(float(dice), rel=1e-6)
    assert found["iou_absent"].isnan()
    assert found["pixel_accuracy"] == pytest.approx(float((predicted == target).float().mean()), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(49, 35), (31, 66)])
def test_unet_takes_images_of_any_size_exactly(size: tuple[int, int], randomize_batch_norm: Any) -> None:
    network = randomize_batch_norm(UNet("resnet18", 3, None, decoder_channels=(8, 8, 6, 4, 4))).double().eval()
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    target = torch.randint(3, (1, *size))
    gradients = []
    for streaming in (True, False):
        model = StreamingSegmenter(network, 3, 16, streaming=streaming).double()
        network.zero_grad()
        model.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        model.training_step((image, target), 0).backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    scale = max(float(b.norm()) for b in gradients[1])
    for a, b in zip(*gradients, strict=True):
        assert float((a - b).norm()) <= 1e-11 * max(float(b.norm()), 1e-6 * scale)


def test_levels_of_a_class_map_are_every_second_pixel(tmp_path: Path) -> None:
    classes = np.random.default_rng(0).integers(0, 5, (1100, 700), dtype=np.uint8)
    path = write_class_map(classes, tmp_path / "map.tif", (0.25, 0.5), tile_px=64)
    with tifffile.TiffFile(path) as file:
        assert [page.shape for page in file.pages] == [(1100, 700), (550, 350), (275, 175)]
        assert all(np.array_equal(page.asarray(), classes[:: 2**i, :: 2**i]) for i, page in enumerate(file.pages))
    with pytest.raises(ValueError, match="positive"):
        write_class_map(classes, path, (0.0, 1.0))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"class_names": ["a"]}, "2 classes with 1 names"),
        ({"frozen_batch_norm": False}, "frozen_batch_norm=True"),
        ({"network": "resnet9"}, "three strides"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        StreamingSegmenter(**{"network": small(), "num_classes": 2, **options})
