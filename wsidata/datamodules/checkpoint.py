"""A checkpoint remembers what its model was trained on: no run goes on, or is scored, on other slides unnoticed.

The memory is plain values only: a checkpoint can then be loaded with `weights_only=True`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wsidata.splits.split_file import check_no_leak, check_same_split, split_digest, split_parts
from wsidata.splits.unreadable import check_same_skipped, trained_without
from wsidata.stats.result import ChannelStats
from wsidata.tables.parts import Part, SplitError


def remember(
    table: pd.DataFrame, skipped: pd.DataFrame, class_names: Sequence[str], stats: ChannelStats | None
) -> dict[str, Any]:
    """The split, what was left out of it, the classes, and the statistics if they are known, for a checkpoint.

    Args:
        table: Slides, with the columns `image_id` and `split`.
        skipped: Those that are left out; see `skipping.skipped_rows`.
        class_names: Classes in order.
        stats: Channel statistics of the training slides, or None.
    """
    return {
        "split": split_parts(table),
        "digest": split_digest(table),
        "skipped": trained_without(skipped),
        "class_names": list(class_names),
        "stats": None if stats is None else stats.to_json(),
    }


def check_remembered_classes(memory: dict[str, Any], class_names: Sequence[str]) -> None:
    """Refuse classes that are not the checkpoint's, or in another order; a table without labels has none to compare.

    Raises:
        SplitError: with both.
    """
    if class_names and memory["class_names"] != list(class_names):
        raise SplitError(
            f"the checkpoint's classes are {memory['class_names']} and the table's {list(class_names)}. "
            "Pass class_names= in the checkpoint's order."
        )


def check_remembered_split(
    memory: dict[str, Any], table: pd.DataFrame, skipped: pd.DataFrame, evaluated: Part | None = None
) -> None:
    """Refuse to train on with other slides in the parts, or to evaluate on slides that were trained on.

    Args:
        memory: What `remember` returned.
        table: Slides, with the columns `image_id` and `split`.
        skipped: Those that are left out.
        evaluated: The part that is to be evaluated; None where training goes on.

    Raises:
        SplitError: naming the slides.
    """
    if evaluated is not None:
        check_no_leak(memory["split"], list(table.loc[table["split"] == evaluated, "image_id"]), evaluated)
        return
    if memory["digest"] != split_digest(table):
        check_same_split(memory["split"], split_parts(table))
    check_same_skipped(memory.get("skipped", []), skipped)


def remembered_stats(memory: dict[str, Any], ours: ChannelStats | None) -> ChannelStats | None:
    """The checkpoint's channel statistics, or None if it has none.

    Args:
        memory: What `remember` returned.
        ours: The statistics of this run, if they are known.

    Raises:
        SplitError: if these are others.
    """
    if memory.get("stats") is None:
        return None
    saved = ChannelStats.from_json(memory["stats"])
    if ours is not None and ours.digest != saved.digest:
        raise SplitError(
            f"the checkpoint was trained with other channel statistics: mean {saved.mean}, and here {ours.mean}. "
            "Leave stats= out, and those of the checkpoint are taken."
        )
    return saved


def plain(value: Any) -> Any:
    """What a checkpoint can hold of an argument."""
    if isinstance(value, (pd.DataFrame, ChannelStats)):
        return None
    if isinstance(value, Mapping):
        return {str(key): str(name) for key, name in value.items()}
    return value if value is None or isinstance(value, int) else str(value)


def plain_values(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, at any depth: `weights_only=True` loads no others."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (pd.Index, pd.Series, pd.api.extensions.ExtensionArray)):
        return list(value)
    if isinstance(value, Mapping):
        return {plain_values(key): plain_values(one) for key, one in value.items()}
    return type(value)(map(plain_values, value)) if type(value) in (list, tuple) else value
