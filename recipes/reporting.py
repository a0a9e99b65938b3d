"""What every classifier's recipe reports in the same way: a row per image, and who was taken for whom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

NAMES = {"train": "training", "val": "validation", "test": "test"}

# What Lightning warns of although it is meant or its own: frozen batch normalisation, one folder for all results.
MEANT = ("Found .* in eval mode", "Experiment logs directory", "Checkpoint directory", ".*treespec, LeafSpec")

_MANY = 6
"""Classes from which names and numbers need more room, and smaller letters."""


def prediction_table(rows: pd.DataFrame, batches: Any, class_names: Sequence[str]) -> pd.DataFrame:
    """What the network made of each image.

    Args:
        rows: Rows of a data module's table, in the order of the predictions.
        batches: What `Trainer.predict` returns: (B, K) probabilities.
        class_names: Names of the K classes.

    Returns:
        Columns image, split, label, predicted and `probability_<class>`.
    """
    chances = torch.cat(batches).float().numpy()
    part = pd.DataFrame({"image": rows["image_id"], "split": rows["split"], "label": rows["label_name"]})
    part["predicted"] = [class_names[best] for best in chances.argmax(axis=1)]
    named = pd.DataFrame(chances, columns=[f"probability_{name}" for name in class_names], index=part.index)
    return pd.concat([part, named], axis=1)


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The classes' names, in order, of a table that `prediction_table` made."""
    return [name.removeprefix("probability_") for name in predictions.columns if name.startswith("probability_")]


def draw_confusion(predictions: pd.DataFrame, path: Path) -> None:
    """Confusion matrix of every split, side by side: counts, shaded by the share of the true class."""
    classes = classes_of(predictions)
    splits = list(predictions.groupby("split", sort=False))
    many = len(classes) > _MANY
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
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8 if many else 15, color=ink)
        axes.set_xticks(range(len(classes)), classes, rotation=90 if many else 0, fontsize=8 if many else None)
        upright = {"rotation": 0, "fontsize": 8} if many else {"rotation": 90, "va": "center"}
        axes.set_yticks(range(len(classes)), classes, **upright)
        axes.set(xlabel="predicted", ylabel="true", title=NAMES[str(split)])
    figure.savefig(path, dpi=150)
