"""The same training of ResNet-18 on slides of Camelyon16 as in lightstream_theirs.py, with slidestream."""

from functools import partial
from pathlib import Path

import torch
from lightning import Trainer

from streammodels import StreamingResNet
from wsidata import Camelyon16DataModule


def train(folder: Path, trainer: Trainer, level: int, side: int, memory: str) -> None:
    """Train all layers; batch normalization uses its stored statistics, its scale and shift are trained, too."""
    slides = Camelyon16DataModule(folder, mpp=None, level=level, image_size=side, num_workers=0)
    optimizer = partial(torch.optim.AdamW, lr=1e-4, weight_decay=1e-5)
    model = StreamingResNet("resnet18", memory=memory, train_streaming_layers=True, optimizer=optimizer)
    trainer.fit(model, slides)
