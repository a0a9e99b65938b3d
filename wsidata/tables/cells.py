"""Cells of CSV files that a spreadsheet would run as formulas, escaped by an apostrophe and restored.

A cell that begins with one of `= + - @`, a tab or a line break is a formula for Excel, LibreOffice and Google Sheets,
which may fetch addresses or start programs (https://owasp.org/www-community/attacks/CSV_Injection). Names of slides
and classes come from elsewhere, so they may be anything. Plain numbers, such as -0.5, are left as they are. What was
escaped is restored exactly; apostrophes that stood before such a cell are counted in.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are full-width, which some spreadsheets fold
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def escaped(table: pd.DataFrame) -> pd.DataFrame:
    """A copy of a table whose texts, and names of columns, are no formulas."""
    return _mapped(table, lambda text: f"'{text}" if _is_formula(text) else text)


def restored(table: pd.DataFrame) -> pd.DataFrame:
    """A copy of a table as it was before `escaped`."""
    return _mapped(table, lambda text: text[1:] if text.startswith("'") and _is_formula(text[1:]) else text)


def _is_formula(text: str) -> bool:
    bare = text.lstrip("'")
    return bare.startswith(_STARTS) and not _NUMBER.fullmatch(bare)


def _mapped(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    copy = table.copy()
    for name in copy.columns:
        if not (pd.api.types.is_numeric_dtype(copy[name]) or pd.api.types.is_bool_dtype(copy[name])):
            copy[name] = [change(cell) if isinstance(cell, str) else cell for cell in copy[name]]
    return copy.rename(columns={name: change(name) for name in copy.columns if isinstance(name, str)})
