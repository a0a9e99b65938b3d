"""A spreadsheet of slides is where most runs go wrong: a slide missing, a label misspelt, a row twice.

All of it is found here, before anything is opened or split, and reported at once. What comes out is one tidy frame that
the rest of the package relies on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from wsidata.image_paths import ImageFolder, ImageLookupError
from wsidata.labels import ClassNames, class_map
from wsidata.table_files import TableError, TextTable, describe_problems, read_text_table

__all__ = ["COLUMNS", "LabelTable", "TableError", "read_table"]

COLUMNS = ("image_id", "path", "label_name", "label", "group", "split")
"""Columns of `LabelTable.frame`, always all of them and in this order."""


@dataclass(frozen=True)
class LabelTable:
    """Slides with their labels, checked.

    Attributes:
        frame: One row per slide, in the order of the source, index 0, 1, ...:

            - `image_id` (str): path below the image folder without slide suffix; unique; names the slide in splits and
              predictions.
            - `path` (str): the file.
            - `label_name` (str): class name, "" in a table without labels.
            - `label` (int): index into `class_names`, -1 in a table without labels.
            - `group` (str): patient or other unit that must not be divided, "" if no group column was given.
            - `split` (str): what the split column says (see `splits.make_splits`), "" if none was given.
        class_names: Name of class 0, 1, ...
        source: File name of the table, for messages.
    """

    frame: pd.DataFrame
    class_names: tuple[str, ...]
    source: str


def read_table(
    table: str | Path | pd.DataFrame,
    image_dir: str | Path | None = None,
    *,
    image_column: str = "image",
    label_column: str | None = "class",
    class_names: ClassNames | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
) -> LabelTable:
    """Read and check a table of slides.

    Ids and labels are text: leading zeros stay, blanks around them go.

    Args:
        table: CSV (comma, semicolon, tab; UTF-8 with or without byte-order mark), Parquet, or DataFrame.
        image_dir: Folder the images lie in. None: the table's own folder (for a DataFrame, the working folder).
        image_column: Column of image names, with or without suffix and folders, relative to `image_dir` or absolute.
        label_column: Column of labels. None for a table without labels, which can only be predicted on.
        class_names: Classes in their order, or a mapping; see `labels.class_map`. None: the labels found, sorted.
        group_column: Column of patients (or other groups).
        split_column: Column that says train, val or test for some or all rows.

    Returns:
        The checked table.

    Raises:
        TableError: naming every absent column, missing or ambiguous file, duplicate, empty cell and unknown label.
    """
    text = read_text_table(table)
    _check_columns(text, [c for c in (image_column, label_column, group_column, split_column) if c is not None])
    if image_dir is None:
        image_dir = Path.cwd() if isinstance(table, pd.DataFrame) else Path(table).parent
    folder = ImageFolder(Path(image_dir).absolute())
    if not folder.root.is_dir():
        raise TableError(f"image folder '{folder.root}' does not exist. Check image_dir.")
    problems: list[str] = []
    paths = _find_images(text, image_column, folder, problems)
    labels = text.frame[label_column].tolist() if label_column else [""] * len(paths)
    groups = text.frame[group_column].tolist() if group_column else [""] * len(paths)
    classes = class_map(labels, class_names)
    names = [classes.renames.get(label, "") for label in labels]
    if label_column:
        problems += _label_problems(text, label_column, labels, classes.renames)
    if group_column:
        problems += _empty_cells(text, group_column)
    if problems:
        remedy = "Correct the table, or remove these rows, or check image_dir, image_column and class_names."
        raise TableError(describe_problems(text.source, problems, remedy))
    frame = pd.DataFrame(
        {
            "image_id": [folder.image_id(path) for path in paths if path is not None],
            "path": [str(path) for path in paths],
            "label_name": names,
            "label": [classes.class_names.index(name) if label_column else -1 for name in names],
            "group": groups,
            "split": text.frame[split_column].tolist() if split_column else "",
        },
        columns=list(COLUMNS),
    )
    return LabelTable(frame, classes.class_names, text.source)


def _check_columns(text: TextTable, wanted: list[str]) -> None:
    """Refuse absent columns, saying which exist."""
    existing = list(text.frame.columns)
    absent = [name for name in wanted if name not in existing]
    if not absent:
        return
    near = [column for column in existing for name in absent if column.lower() == name.lower()]
    hint = f" Did you mean {near}?" if near else ""
    raise TableError(
        f"table '{text.source}' has no column {absent}; its columns are {existing}.{hint} "
        "Pass image_column=, label_column=, group_column= or split_column= accordingly."
    )


def _find_images(text: TextTable, column: str, folder: ImageFolder, problems: list[str]) -> list[Path | None]:
    """The file of every row; what cannot be found, or is named twice, is added to `problems`."""
    was_number = column in text.numeric_columns
    hint = "; this column holds numbers, so leading zeros are lost: read it as text (dtype=str)" if was_number else ""
    seen: dict[str, str] = {}
    paths: list[Path | None] = []
    for name, place in zip(text.frame[column], text.places, strict=True):
        path = None
        if not name:
            problems.append(f"{place}: column '{column}' is empty")
        else:
            try:
                path = folder.find(name)
            except ImageLookupError as error:
                problems.append(f"{place}: {error}{hint}")
        if path is not None:
            image_id = folder.image_id(path)
            if image_id in seen:
                problems.append(f"{place}: slide '{image_id}' ({path.name}) was already named in {seen[image_id]}")
            seen.setdefault(image_id, place)
        paths.append(path)
    return paths


def _label_problems(text: TextTable, column: str, labels: list[str], known: dict[str, str]) -> list[str]:
    """Empty and unknown labels."""
    unknown = [
        f"{place}: unknown label '{label}' in column '{column}' (known: {', '.join(known)})"
        for label, place in zip(labels, text.places, strict=True)
        if label and label not in known
    ]
    return _empty_cells(text, column) + unknown


def _empty_cells(text: TextTable, column: str) -> list[str]:
    cells = zip(text.frame[column], text.places, strict=True)
    return [f"{place}: column '{column}' is empty" for cell, place in cells if not cell]
