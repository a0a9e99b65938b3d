"""ROC curves, confusion matrices and misclassified images of a prediction table.

Figures are made without pyplot, so that nothing is shown or changed globally; save one with `figure.savefig(path)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, roc_curve

from wsidata.evaluation.predictions import SPLIT_TITLES, by_split, classes_of, mistakes
from wsidata.evaluation.scores import auroc, positives

_LINES: dict[str, dict[str, Any]] = {
    "train": {"color": "#8a949e", "lw": 8},
    "val": {"color": "#7aa6d8", "lw": 5},
    "test": {"color": "#b8434e", "lw": 1.8},
}  # all seen where they coincide
_MANY = 6  # classes from which names and numbers need smaller letters
_SHOWN, _COLUMNS = 12, 4


def plot_roc(predictions: pd.DataFrame, unit: str = "images") -> Figure:
    """ROC curve of the last class against the others, for each split that has images of both.

    Args:
        predictions: See `prediction_table`.
        unit: What the images are called, such as "slides".
    """
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#b0b8c0", lw=1, ls="--")
    for split, part in by_split(predictions):
        positive, probability = positives(part)
        if positive.nunique() < 2:
            axes.plot([], [], " ", label=f"{SPLIT_TITLES[split]}: one class only, no curve")
            continue
        false_positive, true_positive, _ = roc_curve(positive, probability, drop_intermediate=False)
        label = f"{SPLIT_TITLES[split]}: AUROC {auroc(part):.3f}, {len(part)} {unit}"
        axes.plot(false_positive, true_positive, label=label, clip_on=False, **_LINES[split])
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title(f"{unit.capitalize()} with {classes_of(predictions)[-1]}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    return figure


def plot_confusion(predictions: pd.DataFrame) -> Figure:
    """Confusion matrix of each split, side by side: counts, shaded by their share of the true class."""
    classes, splits = classes_of(predictions), by_split(predictions)
    many = len(classes) > _MANY
    small = 8 if many else None
    side = max(3.6, 0.27 * len(classes) + 1.8)
    figure = Figure(figsize=(side * len(splits) + 0.6, side + 0.3), layout="constrained")
    panels = figure.subplots(1, len(splits), squeeze=False)
    for axes, (split, part) in zip(panels[0], splits, strict=True):
        counts = confusion_matrix(part["label"], part["predicted"], labels=classes)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            ink = "white" if share[row, column] > 0.5 else "#22303c"
            if count or not many:
                axes.text(column, row, str(count), ha="center", va="center", fontsize=small or 15, color=ink)
        axes.set_xticks(range(len(classes)), classes, rotation=90 if many else 0, fontsize=small)
        upright = {} if many else {"rotation": 90, "va": "center"}
        axes.set_yticks(range(len(classes)), classes, fontsize=small, **upright)
        axes.set(xlabel="predicted", ylabel="true", title=SPLIT_TITLES[split])
    return figure


def plot_mistakes(predictions: pd.DataFrame, read: Callable[[str], NDArray[np.uint8]]) -> Figure:
    """Up to twelve misclassified images, most confident first, with the probabilities of both classes.

    Args:
        predictions: See `prediction_table`.
        read: Returns the (H, W, 3) pixels of an image, given its name in the column `image`.
    """
    wrong = mistakes(predictions)
    worst = wrong.head(_SHOWN)
    rows = max(1, -(-len(worst) // _COLUMNS))
    figure = Figure(figsize=(2.5 * _COLUMNS, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, row in zip(panels, worst.to_dict("records"), strict=False):
        label, predicted = (f"{name} ({row[f'probability_{name}']:.2f})" for name in (row["label"], row["predicted"]))
        axes.imshow(read(row["image"]))
        axes.set_title(f"{row['image']}\nlabel {label}\npredicted {predicted}", fontsize=8)
    title = f"{len(wrong)} of {len(predictions)} misclassified, most confident first" if len(wrong) else "No mistakes"
    figure.suptitle(title)
    return figure
