"""The LightningModules under a stock Trainer: the plain network's parameters, checkpoints both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from places import ROOT
from preloaded import run_group
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from streammodels import StreamingClassifier

MakeTrainer = Callable[..., Trainer]

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
def test_stock_trainer_gives_the_plain_networks_parameters(
    options: dict[str, Any], tolerance: float, trainer: MakeTrainer
) -> None:
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
        for done in run_group(devices, script, mode, devices, out, cwd=ROOT):
            assert done.returncode == 0, done.stderr[-2000:]
        states.append(torch.load(out))
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        torch.testing.assert_close(states[0][name], value, rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.filterwarnings("ignore")
def test_fit_validate_test_and_predict(tmp_path: Path, trainer: MakeTrainer) -> None:
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

MIXED = "bf16-mixed"


def labeled(labels: Tensor) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    return DataLoader(TensorDataset(torch.rand(len(labels), 3, 23, 17, generator=generator), labels), batch_size=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "labels", "metrics", "precision"),
    [
        ({"task": "multilabel"}, torch.tensor([[0, 1], [1, 1], [1, 0], [0, 0]]), {"val_accuracy", "val_auroc"}, MIXED),
        ({"loss_fn": nn.BCEWithLogitsLoss()}, torch.eye(2).repeat(2, 1), {"val_accuracy", "val_auroc"}, "32-true"),
        ({"loss_fn": nn.L1Loss()}, torch.randn(4, 2, dtype=torch.float64), {"val_mae", "val_rmse"}, MIXED),
        ({"loss_fn": nn.L1Loss()}, torch.randn(4, 2, dtype=torch.float64), {"val_mae", "val_rmse"}, "32-true"),
        ({"task": "regression"}, torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]]), {"val_mae", "val_rmse"}, MIXED),
    ],
)
def test_every_task_trains_under_a_stock_trainer(
    options: dict[str, Any], labels: Tensor, metrics: set[str], precision: str, trainer: MakeTrainer
) -> None:
    trained = []
    for streaming in (True, False):
        model = small(streaming, **options)
        fit = trainer(max_epochs=1, max_steps=-1, precision=precision)
        fit.fit(model, labeled(labels), labeled(labels))
        assert metrics < set(fit.callback_metrics)
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-2, atol=1e-3 if "bf16" in precision else 1e-6)


@pytest.mark.filterwarnings("ignore")
def test_one_measurement_an_image_is_regressed_and_not_broadcast(trainer: MakeTrainer) -> None:
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
def test_wrong_labels_stop_the_first_step(trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match=r"labels 0\.\.1, found 0\.\.2"):
        trainer().fit(small(), labeled(torch.tensor([0, 2, 1, 1])))


@pytest.mark.filterwarnings("ignore")
def test_metrics_see_probabilities_and_not_logits(trainer: MakeTrainer) -> None:
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
