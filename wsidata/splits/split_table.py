"""The split of a data module's table, from a file or by `make_splits`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.splits.make import check_groups, make_splits, warn_of_missing_classes
from wsidata.splits.split_file import apply_splits, load_splits
from wsidata.tables.label_table import LabelTable
from wsidata.tables.parts import SplitWarning
from wsidata.tables.targets import ONE_CLASS
from wsidata.utils.messages import name_some

_DRAWN = (
    *("val_fraction", "test_fraction", "seed", "k_fold", "repeat", "small_classes"),
    *("test_ids", "test_prefix", "val_ids", "val_prefix"),
)


_TEST_NAME = re.compile(r"(?:.*/)?(test[_-])[^/]*", re.IGNORECASE)


def split_table(labels: LabelTable, split: str | Path | pd.DataFrame | None, options: Mapping[str, Any]) -> LabelTable:
    """Fill in the column `split`.

    Args:
        labels: The table as `read_table` gives it. One without labels is left as it is, unless `split` is given.
        split: A saved split: a CSV file, or a DataFrame with `image_id` and `split`. None: make one.
        options: Arguments of the data module, by name: `_DRAWN`, `stratify`, `group_column`, `label_column`.

    Raises:
        SplitError: see `make_splits` and `apply_splits`.

    Warns:
        SplitWarning: see `make_splits`; and if images named test_... are trained on because nothing says what to test.
    """
    has_labels, has_classes = options["label_column"] is not None, labels.target in ONE_CLASS
    if split is not None:
        frame = apply_splits(labels.frame, load_splits(split))
        if options["group_column"]:
            check_groups(frame["group"], frame["split"])
        if has_labels and has_classes:
            warn_of_missing_classes(frame["label_name"], frame["split"])
    elif has_labels:
        frame = make_splits(
            labels.frame,
            **{name: options[name] for name in _DRAWN},
            stratify=options["stratify"] and has_classes,
            split_column="split" if (labels.frame["split"] != "").any() else None,
            group_column="group" if options["group_column"] else None,
            label_column="label_name" if has_classes else None,
        )
        _warn_of_test_names(frame, options, predefined=bool((labels.frame["split"] != "").any()))
    else:
        return labels
    _warn_of_missing_labels(labels, frame)
    return replace(labels, frame=frame)


def _warn_of_test_names(frame: pd.DataFrame, options: Mapping[str, Any], *, predefined: bool) -> None:
    """Warn of images named test_... in train or val, where no argument and no column says which rows to test on."""
    if predefined or options["test_ids"] is not None or options["test_prefix"] is not None:
        return
    names = frame.loc[frame["split"].isin(["train", "val"]), "image_id"]
    found = [match for match in map(_TEST_NAME.fullmatch, names) if match]
    if found:
        warnings.warn(
            f"{len(found)} images named like test images are in train or val [{name_some([m[0] for m in found])}]. If "
            f"they are the test set, pass test_prefix='{found[0][1]}' (or split_column=, test_ids=); if not, say so "
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
    warn_of_missing_classes(present["label"], present["split"])
