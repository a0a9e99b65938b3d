"""Reproducible train, validation and test splits, stratified by class and grouped by patient.

`make_splits` is a pure function: the same slides, labels, fractions and seed give the same split, in any row order and
on any rank. `draw.py` decides which rows are drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from wsidata.splits.draw import DrawError, Integers, draw_groups, draw_slides, fold_groups, fold_slides
from wsidata.splits.predefined import check_predefined_val, predefined_by_column, put_in
from wsidata.tables.parts import SPLITS, SplitError, SplitWarning
from wsidata.utils.messages import check_choice, name_some

SmallClasses = Literal["raise", "train"]


def make_splits(
    table: pd.DataFrame,
    *,
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    seed: int = 42,
    stratify: bool = True,
    k_fold: tuple[int, int] | None = None,
    repeat: int = 0,
    small_classes: SmallClasses = "raise",
    split_column: str | None = None,
    val_ids: Collection[str] | None = None,
    test_ids: Collection[str] | None = None,
    val_prefix: str | tuple[str, ...] | None = None,
    test_prefix: str | tuple[str, ...] | None = None,
    group_column: str | None = None,
    id_column: str = "image_id",
    label_column: str | None = "label_name",
) -> pd.DataFrame:
    """Split slides into train, val and test.

    Rows that are predefined (by column, list or prefix) stay where they are, with one exception: if none of them is
    `val`, validation rows are drawn from train, and from the rows without a split. Test rows are drawn from the latter,
    if there are any. Fractions are of the rows that could be drawn.

    Without groups every class is divided in proportion, to within one slide, and has at least one slide in every split
    that is drawn. With groups (patients) no group is divided, and the classes are in proportion as far as whole groups
    allow.

    Args:
        table: One row per slide, ids unique. Not changed.
        val_fraction: Fraction of the rows to draw as validation. Not used with `k_fold`.
        test_fraction: Fraction of the rows to draw as test, in addition to the predefined ones.
        seed: Seed of the draw. Global generators are neither read nor changed.
        stratify: False ignores the labels.
        k_fold: `(i, k)`: the rows that are not test are divided into k folds; fold i (0 .. k-1) is validation.
        repeat: 0, 1, ...: redraws the validation rows, or the folds; the test rows stay the same.
        small_classes: For a class with too few slides (or, with groups, patients) for every split: "raise", or keep its
            slides in "train" and warn.
        split_column: Column with train, val, test (or training, valid, validation, testing, ...), or an empty cell.
        val_ids: Ids of validation rows.
        test_ids: Ids of test rows.
        val_prefix: What the names (the last part of the ids) of validation rows begin with.
        test_prefix: What the names of test rows begin with, such as "test_".
        group_column: Column of groups, such as patients.
        id_column: Column of ids.
        label_column: Column of labels. None: no labels.

    Returns:
        A copy of `table`, in its order, with the column `split`.

    Raises:
        SplitError: if a class or the number of slides is too small for the fractions, a fraction is not in [0, 1), an
            id or prefix fits no row, a split name is unknown, or a group is in two predefined splits.

    Warns:
        SplitWarning: if a class is in training and not in validation or test, or the other way round.

    Example:
        >>> folds = [make_splits(table, k_fold=(i, 5), group_column="patient") for i in range(5)]
    """
    _check_arguments(table, val_fraction, test_fraction, (id_column, label_column, split_column, group_column))
    _check_fold(k_fold, repeat, small_classes)
    ordered = table.assign(**{id_column: table[id_column].astype(str)}).sort_values(id_column, kind="stable")
    splits = predefined_by_column(ordered, split_column)
    for part, ids, prefix in (("test", test_ids, test_prefix), ("val", val_ids, val_prefix)):
        splits = put_in(splits, part, ordered[id_column], ids, prefix)
    rows = _Rows(
        names=ordered[id_column],
        labels=None if label_column is None or not stratify else ordered[label_column].astype(str),
        groups=None if group_column is None else ordered[group_column].astype(str),
        small_classes=small_classes,
        sample=sample_of(table),
    )
    if (splits == "val").any():
        check_predefined_val(splits, ordered[id_column], split_column, k_fold, val_ids, val_prefix)
    free = splits.isin(["", "train"])
    left = 1.0 - test_fraction
    if test_fraction:
        # Where some rows are left to be drawn, those that were put in train are no test rows.
        able = splits == "" if (splits == "").any() else free
        before = int(free.sum())
        splits[_draw(rows, able, test_fraction, "test", f"{seed}|test")] = "test"
        free &= splits != "test"
        left = left if able.sum() == before else int(free.sum()) / before
    if not (splits == "val").any():
        key = f"{seed}|val|{repeat}"
        if k_fold is not None:
            splits[_fold(rows, free, k_fold, key)] = "val"
        elif val_fraction:
            splits[_draw(rows, free, val_fraction / left, "val", key)] = "val"
    splits[splits == ""] = "train"
    if rows.groups is not None:
        check_groups(rows.groups, splits)
    if label_column is not None:
        warn_of_missing_classes(ordered[label_column].astype(str), splits, rows.sample)
    return table.assign(split=splits.reindex(table.index))


@dataclass(frozen=True)
class _Rows:
    """Columns that a draw depends on, in the order of the ids."""

    names: pd.Series[Any]
    labels: pd.Series[Any] | None
    groups: pd.Series[Any] | None
    small_classes: SmallClasses
    sample: str

    @property
    def unit(self) -> str:
        return self.sample if self.groups is None else "group"


def _draw(rows: _Rows, free: pd.Series[bool], fraction: float, part: str, key: str) -> pd.Series[bool]:
    """Which of the `free` rows are drawn."""
    taking = _without_small_classes(rows, free, 2, f"both in train and in {part}")
    names, classes, groups = _columns(rows, taking)
    if not names:
        return taking
    try:
        if groups is None:
            chosen = draw_slides(names, classes, fraction, key)
        else:
            chosen = draw_groups(groups, classes, fraction, key)
    except DrawError as error:
        raise SplitError(
            f"{part}: {error}. Change {part}_fraction, add {rows.unit}s, or predefine the split with a column."
        ) from error
    return _at(taking, chosen)


def _fold(rows: _Rows, free: pd.Series[bool], k_fold: tuple[int, int], key: str) -> pd.Series[bool]:
    """Which of the `free` rows are in fold i of k."""
    fold, folds = k_fold
    taking = _without_small_classes(rows, free, folds, f"in each of {folds} folds")
    names, classes, groups = _columns(rows, taking)
    if len(set(names if groups is None else groups)) < folds:
        raise SplitError(
            f"{len(names)} {rows.sample}s cannot be divided into {folds} folds of whole {rows.unit}s. Lower k."
        )
    try:
        fold_of = (
            fold_slides(names, classes, folds, key) if groups is None else fold_groups(groups, classes, folds, key)
        )
    except DrawError as error:
        raise SplitError(f"{error}. Lower k, merge classes, or pass stratify=False.") from error
    return _at(taking, np.flatnonzero(fold_of == fold))


def _columns(rows: _Rows, taking: pd.Series[bool]) -> tuple[list[str], Integers, list[str] | None]:
    """Names, class numbers and groups of the rows that can be drawn."""
    names = rows.names[taking].tolist()
    classes = np.zeros(len(names), dtype=np.int64)
    if rows.labels is not None:
        classes = pd.factorize(rows.labels[taking].to_numpy(dtype=object), sort=True)[0].astype(np.int64)
    return names, classes, None if rows.groups is None else rows.groups[taking].tolist()


def _at(taking: pd.Series[bool], positions: Integers) -> pd.Series[bool]:
    """The rows at `positions` among those that can be drawn."""
    drawn = pd.Series(False, index=taking.index)
    drawn.iloc[np.flatnonzero(taking.to_numpy())[positions]] = True
    return drawn


def _without_small_classes(rows: _Rows, free: pd.Series[bool], least: int, where: str) -> pd.Series[bool]:
    """`free` without the classes of fewer than `least` slides or groups; or an error, by `rows.small_classes`.

    A group with such a class stays out whole, which may make another class too small, and so on.
    """
    taking = free.copy()
    left_out: set[str] = set()
    while rows.labels is not None:
        units = (rows.names if rows.groups is None else rows.groups)[taking]
        counts = units.groupby(rows.labels[taking]).nunique()
        small = sorted(str(label) for label in counts.index[counts < least])
        if not small:
            break
        if rows.small_classes == "raise":
            most = int(counts[small].max())
            raise SplitError(
                f"class {name_some(small)} has only {'one' if most == 1 else most} {rows.unit}"
                f"{'' if most == 1 else 's'}, which cannot be {where}. Add {rows.unit}s of this class, merge it with "
                f"another (class_names={{'{small[0]}': 'other', ...}}), remove it, keep it in train "
                "(small_classes='train'), or pass stratify=False."
            )
        left_out.update(small)
        leaving = taking & rows.labels.isin(small)
        if rows.groups is not None:
            leaving = taking & rows.groups.isin(rows.groups[leaving])
        taking &= ~leaving
    if left_out:
        message = f"class {name_some(sorted(left_out))} is too small to be {where}; its {rows.sample}s stay in train."
        warnings.warn(message, SplitWarning, stacklevel=4)
    return taking


def _check_arguments(table: pd.DataFrame, val: float, test: float, columns: tuple[str | None, ...]) -> None:
    """Raise for impossible fractions, missing columns and repeated ids or index labels."""
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise SplitError(f"val_fraction={val} and test_fraction={test} must be in [0, 1) and leave rows to train on.")
    absent = [column for column in columns if column is not None and column not in table.columns]
    if absent:
        raise SplitError(f"the table has no column {absent}; its columns are {list(table.columns)}.")
    for column in columns:
        missing = 0 if column is None or column == columns[2] else int(table[column].isna().sum())
        if missing:
            raise SplitError(
                f"column '{column}' is empty in {missing} of {len(table)} rows. Fill it in, or take these rows out: "
                "whose they are cannot be guessed."
            )
    ids = table[columns[0]].astype(str)
    repeated = sorted(ids[ids.duplicated()].unique())
    if repeated:
        raise SplitError(f"ids are not unique: {name_some(repeated)}. Remove the duplicate rows before splitting.")
    if not table.index.is_unique:
        raise SplitError("the table's index is not unique. Call table.reset_index(drop=True) first.")


def _check_fold(k_fold: tuple[int, int] | None, repeat: int, small_classes: str) -> None:
    """Raise for folds and choices that do not exist."""
    is_pair = isinstance(k_fold, (tuple, list)) and len(k_fold) == 2
    if k_fold is not None and not (
        is_pair and all(isinstance(one, (int, np.integer)) for one in k_fold) and 0 <= k_fold[0] < k_fold[1] >= 2
    ):
        raise SplitError(f"k_fold={k_fold} must be (i, k) with k at least 2 and i one of 0, 1, ..., k-1.")
    if repeat < 0:
        raise SplitError(f"repeat={repeat} must be 0 or more.")
    check_choice("small_classes", small_classes, ("raise", "train"), SplitError)


def check_groups(groups: pd.Series[Any], splits: pd.Series[Any], unit: str = "group") -> None:
    """Raise `SplitError` naming the groups, or cases, that are in several splits."""
    sides = splits.groupby(groups).nunique()
    divided = sorted(str(group) for group in sides.index[sides > 1])
    if divided:
        raise SplitError(
            f"{unit} {name_some(divided)} is in more than one predefined split, so its images would leak. "
            f"Correct the split or the {unit} column."
        )


def sample_of(table: pd.DataFrame) -> str:
    """What a row is called: a case of several slides (see `label_table.by_case`), or an image."""
    return "case" if "image_ids" in table.columns else "image"


def warn_of_missing_classes(labels: pd.Series[Any], splits: pd.Series[Any], sample: str = "image") -> None:
    """Warn of classes that are missing from a split; splits without rows are ignored."""
    everyone = set(labels)
    lacking = {part: sorted(everyone - set(labels[splits == part])) for part in SPLITS if (splits == part).any()}
    said = [f"{part} has no {sample} of class {name_some(classes)}" for part, classes in lacking.items() if classes]
    if said:
        warnings.warn(f"{'; '.join(said)}. Its scores there mean nothing.", SplitWarning, stacklevel=3)
