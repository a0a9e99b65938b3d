"""CSV files, Parquet files and DataFrames, read as text with the place of every row.

Typed readers damage ids: `007` becomes 7, `NA` becomes missing. Here every cell is text, stripped of blanks, and errors
name the line. Columns get their meaning in `label_table.py`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsidata.tables.name_table import nfc
from wsidata.utils.messages import describe_problems

_DELIMITERS = ",;\t|"
_KNOWN_CELLS = 10_000
_TEXT_SUFFIXES = {".csv", ".tsv", ".txt"}
_PARQUET_SUFFIXES = {".parquet", ".pq"}
_LISTS = (list, tuple, set, np.ndarray)

NO_LABEL = "none"
"""Content of a cell of several labels where there are none."""


class TableError(ValueError):
    """A label table cannot be used; the message names every problem found, where it is, and what to do."""


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are all text.

    Attributes:
        frame: One text column per column of the source; missing cells are empty strings.
        source: The file name, or "DataFrame", for error messages.
        places: For each row, where it is in the source, such as "line 12" or "row 7".
        numeric_columns: Columns of numbers in the source; leading zeros may be lost.
        list_columns: Columns of lists in the source (possible in Parquet), here text like `a; b`, and `none` for empty
            ones.
        problems: Problems of the source beyond its rows, one line each, to be reported with those.
        remedy: What to do about problems.
    """

    frame: pd.DataFrame
    source: str
    places: tuple[str, ...]
    numeric_columns: frozenset[str] = frozenset()
    list_columns: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    remedy: str = "Correct the table, or remove these rows, or check image_dir, image_column and class_names."


def read_text_table(table: str | Path | pd.DataFrame) -> TextTable:
    """Read a table with every cell as stripped text.

    CSV files may begin with a byte-order mark, then with a line such as `sep=;`. They separate cells by comma,
    semicolon, tab or `|`, as in the header, or as that line says. Names of columns are in composed Unicode (NFC).

    Args:
        table: Path of a .csv, .tsv, .txt, .parquet or .pq file, or a DataFrame (which is not changed).

    Returns:
        The cells as text, and where each row came from.

    Raises:
        TableError: if the file is missing, of another kind, not UTF-8, empty, ragged, or names a column twice.
    """
    if isinstance(table, pd.DataFrame):
        return _from_frame(table, "DataFrame", index_places=True)
    path = Path(table)
    suffix = path.suffix.lower()
    if suffix not in _TEXT_SUFFIXES | _PARQUET_SUFFIXES:
        known = ", ".join(sorted(_TEXT_SUFFIXES | _PARQUET_SUFFIXES))
        raise TableError(f"table '{path}' is not one of {known}. Save it as CSV, or pass it as a pandas DataFrame.")
    if not path.is_file():
        raise TableError(f"table '{path}' does not exist (looked in '{Path.cwd()}'). Check the path.")
    if suffix in _PARQUET_SUFFIXES:
        try:
            return _from_frame(pd.read_parquet(path), path.name, index_places=False)
        except TableError:
            raise
        except Exception as error:  # pyarrow raises exceptions of many kinds
            raise TableError(f"table '{path}' could not be read as Parquet: {error} Write it again.") from error
    return _from_delimited(path)


def _from_frame(frame: pd.DataFrame, source: str, *, index_places: bool) -> TextTable:
    """Turn a typed frame into text."""
    names = [nfc(str(column).strip()) for column in frame.columns]
    _refuse_repeated_columns(names, source)
    labels = frame.index.tolist() if index_places else range(1, len(frame) + 1)
    places = tuple(f"row {label}" for label in labels)
    columns: dict[str, list[str]] = {}
    problems: list[str] = []
    lists: set[str] = set()
    for i, name in enumerate(names):
        columns[name] = []
        for place, value in zip(places, frame.iloc[:, i].tolist(), strict=True):
            if isinstance(value, _LISTS):
                lists.add(name)
                problems += _unlistable(value, f"{place}: column '{name}'")
                value = "; ".join(map(str, value)) if len(value) else NO_LABEL
            columns[name].append(_as_text(value))
    if problems:
        raise TableError(describe_problems(source, problems, "Write several labels as text, such as 'a; b'."))
    text = pd.DataFrame(columns, columns=names, dtype=object)
    numeric = frozenset(n for i, n in enumerate(names) if pd.api.types.is_numeric_dtype(frame.dtypes.iloc[i]))
    _refuse_empty(text, source)
    return TextTable(text, source, places, numeric, list_columns=frozenset(lists))


def _unlistable(values: Any, where: str) -> list[str]:
    """Problems of a cell with several values."""
    odd = [value for value in values if not isinstance(value, str) or not value.strip() or set(value) & set(";|")]
    return [f"{where} lists {odd[0]!r}, which is no label"] if odd else []


def _as_text(value: object) -> str:
    """One cell as text; whole floats lose the `.0` that a missing value elsewhere in their column gave them."""
    if value is None or value is pd.NA or value is pd.NaT or value != value:  # NaN differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _from_delimited(path: Path) -> TextTable:
    """Read delimited text with the standard library's reader, which leaves cells unchanged and counts lines."""
    first_line = _first_line(path)
    stated = re.fullmatch(r'"?sep=(.)"?\W*', first_line, re.IGNORECASE)  # as Excel writes and reads it
    delimiter = stated[1] if stated else max(_DELIMITERS, key=first_line.count)
    header: list[str] = []
    columns: list[list[str]] = []
    known: dict[str, str] = {}  # one object for equal cells, such as classes
    places: list[str] = []
    problems: list[str] = []
    for line, raw in _records(path, delimiter):
        cells = [cell.strip() for cell in raw]
        if not any(cells) or (stated and line == 1):
            continue
        if not header:
            header = [nfc(cell) for cell in cells]
            while header[-1] == "":
                header.pop()
            columns = [[] for _ in header]
            continue
        if any(cells[len(header) :]) or len(cells) < len(header):
            problems.append(f"line {line} has {len(cells)} cells where the header has {len(header)}")
            continue
        for column, cell in zip(columns, cells, strict=False):
            column.append(known.setdefault(cell, cell) if len(known) < _KNOWN_CELLS else known.get(cell, cell))
        places.append(f"line {line}")
    if problems:
        raise TableError(describe_problems(path.name, problems, "Quote cells that contain the separator."))
    _refuse_repeated_columns(header, path.name)
    frame = pd.DataFrame(dict(zip(header, columns, strict=True)), columns=header, dtype=object)
    _refuse_empty(frame, path.name)
    return TextTable(frame, path.name, tuple(places))


def _first_line(path: Path) -> str:
    """The first line of a file that is UTF-8 throughout."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(
            f"table '{path}' is not UTF-8 text (byte {error.start}). Save it as 'CSV UTF-8' in your spreadsheet."
        ) from error
    end = re.search(r"[\r\n]", content)
    return content[: end.start()] if end else content


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line that each row begins at, and its cells. A quoted cell may hold line breaks, if its quote ends."""
    line = 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for raw in reader:
                yield line, raw
                line = reader.line_num + 1
        except csv.Error as error:
            raise TableError(
                f"table '{path}': the row that begins at line {line} cannot be read ({error}). A quote that is opened "
                "and not closed would swallow the rows after it: close it, or write two quotes for one that is meant."
            ) from error


def _refuse_repeated_columns(names: list[str], source: str) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise TableError(f"table '{source}' has more than one column named {repeated}. Rename or remove one of them.")


def _refuse_empty(frame: pd.DataFrame, source: str) -> None:
    if frame.empty:
        raise TableError(f"table '{source}' has no rows. It needs a header line and one line per slide.")
