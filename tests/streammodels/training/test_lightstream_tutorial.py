"""The tutorial published for lightstream (Camelyon16), with nothing but its import line changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from places import ROOT
from preloaded import run_python
from torchvision import models

TUTORIAL = """
import pyvips
import torch
import pandas as pd
import albumentationsxl as A
from pathlib import Path
from torch.utils.data import Dataset
from lightning.pytorch import Trainer
from streammodels import StreamingResNet


class CamelyonDataset(Dataset):
    def __init__(self, df, transforms):
        self.df = df
        self.transforms = transforms
        self.classes = {"normal": 0, "tumor": 1}

    def __getitem__(self, idx):
        sample = self.df.iloc[idx]
        image_path = str(sample["image"])
        label = self.classes[sample["class"]]
        try:
            image = pyvips.Image.new_from_file(image_path, level=5)
        except pyvips.error.Error:
            image = pyvips.Image.new_from_file(image_path, page=5)
        if self.transforms:
            image = self.transforms(image=image)["image"]
        return image, label

    def __len__(self):
        return len(self.df)


size = SIZE
train_transforms = A.Compose([
    A.CropOrPad(size, size), A.Flip(p=0.5), A.ToDtype("float", scale=True), A.ToTensor(),
])
val_transforms = A.Compose([A.CropOrPad(size, size), A.ToDtype("float", scale=True), A.ToTensor()])

if __name__ == "__main__":
    df = pd.read_csv("reference.csv")
    train_df, val_df = df.iloc[:4], df.iloc[4:]
    train_loader = torch.utils.data.DataLoader(CamelyonDataset(train_df, train_transforms), batch_size=1, shuffle=True)
    val_loader = torch.utils.data.DataLoader(CamelyonDataset(val_df, val_transforms), batch_size=1)
    model = StreamingResNet(
        model_name="resnet18",
        tile_size=TILE,
        num_classes=2,
        train_streaming_layers=False,
        loss_fn=torch.nn.CrossEntropyLoss(),
    )
    trainer = Trainer(max_epochs=1, accelerator="cpu", devices=1, enable_progress_bar=False)
    trainer.fit(model=model, train_dataloaders=train_loader, val_dataloaders=val_loader)
    print("val_loss", float(trainer.callback_metrics["val_loss"]))
"""


def write_pyramid(path: Path, seed: int) -> None:
    """A tiled TIFF with six pages, each half the size of the one before."""
    level = np.random.default_rng(seed).integers(0, 256, (96, 64, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    with tifffile.TiffWriter(path) as writer:
        for _ in range(6):
            writer.write(level, tile=(256, 256), photometric="rgb", compression="zlib", compressionargs={"level": 1})
            level = level[::2, ::2]


@pytest.mark.slow
def test_published_tutorial_runs_unchanged(tmp_path: Path) -> None:
    rows = ["image,class"]
    for index in range(6):
        write_pyramid(tmp_path / f"slide_{index}.tif", index)
        rows.append(f"{tmp_path / f'slide_{index}.tif'},{('normal', 'tumor')[index % 2]}")
    (tmp_path / "reference.csv").write_text("\n".join(rows) + "\n")
    weights = tmp_path / "home" / "hub" / "checkpoints"
    weights.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(models.resnet18(weights=None).state_dict(), weights / "resnet18-f37072fd.pth")
    script = tmp_path / "tutorial.py"
    script.write_text(TUTORIAL.replace("SIZE", "128").replace("TILE", "80"))
    environment = {"TORCH_HOME": str(tmp_path / "home"), "PATH": "", "PYTHONPATH": str(ROOT)}
    done = run_python(script, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "val_loss" in done.stdout
    assert "1000 classes; a new one of 2 classes" in done.stderr
