"""A split drawn from global randomness or row order differs between runs and ranks, and test slides leak into training.

`make_splits` is a pure function: the same slides, labels, fractions and seed give the same split, in any row order and
on any rank. Files and checkpoints are the business of `split_files.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedGroupKFold, StratifiedShuffleSplit

SPLITS = ("train", "val", "test")
_ALIASES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "tune"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
_MAX_FOLDS = 20


class SplitError(ValueError):
    """The split asked for cannot be made, or would mix training and test slides; the message says what to change."""


def make_splits(
    table: pd.DataFrame,
    *,
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    seed: int = 42,
    stratify: bool = True,
    split_column: str | None = None,
    test_ids: Collection[str] | None = None,
    test_prefix: str | tuple[str, ...] | None = None,
    group_column: str | None = None,
    id_column: str = "image_id",
    label_column: str = "label_name",
) -> pd.DataFrame:
    """Divide slides into train, val and test.

    Rows that are predefined (by column, list or prefix) stay where they are put. If the column predefines no `val`
    rows, they are drawn from the rest; fractions are of the rows that are not predefined.

    Without groups every class is divided in proportion, to within one slide. With groups (patients) no group is
    divided, and the classes are in proportion as far as whole groups allow.

    Args:
        table: One row per slide, ids unique. Not changed.
        val_fraction: Share of the rows to draw as validation; at least one slide per class is drawn unless it is 0.
        test_fraction: Share of the rows to draw as test, in addition to the predefined ones.
        seed: Seed of the draw. Global generators are neither read nor changed.
        stratify: False draws without looking at labels.
        split_column: Column with train, val, test (or training, valid, validation, testing, ...), or an empty cell.
        test_ids: Ids of test rows.
        test_prefix: What the names (the last part of the ids) of test rows begin with, such as "test_".
        group_column: Column of groups, such as patients.
        id_column: Column of ids.
        label_column: Column of labels.

    Returns:
        A copy of `table`, in its order, with the column `split`.

    Raises:
        SplitError: if a class or the number of slides is too small for the fractions, a fraction is not in [0, 1), an
            id or prefix fits no row, a split name is unknown, or a group is in two predefined splits.
    """
    _check_arguments(table, val_fraction, test_fraction, (id_column, label_column, split_column, group_column))
    ordered = table.assign(**{id_column: table[id_column].astype(str)}).sort_values(id_column, kind="stable")
    splits = _predefined(ordered, id_column, split_column, test_ids, test_prefix)
    labels = ordered[label_column] if stratify else None
    groups = None if group_column is None else ordered[group_column]
    free = splits == ""
    if (splits == "val").any():
        if free.any():
            some = ", ".join(ordered.loc[free, id_column].head(3))
            raise SplitError(
                f"column '{split_column}' predefines val rows but leaves {int(free.sum())} rows empty ({some}, ...). "
                "Fill them in, or predefine only test rows and let val be drawn."
            )
    else:
        free |= splits == "train"
        rest = 1.0 - test_fraction
        for name, fraction in (("test", test_fraction), ("val", val_fraction / rest)):
            drawn = _draw(labels, groups, free, fraction, seed, name)
            splits[drawn] = name
            free &= ~drawn
        splits[free] = "train"
    if groups is not None:
        check_groups(groups, splits)
    return table.assign(split=splits.reindex(table.index))


def _check_arguments(table: pd.DataFrame, val: float, test: float, columns: tuple[str | None, ...]) -> None:
    """Refuse impossible fractions, absent columns and repeated ids or index labels."""
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise SplitError(f"val_fraction={val} and test_fraction={test} must be in [0, 1) and leave rows to train on.")
    absent = [column for column in columns if column is not None and column not in table.columns]
    if absent:
        raise SplitError(f"the table has no column {absent}; its columns are {list(table.columns)}.")
    ids = table[columns[0]].astype(str)
    repeated = sorted(ids[ids.duplicated()].unique())
    if repeated:
        raise SplitError(f"ids are not unique: {name_some(repeated)}. Remove the duplicate rows before splitting.")
    if not table.index.is_unique:
        raise SplitError("the table's index is not unique. Call table.reset_index(drop=True) first.")


def _predefined(
    table: pd.DataFrame,
    id_column: str,
    split_column: str | None,
    test_ids: Collection[str] | None,
    test_prefix: str | tuple[str, ...] | None,
) -> pd.Series[Any]:
    """`train`, `val`, `test` where the user decided, "" elsewhere."""
    splits = pd.Series("", index=table.index, dtype=object)
    ids = table[id_column]
    if split_column is not None:
        given = table[split_column].fillna("").astype(str).str.strip().str.lower()
        unknown = sorted(set(given) - set(_ALIASES) - {""})
        if unknown:
            raise SplitError(
                f"column '{split_column}' says {name_some(unknown)}. Write train, val, test or leave it empty."
            )
        splits = given.map(lambda name: _ALIASES.get(name, "")).astype(object)
    if test_ids is not None:
        wanted = {str(name).strip() for name in test_ids}
        absent = sorted(wanted - set(ids))
        if absent:
            raise SplitError(
                f"test_ids {name_some(absent)} are not in the table. Ids look like {name_some(list(ids))}."
            )
        splits = _put_in_test(splits, ids.isin(list(wanted)), ids, "test_ids")
    if test_prefix is not None:
        names = ids.str.rsplit("/", n=1).str[-1]
        fits = names.map(lambda name: name.startswith(test_prefix)).astype(bool)
        if not fits.any():
            raise SplitError(f"no id begins with test_prefix={test_prefix!r}. Ids look like {name_some(list(ids))}.")
        splits = _put_in_test(splits, fits, ids, "test_prefix")
    return splits


def _put_in_test(splits: pd.Series[Any], rows: pd.Series[bool], ids: pd.Series[Any], argument: str) -> pd.Series[Any]:
    contradicted = rows & splits.isin(["train", "val"])
    if contradicted.any():
        raise SplitError(
            f"{argument} puts {name_some(list(ids[contradicted]))} in test, but the split column says train or val. "
            "Give only one of the two, or correct the column."
        )
    return splits.mask(rows, "test")


def _draw(
    labels: pd.Series[Any] | None,
    groups: pd.Series[Any] | None,
    free: pd.Series[bool],
    fraction: float,
    seed: int,
    name: str,
) -> pd.Series[bool]:
    """Which of the `free` rows are drawn."""
    drawn = pd.Series(False, index=free.index)
    if fraction == 0.0:
        return drawn
    rows = np.flatnonzero(free.to_numpy())
    classes = np.zeros(len(rows), dtype=np.int64)
    if labels is not None:
        classes = np.unique(labels.to_numpy()[rows].astype(str), return_inverse=True)[1]
        units = pd.Series(rows if groups is None else groups.to_numpy()[rows])
        _check_classes(labels.to_numpy()[rows], units, name, "slide" if groups is None else "group")
    if groups is not None:
        chosen = _draw_groups(classes, groups.to_numpy()[rows], fraction, seed, labels is not None, name)
    else:
        chosen = _draw_rows(classes, fraction, seed, labels is not None, name)
    drawn.iloc[rows[chosen]] = True
    return drawn


def _check_classes(labels: Any, units: pd.Series[Any], name: str, unit: str) -> None:
    """A class has to be on both sides of a stratified split, so it needs two slides (or groups)."""
    counts = units.groupby(labels).nunique()
    lonely = sorted(str(label) for label in counts.index[counts < 2])
    if lonely:
        raise SplitError(
            f"class {name_some(lonely)} has only one {unit}, which cannot be both in train and in {name}. "
            f"Add {unit}s of this class, merge it with another (class_names={{'{lonely[0]}': 'other', ...}}), "
            "remove it, or pass stratify=False."
        )


def _draw_rows(classes: Any, fraction: float, seed: int, stratified: bool, name: str) -> Any:
    """Positions drawn, slide by slide."""
    total, class_count = len(classes), len(np.unique(classes))
    size = max(int(total * fraction + 0.5), class_count)
    if total - size < class_count:
        raise SplitError(
            f"{total} slides of {class_count} classes cannot give {size} to {name} and one of each class to train. "
            f"Lower {name}_fraction, add slides, or predefine the split with a column."
        )
    splitter = (StratifiedShuffleSplit if stratified else ShuffleSplit)(n_splits=1, test_size=size, random_state=seed)
    return next(splitter.split(np.zeros(total), classes))[1]


def _draw_groups(classes: Any, groups: Any, fraction: float, seed: int, stratified: bool, name: str) -> Any:
    """Positions drawn, whole groups at a time: some folds of a stratified grouped k-fold."""
    group_count = len(np.unique(groups))
    if group_count < 2:
        raise SplitError(f"{group_count} group cannot be divided into train and {name}. Predefine the split instead.")
    if not stratified:
        size = min(max(int(group_count * fraction + 0.5), 1), group_count - 1)
        splitter = GroupShuffleSplit(n_splits=1, test_size=size, random_state=seed)
        return next(splitter.split(classes, classes, groups))[1]
    most = min(_MAX_FOLDS, group_count, int(np.bincount(classes).max()))
    share = Fraction(fraction).limit_denominator(most)
    share = min(max(share, Fraction(1, most)), Fraction(most - 1, most))
    folds = StratifiedGroupKFold(n_splits=share.denominator, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a class with fewer slides than folds is looked after below
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = [part for _, part in folds.split(classes, classes, groups)]
    parts.sort(key=lambda part: -len(np.unique(classes[part])))
    chosen = np.sort(np.concatenate(parts[: share.numerator]))
    rest = np.setdiff1d(np.arange(len(classes)), chosen)
    if min(len(np.unique(classes[chosen])), len(np.unique(classes[rest]))) < len(np.unique(classes)):
        raise SplitError(
            f"{group_count} groups do not allow every class both in train and in {name} (fraction {fraction:.3g}). "
            "Raise the fraction, add groups, or predefine the split with a column."
        )
    return chosen


def check_groups(groups: pd.Series[Any], splits: pd.Series[Any]) -> None:
    """Refuse a group that is on two sides.

    Args:
        groups: Group of each row.
        splits: Split of each row.

    Raises:
        SplitError: naming the groups.
    """
    sides = splits.groupby(groups).nunique()
    divided = sorted(str(group) for group in sides.index[sides > 1])
    if divided:
        raise SplitError(
            f"group {name_some(divided)} is in more than one predefined split, so its slides would leak. "
            "Correct the split or the group column."
        )


def name_some(names: Collection[str], limit: int = 5) -> str:
    """A few of many names, for a message."""
    shown = ", ".join(repr(str(name)) for name in list(names)[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"
