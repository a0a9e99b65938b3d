"""The split of a data module's table, from a file or by `make_splits`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.splits.make import check_groups, make_splits, warn_of_missing_classes
from wsidata.splits.split_file import apply_splits, load_splits
from wsidata.tables.label_table import LabelTable

_DRAWN = ("val_fraction", "test_fraction", "seed", "k_fold", "repeat", "small_classes")
_LISTED = ("test_ids", "test_prefix", "val_ids", "val_prefix")


def split_table(labels: LabelTable, split: str | Path | pd.DataFrame | None, options: Mapping[str, Any]) -> LabelTable:
    """Fill in the column `split`.

    Args:
        labels: The table as `read_table` gives it. One without labels is left as it is.
        split: A saved split: a CSV file, or a DataFrame with `image_id` and `split`. None: make one.
        options: Arguments of the data module, by name: `val_fraction`, `test_fraction`, `seed`, `k_fold`, `repeat`,
            `small_classes`, `test_ids`, `test_prefix`, `val_ids`, `val_prefix`, `stratify`, `group_column`,
            `label_column`.

    Returns:
        The same rows, each in a split.

    Raises:
        SplitError: see `make_splits` and `apply_splits`.
    """
    if split is not None:
        frame = apply_splits(labels.frame, load_splits(split))
        if options["group_column"]:
            check_groups(frame["group"], frame["split"])
        if labels.target == "class" and options["label_column"] is not None:
            warn_of_missing_classes(frame["label_name"], frame["split"])
        _warn_of_missing_labels(labels, frame)
        return replace(labels, frame=frame)
    if options["label_column"] is None:
        return labels
    frame = make_splits(
        labels.frame,
        **{name: options[name] for name in (*_DRAWN, *_LISTED)},
        stratify=options["stratify"] and labels.target == "class",
        split_column="split" if (labels.frame["split"] != "").any() else None,
        group_column="group" if options["group_column"] else None,
        label_column="label_name" if labels.target == "class" else None,
    )
    _warn_of_missing_labels(labels, frame)
    return replace(labels, frame=frame)


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
