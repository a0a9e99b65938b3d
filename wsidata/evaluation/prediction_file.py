"""CSV files of predictions that are appended to while a network predicts, and resumed.

    predictions.csv          rows as they come; in the table's order at the end
    predictions.csv.json     of which network, and of images read how; rows of another are never mixed in
    predictions.csv.part1    rows of process 1, where there are several; merged at the end, or when a run is resumed

A line that was cut off, by a full disk or a process that was killed, is dropped.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsidata.tables.cells import escaped
from wsidata.utils.files import write_text

KEY = "path"
"""Column by which an image is known."""

ERROR = "error"
_VERSION = 1
_WHAT = {
    "columns": "has other columns",
    "model": "was predicted by another network, or other weights",
    "reading": "is of images read otherwise",
    "precision": "was computed in another precision",
    "ensemble": "was predicted by other networks",
    "slides": "is of other cases, or of other slides of them",
}

Row = dict[str, str]
"""A row of the file: the text of each cell."""


class PredictionFileError(ValueError):
    """A file is no table of predictions of the same network; the message says what it is, and what to do."""


def sidecar(path: Path) -> Path:
    """The file that says of which network the predictions are."""
    return path.with_name(f"{path.name}.json")


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe or device, such as /dev/stdout, which takes rows and keeps none."""
    return path.exists() and not path.is_file() and not path.is_dir()


def begin(path: Path, columns: Sequence[str], settings: Mapping[str, Any], *, overwrite: bool) -> list[Row]:
    """Make the file, or take up one that was begun; returns the rows that are there.

    Args:
        path: The file.
        columns: Its columns; `path` and `error` are among them.
        settings: What decides what a prediction is: plain values.
        overwrite: Replace a file of other predictions.

    Raises:
        PredictionFileError: if the file exists and is something else.
        OSError: if it cannot be written.
    """
    facts = facts_of(columns, settings)
    if is_stream(path):
        append(path, columns, [dict(zip(columns, columns, strict=True))])
        return []
    if overwrite:
        for old in (sidecar(path), *parts(path)):
            old.unlink(missing_ok=True)
        rows: list[Row] = []
    else:
        check_same(path, facts)
        rows = merged(path, columns)
    if not path.exists():  # first what says what it is
        path.parent.mkdir(parents=True, exist_ok=True)
        write_facts(path, facts)
    write_rows(path, columns, rows)
    write_facts(path, facts)
    for part in parts(path):
        part.unlink()
    return rows


def facts_of(columns: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside a file, as plain values."""
    return dict(json.loads(json.dumps({"version": _VERSION, "columns": list(columns), **settings})))


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write beside a file of which network it is."""
    write_text(sidecar(path), json.dumps(facts, indent=1))


def check_same(path: Path, facts: Mapping[str, Any]) -> None:
    """Raise `PredictionFileError` unless a file is absent, or was begun with the same settings."""
    if not path.exists() and not path.is_symlink():
        return
    remedy = "Name another file, or pass overwrite= to replace it."
    if path.is_dir():
        raise PredictionFileError(f"'{path}' is a folder. Name a file in it.")
    try:
        saved = json.loads(sidecar(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PredictionFileError(
            f"'{path}' exists, and is no table of predictions that could be continued ('{sidecar(path).name}' is not "
            f"beside it). {remedy}"
        ) from error
    except ValueError as error:
        raise PredictionFileError(f"'{sidecar(path)}' is damaged, so '{path}' cannot be continued. {remedy}") from error
    other = [name for name in facts if not isinstance(saved, dict) or saved.get(name) != facts[name]]
    if other:
        raise PredictionFileError(f"'{path}' {_WHAT.get(other[0], f'differs in {other[0]}')}. {remedy}")


def parts(path: Path) -> list[Path]:
    """Files of the other processes of a run."""
    return [one for one in sorted(path.parent.glob("*")) if one.name.startswith(f"{path.name}.part")]


def part_of(path: Path, process: int) -> Path:
    """The file that a process appends to."""
    return path if process == 0 else path.with_name(f"{path.name}.part{process}")


def merged(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a file and of its parts, one an image; see `joined`."""
    return joined(row for file in (path, *parts(path)) for row in read_rows(file, columns, header=file == path))


def joined(rows: Iterable[Row]) -> list[Row]:
    """One row an image: the last, but a prediction rather than an error."""
    found: dict[str, Row] = {}
    for row in rows:
        before = found.get(row[KEY])
        if before is None or before[ERROR] or not row[ERROR]:
            found[row[KEY]] = row
    return list(found.values())


def read_rows(path: Path, columns: Sequence[str], *, header: bool) -> list[Row]:
    """The whole rows of a file, without its header, if it has one; a last one that was cut off is left out.

    Raises:
        PredictionFileError: if the file holds something else.
    """
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    try:
        records = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise PredictionFileError(f"'{path}' is no table of predictions ({error}). Name another file.") from error
    if records and (not text.endswith("\n") or len(records[-1]) != len(columns)):
        records.pop()
    odd = next((number for number, one in enumerate(records) if len(one) != len(columns)), None)
    if odd is not None:
        raise PredictionFileError(
            f"'{path}': row {odd + 1} has {len(records[odd])} cells where there should be {len(columns)}. Name another "
            "file, or pass overwrite= to replace it."
        )
    if header and records and records[0] != list(columns):
        raise PredictionFileError(f"'{path}' has other columns. Name another file, or pass overwrite= to replace it.")
    return [dict(zip(columns, one, strict=True)) for one in records[header:]]


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write header and rows anew, whole or not at all."""
    write_text(path, _as_text([list(columns), *([row[name] for name in columns] for row in rows)]))


def append(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Append rows, so that they are on the disk's side of this process; all of them or none.

    Raises:
        OSError: naming the file, and what to do.
    """
    content = _as_text([row[name] for name in columns] for row in rows).encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise _named(error, path) from error
    try:
        size, left = os.fstat(descriptor).st_size, memoryview(content)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise _named(error, path) from error
    finally:
        os.close(descriptor)


def _named(error: OSError, path: Path) -> OSError:
    no_room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "Make room there" if no_room else "Get permission to write there"
    return OSError(
        error.errno,
        f"{error.strerror}. What was predicted before is kept. {remedy}, and start again to go on",
        str(path),
    )


def _as_text(records: Iterable[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(records)
    return text.getvalue()


def as_cells(table: pd.DataFrame) -> list[Row]:
    """The rows of a table as text: floats with all digits that they have, nan as nothing, formulas escaped."""
    columns = [[_cell(value) for value in escaped(table[[name]]).iloc[:, 0].to_numpy()] for name in table.columns]
    return [dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _cell(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return "" if np.isnan(value) else str(value)
    return str(value)
