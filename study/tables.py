"""Tables of finished trainings: test scores with intervals, and differences between arms on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.training import Job, scores_of_test_part, train
from wsidata.evaluation import weighted
from wsidata.evaluation.bootstrap import interval, resample, units_of

RESAMPLES = 2000
_MEANS = ("train_loss", "train_cpu_s", "val_auroc")
Numbers = NDArray[np.float64]


def score_table(jobs: Sequence[Job], against: str, among: NDArray[np.bool_] | None = None) -> pd.DataFrame:
    """One row for each arm and data: the mean over seeds of the test AUROC, with intervals over test images.

    Resamples of the test images are the same for all arms of the same data, so that the difference to the arm `against`
    is paired. Intervals hold 95 % of 2,000 resamples, and say how results depend on the test images; `seed_low` and
    `seed_high` say how they depend on the first weights.

    Args:
        jobs: Trainings that are done.
        against: Name of an arm.
        among: Which of the test images count; None for all.

    Returns:
        Columns `arm`, `question`, facts of the data, `learning_rate`, `seeds`, `train_loss`, `train_cpu_s`,
        `val_auroc`, `test_auroc`, `low`, `high`, `seed_low`, `seed_high`, `difference`, `difference_low`,
        `difference_high`.
    """
    rows, drawn = list[dict[str, object]](), dict[tuple[str, str], Numbers]()
    counts = dict[str, Numbers]()  # of the resamples of each test part
    keys = list(dict.fromkeys((job.data.key, job.arm.name) for job in jobs))
    for data, arm in keys:
        of_arm = [job for job in jobs if (job.data.key, job.arm.name) == (data, arm)]
        tested = [_among(*scores_of_test_part(job), among) for job in of_arm]
        if data not in counts:
            counts[data] = _counts(tested[0][1])
        areas = np.stack([_areas(*one, counts[data]) for one in tested])  # (seeds, 1 + resamples)
        drawn[data, arm] = areas.mean(0)
        trained = [train(job) for job in of_arm]
        results = pd.DataFrame(trained)
        fixed = {name: value for name, value in trained[0].items() if name not in {"seed", "curve", *_MEANS}}
        means = {name: float(results[name].mean()) for name in _MEANS}
        low, high = _ends(drawn[data, arm])
        rows.append(
            {**fixed, "seeds": len(of_arm), **means, "test_auroc": float(areas[:, 0].mean()), "low": low, "high": high,
             "seed_low": float(areas[:, 0].min()), "seed_high": float(areas[:, 0].max())}
        )  # fmt: skip
    for row, (data, arm) in zip(rows, keys, strict=True):
        if (data, against) in drawn and arm != against:
            difference = drawn[data, arm] - drawn[data, against]
            low, high = _ends(difference)
            row.update(difference=float(difference[0]), difference_low=low, difference_high=high)
    return pd.DataFrame(rows)


def share_table(jobs: Sequence[Job], against: str, shares: Numbers, edges: Sequence[float]) -> pd.DataFrame:
    """`score_table` for each range of lesion shares: its positive slides among all negative ones.

    Args:
        jobs: Trainings that are done, of the same data.
        against: Name of an arm.
        shares: Of each test image, the share that is lesion; 0 for negative ones.
        edges: Ends of the ranges, in order.

    Returns:
        With the columns `share_low`, `share_high` and `positives` before those of `score_table`.
    """
    parts = list[pd.DataFrame]()
    for low, high in pairwise(edges):
        inside = (shares >= low) & (shares < high)
        table = score_table(jobs, against, inside | (shares == 0))
        table.insert(0, "share_low", low)
        table.insert(1, "share_high", high)
        table.insert(2, "positives", int(inside.sum()))
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def curve_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """One row for each look at the validation part: the training, `step`, `cpu_s`, `loss` and `val_auroc`."""
    rows = list[dict[str, object]]()
    for job in jobs:
        result = train(job)
        about = {name: value for name, value in result.items() if name in {"arm", "side_px", "learning_rate", "seed"}}
        rows += [{**about, **point} for point in result["curve"]]  # type: ignore[attr-defined]
    return pd.DataFrame(rows)


def _among(
    scores: NDArray[np.float32], labels: NDArray[np.int64], among: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return (scores, labels) if among is None else (scores[among], labels[among])


def _counts(labels: NDArray[np.int64]) -> Numbers:
    """How often the images themselves, in the first column, and each resample have each image."""
    resamples = resample(units_of(None, labels, len(labels)), RESAMPLES, 0)
    return np.concatenate([np.ones((len(labels), 1)), *resamples], axis=1)


def _areas(scores: NDArray[np.float32], labels: NDArray[np.int64], counts: Numbers) -> Numbers:
    """AUROC of the images themselves, and of each resample."""
    return weighted.ranking(labels == 1, scores.astype(np.float64), counts)[0]


def _ends(numbers: Numbers) -> tuple[float, float]:
    found = interval(float(numbers[0]), numbers[1:], 0.95, "one class")
    return found.low, found.high
