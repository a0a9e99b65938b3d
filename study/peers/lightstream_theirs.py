"""A training of ResNet-18 on slides of Camelyon16 with lightstream, after its examples/camelyon.py.

Two changes: images stay uint8 until lightstream normalizes them, as its page on loading data advises, and slides are
cropped to a square, since sides have to be multiples of 32.
"""

from pathlib import Path

import pandas as pd
import pyvips
import torch
from lightning import Trainer
from lightstream.models.resnet import StreamingResNet
from lightstream.modules import ImageNetClassifier
from torch import nn
from torch.utils.data import DataLoader, Dataset


class CamelyonDataset(Dataset[tuple[torch.Tensor, int]]):
    """One level of each training slide, and whether it holds a tumor."""

    def __init__(self, folder: Path, level: int, side: int) -> None:
        self.folder, self.level, self.side = folder, level, side
        table = pd.read_csv(folder / "evaluation" / "reference.csv")
        self.table = table[~table["image"].str.startswith("test_")]
        self.labels = (self.table["type"] == "tumor").astype(int)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path = self.folder / "images" / self.table["image"].iloc[index]
        page = pyvips.Image.new_from_file(str(path), page=self.level)
        page = page.gravity("centre", self.side, self.side, background=[255, 255, 255])
        return torch.from_numpy(page.numpy()).permute(2, 0, 1), int(self.labels.iloc[index])


def train(folder: Path, trainer: Trainer, level: int, side: int, tile_size: int) -> None:
    """Train all convolutions and a linear layer; normalization layers are frozen, as lightstream needs them to be."""
    loader = DataLoader(CamelyonDataset(folder, level, side), batch_size=1, shuffle=True)
    network = StreamingResNet("resnet18", tile_size=tile_size, verbose=False)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 2))
    model = ImageNetClassifier(network, head, nn.CrossEntropyLoss(), accumulate_grad_batches=1)
    trainer.fit(model, loader)
