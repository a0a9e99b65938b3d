"""Targets of a label table, which are a class, a grade, several labels, numbers, a mask or a time.

An empty cell is a problem, as it may mean "nothing found", "not examined" or "forgotten".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from wsidata.tables.class_names import ClassMap, ClassNames, class_map, ordered_class_map
from wsidata.tables.find_slides import ImageFolder, ImageLookupError
from wsidata.tables.text_table import NO_LABEL, TextTable

Target = Literal["class", "ordinal", "multilabel", "regression", "mask", "survival"]
TARGETS: tuple[Target, ...] = ("class", "ordinal", "multilabel", "regression", "mask", "survival")
ONE_CLASS: tuple[Target, ...] = ("class", "ordinal")
"""Kinds of targets that are one class an image."""

EVENT_NAMES = ("censored", "event")
"""How the end of a follow-up is written behind its time, by whether there was an event."""

TimeUnit = Literal["days", "weeks", "months", "years"]
TIME_UNITS: tuple[TimeUnit, ...] = ("days", "weeks", "months", "years")

Decimal = Literal[".", ","]

_HINTS = {
    ".": " (write a decimal point, or pass decimal=',')",
    ",": " (decimal=',' is given: write a decimal comma, and no marks of thousands)",
}
_COMMA_AND_POINT = str.maketrans({",": ".", ".": "?"})  # one is read, the other never
_YES, _NO = {"1", "true", "yes"}, {"0", "false", "no"}


@dataclass(frozen=True)
class Targets:
    """The targets of all rows of a table.

    Attributes:
        class_names: Classes, labels, or names of the numbers.
        columns: Columns for `LabelTable.frame`: `label_name` and `label` always; `target` (a tuple of floats) with
            several labels and with numbers, `mask` (a path) with masks.
        problems: Problems, one line each.
    """

    class_names: tuple[str, ...]
    columns: dict[str, list[Any]]
    problems: list[str] = field(default_factory=list)


def read_targets(
    text: TextTable,
    kind: Target,
    columns: Sequence[str],
    class_names: ClassNames | None,
    mask_folder: ImageFolder | None = None,
    decimal: Decimal = ".",
) -> Targets:
    """Targets of all rows of a table of text.

    Args:
        text: The table.
        kind: "class": one column of labels. "ordinal": one column of labels with an order, that of `class_names`, or of
            the labels if they are consecutive whole numbers. "multilabel": one column of labels separated by `;` or `|`
            (`none` where there is none), or a column of 0 and 1 per label. "regression": columns of numbers. "mask":
            one column of names of mask images. "survival": a column of times, and one of events (1) and ends of
            follow-up (0).
        columns: Columns of the table; none for a table without labels.
        class_names: See `class_map`; a sequence of names (one a column, where there are several columns). Needed
            with masks, whose classes are not in the table.
        mask_folder: Folder of the masks.
        decimal: Decimal mark of numbers in text, "." or ",".

    Returns:
        Targets and problems.

    Raises:
        ValueError: if `columns` or `class_names` do not suit `kind`.
    """
    if not columns:
        count = len(text.places)
        known = class_map([], class_names) if class_names else ClassMap((), {})
        return Targets(known.class_names, {"label_name": [""] * count, "label": [-1] * count})
    if kind in (*ONE_CLASS, "mask") and len(columns) > 1:
        raise ValueError(f"target={kind!r} takes one label_column, not {list(columns)}.")
    if kind in ONE_CLASS:
        return _classes(text, columns[0], class_names, class_map if kind == "class" else ordered_class_map)
    if kind == "survival":
        return _survival(text, columns, class_names, decimal)
    if kind == "regression":
        return _numbers(text, columns, class_names, decimal)
    if kind == "mask":
        return _masks(text, columns[0], class_names, mask_folder or ImageFolder("."))
    if len(columns) == 1:
        return _label_lists(text, columns[0], class_names)
    return _label_columns(text, columns, class_names)


def target_tensor(row: Any) -> Tensor | int:
    """The target of one row of `LabelTable.frame` that is not a mask: a class number, or a (K,) float32 tensor."""
    return torch.tensor(row["target"], dtype=torch.float32) if "target" in row else int(row["label"])


def empty_cells(text: TextTable, column: str) -> list[str]:
    """A problem for each empty cell."""
    return [f"{place}: column '{column}' is empty" for place, cell in _cells(text, column) if not cell]


def _cells(text: TextTable, column: str) -> list[tuple[str, str]]:
    return list(zip(text.places, text.frame[column].tolist(), strict=True))


def _classes(
    text: TextTable,
    column: str,
    class_names: ClassNames | None,
    make: Callable[[Sequence[str], ClassNames | None], ClassMap],
) -> Targets:
    if column in text.list_columns:
        raise ValueError(
            f"column '{column}' holds lists. Pass target='multilabel' for several labels an image, or take one of each."
        )
    classes = make(text.frame[column].tolist(), class_names)
    names = [classes.renames.get(cell, "") for _, cell in _cells(text, column)]
    number_of = {name: number for number, name in enumerate(classes.class_names)}
    numbers = [number_of.get(name, -1) for name in names]
    problems = empty_cells(text, column) + [
        f"{place}: {_unknown(cell, column, classes)}"
        for place, cell in _cells(text, column)
        if cell and cell not in classes.renames
    ]
    return Targets(classes.class_names, {"label_name": names, "label": numbers}, problems)


def _unknown(label: str, column: str, classes: ClassMap) -> str:
    return f"unknown label '{label}' in column '{column}' (known: {', '.join(classes.renames)})"


def _label_lists(text: TextTable, column: str, class_names: ClassNames | None) -> Targets:
    """One column, `a; b` in a cell."""
    separated = [(place, re.split(r"[;|]", cell)) for place, cell in _cells(text, column)]
    cells = [(place, [part.strip() for part in parts if part.strip()]) for place, parts in separated]
    found = [label for _, labels in cells for label in labels if label.lower() != NO_LABEL]
    classes = class_map(found, class_names)
    problems = empty_cells(text, column)
    chosen: list[set[str]] = []
    for place, labels in cells:
        if [label.lower() for label in labels] == [NO_LABEL] and labels[0] not in classes.renames:
            labels = []
        problems += [f"{place}: {_unknown(label, column, classes)}" for label in labels if label not in classes.renames]
        chosen.append({classes.renames.get(label, "") for label in labels})
    return _several(classes.class_names, chosen, problems)


def _label_columns(text: TextTable, columns: Sequence[str], class_names: ClassNames | None) -> Targets:
    """A column of 0 and 1 for each label."""
    names = _column_names(columns, class_names)
    chosen: list[set[str]] = [set() for _ in text.places]
    problems: list[str] = []
    for name, column in zip(names, columns, strict=True):
        for row, (place, cell) in enumerate(_cells(text, column)):
            if cell.lower() in _YES:
                chosen[row].add(name)
            elif cell.lower() not in _NO:
                problems.append(f"{place}: column '{column}' says '{cell}', which is neither 0 nor 1")
    return _several(names, chosen, problems)


def _several(names: tuple[str, ...], chosen: list[set[str]], problems: list[str]) -> Targets:
    shown = ["; ".join(name for name in names if name in labels) or NO_LABEL for labels in chosen]
    targets = [tuple(float(name in labels) for name in names) for labels in chosen]
    return Targets(names, {"label_name": shown, "label": [-1] * len(chosen), "target": targets}, problems)


def _numbers(text: TextTable, columns: Sequence[str], class_names: ClassNames | None, decimal: Decimal) -> Targets:
    names = _column_names(columns, class_names)
    rows: list[list[float]] = [[] for _ in text.places]
    problems: list[str] = []
    for column in columns:
        mark = "." if column in text.numeric_columns else decimal  # numbers became text here
        for row, (place, cell) in enumerate(_cells(text, column)):
            number = _number(cell, mark)
            if not math.isfinite(number):
                hint = _HINTS[mark] if {".": ",", ",": "."}[mark] in cell else ""
                problems.append(f"{place}: column '{column}' says '{cell}', which is no finite number{hint}")
            rows[row].append(number)
    shown = [", ".join(f"{number:.15g}" for number in numbers) for numbers in rows]
    targets = [tuple(numbers) for numbers in rows]
    return Targets(names, {"label_name": shown, "label": [-1] * len(rows), "target": targets}, problems)


def _survival(text: TextTable, columns: Sequence[str], class_names: ClassNames | None, decimal: Decimal) -> Targets:
    """A column of times, and one of 0 (censored) and 1 (event)."""
    if len(columns) != 2 or class_names is not None:
        raise ValueError(
            "target='survival' takes label_column=[time, event], in this order, and no class_names=; found "
            f"label_column={list(columns)}."
        )
    found = _numbers(text, columns[:1], None, decimal)
    times, problems, events = [row[0] for row in found.columns["target"]], list(found.problems), []
    for time, (place, cell) in zip(times, _cells(text, columns[0]), strict=True):
        if time < 0 and math.isfinite(time):
            problems.append(f"{place}: column '{columns[0]}' says '{cell}', and times are at least 0")
    for place, cell in _cells(text, columns[1]):
        known = cell.lower() in _YES | _NO | {"1.0", "0.0"}
        events.append(float(cell.lower() in _YES | {"1.0"}))
        if not known:
            problems.append(
                f"{place}: column '{columns[1]}' says '{cell}', which is neither 0 (censored) nor 1 (event)"
            )
    shown = [f"{time:.15g} {EVENT_NAMES[int(event)]}" for time, event in zip(times, events, strict=True)]
    rows: dict[str, list[Any]] = {"label_name": shown, "label": [-1] * len(shown)}
    return Targets(tuple(columns), rows | {"target": list(zip(times, events, strict=True))}, problems)


def _number(cell: str, decimal: Decimal) -> float:
    """The number in a cell; NaN for none, infinity where float32 is too small."""
    if decimal == ",":
        cell = cell.translate(_COMMA_AND_POINT)
    try:
        number = float(cell.replace("_", "?"))  # not Python's digit groups
    except ValueError:
        return math.nan
    return number if abs(number) <= torch.finfo(torch.float32).max else math.inf


def _masks(text: TextTable, column: str, class_names: ClassNames | None, folder: ImageFolder) -> Targets:
    if class_names is None:
        raise ValueError("target='mask' needs class_names=, the class of each pixel value: ['background', 'tumor'].")
    problems: list[str] = []
    paths: list[str] = []
    for place, cell in _cells(text, column):
        paths.append("")
        try:
            paths[-1] = str(folder.find(cell)) if cell and cell.lower() != NO_LABEL else ""
        except ImageLookupError as error:
            problems.append(f"{place}: mask: {error}")
    columns: dict[str, list[Any]] = {"label_name": [""] * len(paths), "label": [-1] * len(paths), "mask": paths}
    return Targets(mask_class_names(class_names), columns, empty_cells(text, column) + problems)


def mask_class_names(class_names: ClassNames) -> tuple[str, ...]:
    """Names of the classes of masks, one for each pixel value; a mapping that merges classes would leave these open."""
    names = class_map([], class_names).class_names
    if len(names) != len(class_names):
        raise ValueError(
            f"class_names={class_names!r} merges classes, which masks do not. Name each pixel value, in their order."
        )
    return names


def _column_names(columns: Sequence[str], class_names: ClassNames | None) -> tuple[str, ...]:
    """Names of the entries of a target: `class_names`, or the columns."""
    names = tuple(columns) if class_names is None else class_map([], class_names).class_names
    if len(names) != len(columns):
        raise ValueError(f"class_names={list(names)} must name each of the columns {list(columns)}, in their order.")
    return names
