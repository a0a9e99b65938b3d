"""The LightningModules under a stock Trainer: the plain network's parameters, checkpoints both ways."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models

from streammodels import StreamingClassifier, StreamingResNet

SCRIPT = '''
"""Three optimizer steps of a small classifier, streamed or plain; saves its parameters."""
import os
import sys
import torch
from functools import partial
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from streammodels import GatedAttention, StreamingClassifier

def main(streaming, devices, out):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), GatedAttention(4, 3))
    model = StreamingClassifier(trunk, nn.Linear(4, 2), tile_size=12, streaming=streaming, metrics=None,
                                optimizer=partial(torch.optim.SGD, lr=0.1)).double()
    images = [torch.rand(3, 19 + i, 31 - 2 * i, dtype=torch.float64) for i in range(12)]  # every process sees its sizes
    rank = int(os.environ.get("LOCAL_RANK", "0"))  # every process takes its share of each batch
    data = [(image, i % 2) for i, image in enumerate(images)][rank::devices]
    trainer = Trainer(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=3,
                      logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                      gradient_clip_val=0.5, precision="64-true", use_distributed_sampler=False)
    collate = lambda batch: ([image for image, _ in batch], torch.tensor([label for _, label in batch]))
    trainer.fit(model, DataLoader(data, batch_size=4 // devices, collate_fn=collate))
    if trainer.is_global_zero:
        torch.save(model.state_dict(), out)

if __name__ == "__main__":
    main(sys.argv[1] == "streaming", int(sys.argv[2]), sys.argv[3])
'''


def small(streaming: bool = True, **options: Any) -> StreamingClassifier:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1)
    )
    defaults: dict[str, Any] = {"tile_size": 12, "optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}
    return StreamingClassifier(trunk, nn.Linear(4, 2), streaming=streaming, **(defaults | options))


def loader(batch_size: int = 2) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (12, 3, 23, 17), dtype=torch.uint8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(12) % 2), batch_size=batch_size)


def trainer(**options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "max_steps": 3, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return Trainer(**(defaults | options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"precision": "64-true"}, 1e-12),
        ({"precision": "32-true", "accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, 1e-5),
        ({"precision": "bf16-mixed", "accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, 5e-3),
        ({"precision": "bf16-mixed", "gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}, 5e-3),
    ],
)
def test_stock_trainer_gives_the_plain_networks_parameters(options: dict[str, Any], tolerance: float) -> None:
    trained = []
    for streaming in (True, False):
        model = small(streaming)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        fit = trainer(**options)
        fit.fit(model, loader())
        assert fit.global_step == 3
        assert all(not torch.equal(p, start[name].to(p.dtype)) for name, p in model.named_parameters())
        trained.append(model.state_dict())
    for name, value in trained[1].items():
        torch.testing.assert_close(trained[0][name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.slow
def test_two_processes_give_the_parameters_of_one(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    states = []
    for mode, devices in (("streaming", 2), ("plain", 1)):
        out = tmp_path / f"{mode}.pt"
        command = [sys.executable, str(script), mode, str(devices), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-2000:]
        states.append(torch.load(out))
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        torch.testing.assert_close(states[0][name], value, rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.filterwarnings("ignore")
def test_fit_validate_test_and_predict(tmp_path: Path) -> None:
    model = small()
    fit = trainer(max_steps=-1, max_epochs=1)
    fit.fit(model, loader(), loader())
    assert {"train_loss", "val_loss", "val_accuracy", "val_auroc"} <= set(fit.callback_metrics)
    [metrics] = fit.test(model, loader(), verbose=False)
    assert set(metrics) == {"test_loss", "test_accuracy", "test_auroc"}
    predicted = fit.predict(model, loader())
    assert predicted is not None
    probabilities = torch.cat([p for p in predicted if isinstance(p, Tensor)])
    assert probabilities.shape == (12, 2)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(12))


def test_frozen_trunk_is_not_trained_and_unfrozen_is() -> None:
    model = small(train_streaming_layers=False)
    assert model.head.weight.requires_grad
    assert not any(p.requires_grad for p in model.trunk.parameters())
    model(torch.rand(1, 3, 23, 17)).sum().backward()
    assert all(p.grad is None for p in model.trunk.parameters())
    model.unfreeze_streaming_layers()
    model(torch.rand(1, 3, 23, 17)).sum().backward()
    assert all(p.grad is not None for p in model.trunk.parameters())
    model.freeze_streaming_layers()
    assert not any(p.requires_grad for p in model.trunk.parameters())


def test_training_mode_leaves_batch_norm_frozen() -> None:
    model = small()
    norm = next(layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))
    assert not norm.training
    assert not model.train().trunk[1].training
    assert model.training
    assert model.trunk.training
    assert not model.eval().training
    assert small(streaming=False, frozen_batch_norm=False).train().trunk[1].training


def test_streaming_with_training_batch_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"streaming=False"):
        small(frozen_batch_norm=False)


def test_state_dict_has_the_weights_only() -> None:
    model = small(loss_fn=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])))
    assert {key.split(".")[0] for key in model.state_dict()} == {"trunk", "head"}
    model.load_state_dict(model.state_dict())
    other = small(streaming=False)
    other.load_state_dict(model.state_dict())


# ---------------------------------------------------------------- tasks


def labelled(labels: Tensor) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    return DataLoader(TensorDataset(torch.rand(len(labels), 3, 23, 17, generator=generator), labels), batch_size=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "labels", "metrics"),
    [
        ({"task": "multilabel"}, torch.tensor([[0, 1], [1, 1], [1, 0], [0, 0]]), {"val_accuracy", "val_auroc"}),
        ({"loss_fn": nn.BCEWithLogitsLoss()}, torch.eye(2).repeat(2, 1), {"val_accuracy", "val_auroc"}),
        ({"loss_fn": nn.L1Loss()}, torch.randn(4, 2, dtype=torch.float64), {"val_mae", "val_rmse"}),
        ({"task": "regression"}, torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]]), {"val_mae", "val_rmse"}),
    ],
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_task_trains_under_a_stock_trainer(
    options: dict[str, Any], labels: Tensor, metrics: set[str], precision: str
) -> None:
    trained = []
    for streaming in (True, False):
        model = small(streaming, **options)
        fit = trainer(max_epochs=1, max_steps=-1, precision=precision)
        fit.fit(model, labelled(labels), labelled(labels))
        assert metrics < set(fit.callback_metrics)
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-2, atol=1e-3 if "bf16" in precision else 1e-6)


@pytest.mark.filterwarnings("ignore")
def test_one_measurement_an_image_is_regressed_and_not_broadcast() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    model = StreamingClassifier(trunk, nn.Linear(4, 1), num_classes=1, tile_size=12, task="regression")
    images, values = torch.rand(3, 3, 23, 17), torch.tensor([1.0, -2.0, 5.0])
    fit = trainer(max_steps=-1, max_epochs=1)
    fit.validate(model, DataLoader(TensorDataset(images, values), batch_size=3), verbose=False)
    expected = (model(images)[:, 0] - values).square().mean()
    torch.testing.assert_close(fit.callback_metrics["val_loss"], expected.detach())
    torch.testing.assert_close(fit.callback_metrics["val_rmse"], expected.detach().sqrt())


@pytest.mark.filterwarnings("ignore")
def test_wrong_labels_stop_the_first_step() -> None:
    with pytest.raises(ValueError, match=r"labels 0\.\.1, found 0\.\.2"):
        trainer().fit(small(), labelled(torch.tensor([0, 2, 1, 1])))


@pytest.mark.filterwarnings("ignore")
def test_metrics_see_probabilities_and_not_logits() -> None:
    """Logits 0.2 and 0.9 of one image would pass for probabilities, those of the next image not."""
    logits = torch.tensor([[0.2, 0.9], [5.0, 5.3], [0.0, 0.5], [-4.0, -3.6]])

    class Fixed(StreamingClassifier):
        def forward(self, image: Tensor) -> Tensor:
            return logits[int(image.flatten()[0])][None]

    model = Fixed(nn.Sequential(nn.Conv2d(1, 2, 1)), nn.Identity())
    images, labels = torch.arange(4.0).view(4, 1, 1, 1), torch.tensor([1, 0, 1, 0])
    fit = trainer()
    fit.validate(model, DataLoader(TensorDataset(images, labels)), verbose=False)
    assert float(fit.callback_metrics["val_auroc"]) == 1.0  # 0.67 and 0.62 above 0.57 and 0.60


# ---------------------------------------------------------------- StreamingResNet


@pytest.fixture(scope="module")
def resnet() -> StreamingResNet:
    torch.manual_seed(0)
    return StreamingResNet("resnet18", tile_size=60, num_classes=3, weights=None, train_streaming_layers=True).eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_checkpoints_interchange_with_torchvision_both_ways(name: str) -> None:
    plain = getattr(models, name)(num_classes=3).eval()
    model = StreamingResNet(name, tile_size=60, num_classes=3, weights=None, mean=[0.0] * 3, std=[1.0] * 3).eval()
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 70, 50)
    torch.testing.assert_close(model(image), plain(image), rtol=1e-4, atol=1e-4)
    getattr(models, name)(num_classes=3).load_state_dict(model.state_dict())


def test_normalises_as_imagenet_does(resnet: StreamingResNet) -> None:
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
def test_normalised_or_unscaled_floats_are_refused(scale: float) -> None:
    model = StreamingResNet(num_classes=3, weights=None)
    with pytest.raises(ValueError, match=r"have to be in 0..1"):
        model(torch.randn(1, 3, 70, 50) * scale)


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


@pytest.mark.filterwarnings("ignore")
def test_checkpoint_keeps_the_task_of_a_loss_it_does_not_hold(tmp_path: Path) -> None:
    model = StreamingResNet("resnet9", weights=None, loss_fn=nn.BCEWithLogitsLoss(), num_classes=3, tile_size=64)
    fit = trainer(max_steps=1)
    fit.fit(model, DataLoader(TensorDataset(torch.rand(2, 3, 64, 48), torch.ones(2, 3)), batch_size=2))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    loaded = StreamingResNet.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.task.name == "multilabel"
    assert isinstance(loaded.loss_fn, nn.BCEWithLogitsLoss)


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


@pytest.mark.filterwarnings("ignore")
def test_checkpoint_loads_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_scheduler_is_configured() -> None:
    model = StreamingResNet(weights=None, lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1))
    config = model.configure_optimizers()
    assert isinstance(config["lr_scheduler"]["scheduler"], torch.optim.lr_scheduler.StepLR)
