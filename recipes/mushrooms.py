"""Trains and evaluates a classifier of photos, or without data one of toadstools it paints itself.

python recipes/mushrooms.py                                     the demo: synthetic photos, random weights, minutes
python recipes/mushrooms.py --data photos                       a folder of photos for each class
python recipes/mushrooms.py --data mushrooms --labels mushrooms/raw_img_labels.csv --k-fold 5
"""

import argparse
import logging
import warnings
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner.tuning import Tuner
from mushrooms_data import describe_duplicates, find_duplicates, keep_together, make_photos, write_demo
from mushrooms_options import parse_arguments
from mushrooms_report import closing_table, spread, write_report
from reporting import MEANT, prediction_table

from streammodels import StreamingResNet, WeightsUnavailableError
from wsidata.datamodules.base import SplitDataModule
from wsidata.photos.read import read_photo
from wsidata.stats.compute import channel_stats

PARTS = {"train", "training", "val", "valid", "validation", "test"}


class PhotoClassifier(StreamingResNet):
    """A ResNet whose learning rate can be looked for, and which knows how many steps one cycle has."""

    learning_rate = 1e-4
    one_cycle = False

    def configure_optimizers(self) -> Any:
        """AdamW, with one cycle of the learning rate if asked for."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.01)
        if not self.one_cycle:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def make_model(options: argparse.Namespace, photos: SplitDataModule) -> PhotoClassifier:
    """The network. Random weights see the photos' own statistics, pretrained ones those they were trained with."""
    random = options.weights.lower() == "none"
    weight = photos.class_weights if options.class_weights == "loss" else None
    try:
        model = PhotoClassifier(
            options.model, options.tile_size, num_classes=photos.num_classes,
            weights=None if random else options.weights, train_streaming_layers=True,
            mean=photos.stats.mean if random else None, std=photos.stats.std if random else None,
            loss_fn=torch.nn.CrossEntropyLoss(weight=weight),
            streaming=options.stream, frozen_batch_norm=options.stream,
        )  # fmt: skip
    except WeightsUnavailableError as error:
        raise SystemExit(f"error: {error} On the command line: --weights PATH or --weights none.") from error
    model.learning_rate, model.one_cycle = options.learning_rate, options.one_cycle
    return model


def make_trainer(options: argparse.Namespace, out: Path) -> Trainer:
    """Training that keeps the best epoch and stops when there is no gain."""
    best = ModelCheckpoint(out, "best", monitor="val_loss", enable_version_counter=False)
    stop: list[Callback] = [EarlyStopping("val_loss", patience=options.patience)] if options.patience else []
    return Trainer(
        max_epochs=options.epochs, devices=1, accelerator=options.accelerator, precision=options.precision,
        default_root_dir=out, logger=CSVLogger(out, name="", version=""), callbacks=[best, *stop],
        accumulate_grad_batches=options.batch_size if options.stream else 1,
        num_sanity_val_steps=0, log_every_n_steps=1, enable_model_summary=False,
    )  # fmt: skip


def find_learning_rate(model: PhotoClassifier, photos: SplitDataModule, options: argparse.Namespace, out: Path) -> None:
    """Set the learning rate to the one at which the loss falls fastest."""
    trainer = Trainer(
        devices=1, accelerator=options.accelerator, precision=options.precision, default_root_dir=out, logger=False,
        max_epochs=-1, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    finder = Tuner(trainer).lr_find(model, photos, attr_name="learning_rate", min_lr=1e-5, max_lr=0.1)
    if finder is None or finder.suggestion() is None:
        raise SystemExit("error: no learning rate stood out. Leave out --find-learning-rate, or use more photos.")
    figure = finder.plot(suggest=True)
    assert figure is not None  # it draws axes of its own
    figure.savefig(out / "learning_rate.png", dpi=130)
    print(f"Learning rate: {model.learning_rate:.2g}")


def train(options: argparse.Namespace, photos: SplitDataModule, out: Path) -> pd.DataFrame:
    """Train once, and predict every photo with the best epoch's weights."""
    out.mkdir(parents=True, exist_ok=True)
    seed_everything(options.seed, workers=True)
    photos.setup()
    photos.show_batch("train", path=out / "batch.png")
    photos.stats.save(out / "stats.json")
    model = make_model(options, photos)
    if options.find_learning_rate:
        find_learning_rate(model, photos, options, out)
    trainer = make_trainer(options, out)
    trainer.fit(model, photos)
    content = torch.load(out / "best.ckpt", map_location="cpu", weights_only=True)
    model.load_state_dict(content["state_dict"])
    alone = Trainer(
        devices=1, accelerator=options.accelerator, precision=options.precision, logger=False,
        enable_checkpointing=False,
    )  # fmt: skip
    batches: Any = alone.predict(model, photos.predict_dataloader())
    print(f"Best epoch: {content['epoch'] + 1} of {trainer.current_epoch}.")
    return prediction_table(photos.tables["predict"], batches, photos.class_names)


def check_duplicates(options: argparse.Namespace, out: Path) -> pd.DataFrame | None:
    """Report duplicates before anything is split; the groups that keep them together, where the split is ours."""
    frame = make_photos(options).labels.frame
    duplicates = find_duplicates(frame)
    duplicates.to_csv(out / "duplicates.csv", index=False)
    print(describe_duplicates(duplicates, len(frame)))
    given = options.hub or (options.labels is None and any((options.data / part).is_dir() for part in PARTS))
    if duplicates.empty or given:
        return None
    print("  They are kept together: no split divides them.")
    return keep_together(frame, duplicates)


def report_stats(photos: SplitDataModule) -> None:
    """Channel statistics over all pixels, and as means of the photos' own."""
    each = channel_stats(photos.tables["train"]["path"], reduction="per_image", read=partial(read_photo))
    for kind, stats in (("pooled", photos.stats), ("per image", each)):
        numbers = [" ".join(f"{value:.4f}" for value in values) for values in (stats.mean, stats.std)]
        print(f"Channel statistics of the training photos, {kind}: mean {numbers[0]}, std {numbers[1]}")


def main(arguments: list[str] | None = None) -> None:
    """Data, duplicates, training once or on every fold, report."""
    options = parse_arguments(__doc__, arguments)
    for message in MEANT:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    out = options.out or Path("runs", "mushrooms", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    out.mkdir(parents=True, exist_ok=True)
    if options.data is None and not options.hub:
        options.data, options.labels, options.names = write_demo(out / "photos", options.seed)
    if options.weights.lower() == "none":
        print("The network starts from RANDOM weights.")
    groups = check_duplicates(options, out)

    if options.k_fold is None:
        photos = make_photos(options, None, groups)
        table = write_report(train(options, photos, out), paths_of(photos), out)
        report_stats(photos)
        print(closing_table(table, out))
        return
    parts, tables = [], []
    for fold in range(options.k_fold):
        print(f"Fold {fold + 1} of {options.k_fold}:")
        photos, folder = make_photos(options, fold, groups), out / f"fold_{fold}"
        found = train(options, photos, folder)
        tables.append(write_report(found, paths_of(photos), folder).assign(fold=fold))
        parts.append(found[found["split"] == "val"])
    folds = pd.concat(tables, ignore_index=True)
    folds.to_csv(out / "folds.csv", index=False)
    # Each photo once, as the network said that was not trained on it. Those in no fold are of classes too small.
    table = write_report(pd.concat(parts, ignore_index=True), paths_of(photos), out)
    print(closing_table(table, out))
    print(spread(folds))


def paths_of(photos: SplitDataModule) -> dict[str, str]:
    """File of every photo."""
    return dict(photos.labels.frame[["image_id", "path"]].to_numpy())


if __name__ == "__main__":
    main()
