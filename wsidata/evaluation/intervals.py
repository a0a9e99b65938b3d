"""Scores of a prediction table with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.evaluation import weighted
from wsidata.evaluation.bootstrap import Counts, Interval, exact_proportion, interval, resample, units_of
from wsidata.evaluation.scored import PredictionError, PredictionTask, Scored, scored
from wsidata.tables.parts import SPLITS

Key = tuple[str, str]
"""Class, label or number that a score is of (empty for all of them together), and name of the score."""

Groups = Mapping[str, str] | Sequence[str] | pd.Series | None

_FEW = 5


@dataclass(frozen=True)
class _Scores:
    """Scores that share resamples.

    Attributes:
        of: Makes the scores from counts of resamples.
        strata: (N,) numbers, each of which every resample has as often as the images do; None: anything is drawn.
        undefined: Why a score would be undefined.
        notes: What to know of an interval.
        among: Which images a share is a share of, (N,) bool, for the scores that are shares.
    """

    of: Callable[[Counts], dict[Key, weighted.Numbers]]
    strata: NDArray[np.int64] | None = None
    undefined: Mapping[Key, str] = field(default_factory=dict)
    notes: Mapping[Key, str] = field(default_factory=dict)
    among: Mapping[Key, NDArray[np.bool_]] = field(default_factory=dict)


def scores_with_intervals(
    predictions: pd.DataFrame,
    *,
    task: PredictionTask | None = None,
    groups: Groups = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of each split with percentile bootstrap intervals.

    | task | scores |
    |---|---|
    | one class of two | `accuracy`, `balanced_accuracy`, `auroc`, `average_precision`, `sensitivity`, `specificity`, \
`brier`, `calibration_error` |
    | one class of more | the same; areas, precisions and rates also of each class against the others |
    | one of ordered classes | the same, and `quadratic_kappa`, `mae` (in classes) |
    | several labels | `accuracy` (all labels of the image right), `label_accuracy` (share); means over \
the labels, and each label |
    | time and event | `c_index` (Harrell's concordance index) |
    | numbers | `mae`, `rmse`, `r2`, `pearson` of each |

    With two classes, the last is the positive one. `auroc` and `average_precision` of more classes are means, over the
    classes that have images, of each against the others. Sensitivity and specificity are at a probability of 0.5 with
    two classes and for labels, and of the predicted class with more. `brier` is the mean square of probability minus
    truth: of the positive class with two, summed over the classes with more. `calibration_error` is of the positive
    class with two and for labels, of the predicted class with more; it is biased upward with few images.

    Resamples have as many images of each class as the split, for scores that need images of a class; the others draw
    freely. Resamples in which a score is undefined are left out; means over classes are over those that the resample
    has. There is no interval, and a note says why, where more than one resample in ten is left out, all are alike, or
    the score itself is outside. Accuracy, sensitivity and specificity of 0 or 1 get the exact interval of Clopper and
    Pearson. Images without label or prediction are not scored.

    Args:
        predictions: See `prediction_table`.
        task: "multiclass", "ordinal", "multilabel", "regression" or "survival"; None: as the columns say.
        groups: Patient of each row, or of each image by name: all images of a patient are drawn together. None: the
            column `group`, if there is one. Rows without a patient are drawn alone.
        resamples: Number of resamples.
        level: Share of resamples that the interval holds.
        seed: Of the resamples; the same numbers give the same intervals.

    Returns:
        Columns `split`, `target` (class, label or number; empty for all together), `score`, `value`, `low`, `high`,
        `images` (scored), `note` (why a number is missing).

    Raises:
        PredictionError: see `scored`; or if the groups do not suit the rows.
        ValueError: if `level` or `resamples` make no interval.
    """
    if not 0 < level < 1 or resamples < 0:
        raise ValueError(f"level={level} has to lie between 0 and 1, and resamples={resamples} has to be 0 or more.")
    of_row = group_of_rows(predictions, groups)
    all_rows = scored(predictions if of_row is None else predictions.assign(**{_GROUP: of_row}), task)
    rows = []
    for split in SPLITS:
        part = all_rows.part(split)
        for key, found in _intervals(part, resamples, level, seed).items() if len(part.rows) else ():
            numbers = {"value": found.value, "low": found.low, "high": found.high}
            rows.append({"split": split, "target": key[0], "score": key[1], **numbers, "images": len(part.rows)})
            rows[-1]["note"] = found.note
    return pd.DataFrame(rows, columns=["split", "target", "score", "value", "low", "high", "images", "note"])


_GROUP = "__group__"


def group_of_rows(predictions: pd.DataFrame, groups: Groups) -> NDArray[np.object_] | None:
    """Name of what is drawn with each row: its group, or the image alone where it has none; None without groups.

    Raises:
        PredictionError: if there is not one group a row.
    """
    if groups is None:
        if "group" not in predictions:
            return None
        groups = predictions["group"].tolist()
    images = predictions["image"].astype(str).tolist()
    if isinstance(groups, Mapping):
        names = [groups.get(image, "") for image in images]
    else:
        names = list(groups)
        if len(names) != len(images):
            raise PredictionError(
                f"there are {len(names)} groups for {len(images)} predictions. Pass one a row, or a mapping of images."
            )
    blank = [pd.isna(name) or str(name).strip() == "" for name in names]
    if all(blank):
        return None
    pairs = zip(names, images, blank, strict=True)
    return np.array([f"i{image}" if alone else f"g{name}" for name, image, alone in pairs], dtype=object)


def _intervals(part: Scored, resamples: int, level: float, seed: int) -> dict[Key, Interval]:
    groups = part.rows[_GROUP].to_numpy() if _GROUP in part.rows else None
    found: dict[Key, Interval] = {}
    for scores in _SCORES[part.task](part):
        images = len(part.rows)
        values = scores.of(np.ones((images, 1)))
        units = units_of(groups, scores.strata, images)
        drawn: dict[Key, list[weighted.Numbers]] = {key: [] for key in values}
        for counts in resample(units, resamples, seed) if images > 1 else ():
            for key, numbers in scores.of(counts).items():
                drawn[key].append(numbers)
        for key, value in values.items():
            numbers = np.concatenate(drawn[key]) if drawn[key] else np.zeros(0)
            one = interval(float(value[0]), numbers, level, scores.undefined.get(key, "too few images"))
            if key in scores.among:
                among = scores.among[key]
                independent = among.sum() if groups is None else len(set(groups[among]))
                one = exact_proportion(one, int(independent), level)
            elif images == 1 and not np.isnan(one.value):
                one = Interval(one.value, one.low, one.high, "no interval: one image")
            if note := scores.notes.get(key, ""):
                one = Interval(one.value, one.low, one.high, "; ".join(filter(None, (one.note, note))))
            found[key] = one
    order = {name: number for number, name in enumerate(("", *part.names))}
    return dict(sorted(found.items(), key=lambda item: order[item[0][0]]))


def _multiclass(part: Scored) -> list[_Scores]:
    truth, classes, count = part.truth.T, part.classes, len(part.names)
    chosen = (part.named == np.arange(count)[:, None]).astype(float)
    right = (part.named == classes).astype(float)
    everything = np.ones(len(right), bool)
    if count == 2:
        return [_free(part, right, part.predicted[:, 1], truth[1], "", everything), *_one_class(part, 1, "", classes)]
    highest = part.predicted[np.arange(len(right)), part.named] if len(right) else np.zeros(0)
    brier = ((part.predicted - part.truth) ** 2).sum(axis=1)

    def of(counts: Counts) -> dict[Key, weighted.Numbers]:
        found: dict[Key, weighted.Numbers] = {}
        sensitivity = weighted.rates(chosen, truth, counts)
        specificity = weighted.rates(1 - chosen, 1 - truth, counts)
        ranked = [weighted.ranking(truth[k] > 0, part.predicted[:, k], counts) for k in range(count)]
        found["", "balanced_accuracy"] = weighted.mean_of_defined(sensitivity)
        found["", "auroc"] = weighted.mean_of_defined(np.stack([area for area, _ in ranked]))
        found["", "average_precision"] = weighted.mean_of_defined(np.stack([average for _, average in ranked]))
        for k, name in enumerate(part.names):
            found[name, "sensitivity"], found[name, "specificity"] = sensitivity[k], specificity[k]
            found[name, "auroc"], found[name, "average_precision"] = ranked[k]
        return found

    undefined: dict[Key, str] = {}
    notes: dict[Key, str] = {}
    among: dict[Key, NDArray[np.bool_]] = {}
    for k, name in enumerate(part.names):
        one, few, shares = _about(part, truth[k] > 0, name, name)
        undefined |= one
        notes |= few
        among |= shares
    alone = [name for k, name in enumerate(part.names) if truth[k].sum() == 1]
    for score in ("balanced_accuracy", "auroc", "average_precision"):
        undefined["", score] = "images of one class only"
        if alone:
            notes["", score] = f"{len(alone)} of {count} classes have one image, which the interval takes as certain"
    return [
        _free(part, right, highest, right, "", everything, brier),
        _Scores(of, classes, undefined, notes, among),
    ]


def _free(
    part: Scored,
    right: weighted.Numbers | None,
    confidence: weighted.Numbers,
    truth: weighted.Numbers,
    target: str,
    everything: NDArray[np.bool_],
    brier: weighted.Numbers | None = None,
) -> _Scores:
    """Scores that need no image of any class."""
    squares = (confidence - truth) ** 2 if brier is None else brier

    def of(counts: Counts) -> dict[Key, weighted.Numbers]:
        found = {} if right is None else {(target, "accuracy"): weighted.mean(right, counts)}
        found[target, "brier"] = weighted.mean(squares, counts)
        found[target, "calibration_error"] = weighted.calibration_error(confidence, truth, counts)
        return found

    return _Scores(of, among={} if right is None else {(target, "accuracy"): everything})


def _one_class(part: Scored, k: int, target: str, strata: NDArray[np.int64]) -> list[_Scores]:
    """Scores of one class or label against the rest, at a probability of 0.5."""
    positive, probability = part.truth[:, k] > 0, part.predicted[:, k]
    truth, called = positive[None].astype(float), (probability >= 0.5)[None].astype(float)

    def of(counts: Counts) -> dict[Key, weighted.Numbers]:
        sensitivity = weighted.rates(called, truth, counts)[0]
        specificity = weighted.rates(1 - called, 1 - truth, counts)[0]
        area, average = weighted.ranking(positive, probability, counts)
        found = {(target, "auroc"): area, (target, "average_precision"): average}
        if part.one_class:
            chosen = (part.named == np.arange(2)[:, None]).astype(float)
            recall = weighted.rates(chosen, part.truth.T, counts)
            found = {(target, "balanced_accuracy"): weighted.mean_of_defined(recall), **found}
        return found | {(target, "sensitivity"): sensitivity, (target, "specificity"): specificity}

    return [_Scores(of, strata, *_about(part, positive, target, part.names[k]))]


def _about(
    part: Scored, positive: NDArray[np.bool_], target: str, name: str
) -> tuple[dict[Key, str], dict[Key, str], dict[Key, NDArray[np.bool_]]]:
    """Why scores of a class would be undefined, what to know of their intervals, and what the shares are of."""
    ranked = ("auroc", "average_precision")
    has, lacks = int(positive.sum()), int((~positive).sum())
    without = f"no image of '{name}'"
    only = f"no image without '{name}'"
    undefined = {(target, score): without if not has else only for score in ranked}
    undefined |= {(target, "sensitivity"): without, (target, "specificity"): only}
    notes: dict[Key, str] = {}
    for share, count, words in (("specificity", lacks, f"without '{name}'"), ("sensitivity", has, f"with '{name}'")):
        if 0 < count < _FEW:
            few = f"few: {count} image{'s' * (count > 1)} {words}"
            notes |= {(target, score): few for score in (share, *ranked)}
    return undefined, notes, {(target, "sensitivity"): positive, (target, "specificity"): ~positive}


def _ordinal(part: Scored) -> list[_Scores]:
    """Scores of classes, and those in which a class is worse the further off it is."""
    truth, named = part.classes.astype(float), part.named.astype(float)

    def of(counts: Counts) -> dict[Key, weighted.Numbers]:
        return {
            ("", "quadratic_kappa"): weighted.quadratic_kappa(truth, named, counts),
            ("", "mae"): weighted.mean(np.abs(truth - named), counts),
        }

    undefined = {("", "quadratic_kappa"): "all true and all predicted classes are one"}
    return [_Scores(of, undefined=undefined), *_multiclass(part)]


def _multilabel(part: Scored) -> list[_Scores]:
    truth, probability, count = part.truth, part.predicted, len(part.names)
    right = ((probability >= 0.5) == (truth > 0)).astype(float)
    everything = np.ones(len(truth), bool)

    def of(counts: Counts) -> dict[Key, weighted.Numbers]:
        ranked = [weighted.ranking(truth[:, k] > 0, probability[:, k], counts) for k in range(count)]
        return {
            ("", "accuracy"): weighted.mean(right.all(axis=1).astype(float), counts),
            ("", "label_accuracy"): weighted.mean(right.mean(axis=1), counts),
            ("", "auroc"): weighted.mean_of_defined(np.stack([area for area, _ in ranked])),
            ("", "average_precision"): weighted.mean_of_defined(np.stack([average for _, average in ranked])),
            ("", "brier"): weighted.mean(((probability - truth) ** 2).mean(axis=1), counts),
        }

    reason = "no label that some images have and others do not"
    undefined = {("", score): reason for score in ("auroc", "average_precision")}
    found = [_Scores(of, None, undefined, among={("", "accuracy"): everything})] if count > 1 else []
    for k, name in enumerate(part.names):
        found += _one_class(part, k, name, truth[:, k].astype(np.int64))
        found.append(_free(part, right[:, k], probability[:, k], truth[:, k], name, everything))
    return found


def _survival(part: Scored) -> list[_Scores]:
    time, event, risk = part.truth[:, 0], part.truth[:, 1] > 0, part.predicted[:, 0]

    def of(counts: Counts) -> dict[Key, weighted.Numbers]:
        return {("", "c_index"): weighted.concordance(time, event, risk, counts)}

    notes = {("", "c_index"): f"few: {event.sum()} events"} if event.sum() < _FEW else {}
    undefined = {("", "c_index"): "no image is known to have had its event before another"}
    return [_Scores(of, event.astype(np.int64), undefined, notes)]


def _regression(part: Scored) -> list[_Scores]:
    def of(counts: Counts) -> dict[Key, weighted.Numbers]:
        found: dict[Key, weighted.Numbers] = {}
        for k, name in enumerate(part.names):
            truth, predicted = part.truth[:, k], part.predicted[:, k]
            found[name, "mae"] = weighted.mean(np.abs(predicted - truth), counts)
            found[name, "rmse"] = np.sqrt(weighted.mean((predicted - truth) ** 2, counts))
            found[name, "r2"] = weighted.r_squared(truth, predicted, counts)
            found[name, "pearson"] = weighted.pearson(truth, predicted, counts)
        return found

    undefined = {(name, "r2"): "all true numbers are alike" for name in part.names}
    undefined |= {(name, "pearson"): "all true or all predicted numbers are alike" for name in part.names}
    return [_Scores(of, undefined=undefined)]


_SCORES: dict[str, Callable[[Scored], list[_Scores]]] = {
    "multiclass": _multiclass,
    "ordinal": _ordinal,
    "multilabel": _multilabel,
    "regression": _regression,
    "survival": _survival,
}
