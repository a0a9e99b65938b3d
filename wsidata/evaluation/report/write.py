"""Writing of report.html from a run folder, a folder of folds, or a table of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wsidata.evaluation.predictions import EXPECTED_RANK, NUMBERS, SURVIVAL_PREFIX, PredictionError, classes_of, decided
from wsidata.evaluation.report.blocks import Section, Table, Text, counted, number
from wsidata.evaluation.report.contents import Contents, heat_map_of, read_contents
from wsidata.evaluation.report.mistakes import mistake_section
from wsidata.evaluation.report.run_sections import (
    data_section,
    fold_section,
    leak_section,
    origin_section,
    training_section,
    unreadable_section,
)
from wsidata.evaluation.report.scores import NAMES, SPLIT_NAMES, Scores, figure_section, score, score_section
from wsidata.evaluation.scored import values_of
from wsidata.utils.files import write_text
from wsidata.utils.messages import check_choice

UNITS = ("images", "slides", "photos", "cases")
_MOST_ROWS = 50
_GENERATOR = "slidestream report"
_MARK = f'<meta name="generator" content="{_GENERATOR}">'.encode()
_HEADLINES = {
    "multiclass": ("auroc", "balanced_accuracy", "accuracy"),
    "ordinal": ("quadratic_kappa", "mae", "accuracy"),
    "multilabel": ("auroc", "average_precision", "label_accuracy"),
    "regression": ("mae", "r2", "pearson"),
    "survival": ("c_index",),
}
_TASKS = {
    "multiclass": "one class an image", "ordinal": "one of ordered classes", "multilabel": "several labels an image",
    "regression": "numbers", "survival": "time to an event",
}  # fmt: skip


@dataclass(frozen=True)
class Headline:
    """A number to look at first."""

    name: str
    value: str
    interval: str


def write_report(
    source: str | Path,
    *,
    out: str | Path | None = None,
    title: str | None = None,
    unit: str | None = None,
    groups: Mapping[str, str] | None = None,
    resamples: int = 1000,
    max_mistakes: int = 12,
) -> Path:
    """Write one self-contained HTML file about a run: curves, scores with intervals, figures, mistakes, leaks, origin.

    Nothing is loaded from anywhere when it is opened, and it holds no scripts. Text from tables and file names is
    escaped. It shows small pictures of the worst mistakes: mind whom you send it to.

    Args:
        source: A run folder (files that are missing are left out, or it says how to get them), a folder with fold_0,
            fold_1, ... in it, or a table of predictions (see `read_predictions`).
        out: HTML file to write; None: report.html in the folder.
        title: Heading; None: the name of the folder.
        unit: What the images are called: "slides", "photos", "cases" or "images". None: as run.json says, or "images".
        groups: Patient of each image, drawn together for the intervals. None: those of split.csv, or of the column
            `group`.
        resamples: Number of bootstrap resamples.
        max_mistakes: How many mistakes to show.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if there is nothing to report.
        PredictionError: if the table of predictions, given alone, cannot be read or scored. In a run folder the report
            says so, and holds the rest.
        FileExistsError: if `out` exists and is no report.
        ValueError: if `unit` is unknown.
    """
    source = Path(source)
    contents = read_contents(source)
    target = Path(out) if out is not None else contents.folder / "report.html"
    _refuse_others(target)
    facts = contents.facts or next((fold.facts for fold in contents.folds if fold.facts), {})
    if unit is None:
        unit = facts["unit"] if facts.get("unit") in UNITS else "images"
    check_choice("unit", unit, UNITS)
    problems = contents.problems + [problem for fold in contents.folds for problem in fold.problems]
    predictions, scores = contents.predictions, None
    known = groups if groups is not None else next(
        (one.groups for one in (contents, *contents.folds) if one.groups is not None), None
    )  # fmt: skip
    try:
        predictions = _pooled(contents.folds) if predictions is None and contents.folds else predictions
        if predictions is not None:
            time_unit = str(facts.get("time_unit") or "")
            scores = score(predictions, None if known is None else dict(known), unit, resamples, time_unit)
    except PredictionError as error:
        if source.is_file():
            raise
        problems.append(f"There are no scores: {error}")
    sections = _sections(contents, facts, predictions, scores, unit, max_mistakes)
    return write_page(
        target,
        title=title or contents.folder.resolve().name,
        facts=_facts(facts, scores, unit, contents),
        headlines=_headlines(scores),
        headline_of=SPLIT_NAMES[scores.splits[0]] if scores is not None and scores.splits else "",
        problems=problems,
        sections=sections,
    )


def write_page(
    target: Path,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    headlines: Sequence[Headline] = (),
    headline_of: str = "",
    problems: Sequence[str] = (),
) -> Path:
    """Write a self-contained page of sections; those without blocks are left out.

    Args:
        target: HTML file to write.
        title: Heading.
        facts: Names and values below the heading.
        sections: Its parts.
        headlines: Numbers to look at first.
        headline_of: What these are of.
        problems: Warnings.

    Raises:
        FileExistsError: if the file exists and is no report.
    """
    _refuse_others(target)
    page = _template().render(
        title=title, generator=_GENERATOR, facts=facts, headlines=headlines, headline_of=headline_of, problems=problems,
        sections=[section for section in sections if section.blocks],
    )  # fmt: skip
    write_text(target, page)
    return target


def _sections(
    contents: Contents,
    facts: Mapping[str, Any],
    predictions: pd.DataFrame | None,
    scores: Scores | None,
    unit: str,
    max_mistakes: int,
) -> list[Section]:
    sections = []
    maps = heat_map_of(
        [] if predictions is None else predictions["image"].astype(str).tolist(),
        [path for one in (contents, *contents.folds) for path in one.heat_maps],
    )
    if scores is None:
        advice = "slidestream test, or slidestream predict with labels in the table, writes predictions.csv."
        sections.append(Section("Scores", [Text(f"No predictions to score. {advice}", "note")]))
    elif not scores.splits:
        rows = scores.all_rows
        left_out = f"{counted(rows.unlabeled, unit)} without label, {rows.failed:,} without prediction"
        said = Text(f"Undefined: no {unit} with both label and prediction ({left_out}).")
        sections.append(Section("Scores", [said, *_named(predictions)]))
    else:
        sections.append(score_section(scores))
        if contents.folds:
            sections.append(fold_section(contents))
        sections += [figure_section(scores, split) for split in scores.splits]
        sections.append(mistake_section(scores, maps, max_mistakes))
    sections.append(unreadable_section(contents, predictions))
    if contents.metrics is not None or contents.folds or contents.facts:
        sections.append(training_section(contents))
    if not contents.alone:
        sections.append(data_section(contents, scores if scores is not None and scores.splits else None, unit))
        sections.append(leak_section(contents))
        sections.append(origin_section(facts))
    return sections


def _named(predictions: pd.DataFrame | None) -> list[Table]:
    """How often each class was predicted."""
    if predictions is None or "predicted" not in predictions or not classes_of(predictions):
        return []
    counts = predictions.loc[predictions["predicted"] != "", "predicted"].value_counts()
    if len(counts) == 0:
        return []
    rows = [[str(name), f"{count:,}", f"{count / counts.sum():.0%}"] for name, count in counts.items()]
    return [Table("Predictions", ["Predicted", "images", "share"], rows[:_MOST_ROWS])]


def _pooled(folds: list[Contents]) -> pd.DataFrame | None:
    """Validation rows of all folds, and test rows with the mean of their numbers over the folds.

    Raises:
        PredictionError: if folds have other classes, or validate on the same image.
    """
    tables = [fold.predictions for fold in folds if fold.predictions is not None]
    tables = [table if "split" in table else table.assign(split="val") for table in tables]
    if not tables:
        return None
    tables = [table.drop(columns=[n for n in table.columns if n.startswith(SURVIVAL_PREFIX)]) for table in tables]
    columns = [name for name in tables[0].columns if name.startswith(NUMBERS)]
    if any(set(columns) != {c for c in table.columns if c.startswith(NUMBERS)} for table in tables):
        raise PredictionError("folds have predicted other classes. Train all folds with the same class names.")
    validated = pd.concat([table[table["split"] == "val"] for table in tables], ignore_index=True)
    tested = pd.concat([table[table["split"] == "test"] for table in tables], ignore_index=True)
    if len(tested):
        first = tested.drop_duplicates("image").set_index("image")
        by_image = tested.groupby("image", sort=False)
        if "label" in tested and by_image["label"].nunique().max() > 1:
            raise PredictionError("folds give one test image two labels. Write the predictions of the folds again.")
        if by_image.size().nunique() > 1:
            raise PredictionError("folds have tested other images, or one image twice. Write their predictions again.")
        complete = by_image[columns].count().eq(by_image.size(), axis=0)
        first[columns] = by_image[columns].mean().where(complete)
        if "error" in first:
            first["error"] = by_image["error"].max()
        if not values_of(first) and "predicted" in first and set(first["predicted"]) <= {"", *classes_of(first)}:
            names = np.array(classes_of(first))
            numbers = first[[f"probability_{name}" for name in names]].to_numpy(dtype=float)
            best = decided(np.nan_to_num(numbers), ordered=EXPECTED_RANK in first)
            first["predicted"] = np.where(np.isnan(numbers).any(axis=1), "", names[best])
        tested = first.reset_index()
    return pd.concat([validated, tested], ignore_index=True)


def _facts(facts: Mapping[str, Any], scores: Scores | None, unit: str, contents: Contents) -> list[tuple[str, str]]:
    found = []
    if scores is not None:
        names = scores.all_rows.names
        listed = ", ".join(names) if len(names) <= 6 else f"{len(names)} classes"
        found.append(("Task", f"{_TASKS[scores.all_rows.task]} ({listed})"))
        found += [
            (SPLIT_NAMES[split], counted(int((scores.all_rows.rows["split"] == split).sum()), unit))
            for split in scores.splits
        ]
    elif facts.get("task"):
        found.append(("Task", str(facts["task"])))
    if contents.folds:
        found.append(("Folds", str(len(contents.folds))))
    for name, title in (("resolution", "Resolution"), ("model", "Network"), ("started", "Started")):
        if facts.get(name):
            value = facts[name]
            text = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else str(value)
            found.append((title, text[:16].replace("T", " ") if name == "started" else text))
    seconds = facts.get("seconds")
    if isinstance(seconds, (int, float)):
        found.append(("Duration", f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"))
    versions = facts.get("versions")
    if isinstance(versions, Mapping) and versions.get("slidestream"):
        found.append(("Version", f"slidestream {versions['slidestream']}"))
    return found


def _headlines(scores: Scores | None) -> list[Headline]:
    """The three scores to look at first, of the first split."""
    if scores is None or not scores.splits:
        return []
    table, rows = scores.table, scores.all_rows
    target = "" if (table["target"] == "").any() else rows.names[0]
    part = table[(table["split"] == scores.splits[0]) & (table["target"] == target)].set_index("score")
    found = []
    for name in _HEADLINES[rows.task]:
        if name in part.index:
            value, low, high = (float(part[column][name]) for column in ("value", "low", "high"))
            interval = f"{number(low)} to {number(high)}" if np.isfinite(low) else "no interval"
            said = number(value) if np.isfinite(value) else "undefined"
            found.append(Headline(f"{NAMES[name]}{f' of {target}' if target else ''}", said, interval))
    return found


def _refuse_others(path: Path) -> None:
    if path.is_file() and path.stat().st_size and _MARK not in path.read_bytes():
        raise FileExistsError(f"'{path}' exists and is no report. Nothing was written; name another file with out=.")


def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_plain, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))


def _plain(value: object) -> object:
    """Text without control characters, and without what makes it run the other way; line breaks stay."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in value)
