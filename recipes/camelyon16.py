"""Slide classifier for Camelyon16, trained and evaluated end to end; without data, a synthetic demo.

python recipes/camelyon16.py                                     the demo: synthetic slides, random weights, minutes
python recipes/camelyon16.py --data camelyon16 --mpp 8 --unfreeze-at 10 --precision bf16-mixed
python recipes/camelyon16.py --hub owner/camelyon16-8um          the same, from published slides
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
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from streammodels import StreamingResNet, WeightsUnavailableError
from wsidata import HubDataModule, SplitDataModule, WSIDataModule
from wsidata.evaluation import (
    plot_confusion,
    plot_roc,
    prediction_table,
    save_figure,
    save_table,
    scores_by_split,
    summarize,
)
from wsidata.synthetic.slides import write_camelyon16

REAL = {
    "mpp": 8.0, "image_size": 4096, "tile_size": 2880, "weights": "DEFAULT", "epochs": 20, "learning_rate": 1e-4,
    "batch_size": 1,
}  # fmt: skip
DEMO = {
    "mpp": 2.0, "image_size": 256, "tile_size": 128, "weights": "none", "epochs": 5, "learning_rate": 5e-4,
    "batch_size": 4, "train_streaming_layers": True,
}  # fmt: skip
PUBLISHED = {"mpp": None, "image_size": None, "batch_size": None}

CORRECTIONS = {"normal_086": "holds a tumor, now tumor_111", "test_049": "a duplicate"}
# test_114 stays: not all of its tumors are outlined, but its slide label is right.

CLASSES = {
    "tumor": dict.fromkeys(("negative", "normal"), "normal") | dict.fromkeys(("micro", "macro", "tumor"), "tumor"),
    "extent": {"negative": "negative", "micro": "micro", "macro": "macro"},
}
"""What `--classes` makes of the labels in the table; another label is an error."""

FILES = {
    "best.ckpt": "weights with the lowest validation loss",
    "metrics.csv": "every logged metric, by epoch",
    "scores.csv": "the table above",
    "split.csv": "which slide was used for what",
    "predictions.csv": "probability of each class, slide by slide",
    "roc.png": "ROC curves",
    "confusion.png": "confusion matrices",
    "batch.png": "slides as the network sees them",
}

# Lightning's warnings about what is intended here (frozen batch normalization, one folder for all results), or its own.
EXPECTED_WARNINGS = (
    "Found .* in eval mode", "Experiment logs directory", "Checkpoint directory", ".*treespec, LeafSpec",
)  # fmt: skip


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with other defaults for real slides than for the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help="folder with images/ and evaluation/reference.csv (columns image and class or type)")
    add("--classes", choices=tuple(CLASSES), default="tumor",
        help="tumor: any tumor against none. extent: negative, micro and macro (%(default)s)")  # fmt: skip
    add("--hub", metavar="REPO", help="train on published slides: owner/name on the Hub, or an exported folder")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--mpp", type=float, help=f"resolution to read at, um per pixel ({REAL['mpp']})")
    size.add_argument("--level", type=int, help="pyramid level to read, instead of --mpp")
    add("--image-size", type=int, help=f"crop or pad to this side, pixels; 0 for whole slides ({REAL['image_size']})")
    add("--tile-size", type=int, help=f"memory budget: side of a square of pixels in flight ({REAL['tile_size']})")
    add("--memory", help="memory budget of a training step, such as 8GB, instead of --tile-size")
    add("--lazy", action="store_true", help="never hold a whole slide: decode its rows as the network reads them")
    add("--crop", choices=("tissue", "pack"), help="read the tissue's bounding box, or its pieces packed together")
    add("--model", default="resnet18", help="resnet9 to resnet152, wide and ResNeXt variants (%(default)s)")
    add("--pooling", default="avg", help="avg, max, gem, lse or attention (%(default)s)")
    add("--weights", help="DEFAULT for ImageNet's, a torchvision name, a file, or none for random (DEFAULT)")
    add("--train-streaming-layers", action="store_true", help="train the trunk too, not only the classifier")
    add("--unfreeze-at", type=int, metavar="EPOCH", help="train the classifier alone until this epoch, then the trunk")
    add("--epochs", type=int, help=f"({REAL['epochs']})")
    add("--learning-rate", type=float, help=f"({REAL['learning_rate']})")
    add("--batch-size", type=int, help=f"slides a step and process ({REAL['batch_size']}; with --hub as published)")
    add("--num-workers", type=int, default=2, help="processes that read slides (%(default)s)")
    add("--precision", default="32-true", help="as in Lightning, such as bf16-mixed (%(default)s)")
    add("--devices", default="auto", help="as in Lightning (%(default)s)")
    add("--seed", type=int, default=42, help="of the split and of everything random (%(default)s)")
    add("--out", type=Path, help="folder for the results (runs/camelyon16/<time>)")
    given = parser.parse_known_args(arguments)[0]
    if given.hub is not None:
        fixed = ("data", "mpp", "level", "crop", "image_size")
        useless = [f"--{name.replace('_', '-')}" for name in fixed if getattr(given, name) is not None]
        useless += ["--classes"] if given.classes != parser.get_default("classes") else []
        if useless:
            parser.error(f"--hub trains on what was published, which {', '.join(useless)} would not change")
        parser.set_defaults(**(REAL | PUBLISHED))
    else:
        parser.set_defaults(**(DEMO if given.data is None else REAL))
    options = parser.parse_args(arguments)
    if options.unfreeze_at is not None and not 0 < options.unfreeze_at < options.epochs:
        parser.error(f"--unfreeze-at {options.unfreeze_at} must lie between 0 and --epochs {options.epochs}")
    return options


def read_reference(folder: Path) -> pd.DataFrame:
    """The published Camelyon16 table with the organizers' corrections: columns image and class, as text.

    Labels are in lower case; see `CLASSES`.
    """
    places = [folder / "evaluation" / "reference.csv", folder / "reference.csv"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SystemExit(f"error: no table; looked for {places[0]} and {places[1]}. See docs/tutorial-camelyon16.md.")
    table = pd.read_csv(path, dtype=str, skipinitialspace=True)
    label = next((column for column in ("class", "type") if column in table), None)
    if label is None or "image" not in table:
        raise SystemExit(
            f"error: {path} needs the columns image and class (or type); it has {', '.join(map(str, table.columns))}."
        )
    names = table["image"].str.strip().str.removesuffix(".tif")
    for name in sorted(set(names) & set(CORRECTIONS)):
        print(f"{name} is left out: {CORRECTIONS[name]} (correction by the organizers).")
    return pd.DataFrame({"image": names, "class": table[label].str.lower()})[~names.isin(list(CORRECTIONS))]


def read_slides(options: argparse.Namespace, out: Path) -> SplitDataModule:
    """Data module of published slides, of a folder, or of the demo's synthetic slides."""
    loading = {"batch_size": options.batch_size, "num_workers": options.num_workers}
    if options.hub is not None:
        return HubDataModule(options.hub, lazy=options.lazy or None, **loading)
    data = options.data or out / "slides"
    if options.data is None and not data.exists():
        print(f"Demo: writing synthetic slides to {data}.")
        write_camelyon16(data, normal=20, tumor=20, test=10, size_px=(1024, 1024), seed=options.seed)
    table = read_reference(data)
    return WSIDataModule(
        table, data / "images", class_names=CLASSES[options.classes], seed=options.seed,
        test_prefix="test_" if table["image"].str.startswith("test_").any() else None,
        level=options.level, mpp=options.mpp if options.level is None else None, image_size=options.image_size or None,
        lazy=options.lazy, crop=options.crop, **loading,
    )  # fmt: skip


def make_model(options: argparse.Namespace, num_classes: int) -> StreamingResNet:
    """The network; prints whether its weights are random, and exits if they are unavailable."""
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


def fit(
    trainer: Trainer, model: StreamingResNet, slides: SplitDataModule, unfreeze_at: int | None, epochs: int
) -> None:
    """Train, with `unfreeze_at` in two fits: processes that share gradients need the second to start anew."""
    if unfreeze_at is not None:
        trainer.fit_loop.max_epochs = unfreeze_at
        trainer.fit(model, slides)
        trainer.fit_loop.max_epochs = epochs
        model.unfreeze_streaming_layers()
        print(f"Epoch {unfreeze_at}: the trunk is trained from here on.")
    trainer.fit(model, slides)


def predict(trainer: Trainer, model: StreamingResNet, slides: SplitDataModule) -> pd.DataFrame:
    """Prediction table of the validation and test slides."""
    parts = []
    for split, loader in (("val", slides.val_dataloader), ("test", slides.test_dataloader)):
        rows = slides.tables[split]
        if len(rows):
            batches: Any = trainer.predict(model, loader())
            parts.append(prediction_table(rows, torch.cat(batches), slides.class_names))
    return pd.concat(parts, ignore_index=True)


def main(arguments: list[str] | None = None) -> None:
    """Read, train, evaluate."""
    options = parse_arguments(arguments)
    for message in EXPECTED_WARNINGS:
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
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the devices were listed before
    alone = Trainer(devices=1, precision=options.precision, logger=False, enable_checkpointing=False)
    predictions = predict(alone, model, slides)
    save_table(predictions, out / "predictions.csv")
    scores = scores_by_split(predictions, ("accuracy", "auroc"), unit="slides")
    save_table(scores, out / "scores.csv")
    save_figure(plot_roc(predictions, "slides"), out / "roc.png")
    save_figure(plot_confusion(predictions), out / "confusion.png")
    print(summarize(scores, out, FILES))


if __name__ == "__main__":
    main()
