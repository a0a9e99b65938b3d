"""Unfreezing at an epoch, learning rates of head and trunk, mixed and augmented batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from streammodels import FineTuning, StreamingClassifier, StreamingResNet

MakeTrainer = Callable[..., Trainer]
SGD = partial(torch.optim.SGD, lr=0.1)


def small(fine_tuning: FineTuning, **options: Any) -> StreamingClassifier:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    defaults: dict[str, Any] = {"tile_size": 32, "optimizer": SGD, "num_classes": 3}
    return StreamingClassifier(trunk, nn.Linear(4, 3), **(defaults | options), fine_tuning=fine_tuning)


def loader(batch_size: int = 4) -> DataLoader[Any]:
    images = torch.randint(0, 256, (8, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(images, torch.arange(8) % 3), batch_size=batch_size)


class Recorded(Callback):
    """The norm of the trunk's first weight at the end of each epoch."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.weights.append(pl_module.trunk[0].weight.detach().clone())


@pytest.mark.filterwarnings("ignore")
def test_trunk_is_unfrozen_at_the_epoch_also_when_resumed(tmp_path: Path, trainer: MakeTrainer) -> None:
    whole, model = Recorded(), small(FineTuning(unfreeze_at=2))
    start = model.trunk[0].weight.detach().clone()
    trainer(max_epochs=4, max_steps=-1, callbacks=[whole]).fit(model, loader())
    changed = [not torch.equal(a, b) for a, b in zip([start, *whole.weights], whole.weights, strict=False)]
    assert changed == [False, False, True, True]
    for first in (1, 3):  # resumed before and after the epoch
        parts, begun = Recorded(), trainer(max_epochs=first, max_steps=-1)
        begun.fit(small(FineTuning(unfreeze_at=2)), loader())
        begun.save_checkpoint(tmp_path / "part.ckpt")
        rest = trainer(max_epochs=4, max_steps=-1, callbacks=[parts])
        rest.fit(small(FineTuning(unfreeze_at=2)), loader(), ckpt_path=tmp_path / "part.ckpt", weights_only=True)
        torch.testing.assert_close(parts.weights[-1], whole.weights[-1], rtol=0, atol=0)


def test_unfreezing_on_several_processes_is_refused() -> None:
    [callback] = small(FineTuning(unfreeze_at=2)).configure_callbacks()
    several: Any = type("SeveralProcesses", (), {"world_size": 2})()
    with pytest.raises(ValueError, match=r"has 2.*Train in two runs.*max_epochs=2"):
        callback.setup(several, small(FineTuning()), "fit")
    callback.setup(several, small(FineTuning()), "test")
    assert not small(FineTuning()).configure_callbacks()


def test_trunk_learns_at_a_rate_of_its_own() -> None:
    slow, plain = (small(FineTuning(trunk_lr_factor=factor)) for factor in (0.1, 1.0))
    moved = []
    for model in (slow, plain):
        optimizer = model.configure_optimizers()
        before = [model.trunk[0].weight.detach().clone(), model.head.weight.detach().clone()]
        model(torch.rand(2, 3, 9, 9)).square().sum().backward()
        optimizer.step()
        grads = [model.trunk[0].weight.grad, model.head.weight.grad]
        for old, new, grad in zip(before, (model.trunk[0].weight, model.head.weight), grads, strict=True):
            moved.append(float((old - new.detach()).norm() / grad.norm()))
    assert moved == pytest.approx([0.01, 0.1, 0.1, 0.1], rel=1e-4)
    groups = slow.configure_optimizers().param_groups
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, slow.parameters()))


def test_schedulers_that_undo_the_ratio_are_refused() -> None:
    steps = partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    config = small(FineTuning(trunk_lr_factor=0.1), lr_scheduler=steps).configure_optimizers()
    assert [group["lr"] for group in config["optimizer"].param_groups] == pytest.approx([0.1, 0.01])
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=5)
    with pytest.raises(ValueError, match=r"OneCycleLR sets them.*max_lr=\[1e-3, 0.0001\]"):
        small(FineTuning(trunk_lr_factor=0.1), lr_scheduler=cycle).configure_optimizers()
    both = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=[0.1, 0.01], total_steps=5)
    small(FineTuning(trunk_lr_factor=0.1), lr_scheduler=both).configure_optimizers()


def test_mixed_images_have_labels_in_the_same_shares() -> None:
    """Each class is one color, so that the mean of a mixed image says its shares."""
    labels = torch.arange(3).repeat(4)
    images = torch.zeros(12, 3, 16, 16, dtype=torch.uint8)
    images[torch.arange(12), labels] = 255
    for tuning in (FineTuning(mixup=1.0), FineTuning(cutmix=1.0), FineTuning(mixup=1.0, cutmix=1.0)):
        torch.manual_seed(1)
        mixed, shares = tuning.batch(images, labels, 3)
        torch.testing.assert_close(mixed.mean(dim=(2, 3)), shares, rtol=1e-5, atol=1e-5)
        assert bool(((shares > 0.01).sum(dim=1) == 2).any())
    same, untouched = FineTuning(rand_augment=2).batch(images, labels, 3)
    assert same.dtype == torch.uint8
    assert same.shape == images.shape
    assert not torch.equal(same, images)
    assert torch.equal(untouched, labels)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.0])), None])
def test_loss_of_a_mixed_batch_is_that_of_its_shares(loss: nn.Module | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(FineTuning(mixup=1.0, rand_augment=1), loss_fn=loss)
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    monkeypatch.setattr(model, "log_dict", lambda *_, **__: None)
    images, labels = next(iter(loader()))
    torch.manual_seed(5)
    mixed, shares = model.fine_tuning.batch(images, labels, 3)
    torch.manual_seed(5)
    got = model.training_step((images, labels), 0)
    weight = torch.ones(3) if loss is None else torch.tensor([1.0, 2.0, 1.0])
    expected = -(weight * shares * model(mixed).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(got, expected)
    plain = model.validation_step((images, labels), 0)
    torch.testing.assert_close(plain, nn.functional.cross_entropy(model(images), labels, weight))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "regression"}, "task='regression' does not take"),
        ({"loss_fn": nn.BCEWithLogitsLoss()}, "task='multilabel' does not take"),
        ({"loss_fn": nn.MultiMarginLoss()}, "MultiMarginLoss does not take"),
    ],
)
def test_mixing_needs_a_loss_that_takes_shares(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(FineTuning(cutmix=1.0), **options)


def test_what_cannot_be_mixed_is_refused() -> None:
    model = small(FineTuning(mixup=1.0))
    images = [torch.rand(3, 9, 9), torch.rand(3, 8, 7)]
    with pytest.raises(TypeError, match=r"a list.*several sizes"):
        model.training_step((images, torch.tensor([0, 1])), 0)
    with pytest.raises(ValueError, match=r"takes labels 0\.\.2"):
        model.training_step((torch.rand(2, 3, 9, 9), torch.tensor([0, 3])), 0)
    with pytest.raises(ValueError, match="not 4"):
        FineTuning(rand_augment=1).batch(torch.rand(2, 4, 9, 9), torch.tensor([0, 1]), 3)
    with pytest.warns(UserWarning, match="one of a single image stays"):
        model.fine_tuning.batch(torch.rand(1, 3, 9, 9), torch.tensor([0]), 3)


@pytest.mark.parametrize(
    "values", [{"unfreeze_at": -1}, {"mixup": -0.1}, {"trunk_lr_factor": 0.0}, {"cutmix": float("nan")}]
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"fine_tuning.{next(iter(values))}"):
        FineTuning(**values)


class Data(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.rand(2, 3, 64, 64), torch.tensor([0, 1])), batch_size=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_options_are_given_on_the_command_line_and_checkpoints_stay_plain(tmp_path: Path) -> None:
    arguments = [
        "fit", "--model.model_name=resnet9", "--model.weights=null", "--model.fine_tuning.unfreeze_at=3",
        "--model.fine_tuning.trunk_lr_factor=0.5", "--trainer.max_steps=1", "--trainer.logger=false",
        "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    cli = LightningCLI(StreamingResNet, Data, args=arguments, save_config_callback=None)
    assert cli.model.fine_tuning == FineTuning(unfreeze_at=3, trunk_lr_factor=0.5)
    [path] = tmp_path.rglob("*.ckpt")
    assert "fine_tuning" not in torch.load(path, weights_only=True)["hyper_parameters"]
    StreamingResNet.load_from_checkpoint(path)
