"""A data set numbers its classes and keeps the names elsewhere; figures and reports want the names.

label,name                       becomes {"0": "Amanita muscaria", "1": "Amanita virosa"}, which `class_map` takes
0,Amanita muscaria
1,Amanita virosa
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from wsidata.labels import class_map
from wsidata.table_files import TableError, TextTable, describe_problems, read_text_table

LabelNames = str | Path | pd.DataFrame | Mapping[str, str]

_NAME_COLUMNS = ("name", "class_name", "label_name")


def read_label_names(label_names: LabelNames, label_column: str | Sequence[str] | None = None) -> dict[str, str]:
    """Names of labels, in the labels' order (as numbers, if they are).

    Args:
        label_names: CSV, Parquet or DataFrame with a column of labels, called as in the table or "label", and one of
            names, called "name", "class_name" or "label_name"; of a table of two columns, whatever they are called, the
            first holds the labels. Further columns are not read. Or a mapping.
        label_column: What the column of labels is called in the table of photos.

    Raises:
        TableError: if there are no such columns, a cell is empty, a label is there twice, or two labels have one name.
    """
    if isinstance(label_names, Mapping):
        source = "label_names"
        pairs = [(str(label).strip(), str(name).strip()) for label, name in label_names.items()]
        places = [f"label '{label}'" for label, _ in pairs]
    else:
        text = read_text_table(label_names)
        source, places = text.source, list(text.places)
        labels, names = _columns(text, [label_column] if isinstance(label_column, str) else list(label_column or ()))
        pairs = list(zip(text.frame[labels].tolist(), text.frame[names].tolist(), strict=True))
    problems = [f"{place}: label or name is empty" for place, pair in zip(places, pairs, strict=True) if not all(pair)]
    for what, values in (("label", [label for label, _ in pairs]), ("name", [name for _, name in pairs])):
        repeated = [value for value, count in Counter(values).items() if count > 1 and value]
        problems += [f"{what} '{value}' is there more than once" for value in repeated]
    if problems or not pairs:
        remedy = "Name each label once. To make one class of several labels, use class_names={'1': 'a', '2': 'a'}."
        raise TableError(describe_problems(source, problems or ["no labels"], remedy))
    known = dict(pairs)
    return {label: known[label] for label in class_map(list(known)).class_names}


def _columns(text: TextTable, wanted: Sequence[str]) -> tuple[str, str]:
    """The columns of labels and of names."""
    existing = list(text.frame.columns)
    labels = [column for column in (*wanted, "label") if column in existing]
    names = [column for column in _NAME_COLUMNS if column in existing and column not in labels[:1]]
    if labels and names:
        return labels[0], names[0]
    if len(existing) == 2:
        return existing[0], existing[1]
    raise TableError(
        f"table '{text.source}' must name labels in two columns, 'label' and 'name'; its columns are {existing}."
    )
