"""What a slide classifier is judged by, kept apart so that the recipe reads as data, model, training, report."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from reporting import NAMES, classes_of
from sklearn.metrics import roc_auc_score, roc_curve

LINES: dict[str, dict[str, Any]] = {
    "val": {"color": "#7aa6d8", "lw": 5},
    "test": {"color": "#b8434e", "lw": 1.8},
}  # both seen where they coincide
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


def scores(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and AUROC of each split.

    Args:
        predictions: Columns split, label, predicted and `probability_<class>`; the last class is the positive one.

    Returns:
        Columns split, slides, accuracy, auroc; AUROC is NaN where a split holds one class only.
    """
    rows = []
    for split, part in predictions.groupby("split", sort=False):
        positive = _positive(part)
        auroc = roc_auc_score(positive, part.iloc[:, -1]) if positive.nunique() == 2 else float("nan")
        accuracy = float((part["label"] == part["predicted"]).mean())
        rows.append({"split": split, "slides": len(part), "accuracy": accuracy, "auroc": auroc})
    return pd.DataFrame(rows)


def draw_roc(predictions: pd.DataFrame, path: Path) -> None:
    """ROC curve of every split that holds both classes."""
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#b0b8c0", lw=1, ls="--")
    for split, part in predictions.groupby("split", sort=False):
        positive, name = _positive(part), NAMES[str(split)]
        if positive.nunique() < 2:
            axes.plot([], [], " ", label=f"{name}: one class only, no curve")
            continue
        false_positive, true_positive, _ = roc_curve(positive, part.iloc[:, -1], drop_intermediate=False)
        label = f"{name}: AUROC {roc_auc_score(positive, part.iloc[:, -1]):.3f}, {len(part)} slides"
        axes.plot(false_positive, true_positive, label=label, clip_on=False, **LINES[str(split)])
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title(f"Slides with {classes_of(predictions)[-1]}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=150)


def closing_table(table: pd.DataFrame, out: Path) -> str:
    """The scores, and which file holds what."""
    lines = ["", f"  {'':<12}{'slides':>8}{'accuracy':>10}{'AUROC':>8}"]
    for row in table.to_dict("records"):
        auroc = "-" if np.isnan(row["auroc"]) else f"{row['auroc']:.3f}"
        lines.append(f"  {NAMES[row['split']]:<12}{row['slides']:>8}{row['accuracy']:>10.3f}{auroc:>8}")
    lines += ["", f"  in {out}/"]
    lines += [f"    {name:<17}{what}" for name, what in FILES.items() if (out / name).exists()]
    return "\n".join(lines)


def _positive(part: pd.DataFrame) -> "pd.Series[bool]":
    return part["label"] == classes_of(part)[-1]
