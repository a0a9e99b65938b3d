"""A LightningModule of your own on slides, with a streamed network inside.

python recipes/own_module.py labels.csv --image_dir slides
"""

from pathlib import Path

import torch
from jsonargparse import auto_cli
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from streammodels import stream
from wsidata import WSIDataModule


class SlideClassifier(LightningModule):
    """Four convolutions, streamed, and a linear layer; replace them by your own."""

    def __init__(self, num_classes: int, memory: str | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers: list[nn.Module] = []
        for channels_in, channels_out in ((3, 16), (16, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1), nn.ReLU()]
        self.trunk = stream(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)), memory=memory)
        self.head = nn.Linear(128, num_classes)
        self.accuracy = MulticlassAccuracy(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images (B, 3, H, W), uint8."""
        logits: Tensor = self.head(self.trunk(images).flatten(1))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch of the data module."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy of a batch."""
        self.accuracy(self(batch[0]), batch[1])
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Probabilities, which PredictionWriter writes."""
        probabilities: Tensor = self(batch).softmax(dim=1)
        return probabilities

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(table: Path, image_dir: Path | None = None, mpp: float = 2.0, epochs: int = 10, num_workers: int = 2) -> None:
    """Train on a table with the columns image and class."""
    slides = WSIDataModule(table, image_dir, mpp=mpp, image_size=1024, num_workers=num_workers)
    Trainer(max_epochs=epochs).fit(SlideClassifier(slides.num_classes), slides)


if __name__ == "__main__":
    auto_cli(main)
