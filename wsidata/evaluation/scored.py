"""Truth and predictions of the images of a prediction table that can be scored, as arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.evaluation.predictions import EXPECTED_RANK, RISK, classes_of, decided
from wsidata.evaluation.predictions import PredictionError as PredictionError
from wsidata.tables.targets import EVENT_NAMES
from wsidata.tables.text_table import NO_LABEL
from wsidata.utils.messages import name_some

PredictionTask = Literal["multiclass", "ordinal", "multilabel", "regression", "survival"]
VALUE_PREFIX = "value_"
_SUM_TOLERANCE = 0.02  # of softmax in bfloat16
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Scored:
    """Images that have both a label and a prediction.

    Attributes:
        task: "multiclass", "ordinal", "multilabel", "regression" or "survival".
        names: Names of the K classes, labels or numbers.
        truth: (N, K), 1 for the classes or labels an image has, else 0; or the true numbers; time and event
            (0 or 1), with survival.
        predicted: (N, K) probabilities or numbers; (N, 1) risk, with survival.
        named: (N,) index of the predicted class, with one class an image; else empty.
        rows: The N rows of the table.
        unlabeled: Number of images left out because they have no label.
        failed: Number of images left out because they have no prediction.
    """

    task: PredictionTask
    names: tuple[str, ...]
    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    named: NDArray[np.int64]
    rows: pd.DataFrame
    unlabeled: int
    failed: int

    def part(self, split: str) -> Scored:
        """The images of one split; what was left out is counted for the whole table."""
        chosen = (self.rows["split"] == split).to_numpy()
        return Scored(
            self.task, self.names, self.truth[chosen], self.predicted[chosen],
            self.named[chosen] if len(self.named) else self.named, self.rows[chosen], self.unlabeled, self.failed,
        )  # fmt: skip

    @property
    def one_class(self) -> bool:
        """Whether every image has one class."""
        return self.task in ("multiclass", "ordinal")

    @property
    def classes(self) -> NDArray[np.int64]:
        """(N,) index of the true class, with one class an image."""
        numbers: NDArray[np.int64] = self.truth.argmax(axis=1)
        return numbers


def values_of(predictions: pd.DataFrame) -> list[str]:
    """Names of the predicted numbers of a prediction table, in order."""
    return [name.removeprefix(VALUE_PREFIX) for name in predictions.columns if name.startswith(VALUE_PREFIX)]


def task_of(predictions: pd.DataFrame) -> PredictionTask:
    """The task a prediction table is of, from its columns.

    Columns `value_<name>` are regression, a column `risk` alone is survival. One column `probability_<class>` alone,
    predictions that are lists, and probabilities whose sum is not 1 are several labels; the rest is one class an image,
    of ordered classes if there is a column `expected_rank`.

    Raises:
        PredictionError: if there are neither probabilities nor numbers.
    """
    names = classes_of(predictions)
    if not names:
        if values_of(predictions):
            return "regression"
        if RISK in predictions:
            return "survival"
        raise PredictionError(
            "the table of predictions has no column probability_<class>, value_<name> or risk; it has "
            f"{name_some([str(name) for name in predictions.columns])}. Write it with slidestream predict, or with "
            "wsidata.evaluation.prediction_table."
        )
    if len(names) == 1:
        return "multilabel"
    given = predictions["predicted"].dropna().astype(str) if "predicted" in predictions else pd.Series(dtype=str)
    sums = _numbers(predictions, "probability_", names).sum(axis=1)
    sums = sums[np.isfinite(sums)]
    single = set(given) - {""} <= set(names) and bool((abs(sums - 1) <= _SUM_TOLERANCE).all())
    if not single:
        return "multilabel"
    return "ordinal" if EXPECTED_RANK in predictions else "multiclass"


def has_error(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each row has an `error`; an empty column of a CSV, which pandas reads as numbers, has none."""
    errors: NDArray[np.bool_] = (predictions["error"].astype(object).fillna("").astype(str) != "").to_numpy()
    return errors


def scored(predictions: pd.DataFrame, task: PredictionTask | None = None) -> Scored:
    """The images of a prediction table that have a label and a prediction.

    Args:
        predictions: See `prediction_table`: columns `image`, `split`, `label`, `predicted` and `probability_<class>`,
            or `value_<name>` for numbers. Labels of several an image are joined by `;` (`none` for no label), numbers
            by commas. `error` may say why there is no prediction.
        task: None: see `task_of`.

    Raises:
        PredictionError: for a label that is no class, a probability outside 0..1, an infinite number, or an image
            that a split has twice.
    """
    task = task_of(predictions) if task is None else task
    prefix = {"regression": VALUE_PREFIX, "survival": ""}.get(task, "probability_")
    names = tuple(values_of(predictions) if task == "regression" else classes_of(predictions))
    names = (RISK,) if task == "survival" else names
    numbers = _numbers(predictions, prefix, names)
    failed = np.isnan(numbers).any(axis=1)
    if "error" in predictions:
        failed |= has_error(predictions)
    text = (predictions["label"] if "label" in predictions else pd.Series("", predictions.index)).astype(object)
    labels = text.where(text.notna(), "").astype(str).str.strip()
    unlabeled = (labels == "").to_numpy()
    kept = ~failed & ~unlabeled
    rows, numbers = predictions[kept].reset_index(drop=True), numbers[kept]
    if "split" not in rows:
        rows = rows.assign(split="test")
    _check(rows, numbers, prefix)
    truth = _truth(labels[kept].tolist(), rows["image"].astype(str).tolist(), names, task)
    predicted = numbers if task in ("regression", "survival") else numbers.clip(0, 1)
    return Scored(
        task, names, truth, predicted, _named(rows, predicted, names, task), rows, int((unlabeled & ~failed).sum()),
        int(failed.sum()),
    )  # fmt: skip


def _numbers(predictions: pd.DataFrame, prefix: str, names: Sequence[str]) -> NDArray[np.float64]:
    columns = [f"{prefix}{name}" for name in names]
    found: dict[str, Any] = {}
    for column in columns:
        cells = predictions[column]
        found[column] = pd.to_numeric(cells, errors="coerce")
        odd = found[column].isna() & cells.notna() & ~cells.astype(str).str.strip().str.lower().isin(["", "nan"])
        if odd.any():
            raise PredictionError(
                f"image '{predictions['image'][odd].iloc[0]}': column '{column}' says "
                f"'{cells[odd].iloc[0]}', which is no number. Write numbers with a decimal point."
            )
    return pd.DataFrame(found, index=predictions.index).to_numpy(dtype=np.float64).reshape(len(predictions), len(names))


def _check(rows: pd.DataFrame, numbers: NDArray[np.float64], prefix: str) -> None:
    allowed = np.isfinite(numbers)
    if prefix not in ("", VALUE_PREFIX):
        allowed &= (numbers >= -_ROUNDING) & (numbers <= 1 + _ROUNDING)
    wrong = np.flatnonzero(~allowed.all(axis=1))
    if len(wrong):
        kind = "numbers that are not finite" if prefix in ("", VALUE_PREFIX) else "probabilities outside 0..1"
        raise PredictionError(
            f"{kind}: image {name_some(rows['image'].iloc[wrong].astype(str).tolist())}. Write probabilities, not "
            "logits, and repeat the prediction of these images."
        )
    twice = rows.duplicated(["image", "split"])
    if twice.any():
        raise PredictionError(
            f"images are in one split twice: {name_some(rows.loc[twice, 'image'].astype(str).tolist())}. Scores would "
            "count them twice; keep one row of each."
        )


def _truth(labels: list[str], images: list[str], names: tuple[str, ...], task: PredictionTask) -> NDArray[np.float64]:
    if task == "survival":
        return np.array([_observed(label, image) for label, image in zip(labels, images, strict=True)]).reshape(-1, 2)
    truth = np.zeros((len(labels), len(names)))
    number_of = {name: number for number, name in enumerate(names)}
    for row, label in enumerate(labels):
        if task == "regression":
            truth[row] = _true_numbers(label, images[row], names)
            continue
        parts = [label] if task in ("multiclass", "ordinal") or label in number_of else re.split(r"\s*[;|]\s*", label)
        if task == "multilabel" and label.lower() == NO_LABEL and label not in number_of:
            parts = []
        for part in parts:
            if part not in number_of:
                raise PredictionError(
                    f"image '{images[row]}' has the label '{part}', which is none of the classes that were predicted "
                    f"({name_some(names)}). Correct the label, or predict with the model that knows it."
                )
            truth[row, number_of[part]] = 1
    return truth


def _observed(label: str, image: str) -> tuple[float, float]:
    """Time, and 1 for an event or 0 for the end of follow-up."""
    found = re.fullmatch(rf"(\S+) ({'|'.join(EVENT_NAMES)})", label)
    try:
        time = float(found[1]) if found else float("nan")
    except ValueError:
        time = float("nan")
    if found is None or not (np.isfinite(time) and time >= 0):
        raise PredictionError(
            f"image '{image}' has the label '{label}', which is no time with '{EVENT_NAMES[1]}' or '{EVENT_NAMES[0]}' "
            "behind it, such as '12.5 event'. Correct the label."
        )
    return time, float(EVENT_NAMES.index(found[2]))


def _true_numbers(label: str, image: str, names: tuple[str, ...]) -> list[float]:
    try:
        numbers = [float(part) for part in label.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(names) or not np.isfinite(numbers).all():
        raise PredictionError(
            f"image '{image}' has the label '{label}', which is not {len(names)} finite number(s) "
            f"({name_some(names)}), with commas between them. Correct the label."
        )
    return numbers


def _named(
    rows: pd.DataFrame, predicted: NDArray[np.float64], names: tuple[str, ...], task: PredictionTask
) -> NDArray[np.int64]:
    """Index of the predicted class: as the table says, or else as `decided` does."""
    if task not in ("multiclass", "ordinal"):
        return np.zeros(0, np.int64)
    if "predicted" not in rows:
        return decided(predicted, ordered=task == "ordinal")
    index = pd.Index(names).get_indexer(pd.Index(rows["predicted"].astype(str)))
    if (index < 0).any():
        first = int(np.flatnonzero(index < 0)[0])
        raise PredictionError(
            f"image '{rows['image'].iloc[first]}' is predicted to be '{rows['predicted'].iloc[first]}', which is none "
            f"of the classes ({name_some(names)}). Repeat its prediction."
        )
    return np.asarray(index, np.int64)
