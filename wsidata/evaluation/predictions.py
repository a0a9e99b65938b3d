"""Prediction tables of classifiers, with one row per image and one probability per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsidata.tables.cells import restored
from wsidata.tables.parts import SPLITS
from wsidata.utils.messages import name_some

SPLIT_TITLES = {"train": "training", "val": "validation", "test": "test"}
_PREFIX = "probability_"
EXPECTED_RANK = "expected_rank"
"""Column of predictions of ordered classes: the mean of the class numbers, weighted by their probabilities."""
RISK = "risk"
"""Column of predictions of survival: the higher, the sooner the event is expected."""
SURVIVAL_PREFIX = "survival_"
"""Prefix of columns of the probability of having no event until a time."""
NUMBERS = (_PREFIX, "value_", EXPECTED_RANK, RISK, SURVIVAL_PREFIX)
"""What the names of columns of predicted numbers begin with."""
_TEXTS = ("image", "path", "split", "label", "predicted", "error", "group")


class PredictionError(ValueError):
    """A prediction table that cannot be read or scored as it is; the message names the file, image or column."""


def prediction_table(
    rows: pd.DataFrame,
    probabilities: Tensor | NDArray[Any],
    class_names: Sequence[str],
    *,
    ordered: bool = False,
) -> pd.DataFrame:
    """Label, predicted class and class probabilities of each image.

    Args:
        rows: Columns `image_id`, `split` and `label_name`, as in a data module's `tables`.
        probabilities: (N, K) floats, in the order of the rows.
        class_names: Names of the K classes.
        ordered: Whether the classes have an order (`target="ordinal"`).

    Returns:
        Columns `image`, `split`, `label`, `predicted` and, for each class, `probability_<class>` (float32). Of ordered
        classes the predicted one is the median, and `expected_rank` follows it.
    """
    values = torch.as_tensor(probabilities).float().cpu().numpy()
    table = pd.DataFrame({"image": rows["image_id"], "split": rows["split"], "label": rows["label_name"]})
    table["predicted"] = [class_names[best] for best in decided(values, ordered=ordered)]
    if ordered:
        table[EXPECTED_RANK] = expected_rank(values)
    columns = [f"{_PREFIX}{name}" for name in class_names]
    return pd.concat([table, pd.DataFrame(values, columns=columns, index=table.index)], axis=1)


def decided(probabilities: NDArray[Any], *, ordered: bool = False) -> NDArray[np.int64]:
    """(N,) number of the predicted class, of (N, K) probabilities.

    It is the most probable class; of ordered classes the median, in which the cumulative probability reaches one half.
    """
    if not ordered:
        return np.asarray(probabilities.argmax(axis=1), np.int64)
    return np.asarray((probabilities.cumsum(axis=1)[:, :-1] < 0.5).sum(axis=1), np.int64)


def expected_rank(probabilities: NDArray[Any]) -> NDArray[Any]:
    """(N,) mean of the numbers 0 .. K-1 of ordered classes, weighted by (N, K) probabilities."""
    return probabilities @ np.arange(probabilities.shape[1], dtype=probabilities.dtype)


def read_predictions(path: str | Path) -> pd.DataFrame:
    """A prediction table from its CSV file, with names as they were: "NA" and "007" are no numbers.

    Args:
        path: Such as `save_table` writes; cells that were escaped for spreadsheets are restored.

    Raises:
        FileNotFoundError: if there is no such file.
        PredictionError: if it is no CSV table in UTF-8 with a column `image`, or names a split that is none.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise PredictionError(f"'{path}' is no CSV table in UTF-8: {error}. Write it again.") from error
    if "image" not in table:
        raise PredictionError(
            f"'{path}' has no column 'image'; its columns are {name_some(list(table.columns))}. Columns are separated "
            "by commas. Name a table of predictions, as slidestream predict writes it."
        )
    if "split" in table and (odd := sorted(set(table["split"]) - {*SPLITS, ""})):
        raise PredictionError(f"'{path}': column 'split' says {name_some(odd)}. Splits are {', '.join(SPLITS)}.")
    for name in table.columns:
        if name not in _TEXTS:
            numbers = pd.to_numeric(table[name].where(table[name] != "", "nan"), errors="coerce")
            if not (numbers.isna() & ~table[name].str.lower().isin(["", "nan"])).any():
                table[name] = numbers
    return restored(table)


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """Class names of a prediction table, in order."""
    return [name.removeprefix(_PREFIX) for name in predictions.columns if name.startswith(_PREFIX)]


def by_split(predictions: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of each split that has any, in the order train, val, test."""
    return [(split, rows) for split in SPLITS if len(rows := predictions[predictions["split"] == split])]


def mistakes(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rows of the misclassified images, most confident first."""
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    confidence = wrong.filter(regex=f"^{_PREFIX}").max(axis=1)
    return wrong.loc[confidence.sort_values(ascending=False, kind="stable").index]
