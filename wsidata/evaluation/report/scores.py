"""Sections of a report with scores, curves and confusion of each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.evaluation.bootstrap import units_of
from wsidata.evaluation.curves import Curve, calibration, kaplan_meier, precision_recall, roc
from wsidata.evaluation.intervals import group_of_rows, scores_with_intervals
from wsidata.evaluation.report import drawings
from wsidata.evaluation.report.blocks import DASH, Drawings, Section, Table, Text, counted, with_interval
from wsidata.evaluation.report.drawings import FEW_CLASSES, Drawing
from wsidata.evaluation.scored import Scored, scored

NAMES = {
    "c_index": "Concordance index",
    "quadratic_kappa": "Quadratic weighted kappa", "auroc": "AUROC", "average_precision": "Average precision",
    "accuracy": "Accuracy", "label_accuracy": "Accuracy by label", "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity", "specificity": "Specificity", "brier": "Brier score",
    "calibration_error": "Calibration error",
    "mae": "Mean absolute error", "rmse": "Root mean square error", "r2": "R²", "pearson": "Pearson correlation",
}  # fmt: skip
MEANINGS = {
    "c_index": "how often the image with the earlier event has the higher risk; 0.5 is chance",
    "quadratic_kappa": "agreement, large differences weighing more; 1 is perfect, 0 is chance",
    "auroc": "how often an image of the class ranks above another; 0.5 is chance",
    "average_precision": "precision over all recalls; chance is the share of the class",
    "accuracy": "share of images that are right",
    "label_accuracy": "share of labels that are right",
    "balanced_accuracy": "mean share right of each class",
    "sensitivity": "share of the positive images that are found",
    "specificity": "share of the negative images that are left alone",
    "brier": "mean square of probability minus truth; 0 is best",
    "calibration_error": "how far probabilities are from frequencies; 0 is best",
    "mae": "mean size of the error",
    "rmse": "the same, large errors weighing more",
    "r2": "share of the variance explained; 0 is no better than the mean",
    "pearson": "linear correlation; blind to scale and offset",
}
SPLIT_NAMES = {"test": "Test", "val": "Validation", "train": "Training"}
ORDER = ("test", "val", "train")

_LEVEL = 0.95


@dataclass(frozen=True)
class Scores:
    """All that the sections of scores are made of.

    Attributes:
        all_rows: The images that are scored.
        table: Their scores; see `scores_with_intervals`.
        groups: What each scored row is drawn with; None for itself.
        unit: What the images are called.
        resamples: Number of resamples.
        time_unit: Unit of times to an event; empty if it is not known.
    """

    all_rows: Scored
    table: pd.DataFrame
    groups: NDArray[np.object_] | None
    unit: str
    resamples: int
    time_unit: str = ""

    @property
    def splits(self) -> list[str]:
        """Splits that have images, test first."""
        found = set(self.all_rows.rows["split"])
        return [split for split in ORDER if split in found]


def score(
    predictions: pd.DataFrame, groups: dict[str, str] | None, unit: str, resamples: int, time_unit: str = ""
) -> Scores:
    """Scores of a table of predictions.

    Raises:
        PredictionError: see `scores_with_intervals`.
    """
    rows = scored(predictions)
    table = scores_with_intervals(predictions, groups=groups, resamples=resamples, level=_LEVEL)
    return Scores(rows, table, group_of_rows(rows.rows, groups), unit, resamples, time_unit)


def score_section(scores: Scores, title: str = "Scores") -> Section:
    """Scores of all splits beside each other, and of each class."""
    section, rows = Section(title), scores.all_rows
    names = {split: f"{SPLIT_NAMES[split]}, {counted(count, scores.unit)}" for split, count in _counts(scores)}
    drawn = "patients (groups)" if scores.groups is not None else scores.unit
    section.blocks.append(
        Text(
            f"In brackets: 95 % intervals, from {scores.resamples:,} bootstrap resamples of the {drawn}. They say how "
            "far the score may be off by the choice of images; not what another hospital, scanner or training gives."
        )
    )
    left_out = [(rows.failed, "prediction"), (rows.unlabeled, "label")]
    for count, why in left_out:
        if count:
            section.blocks.append(Text(f"Not scored: {counted(count, scores.unit)} without {why}.", "warning"))
    main = scores.table[scores.table["target"] == ""]
    if len(main):
        meaning = _positive(rows)
        section.blocks.append(_table(main, names, f"Scores{meaning}"))
    targets = [name for name in rows.names if (scores.table["target"] == name).any()]
    for split in scores.splits if targets else ():
        part = scores.table[scores.table["split"] == split]
        section.blocks.append(_by_target(part, targets, rows, split))
    notes = {
        f"{_of(row)}: {row['note']}" for row in scores.table.to_dict("records") if row["note"] and not row["target"]
    }
    section.blocks.extend(Text(note, "note") for note in sorted(notes))
    return section


def _counts(scores: Scores) -> list[tuple[str, int]]:
    return [(split, int((scores.all_rows.rows["split"] == split).sum())) for split in scores.splits]


def _positive(rows: Scored) -> str:
    if rows.one_class and len(rows.names) == 2:
        return f"; positive is '{rows.names[1]}', at a probability of 0.5"
    if rows.task == "multilabel":
        return "; areas are means over the labels"
    errors = "; errors are in classes" if rows.task == "ordinal" else ""
    return f"; areas are means of each class against the others{errors}" if rows.one_class else ""


def _of(row: Mapping[Any, Any]) -> str:
    return f"{SPLIT_NAMES[str(row['split'])]}, {NAMES[str(row['score'])]}"


def _table(part: pd.DataFrame, names: dict[str, str], caption: str) -> Table:
    cells = {
        (row["score"], row["split"]): with_interval(row["value"], row["low"], row["high"])
        for row in part.to_dict("records")
    }
    present = [name for name in NAMES if (part["score"] == name).any()]
    rows = [[NAMES[name], *(cells.get((name, split), DASH) for split in names), MEANINGS[name]] for name in present]
    return Table(caption, ["Score", *names.values(), "What it says"], rows)


def _by_target(part: pd.DataFrame, targets: list[str], rows: Scored, split: str) -> Table:
    present = [name for name in NAMES if (part.loc[part["target"] != "", "score"] == name).any()]
    cells = {
        (row["target"], row["score"]): with_interval(row["value"], row["low"], row["high"])
        for row in part.to_dict("records")
    }
    inside = rows.part(split)
    kind = {"multiclass": "Class", "ordinal": "Class", "multilabel": "Label", "regression": "Number"}[rows.task]
    counts = [str(int(total)) for total in inside.truth.sum(axis=0)] if rows.task != "regression" else []
    found = [
        [
            name,
            *([counts[rows.names.index(name)]] if counts else []),
            *(cells.get((name, key), DASH) for key in present),
        ]
        for name in targets
    ]
    headers = [kind, *(["images"] if counts else []), *(NAMES[key] for key in present)]
    return Table(f"{SPLIT_NAMES[split]}, each {kind.lower()}", headers, found)


def figure_section(scores: Scores, split: str) -> Section:
    """Figures of one split."""
    chosen = (scores.all_rows.rows["split"] == split).to_numpy()
    part = scores.all_rows.part(split)
    groups = scores.groups[chosen] if scores.groups is not None else None
    where = f"{SPLIT_NAMES[split]}, {counted(len(part.rows), scores.unit)}"
    section = Section(f"{SPLIT_NAMES[split]} {scores.unit}")
    if part.task == "survival":
        found = [_kaplan_meier(part, scores, where)]
    elif part.task == "regression":
        found = [
            drawing
            for k, name in enumerate(part.names)
            for drawing in drawings.draw_scatter(part.truth[:, k], part.predicted[:, k], name, where)
        ]
    else:
        found = _ranking(part, groups, scores, where, section)
        if part.one_class:
            found.append(_confusion(part, where))
        found += _probabilities(part, where)
    section.blocks.append(Drawings(found))
    return section


def _kaplan_meier(part: Scored, scores: Scores, where: str) -> Drawing:
    """Survival of the half of the images with the lower predicted risk, and of the half with the higher."""
    time, event, risk = part.truth[:, 0], part.truth[:, 1] > 0, part.predicted[:, 0]
    high = risk > np.median(risk)
    curves = {
        f"{name}: {counted(int(own.sum()), scores.unit)}, {counted(int(event[own].sum()), 'events')}": kaplan_meier(
            time[own], event[own]
        )
        for name, own in (("lower risk", ~high), ("higher risk", high))
        if own.any()
    }
    alt = f"{where}: Kaplan-Meier curves by predicted risk. {'; '.join(curves)}."
    caption = (
        f"By predicted risk, divided at the median of these {scores.unit}. Band: 95 % interval, by Greenwood's formula "
        "on the log-log scale. Marks: ends of follow-up."
    )
    return drawings.draw_kaplan_meier(curves, scores.time_unit, alt, caption)


def _ranking(
    part: Scored, groups: NDArray[np.object_] | None, scores: Scores, where: str, section: Section
) -> list[Drawing]:
    """ROC and precision-recall curves of the positive class, or of each class or label."""
    binary = part.one_class and len(part.names) == 2
    both = [k for k in range(len(part.names)) if 0 < part.truth[:, k].sum() < len(part.rows)]
    if not both:
        section.blocks.append(Text("No ROC curve: it needs images of two classes.", "note"))
        return []
    chosen = [1] if binary else sorted(both, key=lambda k: -part.truth[:, k].sum())[: FEW_CLASSES - 1]
    band = len(chosen) <= 3
    rocs: dict[str, Curve] = {}
    recalls: dict[str, Curve] = {}
    for k in sorted(chosen):
        positive, probability = part.truth[:, k] > 0, part.predicted[:, k]
        strata = part.classes if part.one_class else positive.astype(np.int64)
        units = units_of(groups, strata, len(positive))
        how: dict[str, Any] = {"resamples": scores.resamples if band else 0, "level": _LEVEL}
        name = part.names[k]
        rocs[f"{name}: {_value(scores, part, k, 'auroc')}"] = roc(positive, probability, units, **how)
        average = _value(scores, part, k, "average_precision")
        recalls[f"{name}: {average}"] = precision_recall(positive, probability, units, **how)
    more = f" The {len(chosen)} most frequent of {len(both)} classes." if len(chosen) < len(both) and not binary else ""
    about = f"{'Band: 95 % of the resamples. ' if band else ''}Dotted: chance.{more}"
    prevalence = float(part.truth[:, chosen[0]].mean()) if len(chosen) == 1 else None
    summary = "; ".join(rocs)
    return [
        drawings.draw_roc(rocs, f"{where}: ROC curve. AUROC: {summary}.", f"With AUROC. {about}"),
        drawings.draw_precision_recall(
            recalls, prevalence, f"{where}: precision-recall curve. Average precision: {'; '.join(recalls)}.",
            f"With average precision. {about if prevalence is not None else about.replace('Dotted: chance.', '')}",
        ),
    ]  # fmt: skip


def _value(scores: Scores, part: Scored, k: int, name: str) -> str:
    table, split = scores.table, part.rows["split"].iloc[0]
    target = "" if part.one_class and len(part.names) == 2 else part.names[k]
    found = table[(table["split"] == split) & (table["target"] == target) & (table["score"] == name)]
    return f"{found['value'].iloc[0]:.3f}"


def _confusion(part: Scored, where: str) -> Drawing:
    counts = np.zeros((len(part.names), len(part.names)), np.int64)
    np.add.at(counts, (part.classes, part.named), 1)
    right = int(np.trace(counts))
    alt = f"{where}: confusion matrix. {right} of {counts.sum()} on the diagonal."
    rates = ", and share of the true class" if len(part.names) <= FEW_CLASSES else "; shade: share of the true class"
    return drawings.draw_confusion(counts, part.names, alt, f"Images{rates}.")


def _probabilities(part: Scored, where: str) -> list[Drawing]:
    """Calibration, and histograms of probabilities."""
    if part.one_class and len(part.names) > 2:
        confidence = part.predicted[np.arange(len(part.rows)), part.named]
        right = (part.named == part.classes).astype(float)
        axis, share = "probability of the predicted class", "share right"
        by_class = {"right": confidence[right > 0], "wrong": confidence[right == 0]}
    elif part.one_class:
        confidence, right = part.predicted[:, 1], part.truth[:, 1]
        axis, share = f"probability of {drawings.shown(part.names[1])}", f"share of {drawings.shown(part.names[1])}"
        by_class = {name: confidence[part.classes == k] for k, name in enumerate(part.names)}
    else:
        confidence, right = part.predicted.ravel(), part.truth.ravel()
        axis, share = "probability of a label", "share that have it"
        by_class = {"images with the label": confidence[right > 0], "without": confidence[right == 0]}
    found = calibration(confidence, right)
    bins = "; ".join(
        f"{mean:.2f}: {part_right:.2f} of {count}"
        for mean, part_right, count in zip(found.confidence, found.share, found.count, strict=True)
    )
    caption = "Dotted: probabilities that are frequencies. Numbers: images in each bin."
    return [
        drawings.draw_calibration(found, f"{where}: calibration. {bins}.", caption, axis, share),
        drawings.draw_histogram(by_class, f"{where}: histogram of the {axis}.", axis, ""),
    ]
