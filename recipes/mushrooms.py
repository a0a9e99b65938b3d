"""Photo classifier for small datasets, trained and evaluated with duplicates kept together.

python recipes/mushrooms.py                                     the demo: synthetic photos, random weights, minutes
python recipes/mushrooms.py --data photos                       a folder of photos for each class
python recipes/mushrooms.py --data mushrooms --labels mushrooms/raw_img_labels.csv --k-fold 5
"""

import argparse
import logging
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner.tuning import Tuner

from streammodels import FineTuning, StreamingNetwork, StreamingResNet, WeightsUnavailableError
from wsidata import HubDataModule, ImageFolderDataModule, SplitDataModule, channel_stats, read_photo
from wsidata.evaluation import (
    plot_confusion,
    plot_mistakes,
    prediction_table,
    save_figure,
    save_table,
    scores_by_class,
    scores_by_split,
    summarize,
    summarize_folds,
)
from wsidata.splits import describe_duplicates, find_duplicates, group_duplicates
from wsidata.splits.near_duplicates import photo_thumbnail
from wsidata.synthetic.photos import write_photos
from wsidata.tables.parts import part_name
from wsidata.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ToneJitter, Transform

REAL = {"image_size": 224, "weights": "DEFAULT", "model": "resnet18", "epochs": 60, "learning_rate": 3e-4}
DEMO = {"image_size": 64, "weights": "none", "model": "resnet9", "epochs": 25, "learning_rate": 1e-3}
VAL_FRACTION = 0.25

FILES = {
    "best.ckpt": "weights with the lowest validation loss",
    "metrics.csv": "every logged metric, by epoch",
    "scores.csv": "the table above",
    "folds.csv": "scores of every fold",
    "per_class.csv": "precision, recall and F1 of every class",
    "predictions.csv": "probability of each class, photo by photo",
    "split.csv": "which photo was used for what",
    "duplicates.csv": "photos that are there twice",
    "stats.json": "channel statistics of the training photos",
    "confusion.png": "confusion matrix",
    "mistakes.png": "misclassified photos, most confident first",
    "batch.png": "photos as the network sees them",
    "learning_rate.png": "loss at the learning rates that were tried",
}

# Lightning's warnings about what is intended here (frozen batch normalization, one folder for all results), or its own.
EXPECTED_WARNINGS = (
    "Found .* in eval mode", "Experiment logs directory", "Checkpoint directory", ".*treespec, LeafSpec",
)  # fmt: skip


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with other defaults for real photos than for the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("data").add_argument
    add("--data", type=Path, help="folder of photos, in a folder per class or with --labels (default: synthetic ones)")
    add("--labels", type=Path, help="table of the photos, with the columns image and label")
    add("--names", type=Path, help="table of the labels' names, with the columns label and name")
    add("--hub", metavar="REPO_OR_FOLDER", help="instead of --data: a published dataset, with the split it has")
    add("--image-size", type=int, help=f"side of the square the network sees, pixels ({REAL['image_size']})")
    add("--stream", action="store_true", help="whole photos at full resolution instead, streamed one after the other")
    add("--tile-size", type=int, default=1024, help="with --stream: side of a square of pixels in flight (%(default)s)")
    add("--val-fraction", type=float, help=f"share to validate on, stratified ({VAL_FRACTION})")
    add("--test-fraction", type=float, default=0.0, help="share to test on, not used to choose an epoch (%(default)s)")
    add("--k-fold", type=int, metavar="K", help="train K times, each on all but one of K parts: mean and spread")
    add("--num-workers", type=int, default=2, help="processes that read photos (%(default)s)")
    add = parser.add_argument_group("training").add_argument
    add("--model", help=f"resnet9 to resnet152, torchvision/NAME or timm/NAME ({REAL['model']})")
    add("--weights", help="DEFAULT for ImageNet's, a torchvision name, a file, package:efficientnet_lite0, or none for "
        "random (DEFAULT)")  # fmt: skip
    add("--unfreeze-at", type=int, metavar="EPOCH", help="train the last layer alone until this epoch, then all")
    add("--trunk-lr-factor", type=float, default=1.0, help="learning rate of all other layers, relative (%(default)s)")
    add("--mixup", type=float, default=0.0, metavar="ALPHA", help="mix photos of a batch, such as 0.2 (%(default)s)")
    add("--cutmix", type=float, default=0.0, metavar="ALPHA", help="paste parts of photos, such as 1 (%(default)s)")
    add("--rand-augment", type=int, default=0, metavar="N", help="operations of RandAugment a photo (%(default)s)")
    add("--epochs", type=int, help=f"({REAL['epochs']})")
    add("--batch-size", type=int, default=32, help="photos a step (%(default)s)")
    add("--learning-rate", type=float, help=f"({REAL['learning_rate']})")
    add("--find-learning-rate", action="store_true", help="run Lightning's learning rate finder first")
    add("--one-cycle", action="store_true", help="one cycle: the rate rises to --learning-rate and falls")
    add("--class-weights", choices=("loss", "sampling", "off"), default="loss",
        help="make small classes count as much as large ones: in the loss, or by drawing them more often")  # fmt: skip
    add("--patience", type=int, default=20, help="stop after as many epochs without gain in validation loss; 0: never")
    add("--precision", default="32-true", help="as in Lightning, such as bf16-mixed (%(default)s)")
    add("--accelerator", default="auto", help="as in Lightning (%(default)s)")
    add = parser.add_argument
    add("--seed", type=int, default=42, help="of the split and of everything random (%(default)s)")
    add("--out", type=Path, help="folder for the results (runs/mushrooms/<time>)")
    given = parser.parse_known_args(arguments)[0]
    parser.set_defaults(**(DEMO if given.data is None and given.hub is None else REAL))
    if given.model == "resnet9":
        parser.set_defaults(weights="none")  # there are no pretrained ones
    options = parser.parse_args(arguments)
    check_options(parser, options)
    return options


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit on options that do not go together, with the remedy."""
    hub, labels = options.hub, options.labels
    problems = {
        "--hub brings photos, labels and names: leave out --data, --labels and --names":
            hub and (options.data or labels or options.names),
        "--hub has a split of its own, which --k-fold would replace: use one of them": hub and options.k_fold,
        "--hub has a split of its own, of which --test-fraction would be no part: leave it out":
            hub and options.test_fraction,
        "--labels needs --data, the folder of the photos": labels and not options.data,
        "--names needs --labels: class folders are named already": options.names and not labels,
        f"--k-fold {options.k_fold} must be at least 2": options.k_fold is not None and options.k_fold < 2,
        "--model resnet9 has no pretrained weights: pass --weights none, or a file":
            options.model == "resnet9" and options.weights == "DEFAULT",
    }  # fmt: skip
    for message, applies in problems.items():
        if applies:
            parser.error(message)


def augmentation(image_size: int | None) -> Transform:
    """Random crops (not of whole photos, None), mirroring and changes of tone, as a small dataset needs."""
    crop = [] if image_size is None else [RandomResizedCrop(image_size, area=(0.35, 1.0))]
    return Compose([*crop, RandomHorizontalFlip(), ToneJitter(0.1, 0.2, 0.2)])


def make_photos(
    options: argparse.Namespace, fold: int | None = None, groups: pd.DataFrame | None = None
) -> SplitDataModule:
    """The data module.

    Args:
        options: The command line.
        fold: Number of the part to validate on, with `--k-fold`.
        groups: Table with a group for each photo, instead of `--labels`; see `check_duplicates`.
    """
    size = None if options.stream else options.image_size
    shared = {
        "image_size": size,
        "train_transform": augmentation(size),
        "batch_size": 1 if options.stream else options.batch_size,
        "sampling": "balanced" if options.class_weights == "sampling" else "shuffle",
        "num_workers": options.num_workers,
        "predict_on": "all",
        "resize_px": None if options.stream else "auto",
    }
    if options.hub:
        return HubDataModule(options.hub, val_fraction=options.val_fraction, **shared)
    table = groups if groups is not None else options.labels or options.data
    labels = {"label_column": "label", "label_names": options.names} if options.labels else {}
    if groups is not None:
        labels = {"label_column": "label", "group_column": "group"}
    return ImageFolderDataModule(
        table, options.data, val_fraction=options.val_fraction or VAL_FRACTION, test_fraction=options.test_fraction,
        k_fold=None if fold is None else (fold, options.k_fold), small_classes="train", seed=options.seed,
        **labels, **shared,
    )  # fmt: skip


def check_duplicates(options: argparse.Namespace, out: Path) -> pd.DataFrame | None:
    """Report duplicates before the split is drawn.

    Returns:
        Columns image, label and group, with duplicates in one group. None without duplicates, or if the split is given.
    """
    frame = make_photos(options).labels.frame
    duplicates = find_duplicates(frame, photo_thumbnail)
    save_table(duplicates, out / "duplicates.csv")
    print(describe_duplicates(duplicates, len(frame), "photos"))
    if duplicates.empty or options.hub:
        return None
    if options.labels is None and any(part_name(path.name) for path in options.data.iterdir() if path.is_dir()):
        return None
    print("  They are kept together: no split divides them.")
    groups = group_duplicates(frame["image_id"].tolist(), duplicates)
    return pd.DataFrame({"image": frame["image_id"], "label": frame["label_name"], "group": groups})


def make_model(options: argparse.Namespace, photos: SplitDataModule) -> Any:
    """The network; random weights use the photos' own mean and std, pretrained ones those of their training."""
    random = options.weights.lower() == "none"
    weight = photos.class_weights if options.class_weights == "loss" else None
    kind: Any = StreamingNetwork if "/" in options.model else StreamingResNet
    try:
        model: Any = kind(
            options.model, options.tile_size, num_classes=photos.num_classes,
            weights=None if random else options.weights, train_streaming_layers=True,
            mean=photos.stats.mean if random else None, std=photos.stats.std if random else None,
            loss_fn=torch.nn.CrossEntropyLoss(weight=weight), streaming=options.stream,
            frozen_batch_norm=options.stream or options.unfreeze_at is not None,
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=model.learning_rate, weight_decay=0.01),
            lr_scheduler=(lambda optimizer: one_cycle(optimizer, model)) if options.one_cycle else None,
            fine_tuning=FineTuning(
                options.unfreeze_at, options.trunk_lr_factor, options.mixup, options.cutmix, options.rand_augment
            ),
        )  # fmt: skip
    except WeightsUnavailableError as error:
        raise SystemExit(f"error: {error} On the command line: --weights PATH or --weights none.") from error
    model.learning_rate = options.learning_rate  # where the learning rate finder looks for it
    return model


def one_cycle(optimizer: torch.optim.Optimizer, model: LightningModule) -> dict[str, Any]:
    """One cycle over the whole training, up to the learning rate of each group."""
    rates, steps = [group["lr"] for group in optimizer.param_groups], int(model.trainer.estimated_stepping_batches)
    return {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps), "interval": "step"}


def make_trainer(options: argparse.Namespace, out: Path) -> Trainer:
    """A trainer that keeps the best epoch and stops early."""
    best = ModelCheckpoint(out, "best", monitor="val_loss", enable_version_counter=False)
    stop: list[Callback] = [EarlyStopping("val_loss", patience=options.patience)] if options.patience else []
    return Trainer(
        max_epochs=options.epochs, devices=1, accelerator=options.accelerator, precision=options.precision,
        default_root_dir=out, logger=CSVLogger(out, name="", version=""), callbacks=[best, *stop],
        accumulate_grad_batches=options.batch_size if options.stream else 1,
        num_sanity_val_steps=0, log_every_n_steps=1, enable_model_summary=False,
    )  # fmt: skip


def find_learning_rate(model: Any, photos: SplitDataModule, options: argparse.Namespace, out: Path) -> None:
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
    save_figure(figure, out / "learning_rate.png", dpi=130)
    print(f"Learning rate: {model.learning_rate:.2g}")


def train(options: argparse.Namespace, photos: SplitDataModule, out: Path) -> pd.DataFrame:
    """Train once; returns the prediction table of all photos with the best epoch's weights."""
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
    batches: Any = trainer.predict(model, photos.predict_dataloader())
    print(f"Best epoch: {content['epoch'] + 1} of {trainer.current_epoch}.")
    return prediction_table(photos.tables["predict"], torch.cat(batches), photos.class_names)


def write_report(predictions: pd.DataFrame, photos: SplitDataModule, out: Path) -> pd.DataFrame:
    """Write predictions, scores and figures; returns the scores.

    Figures and scores by class are of the test photos where there are any, else of the validation photos.
    """
    paths = dict(photos.labels.frame[["image_id", "path"]].to_numpy())
    held_out = next(part for name in ("test", "val") if len(part := predictions[predictions["split"] == name]))
    save_table(predictions, out / "predictions.csv")
    save_table(scores_by_class(held_out, unit="photos"), out / "per_class.csv")
    save_figure(plot_confusion(held_out), out / "confusion.png")
    mistakes = plot_mistakes(held_out, lambda image: read_photo(paths[image], short_side_px=240))
    save_figure(mistakes, out / "mistakes.png", dpi=130)
    scores = scores_by_split(predictions, ("accuracy", "balanced_accuracy"), unit="photos")
    save_table(scores, out / "scores.csv")
    return scores


def report_stats(photos: SplitDataModule) -> None:
    """Print channel statistics over all pixels, and as means of the photos' own."""
    each = channel_stats(photos.tables["train"]["path"], reduction="per_image", read=read_photo)
    for kind, stats in (("pooled", photos.stats), ("per image", each)):
        mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (stats.mean, stats.std))
        print(f"Channel statistics of the training photos, {kind}: mean {mean}, std {std}")


def cross_validate(options: argparse.Namespace, groups: pd.DataFrame | None, out: Path) -> None:
    """Train on every fold, and report each, all validation photos together, and the spread."""
    parts, tables = [], []
    for fold in range(options.k_fold):
        print(f"Fold {fold + 1} of {options.k_fold}:")
        photos, folder = make_photos(options, fold, groups), out / f"fold_{fold}"
        predictions = train(options, photos, folder)
        tables.append(write_report(predictions, photos, folder).assign(fold=fold))
        parts.append(predictions[predictions["split"] == "val"])
    folds = pd.concat(tables, ignore_index=True)
    save_table(folds, out / "folds.csv")
    # Each photo once, predicted by the network not trained on it. Photos of classes too small are in no fold.
    scores = write_report(pd.concat(parts, ignore_index=True), photos, out)
    print(summarize(scores, out, FILES))
    print(summarize_folds(folds))


def main(arguments: list[str] | None = None) -> None:
    """Read, look for duplicates, train once or on every fold, evaluate."""
    options = parse_arguments(arguments)
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    out = options.out or Path("runs", "mushrooms", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    out.mkdir(parents=True, exist_ok=True)
    if options.data is None and not options.hub:
        demo = out / "photos"
        if not demo.exists():
            print(f"Demo: writing synthetic photos to {demo}.")
            write_photos(demo, classes=6, per_class=24, side_px=160, seed=options.seed)
        options.data, options.labels, options.names = demo / "photos", demo / "labels.csv", demo / "names.csv"
    if options.weights.lower() == "none":
        print("The network starts from RANDOM weights.")
    groups = check_duplicates(options, out)
    if options.k_fold is not None:
        cross_validate(options, groups, out)
        return
    photos = make_photos(options, None, groups)
    scores = write_report(train(options, photos, out), photos, out)
    report_stats(photos)
    print(summarize(scores, out, FILES))


if __name__ == "__main__":
    main()
