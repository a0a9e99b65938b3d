"""The two packages together: a streaming network trained on packed slides that are decoded row by row."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from torch import Tensor

from streammodels import StreamingResNet
from wsidata import WSIDataModule


def trained(folder: Path, out: Path, **options: Any) -> dict[str, Tensor]:
    seed_everything(5, workers=True)
    dm = WSIDataModule(
        folder / "evaluation" / "reference.csv", folder / "images", test_prefix="test_", level=0, crop="pack",
        image_size=(160, 128), num_workers=0, batch_size=2, leaks="off", **options,
    )  # fmt: skip
    model = StreamingResNet("resnet9", tile_size=64, num_classes=3, weights=None, train_streaming_layers=True)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(default_root_dir=out, accelerator="cpu", max_epochs=1, limit_train_batches=2, **quiet)
    trainer.fit(model, train_dataloaders=_training(dm))
    return model.state_dict()


def _training(dm: WSIDataModule) -> Any:
    dm.setup("fit")
    return dm.train_dataloader()


@pytest.mark.slow
def test_training_on_lazy_images_is_training_on_their_pixels(camelyon16: Path, tmp_path: Path) -> None:
    lazy, plain = (trained(camelyon16, tmp_path / str(lazy), lazy=lazy) for lazy in (True, False))
    assert lazy.keys() == plain.keys()
    for name, value in lazy.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-5, msg=name)
