"""Classification of photos by any network of torchvision or timm, fine-tuned in Python.

python recipes/mushrooms.py photos                                        a folder of photos for each class
python recipes/mushrooms.py mushrooms --labels mushrooms/raw_img_labels.csv --network torchvision/resnet50
slidestream fit --config mushrooms --data.image_dir mushrooms --folds 5   the same on the command line, with folds
"""

from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from streammodels import FineTuning, StreamingNetwork
from wsidata import ImageFolderDataModule
from wsidata.evaluation import PredictionWriter, write_report
from wsidata.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ToneJitter


def main(
    photos: Path, labels: Path | None = None, out: Path = Path("runs/mushrooms"), image_size: int = 224,
    network: str = "torchvision/resnet18", weights: str | None = "DEFAULT", epochs: int = 60,
    learning_rate: float = 3e-4, batch_size: int = 32, fine_tuning: FineTuning = FineTuning(),  # noqa: B008
    num_workers: int = 2,
) -> None:  # fmt: skip
    """Train a network, keep the epoch with the lowest validation loss, and write a report.

    Args:
        photos: Folder of the photos.
        labels: Table with the columns image and label; null for a folder per class.
        out: Folder for the results.
        image_size: Side of the square that the network sees, pixels.
        network: torchvision/NAME, or timm/NAME.
        weights: DEFAULT for ImageNet's, which are downloaded; a file; or null for random ones.
        epochs: Number of epochs; training stops earlier if the validation loss does not fall for 20.
        learning_rate: Of AdamW.
        batch_size: Photos a step.
        fine_tuning: When the trunk is trained, its learning rate, MixUp, CutMix and RandAugment.
        num_workers: Processes that read photos.
    """
    seed_everything(42, workers=True)
    data = ImageFolderDataModule(
        labels or photos, photos if labels else None, label_column="label" if labels else "class",
        group_duplicates=True, image_size=image_size, val_fraction=0.25, small_classes="train", predict_on="val",
        batch_size=batch_size, num_workers=num_workers,
        train_transform=Compose([RandomResizedCrop(image_size), RandomHorizontalFlip(), ToneJitter(0.1, 0.2, 0.2)]),
    )  # fmt: skip
    model = StreamingNetwork(
        network, num_classes=data.num_classes, weights=weights, streaming=False, frozen_batch_norm=False,
        train_streaming_layers=True, fine_tuning=fine_tuning,
        loss_fn=torch.nn.CrossEntropyLoss(data.class_weights), optimizer=partial(torch.optim.AdamW, lr=learning_rate),
    )  # fmt: skip
    best, stop = ModelCheckpoint(out, "best", monitor="val_loss"), EarlyStopping("val_loss", patience=20)
    writer = PredictionWriter(out / "predictions.csv")
    trainer = Trainer(max_epochs=epochs, logger=CSVLogger(out, "", ""), callbacks=[best, stop, writer])
    trainer.fit(model, data)
    trainer.predict(model, data, ckpt_path="best", return_predictions=False)
    print(f"Report: {write_report(out)}")


if __name__ == "__main__":
    auto_cli(main)
