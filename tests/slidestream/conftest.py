"""Small slides, and a run of `slidestream fit` on them."""

from pathlib import Path

import pytest

from slidestream.__main__ import main
from wsidata.synthetic.slides import write_camelyon16

FIT = (
    *("fit", "--config", "camelyon16", "--model.model_name", "resnet9", "--model.weights", "null"),
    *("--model.tile_size", "64", "--data.mpp", "2", "--data.image_size", "64", "--data.num_workers", "0"),
    *("--model.lr_scheduler", "torch.optim.lr_scheduler.CosineAnnealingLR", "--model.lr_scheduler.T_max", "2"),
    *("--data.batch_size", "4", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"),
)


@pytest.fixture(scope="session")
def camelyon16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camelyon16(tmp_path_factory.mktemp("camelyon16"), normal=6, tumor=6, test=4, size_px=(256, 256))


@pytest.fixture(scope="session")
def fit(camelyon16: Path) -> list[str]:
    """The command line of a run of one epoch, without its folder."""
    return [*FIT, "--data.folder", str(camelyon16)]


@pytest.fixture(scope="session")
def run(fit: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one epoch."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main([*fit, "--out", str(out)]) == 0
    return out
