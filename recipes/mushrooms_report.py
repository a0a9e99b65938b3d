"""What a classifier of many small classes is judged by, kept apart so that the recipe stays readable."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from reporting import NAMES, classes_of, draw_confusion
from sklearn.metrics import classification_report, recall_score

from wsidata.photos.read import read_photo

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
    "mistakes.png": "the surest mistakes",
    "batch.png": "photos as the network sees them",
    "learning_rate.png": "loss at the learning rates that were tried",
}
_SHOWN = 12
_COLUMNS = 4
_SHOWN_PX = 240


def scores(predictions: pd.DataFrame) -> pd.DataFrame:
    """Columns split, photos, accuracy and balanced_accuracy (the mean recall of the classes there are) by split."""
    rows = []
    for split in (name for name in NAMES if (predictions["split"] == name).any()):
        part = predictions[predictions["split"] == split]
        accuracy = float((part["label"] == part["predicted"]).mean())
        present = sorted(set(part["label"]))
        balanced = float(recall_score(part["label"], part["predicted"], labels=present, average="macro"))
        rows.append({"split": split, "photos": len(part), "accuracy": accuracy, "balanced_accuracy": balanced})
    return pd.DataFrame(rows)


def per_class(predictions: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall, F1 and number of photos of every class; 0 where none was predicted, or none was there."""
    classes = classes_of(predictions)
    table = classification_report(
        predictions["label"], predictions["predicted"], labels=classes, output_dict=True, zero_division=0
    )
    rows = pd.DataFrame(table).T.loc[classes]
    rows = rows.rename(columns={"f1-score": "f1", "support": "photos"}).astype({"photos": int})
    return rows.rename_axis("class").reset_index()


def mistakes(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows that are wrong, those first that the network was surest of."""
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    sure = wrong.filter(like="probability_").max(axis=1).sort_values(ascending=False, kind="stable")
    return wrong.loc[sure.index]


def draw_mistakes(predictions: pd.DataFrame, paths: Mapping[str, str], path: Path) -> None:
    """The wrong answers that the network was surest of, worst first.

    Args:
        predictions: See `reporting.prediction_table`.
        paths: File of every image.
        path: The picture to write.
    """
    wrong = mistakes(predictions)
    worst = wrong.head(_SHOWN)
    rows = max(1, -(-len(worst) // _COLUMNS))
    figure = Figure(figsize=(2.5 * _COLUMNS, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, row in zip(panels, worst.to_dict("records"), strict=False):
        axes.imshow(read_photo(paths[row["image"]], short_side_px=_SHOWN_PX))
        took, is_in_fact = row[f"probability_{row['predicted']}"], row[f"probability_{row['label']}"]
        axes.set_title(
            f"{row['image']}\nis {row['label']} ({is_in_fact:.2f})\ntaken for {row['predicted']} ({took:.2f})",
            fontsize=8,
        )
    figure.suptitle(f"{len(wrong)} of {len(predictions)} wrong; the surest first" if len(wrong) else "No mistakes")
    figure.savefig(path, dpi=130)


def write_report(predictions: pd.DataFrame, paths: Mapping[str, str], out: Path) -> pd.DataFrame:
    """Write predictions, scores, classes and pictures; returns the scores.

    The pictures and the classes are those of the test photos where there are any, else of the validation photos.
    """
    held_out = next(part for name in ("test", "val") if len(part := predictions[predictions["split"] == name]))
    predictions.to_csv(out / "predictions.csv", index=False)
    per_class(held_out).to_csv(out / "per_class.csv", index=False)
    draw_confusion(held_out, out / "confusion.png")
    draw_mistakes(held_out, paths, out / "mistakes.png")
    table = scores(predictions)
    table.to_csv(out / "scores.csv", index=False)
    return table


def closing_table(table: pd.DataFrame, out: Path) -> str:
    """The scores, and which file holds what."""
    lines = ["", f"  {'':<12}{'photos':>8}{'accuracy':>10}{'balanced':>10}"]
    for row in table.to_dict("records"):
        numbers = f"{row['photos']:>8}{row['accuracy']:>10.3f}{row['balanced_accuracy']:>10.3f}"
        lines.append(f"  {NAMES[row['split']]:<12}{numbers}")
    lines += ["", f"  in {out}/"]
    lines += [f"    {name:<19}{what}" for name, what in FILES.items() if (out / name).exists()]
    return "\n".join(lines)


def spread(folds: pd.DataFrame) -> str:
    """Mean and standard deviation (n - 1) over the folds, of every split."""
    lines = ["", f"  over {folds['fold'].nunique()} folds: mean and standard deviation, lowest and highest"]
    for split, part in folds.groupby("split", sort=False):
        for score in ("accuracy", "balanced_accuracy"):
            values = part[score]
            numbers = f"{values.mean():.3f} ± {values.std():.3f}   {values.min():.3f} .. {values.max():.3f}"
            lines.append(f"  {NAMES[str(split)]:<12}{score.replace('_', ' '):<19}{numbers}")
    return "\n".join(lines)
