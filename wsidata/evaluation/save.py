"""Tables and figures as files, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from wsidata.tables.cells import escaped, restored
from wsidata.utils.files import atomic_write, write_text


def save_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV without its index; an equal file is not touched.

    Cells that a spreadsheet would take for formulas get an apostrophe in front; `tables.cells.restored` takes it away.

    Args:
        table: Such as a prediction table, or scores.
        path: CSV file to write; its folder is created.

    Raises:
        OSError: if the disk is full; a file that was there is as it was.
    """
    write_text(path, escaped(table).to_csv(index=False, lineterminator="\n"))


def read_scores(path: str | Path) -> pd.DataFrame:
    """The scores of a run as `scores_with_intervals` returned them, from the CSV that `save_table` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a number is none.
    """
    table = restored(pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig"))
    for name in ("value", "low", "high"):
        table[name] = [float(cell) if cell else float("nan") for cell in table[name]]
    return table.assign(images=table["images"].astype(int))


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write a figure in the format that the file's suffix names.

    Args:
        figure: Such as `plot_roc` returns.
        path: PNG, PDF or SVG file to write; its folder is created.
        dpi: Pixels per inch.

    Raises:
        OSError: if the disk is full; a file that was there is as it was.
    """
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi)
