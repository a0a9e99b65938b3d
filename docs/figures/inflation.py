"""Draws docs/figures/inflation.png, the accuracy measured after a random split of augmented copies.

python docs/figures/inflation.py --data mushrooms --labels mushrooms/raw_img_labels.csv

Ten augmented copies of every photo are written to disk; a quarter of the copies validates. Once the copies are divided
at random, once the photos they were made of. Network, copies, steps and seeds are the same.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import pyvips
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure

from streammodels import StreamingResNet
from wsidata import ImageFolderDataModule
from wsidata.photos.read import read_photo
from wsidata.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ToneJitter

COPIES = 10
SIDE_PX = 48
EPOCHS = 4
SPLITS = {"copies divided at random": None, "photos divided": "photo"}


def write_copies(photos: ImageFolderDataModule, folder: Path) -> pd.DataFrame:
    """Write the copies; columns image, class and photo."""
    augment = Compose([RandomResizedCrop(SIDE_PX, area=(0.5, 1.0)), RandomHorizontalFlip(), ToneJitter(0.1, 0.2, 0.2)])
    rows = []
    for number, photo in enumerate(photos.labels.frame.itertuples()):
        picture = pyvips.Image.new_from_array(read_photo(photo.path, short_side_px=2 * SIDE_PX), interpretation="srgb")
        for copy in range(COPIES):
            pixels = augment(picture, rng=np.random.default_rng([number, copy])).numpy()
            name = f"{number:04d}_{copy}.png"
            cv2.imwrite(str(folder / name), np.ascontiguousarray(pixels[..., ::-1]))
            rows.append((name, photo.label_name, str(number)))
    return pd.DataFrame(rows, columns=["image", "class", "photo"])


def train(table: pd.DataFrame, folder: Path, group_column: str | None) -> tuple[pd.DataFrame, int]:
    """Metrics of every epoch, and the number of photos with copies in both splits."""
    seed_everything(42, workers=True)
    copies = ImageFolderDataModule(
        table, folder, group_column=group_column, val_fraction=0.25, resize_px=None, image_size=SIDE_PX,
        train_transform=Compose([]), num_workers=0, leaks="off",
    )  # fmt: skip
    copies.setup()
    part = table.assign(split=copies.labels.frame["split"])
    divided = int((part.groupby("photo")["split"].nunique() > 1).sum())
    model = StreamingResNet(
        "resnet9", num_classes=copies.num_classes, weights=None, train_streaming_layers=True, streaming=False,
        frozen_batch_norm=False, optimizer=partial(torch.optim.AdamW, lr=1e-3),
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=EPOCHS, devices=1, logger=CSVLogger(folder, name="", version=str(group_column)),
        enable_checkpointing=False, num_sanity_val_steps=0, enable_model_summary=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(model, copies)
    metrics = pd.read_csv(folder / str(group_column) / "metrics.csv").groupby("epoch").first()
    return metrics, divided


def draw(found: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw accuracy by epoch, training dashed, validation solid."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, metrics), color in zip(found.items(), ("#b8434e", "#2f6da8"), strict=True):
        epochs = metrics.index + 1
        axes.plot(epochs, metrics["train_accuracy"], ls="--", lw=1.2, color=color)
        axes.plot(epochs, metrics["val_accuracy"], lw=2.4, color=color, label=name)
    axes.set_xticks(range(1, EPOCHS + 1))
    axes.plot([], [], ls="--", lw=1.2, color="#708090", label="on training copies")
    axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02), title="Validation accuracy of tenfold augmented photos")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Write copies, train twice, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    photos = ImageFolderDataModule(options.labels, options.data, label_column="label")
    found = {}
    with TemporaryDirectory() as folder:
        table = write_copies(photos, Path(folder))
        for name, group_column in SPLITS.items():
            found[name], divided = train(table, Path(folder), group_column)
            last = found[name].iloc[-1]
            print(
                f"{name}: {divided} of {len(photos.labels.frame)} photos have copies in both parts; after {EPOCHS} "
                f"epochs training {last['train_accuracy']:.3f}, validation {last['val_accuracy']:.3f}",
                flush=True,
            )
    draw(found, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
