"""`StreamingResNet`: torchvision's names, weights and results, streamed."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models

from streammodels import StreamingResNet

MakeTrainer = Callable[..., Trainer]


@pytest.fixture(scope="module")
def resnet() -> StreamingResNet:
    torch.manual_seed(0)
    return StreamingResNet("resnet18", tile_size=60, num_classes=3, weights=None, train_streaming_layers=True).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_checkpoints_interchange_with_torchvision_both_ways(name: str) -> None:
    plain = getattr(models, name)(num_classes=3).eval()
    model = StreamingResNet(name, tile_size=60, num_classes=3, weights=None, mean=[0.0] * 3, std=[1.0] * 3).eval()
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 70, 50)
    torch.testing.assert_close(model(image), plain(image), rtol=1e-4, atol=1e-4)
    getattr(models, name)(num_classes=3).load_state_dict(model.state_dict())


def test_normalizes_as_imagenet_does(resnet: StreamingResNet) -> None:
    plain = models.resnet18(num_classes=3).eval()
    plain.load_state_dict(resnet.state_dict())
    image = torch.rand(2, 3, 70, 50)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = plain((image - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(resnet(image), expected, rtol=1e-4, atol=1e-4)


def test_uint8_equals_floats(resnet: StreamingResNet) -> None:
    image = torch.randint(0, 256, (1, 3, 70, 50), dtype=torch.uint8)
    torch.testing.assert_close(resnet(image), resnet(image.float() / 255))


@pytest.mark.parametrize("scale", [3.0, 255.0])
def test_normalized_or_unscaled_floats_are_refused(scale: float) -> None:
    model = StreamingResNet(num_classes=3, weights=None)
    with pytest.raises(ValueError, match=r"have to be in 0..1"):
        model(torch.randn(1, 3, 70, 50) * scale)


@pytest.mark.slow
def test_plain_and_streamed_resnet_agree_in_every_gradient() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"tile_size": 40, "num_classes": 3, "weights": None, "train_streaming_layers": True}
    streamed = StreamingResNet("resnet18", **options).double()
    plain = StreamingResNet("resnet18", streaming=False, **options).double()
    plain.load_state_dict(streamed.state_dict())
    image = torch.rand(2, 3, 75, 41, dtype=torch.float64)
    for model in (streamed, plain):
        model.train()
        model(image).square().sum().backward()
    for (name, a), (_, b) in zip(streamed.named_parameters(), plain.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert float((a.grad - b.grad).norm()) <= 1e-12 * max(float(b.grad.norm()), 1e-6), name


def test_training_mode_of_a_resnet_keeps_batch_norm_frozen(resnet: StreamingResNet) -> None:
    norms = [m for m in copy.deepcopy(resnet).train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert not any(m.training for m in norms)


def test_new_head_is_used() -> None:
    model = StreamingResNet(num_classes=2, weights=None)
    model.fc = nn.Linear(512, 7)
    assert model(torch.rand(1, 3, 70, 50)).shape == (1, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet9", "resnet18"])
def test_resnet_without_its_last_stage_agrees_with_the_plain_one(name: str) -> None:
    options: dict[str, Any] = {"weights": None, "remove_last_stage": True, "train_streaming_layers": True}
    streamed = StreamingResNet(name, tile_size=30, **options).double()
    plain = StreamingResNet(name, streaming=False, **options).double()
    plain.load_state_dict(streamed.state_dict())
    image = torch.rand(2, 3, 75, 41, dtype=torch.float64)
    for model in (streamed, plain):
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.constant_(layer.weight, 0.8)  # else the residual branches, zero at first, would not count
        model(image).square().sum().backward()
    for (key, a), (_, b) in zip(streamed.named_parameters(), plain.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert float((a.grad - b.grad).norm()) <= 1e-12 * float(b.grad.norm()), key


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_checkpoint_keeps_the_task_of_a_loss_it_does_not_hold(tmp_path: Path, trainer: MakeTrainer) -> None:
    model = StreamingResNet("resnet9", weights=None, loss_fn=nn.BCEWithLogitsLoss(), num_classes=3, tile_size=64)
    fit = trainer(max_steps=1)
    fit.fit(model, DataLoader(TensorDataset(torch.rand(2, 3, 64, 48), torch.ones(2, 3)), batch_size=2))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    said = torch.load(tmp_path / "last.ckpt", weights_only=True)["model_class"]
    assert said == "streammodels.training.streaming_resnet.StreamingResNet"
    loaded = StreamingResNet.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.task.name == "multilabel"
    assert isinstance(loaded.loss_fn, nn.BCEWithLogitsLoss)


@pytest.mark.slow
def test_maximum_pooling_and_other_channels() -> None:
    model = StreamingResNet(num_classes=2, weights=None, pooling="max", in_channels=5)
    assert model(torch.rand(2, 5, 70, 50)).shape == (2, 2)
    with pytest.raises(ValueError, match="pooling 'median' is not known"):
        StreamingResNet(weights=None, pooling="median")


def test_table_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    model = StreamingResNet(num_classes=2, weights=None, verbose=True)
    assert "layer4" not in capsys.readouterr().out
    model(torch.rand(1, 3, 70, 50))
    assert "layer4.1.conv2" in capsys.readouterr().out
    model(torch.rand(1, 3, 70, 50))
    assert not capsys.readouterr().out


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_share_nothing(resnet: StreamingResNet, duplicate: Callable[[StreamingResNet], StreamingResNet]) -> None:
    image = torch.rand(1, 3, 70, 50)
    before = resnet(image)
    twin = duplicate(resnet)
    assert torch.equal(twin(image), before)
    with torch.no_grad():
        twin.get_parameter("conv1.weight").zero_()
    assert not torch.equal(twin(image), before)
    assert torch.equal(resnet(image), before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_checkpoint_loads_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: MakeTrainer
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    (tmp_path / "hub" / "hub" / "checkpoints").mkdir(parents=True)
    local = tmp_path / "hub" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    torch.save(models.resnet18(weights=None).state_dict(), local)
    model = StreamingResNet("resnet18", num_classes=2, weights="DEFAULT", loss_fn=nn.CrossEntropyLoss())
    fit = trainer(max_steps=1)
    fit.fit(model, DataLoader(TensorDataset(torch.rand(2, 3, 64, 48), torch.tensor([0, 1])), batch_size=2))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    local.unlink()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    loaded = StreamingResNet.load_from_checkpoint(tmp_path / "last.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert list(state) == list(models.resnet18().state_dict())


def test_unfreezing_between_fits_keeps_optimizer_parameters() -> None:
    model = StreamingResNet(num_classes=2, weights=None, train_streaming_layers=False)
    optimizer = model.configure_optimizers()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_schedulers_step_once_an_epoch_and_cycles_once_a_batch(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.tensor([0, 1, 0, 1])))
    schedulers = torch.optim.lr_scheduler
    sgd, found = partial(torch.optim.SGD, lr=0.1), []
    for scheduler in (
        partial(schedulers.OneCycleLR, max_lr=0.1, total_steps=8),
        lambda optimizer: {"scheduler": schedulers.OneCycleLR(optimizer, 0.1, 8), "interval": "epoch"},
        partial(schedulers.StepLR, step_size=1),
    ):
        model = StreamingResNet(num_classes=2, weights=None, streaming=False, optimizer=sgd, lr_scheduler=scheduler)
        trainer = Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(many workers|using 'interval': 'epoch').*")
            trainer.fit(model, batches)
        found.append(trainer.lr_scheduler_configs[0].scheduler.last_epoch)
    assert found == [8, 2, 2]
