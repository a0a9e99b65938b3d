"""Scores of a prediction table, by split and by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from sklearn.metrics import accuracy_score, classification_report, cohen_kappa_score, recall_score, roc_auc_score

from wsidata.evaluation.predictions import by_split, classes_of


def accuracy(predictions: pd.DataFrame) -> float:
    """Share of images whose predicted class is their label."""
    return float(accuracy_score(predictions["label"], predictions["predicted"]))


def balanced_accuracy(predictions: pd.DataFrame) -> float:
    """Mean recall of the classes that have images."""
    label = predictions["label"]
    return float(recall_score(label, predictions["predicted"], labels=sorted(set(label)), average="macro"))


def auroc(predictions: pd.DataFrame) -> float:
    """Area under the ROC curve of the last class against the others; nan if either has no images."""
    positive, probability = positives(predictions)
    return float(roc_auc_score(positive, probability)) if positive.nunique() == 2 else float("nan")


def quadratic_kappa(predictions: pd.DataFrame) -> float:
    """Cohen's kappa with quadratic weights, of ordered classes; nan if labels and predictions are all one class."""
    label, predicted = predictions["label"], predictions["predicted"]
    if len({*label, *predicted}) < 2:
        return float("nan")
    return float(cohen_kappa_score(label, predicted, labels=classes_of(predictions), weights="quadratic"))


METRICS: dict[str, Callable[[pd.DataFrame], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "auroc": auroc,
    "quadratic_kappa": quadratic_kappa,
}


def scores_by_split(
    predictions: pd.DataFrame, metrics: Sequence[str] = ("accuracy", "auroc"), unit: str = "images"
) -> pd.DataFrame:
    """Scores of each split.

    Args:
        predictions: See `prediction_table`.
        metrics: Of "accuracy", "balanced_accuracy", "auroc" and "quadratic_kappa".
        unit: Name of the column that counts the images, such as "slides".

    Returns:
        Columns `split`, the unit, and the metrics.
    """
    rows = [
        {"split": split, unit: len(part), **{name: METRICS[name](part) for name in metrics}}
        for split, part in by_split(predictions)
    ]
    return pd.DataFrame(rows)


def scores_by_class(predictions: pd.DataFrame, unit: str = "images") -> pd.DataFrame:
    """Precision, recall and F1 of each class.

    Args:
        predictions: See `prediction_table`.
        unit: Name of the column that counts the images, such as "photos".

    Returns:
        Columns `class`, `precision`, `recall`, `f1` and the unit; 0 for a class never predicted or without images.
    """
    classes = classes_of(predictions)
    report = classification_report(
        predictions["label"], predictions["predicted"], labels=classes, output_dict=True, zero_division=0
    )
    rows = pd.DataFrame(report).T.loc[classes].rename(columns={"f1-score": "f1", "support": unit})
    return rows.astype({unit: int}).rename_axis("class").reset_index()


def positives(predictions: pd.DataFrame) -> tuple[pd.Series[bool], pd.Series[float]]:
    """Whether each image is of the last class, and the probability that it is."""
    positive = classes_of(predictions)[-1]
    return predictions["label"] == positive, predictions[f"probability_{positive}"]
