"""Sections of a report on the run itself, its training, folds, data, leaks and versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from wsidata.evaluation.intervals import scores_with_intervals
from wsidata.evaluation.predictions import PredictionError
from wsidata.evaluation.report.blocks import DASH, Drawings, Section, Table, Text, counted, number
from wsidata.evaluation.report.contents import Contents
from wsidata.evaluation.report.drawings import draw_balance, draw_curves
from wsidata.evaluation.report.scores import NAMES, ORDER, SPLIT_NAMES, Scores
from wsidata.evaluation.scored import has_error

_MOST_CURVES, _MOST_ROWS, _MOST_CLASSES = 6, 50, 12
_STAGE = re.compile(r"(train|val)_(.+?)(_epoch|_step)?")
_STAGES = {"train": "training", "val": "validation"}


def training_section(contents: Contents) -> Section:
    """Curves of loss and metrics by epoch."""
    section = Section("Training")
    runs = {f"fold {number_}": fold.metrics for number_, fold in enumerate(contents.folds)} or {"": contents.metrics}
    series: dict[str, dict[str, tuple[Any, Any]]] = {}
    for run, table in runs.items():
        if table is None or "epoch" not in table:
            continue
        for column in table.columns:
            found = _STAGE.fullmatch(str(column))
            if found and found[3] != "_step":
                values = table[["epoch", column]].dropna().groupby("epoch")[column].mean()
                finite = values[np.isfinite(values)]
                if len(finite):
                    label = ", ".join(filter(None, (_STAGES[found[1]] if run == "" or len(runs) < 3 else "", run)))
                    if run == "" or found[1] == "val":
                        series.setdefault(found[2], {})[label or run] = (finite.index.to_numpy(), finite.to_numpy())
    if not series:
        section.blocks.append(
            Text(
                "No metrics.csv in the run folder: curves need Lightning's CSVLogger, which slidestream fit sets.",
                "note",
            )
        )
        return section
    names = sorted(series, key=lambda name: (name != "loss", name))[:_MOST_CURVES]
    drawn = [
        draw_curves(series[name], NAMES.get(name, name.replace("_", " ").capitalize()), _said(name, series[name]))
        for name in names
    ]
    section.blocks.append(Drawings(drawn))
    if len(series) > len(names):
        section.blocks.append(Text(f"{len(series) - len(names)} more metrics are in metrics.csv.", "note"))
    return section


def _said(name: str, series: Mapping[str, tuple[Any, Any]]) -> str:
    last = "; ".join(f"{label or 'all'} ends at {values[-1]:.3g}" for label, (_, values) in series.items())
    return f"{name} by epoch: {last}."


def fold_section(contents: Contents) -> Section:
    """Mean and spread of each score over the folds."""
    section = Section("Folds")
    values: dict[tuple[str, str, str], list[float]] = {}
    for place, fold in enumerate(contents.folds):
        if fold.predictions is None:
            section.blocks.append(Text(f"Fold {place} has no predictions.csv and is left out here.", "warning"))
            continue
        try:
            table = scores_with_intervals(fold.predictions, resamples=0)
        except PredictionError as error:
            section.blocks.append(Text(f"Fold {place} is left out here: {error}", "warning"))
            continue
        several = (table["target"] == "").any()
        for row in table.to_dict("records"):
            if not row["target"] or not several:
                values.setdefault((row["split"], row["target"], row["score"]), []).append(row["value"])
    rows = []
    for split in ORDER:
        for (of, target, name), numbers in sorted(values.items(), key=lambda item: list(NAMES).index(item[0][2])):
            if of == split:
                defined = np.array([one for one in numbers if np.isfinite(one)])
                left_out = f"; undefined in {len(numbers) - len(defined)}" if len(defined) < len(numbers) else ""
                spread = number(defined.std(ddof=1)) if len(defined) > 1 else DASH
                ends = f"{number(defined.min())} to {number(defined.max())}" if len(defined) else DASH
                title = ", ".join(filter(None, (SPLIT_NAMES[split], target, NAMES[name])))
                mean = number(defined.mean()) if len(defined) else "undefined"
                rows.append([title, mean, spread, ends + left_out])
    if rows:
        caption = f"Mean and spread over {len(contents.folds)} folds"
        section.blocks.append(Table(caption, ["Score", "mean", "standard deviation", "lowest to highest"], rows))
    section.blocks.append(
        Text(
            "Scores elsewhere in this report are of all folds together: each validation image as predicted by the "
            "network that was not trained on it, test images by the mean of all networks. Networks of different folds "
            "put the same image on different scales, so areas of all together may be below the mean of the folds.",
            "note",
        )
    )
    return section


def data_section(contents: Contents, scores: Scores | None, unit: str) -> Section:
    """Images of each class in each split."""
    section = Section("Data")
    table = contents.split if contents.split is not None else next(
        (fold.split for fold in contents.folds if fold.split is not None), None
    )  # fmt: skip
    numbers = scores is not None and scores.all_rows.task == "regression"
    several = scores is not None and scores.all_rows.task == "multilabel"
    times = scores is not None and scores.all_rows.task == "survival"
    if table is None or not {"label_name", "split"} <= set(table.columns):
        if scores is None:
            section.blocks.append(
                Text("No split.csv in the run folder: it says which image was used for what.", "note")
            )
            return section
        section.blocks.append(Text("No split.csv in the run folder: these are the images that were scored.", "note"))
        labels = scores.all_rows.rows["label"].astype(str)
        table = pd.DataFrame({"label_name": labels, "split": scores.all_rows.rows["split"]})
    if contents.folds and contents.split is None:
        section.blocks.append(
            Text("The split of the first fold; the others divide the same images differently.", "note")
        )
    if "case" in table:  # which are samples; the rows are their slides
        table = table.drop_duplicates("case")
    splits = [split for split in ("train", "val", "test") if (table["split"] == split).any()]
    used = table[table["split"].isin(splits)]
    if "group" in used and (used["group"] != "").any():
        groups = {split: used.loc[used["split"] == split, "group"].nunique() for split in splits}
        said = ", ".join(f"{count} in {SPLIT_NAMES[split].lower()}" for split, count in groups.items())
        section.blocks.append(Text(f"Patients (groups): {said}."))
    used = used[["label_name", "split"]].rename(columns={"label_name": "class"})
    if several:
        used = used.assign(**{"class": used["class"].str.split(r"\s*[;|]\s*", regex=True)}).explode("class")
    if times:
        used = used.assign(**{"class": used["class"].str.rpartition(" ")[2]})
    if numbers:
        used = used.assign(**{"class": f"all {unit}"})
    counts = used.groupby(["class", "split"]).size().unstack(fill_value=0).reindex(columns=splits, fill_value=0)
    totals = counts.sum()
    rows = [
        [str(name), *(f"{row[split]:,} ({row[split] / max(totals[split], 1):.0%})" for split in splits)]
        for name, row in counts.iterrows()
    ]
    kind = "Label" if several else "Outcome" if times else "Class"
    headers = [kind, *(SPLIT_NAMES[split] for split in splits)]
    if len(counts) <= _MOST_CLASSES and not numbers and len(counts):
        shown = {SPLIT_NAMES[split]: counts[split].tolist() for split in splits}
        alt = f"{unit.capitalize()} of each {kind.lower()} in each split; the numbers are in the table."
        section.blocks.append(Drawings([draw_balance(shown, [str(name) for name in counts.index], alt)]))
    section.blocks.append(Table(f"{unit.capitalize()} of each {kind.lower()}, and share of the split", headers, rows))
    return section


def leak_section(contents: Contents) -> Section:
    """Patients, files and near-duplicates that several splits share."""
    section = Section("Leakage between splits")
    tables = {"": contents.leaks, **{f"fold {place}: ": fold.leaks for place, fold in enumerate(contents.folds)}}
    known = {name: table for name, table in tables.items() if table is not None}
    if not known:
        section.blocks.append(
            Text(
                'No leaks.csv in the run folder, so leakage was not recorded: leaks="warn" of the data module checks '
                "for patients, files and near-duplicates in two splits.",
                "note",
            )
        )
        return section
    rows = [
        [f"{name}{row.get('image_id', '')}", row.get("split", ""), row.get("kind", ""), row.get("what", ""),
         row.get("leak", "")]
        for name, table in known.items()
        for row in table.to_dict("records")
    ]  # fmt: skip
    if not rows:
        section.blocks.append(Text("The leak check of the run found nothing that two splits share."))
        return section
    section.blocks.append(
        Text(
            "Splits share patients, files or near-duplicates: scores of validation and test may be too good.", "warning"
        )
    )
    headers = ["Image", "split", "kind", "what", "leak"]
    section.blocks.append(Table(f"Leaks{_first(rows)}", headers, rows[:_MOST_ROWS]))
    return section


def unreadable_section(contents: Contents, predictions: pd.DataFrame | None) -> Section:
    """Images that could not be read or predicted, or were left out of the split; without blocks if there are none."""
    section = Section("Images that could not be read")
    rows: list[list[str]] = []
    if predictions is not None and "error" in predictions:
        bad = predictions[has_error(predictions)]
        splits = bad["split"] if "split" in bad else pd.Series("", bad.index)
        rows += [[str(a), str(b), str(c)] for a, b, c in zip(bad["image"], splits, bad["error"], strict=True)]
    if contents.split is not None and {"skipped", "image_id"} <= set(contents.split.columns):
        bad = contents.split[contents.split["skipped"] != ""]
        rows += [[str(a), "left out", str(b)] for a, b in zip(bad["image_id"], bad["skipped"], strict=True)]
    if rows:
        said = f"{counted(len(rows), 'images')} could not be read and {'was' if len(rows) == 1 else 'were'} not scored."
        section.blocks.append(Text(said, "warning"))
        section.blocks.append(Table(f"Reasons{_first(rows)}", ["Image", "split", "reason"], rows[:_MOST_ROWS]))
    return section


def _first(rows: list[list[str]]) -> str:
    return f" (the first {_MOST_ROWS} of {len(rows):,})" if len(rows) > _MOST_ROWS else ""


def origin_section(facts: Mapping[str, Any]) -> Section:
    """The command, and the versions."""
    section = Section("How it was made")
    if facts.get("command"):
        section.blocks.append(Text(str(facts["command"]), "code"))
    versions = facts.get("versions")
    if isinstance(versions, Mapping) and versions:
        rows = [[str(name), str(one)] for name, one in versions.items()]
        section.blocks.append(Table("Versions", ["Package", "version"], rows))
    if not section.blocks:
        section.blocks.append(Text("No run.json in the run folder: command and versions were not recorded.", "note"))
    return section
