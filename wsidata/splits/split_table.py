"""The split of a data module's table, from a file or by `make_splits`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.splits.make import check_groups, make_splits, sample_of, warn_of_missing_classes
from wsidata.splits.split_file import apply_splits, load_splits
from wsidata.splits.time_bins import time_strata
from wsidata.tables.label_table import LabelTable, by_case
from wsidata.tables.parts import SplitError, SplitWarning
from wsidata.tables.targets import ONE_CLASS, TIME_UNITS
from wsidata.utils.messages import name_some

_DRAWN = (
    *("val_fraction", "test_fraction", "seed", "k_fold", "repeat", "small_classes"),
    *("test_ids", "test_prefix", "val_ids", "val_prefix"),
)


_MOST_TIMES = 4
"""Into how many quantiles of time events and censored images are divided, each, where there are enough."""

_TEST_NAME = re.compile(r"(?:.*/)?(test[_-])[^/]*", re.IGNORECASE)


def split_table(labels: LabelTable, split: str | Path | pd.DataFrame | None, options: Mapping[str, Any]) -> LabelTable:
    """Fill in the column `split`; of cases, which are samples, all slides get that of the case.

    Args:
        labels: The table as `read_table` gives it. One without labels is left as it is, unless `split` is given.
        split: A saved split: a CSV file, or a DataFrame with `image_id` and `split`. None: make one.
        options: Arguments of the data module, by name: `_DRAWN`, `stratify`, `group_column`, `label_column`. Ids and
            prefixes are those of samples.

    Raises:
        SplitError: see `make_splits` and `apply_splits`.

    Warns:
        SplitWarning: see `make_splits`; and if images named test_... are trained on because nothing says what to test.
    """
    unit = options.get("time_unit", TIME_UNITS[0])  # the command wsidata split needs none
    if labels.target == "survival" and unit not in TIME_UNITS:
        found = "" if unit is None else f" (found {unit!r})"
        raise ValueError(f"target='survival' needs time_unit=, the unit of the times: {', '.join(TIME_UNITS)}{found}.")
    has_labels, has_classes = options["label_column"] is not None, labels.target in ONE_CLASS
    if split is not None:
        frame = apply_splits(labels.frame, load_splits(split))
        for unit in ("case", *(["group"] if options["group_column"] else [])):
            if unit in frame.columns:
                check_groups(frame[unit], frame["split"], unit)
        if has_labels and has_classes:
            warn_of_missing_classes(frame["label_name"], frame["split"], sample_of(by_case(frame)))
    elif has_labels:
        samples = by_case(labels.frame)
        drawn = _drawn(replace(labels, frame=samples), options)
        _warn_of_test_names(drawn, options, predefined=bool((samples["split"] != "").any()))
        frame = drawn
        if "case" in labels.frame.columns:
            of = dict(zip(drawn["image_id"], drawn["split"], strict=True))
            frame = labels.frame.assign(split=labels.frame["case"].map(of))
    else:
        return labels
    _warn_of_missing_labels(labels, frame)
    return replace(labels, frame=frame)


def _drawn(labels: LabelTable, options: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with the split that `make_splits` draws, stratified by class, or by event and time."""
    column, strata = "label_name" if labels.target in ONE_CLASS else None, [0]
    if labels.target == "survival" and options["stratify"]:
        column, strata = "stratum", [*range(_MOST_TIMES, 0, -1)]
    for times in strata:
        frame = labels.frame if not times else labels.frame.assign(stratum=time_strata(labels.frame, times))
        try:
            with warnings.catch_warnings():
                if times > 1:
                    warnings.simplefilter("error", SplitWarning)  # of a stratum that a split lacks
                drawn = make_splits(
                    frame,
                    **{name: options[name] for name in _DRAWN},
                    stratify=options["stratify"] and column is not None,
                    split_column="split" if (labels.frame["split"] != "").any() else None,
                    group_column="group" if options["group_column"] else None,
                    label_column=column,
                )
            break
        except (SplitError, SplitWarning):
            if times <= 1:
                raise
    return drawn.drop(columns="stratum", errors="ignore")


def _warn_of_test_names(frame: pd.DataFrame, options: Mapping[str, Any], *, predefined: bool) -> None:
    """Warn of images named test_... in train or val, where no argument and no column says which rows to test on."""
    if predefined or options["test_ids"] is not None or options["test_prefix"] is not None:
        return
    names = frame.loc[frame["split"].isin(["train", "val"]), "image_id"]
    sample = sample_of(frame)
    found = [match for match in map(_TEST_NAME.fullmatch, names) if match]
    if found:
        warnings.warn(
            f"{len(found)} {sample}s named like test {sample}s are in train or val "
            f"[{name_some([m[0] for m in found])}]. If they are the test set, pass "
            f"test_prefix='{found[0][1]}' (or split_column=, test_ids=); if not, say so "
            "with test_ids=[].",
            SplitWarning,
            stacklevel=3,
        )


def _warn_of_missing_labels(labels: LabelTable, frame: pd.DataFrame) -> None:
    """Warn of labels that no image of a split has, where images have several labels."""
    if labels.target != "multilabel" or "target" not in frame.columns:
        return
    pairs = [
        (name, part)
        for target, part in zip(frame["target"], frame["split"], strict=True)
        for name, has in zip(labels.class_names, target, strict=True)
        if has
    ]
    present = pd.DataFrame(pairs, columns=["label", "split"], dtype=object)
    warn_of_missing_classes(present["label"], present["split"], sample_of(by_case(frame)))
