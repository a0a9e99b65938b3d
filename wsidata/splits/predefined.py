"""Predefined splits, given by a column, a list of ids or a prefix of names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from wsidata.tables.parts import SplitError, part_name
from wsidata.utils.messages import name_some


def predefined_by_column(table: pd.DataFrame, name: str | None) -> pd.Series[Any]:
    """`train`, `val` or `test` where the column says so, "" where it is empty or None."""
    if name is None:
        return pd.Series("", index=table.index, dtype=object)
    cells = table[name].fillna("").astype(str).str.strip().str.lower()
    parts = cells.map(part_name).astype(object)
    unknown = sorted(set(cells[(parts == "") & (cells != "")]))
    if unknown:
        raise SplitError(f"column '{name}' says {name_some(unknown)}. Write train, val, test or leave it empty.")
    return parts


def put_in(
    splits: pd.Series[Any],
    part: str,
    ids: pd.Series[Any],
    listed: Collection[str] | None,
    prefix: str | tuple[str, ...] | None,
) -> pd.Series[Any]:
    """Assign rows to `part`, by a list of ids or a prefix of names."""
    if listed is not None:
        names = {str(name).strip() for name in listed}
        absent = sorted(names - set(ids))
        if absent:
            raise SplitError(
                f"{part}_ids {name_some(absent)} are not in the table. Ids look like {name_some(list(ids))}."
            )
        splits = _move(splits, part, ids.isin(list(names)), ids, f"{part}_ids")
    if prefix is not None:
        prefixes = prefix if isinstance(prefix, str) else tuple(prefix)
        fits = ids.str.rsplit("/", n=1).str[-1].map(lambda name: name.startswith(prefixes)).astype(bool)
        if not fits.any():
            raise SplitError(f"no id begins with {part}_prefix={prefix!r}. Ids look like {name_some(list(ids))}.")
        splits = _move(splits, part, fits, ids, f"{part}_prefix")
    return splits


def _move(
    splits: pd.Series[Any], part: str, rows: pd.Series[bool], ids: pd.Series[Any], argument: str
) -> pd.Series[Any]:
    contradicted = rows & ~splits.isin(["", part])
    if contradicted.any():
        others = " or ".join(sorted(set(splits[contradicted])))
        raise SplitError(
            f"{argument} puts {name_some(list(ids[contradicted]))} in {part}, but another argument says {others}. "
            "Give only one of the two, or correct them."
        )
    return splits.mask(rows, part)


def check_predefined_val(
    splits: pd.Series[Any], ids: pd.Series[Any], column: str | None, k_fold: Any, val_ids: Any, val_prefix: Any
) -> None:
    """Raise if validation rows are predefined, and folds requested as well or rows of the column left empty."""
    if k_fold is not None:
        raise SplitError("k_fold= draws the validation rows, and some are predefined. Leave out one of the two.")
    free = splits == ""
    if val_ids is None and val_prefix is None and free.any():
        raise SplitError(
            f"column '{column}' predefines val rows but leaves {int(free.sum())} rows empty "
            f"({', '.join(ids[free].head(3))}, ...). Fill them in, or predefine only test rows and let val be drawn."
        )
