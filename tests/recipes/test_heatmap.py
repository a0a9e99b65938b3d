"""The heat-map recipe end to end: a tiny checkpoint, a synthetic slide."""

import importlib
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from streammodels import StreamingResNet
from wsidata import WSIDataModule
from wsidata.synthetic.slides import write_camelyon16


@pytest.mark.slow
def test_recipe_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_camelyon16(tmp_path / "c16", normal=2, tumor=2, test=0, size_px=(256, 256), tile=64)
    slides = WSIDataModule(
        folder / "evaluation" / "reference.csv", folder / "images", label_column="type",
        num_workers=0, leaks="off", mpp=1.0, crop="pack", small_classes="train", val_fraction=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer = Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu", num_sanity_val_steps=0,
        default_root_dir=folder, limit_val_batches=0, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(StreamingResNet("resnet9", tile_size=64, num_classes=2, weights=None), slides)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    slide = next((folder / "images").glob("tumor_*.tif"))
    recipe = importlib.import_module("heatmap")
    recipe.main([str(tmp_path / "best.ckpt"), str(slide), str(tmp_path / "out"), "--class", "tumor"])
    stem = f"{slide.stem}_tumor"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"{stem}.png", f"{stem}.tif", f"{stem}_colors.tif", f"{stem}.geojson"}
    assert "hot: x" in capsys.readouterr().out
