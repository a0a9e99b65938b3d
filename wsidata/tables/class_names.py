"""Class names, their order and the labels they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from wsidata.tables.name_table import nfc
from wsidata.tables.text_table import TableError, TextTable, read_text_table
from wsidata.utils.messages import describe_problems, name_some

ClassNames = Sequence[str] | Mapping[str, str] | Mapping[str, int]
LabelNames = str | Path | pd.DataFrame | Mapping[str, str]

_NAME_COLUMNS = ("name", "class_name", "label_name")


@dataclass(frozen=True)
class ClassMap:
    """Classes in order, and the class of each label of the table.

    Attributes:
        class_names: Name of class 0, 1, ...
        renames: Label in the table -> class name.
    """

    class_names: tuple[str, ...]
    renames: dict[str, str]


def class_map(labels: Sequence[str], class_names: ClassNames | None = None) -> ClassMap:
    """Classes and their order.

    Args:
        labels: The labels in the table; empty ones are ignored.
        class_names: None: the labels found, sorted (as numbers if all are whole numbers). A sequence: the classes in
            this order. A mapping to numbers, `{"normal": 0, "tumor": 1}`: the same, spelled out. A mapping to names,
            `{"Tumor": "tumor", "itc": "tumor", "neg": "normal"}`: renames and merges; classes come in the order in
            which the mapping first names them.

    Returns:
        The classes. Labels that are not in `class_names` are not in `renames`.

    Raises:
        ValueError: if `class_names` is empty, repeats a name, or its numbers are not 0, 1, ..., n-1.
    """
    if class_names is None:
        found = _sort_labels({label for label in labels if label})
        return ClassMap(tuple(found), {name: name for name in found})
    if isinstance(class_names, Mapping):
        given = {nfc(str(key).strip()): value for key, value in class_names.items()}
        if all(isinstance(value, int) and not isinstance(value, bool) for value in given.values()):
            ordered = sorted(given, key=lambda name: int(given[name]))
            if [given[name] for name in ordered] != list(range(len(given))):
                raise ValueError(
                    f"class_names={dict(class_names)!r} must number the classes 0, 1, ..., each once. "
                    "To merge labels into one class, map them to names: {'itc': 'tumor', 'macro': 'tumor'}."
                )
            renames = {name: name for name in given}
        else:
            renames = {key: nfc(str(value).strip()) for key, value in given.items()}
            ordered = list(dict.fromkeys(renames.values()))
    else:
        if isinstance(class_names, str):
            raise ValueError(f"class_names={class_names!r} is one text; pass a list such as ['normal', 'tumor'].")
        ordered = [nfc(str(name).strip()) for name in class_names]
        renames = {name: name for name in ordered}
    if not ordered or len(set(ordered)) != len(ordered):
        raise ValueError(f"class_names={class_names!r} must name at least one class, and each once.")
    return ClassMap(tuple(ordered), renames)


def ordered_class_map(labels: Sequence[str], class_names: ClassNames | None = None) -> ClassMap:
    """Classes in an order that means something, from least to most; for the arguments see `class_map`.

    Raises:
        ValueError: if the order would have to be guessed, because `class_names` is None and the labels are not
            consecutive whole numbers; otherwise as `class_map`.
    """
    found = class_map(labels, class_names)
    if class_names is None:
        check_order(found.class_names)
    if len(found.class_names) < 2:
        raise ValueError(f"ordered classes have to be at least two, not {list(found.class_names)}. Pass class_names=.")
    return found


def check_order(labels: Sequence[str]) -> None:
    """Raise `ValueError` unless sorted labels are consecutive whole numbers, such as grades 1, 2, 3."""
    shown = f"[{name_some(list(labels))}]"
    if not all(label.lstrip("-").isdecimal() for label in labels):
        raise ValueError(
            f"target='ordinal' needs an order of the classes {shown}, which do not tell it. Pass class_names= with all "
            "of them, from least to most, such as ['low', 'middle', 'high']."
        )
    numbers = [int(label) for label in labels]
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError(
            f"the labels {shown} are not consecutive numbers: a class without images may be missing, or two labels may "
            "be one class. Pass class_names= with all classes from least to most."
        )


def _sort_labels(labels: set[str]) -> list[str]:
    """Sort whole numbers by value (2 before 10), other labels alphabetically."""
    if all(label.lstrip("-").isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def read_label_names(label_names: LabelNames, label_column: str | Sequence[str] | None = None) -> dict[str, str]:
    """Names of labels, in the labels' order (numeric, if they are numbers).

    Args:
        label_names: CSV, Parquet or DataFrame with a column of labels, named as in the table or "label", and one of
            names, named "name", "class_name" or "label_name"; of a table of two columns, whatever their names, the
            first holds the labels. Other columns are ignored. Or a mapping.
        label_column: Name of the column of labels in the table of photos.

    Raises:
        TableError: if there are no such columns, a cell is empty, a label is repeated, or two labels have one name.
    """
    if isinstance(label_names, Mapping):
        source = "label_names"
        pairs = [(str(label).strip(), str(name).strip()) for label, name in label_names.items()]
        places = [f"label '{label}'" for label, _ in pairs]
    else:
        text = read_text_table(label_names)
        source, places = text.source, list(text.places)
        columns = [label_column] if isinstance(label_column, str) else list(label_column or ())
        labels, names = _columns(text, [nfc(column) for column in columns])
        pairs = list(zip(text.frame[labels].map(nfc).tolist(), text.frame[names].map(nfc).tolist(), strict=True))
    problems = [f"{place}: label or name is empty" for place, pair in zip(places, pairs, strict=True) if not all(pair)]
    for what, values in (("label", [label for label, _ in pairs]), ("name", [name for _, name in pairs])):
        repeated = [value for value, count in Counter(values).items() if count > 1 and value]
        problems += [f"{what} '{value}' is there more than once" for value in repeated]
    if problems or not pairs:
        remedy = "Name each label once. To make one class of several labels, use class_names={'1': 'a', '2': 'a'}."
        raise TableError(describe_problems(source, problems or ["no labels"], remedy))
    known = dict(pairs)
    return {label: known[label] for label in class_map(list(known)).class_names}


def _columns(text: TextTable, label_columns: Sequence[str]) -> tuple[str, str]:
    """The columns of labels and of names."""
    existing = list(text.frame.columns)
    labels = [column for column in (*label_columns, "label") if column in existing]
    names = [column for column in _NAME_COLUMNS if column in existing and column not in labels[:1]]
    if labels and names:
        return labels[0], names[0]
    if len(existing) == 2:
        return existing[0], existing[1]
    raise TableError(
        f"table '{text.source}' must name labels in two columns, 'label' and 'name'; its columns are {existing}."
    )
