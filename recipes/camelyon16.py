"""Trains and evaluates a slide classifier on Camelyon16, or without data on slides it makes itself.

python recipes/camelyon16.py                                     the demo: synthetic slides, random weights, minutes
python recipes/camelyon16.py --data camelyon16 --mpp 8 --unfreeze-at 10 --precision bf16-mixed
python recipes/camelyon16.py --hub owner/camelyon16-8um          the same, from slides that somebody has published
"""

import argparse
import logging
import os
import warnings
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from camelyon16_data import read_reference
from camelyon16_options import parse_arguments
from camelyon16_report import closing_table, draw_roc, scores
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from reporting import MEANT, draw_confusion, prediction_table

from streammodels import StreamingResNet, WeightsUnavailableError
from wsidata import HubDataModule, WSIDataModule
from wsidata.datamodules.base import SplitDataModule
from wsidata.synthetic.slides import write_camelyon16


def make_model(options: argparse.Namespace, num_classes: int) -> StreamingResNet:
    """The network; that its weights are random, or cannot be had, is said."""
    random = options.weights.lower() == "none"
    if random:
        print("The network starts from RANDOM weights" + ("." if options.data else ": the demo downloads nothing."))
    try:
        return StreamingResNet(
            options.model, options.tile_size, num_classes=num_classes, weights=None if random else options.weights,
            train_streaming_layers=options.train_streaming_layers and options.unfreeze_at is None,
            optimizer=partial(torch.optim.AdamW, lr=options.learning_rate),
            memory=options.memory, pooling=options.pooling,
        )  # fmt: skip
    except WeightsUnavailableError as error:
        raise SystemExit(f"error: {error} On the command line: --weights PATH or --weights none.") from error


def read_slides(options: argparse.Namespace, out: Path) -> SplitDataModule:
    """The slides: published ones, those of a folder, or the demo's own."""
    if options.hub is not None:
        return HubDataModule(
            options.hub, lazy=options.lazy or None, batch_size=options.batch_size, num_workers=options.num_workers
        )
    data = options.data or out / "slides"
    if options.data is None and not data.exists():
        print(f"Demo: writing synthetic slides to {data}.")
        write_camelyon16(data, normal=20, tumor=20, test=10, size_px=(1024, 1024), seed=options.seed)
    table = read_reference(data)
    return WSIDataModule(
        table, data / "images", image_column="image", label_column="class", seed=options.seed,
        test_prefix="test_" if table["image"].str.startswith("test_").any() else None,
        level=options.level, mpp=options.mpp if options.level is None else None, image_size=options.image_size or None,
        lazy=options.lazy, crop=options.crop, batch_size=options.batch_size, num_workers=options.num_workers,
    )  # fmt: skip


def fit(
    trainer: Trainer, model: StreamingResNet, slides: SplitDataModule, unfreeze_at: int | None, epochs: int
) -> None:
    """Train, in two stages if asked to: a fit of its own for the second, as processes that share gradients need."""
    if unfreeze_at is not None:
        trainer.fit_loop.max_epochs = unfreeze_at
        trainer.fit(model, slides)
        trainer.fit_loop.max_epochs = epochs
        model.unfreeze_streaming_layers()
        print(f"Epoch {unfreeze_at}: the trunk is trained from here on.")
    trainer.fit(model, slides)


def predict(trainer: Trainer, model: StreamingResNet, slides: SplitDataModule) -> pd.DataFrame:
    """Class probabilities of every validation and test slide, in the order of the table."""
    parts = []
    for split, loader in (("val", slides.val_dataloader), ("test", slides.test_dataloader)):
        rows = slides.tables[split]
        if len(rows):
            batches: Any = trainer.predict(model, loader())
            parts.append(prediction_table(rows, batches, slides.class_names))
    return pd.concat(parts, ignore_index=True)


def main(arguments: list[str] | None = None) -> None:
    """Data, model, training, report."""
    options = parse_arguments(__doc__, arguments)
    for message in MEANT:
        warnings.filterwarnings("ignore", message)
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    started = os.environ.setdefault("CAMELYON16_STARTED", now)  # the processes of --devices 2 share one folder
    out = options.out or Path("runs", "camelyon16", started)
    out.mkdir(parents=True, exist_ok=True)
    slides = read_slides(options, out)
    seed_everything(options.seed, workers=True)
    slides.setup()
    slides.show_batch("train", path=out / "batch.png")
    model = make_model(options, slides.num_classes)
    best = ModelCheckpoint(out, "best", monitor="val_loss", enable_version_counter=False)
    trainer = Trainer(
        max_epochs=options.epochs, devices=options.devices, precision=options.precision, default_root_dir=out,
        logger=CSVLogger(out, name="", version=""), callbacks=best, num_sanity_val_steps=0, log_every_n_steps=1,
        enable_model_summary=False,
    )  # fmt: skip
    fit(trainer, model, slides, options.unfreeze_at, options.epochs)
    if not trainer.is_global_zero:
        return

    model.load_state_dict(torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"])
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the devices have been listed before
    alone = Trainer(devices=1, precision=options.precision, logger=False, enable_checkpointing=False)
    predictions = predict(alone, model, slides)
    predictions.to_csv(out / "predictions.csv", index=False)
    scores(predictions).to_csv(out / "scores.csv", index=False)
    draw_roc(predictions, out / "roc.png")
    draw_confusion(predictions, out / "confusion.png")
    print(closing_table(scores(predictions), out))


if __name__ == "__main__":
    main()
