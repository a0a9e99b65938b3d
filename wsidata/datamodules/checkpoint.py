"""State of a data module in checkpoints, compared when training resumes or a model is evaluated.

It consists of plain values only, so that checkpoints load with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from wsidata.slides.tissue.crop import TissueCrop
from wsidata.splits.leaks import LeakWarning
from wsidata.splits.split_file import check_no_leak, check_same_split, describe_leak, split_digest, split_parts
from wsidata.splits.unreadable import check_same_skipped, trained_without
from wsidata.stats.result import ChannelStats
from wsidata.tables.parts import Part, SplitError
from wsidata.tables.targets import Target
from wsidata.utils.messages import name_some

OBJECTS = (pd.DataFrame, ChannelStats, TissueCrop)
"""Arguments of data modules that are no plain values."""


NAMING = (
    "table", "folder", "image_dir", "mask_dir", "annotation_dir", "feature_dir", "label_names", "split", "stats",
    "source", "cache", "cache_dir", "stage_dir", "test_ids", "val_ids", "test_prefix", "val_prefix",
)  # fmt: skip
"""Arguments of data modules that name files, or images."""

_KEYS = {"split", "digest", "class_names"}
_DIGITS = 24
_UNITS = {"case": "slides", "group": "images"}
"""Columns of patients, and what each has several of."""


def remember(
    table: pd.DataFrame,
    skipped: pd.DataFrame,
    class_names: Sequence[str],
    stats: ChannelStats | None,
    geometry: Mapping[str, Any] | None = None,
    *,
    target: Target = "class",
    names: bool = True,
) -> dict[str, Any]:
    """The state of a data module.

    Args:
        table: The split: columns `image_id` and `split`, and perhaps `case` and `group`.
        skipped: The images left out of it (see `skipped_rows`).
        class_names: The classes.
        stats: The statistics, if they are known.
        geometry: How images are read; see `geometry`.
        target: Kind of the targets.
        names: Whether to keep ids as they are. False: as digests, by which they are only recognized.
    """
    digest, parts, left_out = split_digest(table), split_parts(table), trained_without(skipped)
    train = table[(table["split"] == "train") & ~table["image_id"].isin(skipped["image_id"])]
    cases, groups = ({*train[unit]} - {""} if unit in train.columns else set() for unit in _UNITS)
    if not names:
        cases = {_hashed(name, digest) for name in cases}
        parts = {part: sorted(_hashed(name, digest) for name in ids) for part, ids in parts.items()}
        left_out = sorted(_hashed(name, digest) for name in left_out)
        stats = None if stats is None else replace(stats, skipped=())
    return {
        "split": parts,
        "digest": digest,
        "skipped": left_out,
        "class_names": list(class_names),
        "target": target,
        "stats": None if stats is None else stats.to_json(),
        **({} if names else {"hashed": True}),
        **({"cases": sorted(cases)} if cases else {}),
        **({"groups": sorted(_hashed(name, digest) for name in groups)} if groups else {}),  # patients stay unnamed
        "geometry": None if geometry is None else dict(geometry),
    }


def memory_in(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the data module of a checkpoint's run remembered, whatever its class; None if it had none of this package.

    Among it: `class_names`, and `geometry`, which checkpoints of earlier versions lack.
    """
    states = checkpoint.values()
    return next((state for state in states if isinstance(state, dict) and state.keys() >= _KEYS), None)


def read_memory(path: str | Path) -> dict[str, Any] | None:
    """`memory_in` a checkpoint file, of which no weights are read.

    Raises:
        ValueError: if it is no local file, or holds more than plain values.
    """
    return memory_in(_load(path))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file, whose weights stay on the disk until they are used.

    Raises:
        ValueError: naming the file, if it is no checkpoint, is cut off, or holds more than plain values.
    """
    try:
        return _load(path)
    except ValueError as error:
        raise ValueError(
            f"checkpoint '{path}' cannot be used: {error}. Pass a file that Lightning's ModelCheckpoint or "
            "Trainer.save_checkpoint wrote, copied whole."
        ) from error


def _load(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError("it is no file on this disk")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty or cut off"
        raise ValueError(f"it cannot be loaded with weights_only=True ({reason})") from error
    return content if isinstance(content, dict) else {}


def check_remembered_classes(memory: dict[str, Any], class_names: Sequence[str]) -> None:
    """Raise `SplitError` if the classes, or their order, differ from the checkpoint's; no labels are no difference."""
    if class_names and memory["class_names"] != list(class_names):
        raise SplitError(
            f"the checkpoint's classes are {memory['class_names']} and the table's {list(class_names)}. "
            "Pass class_names= in the checkpoint's order."
        )


def check_remembered_bins(memory: Mapping[str, Any], bins: Sequence[float]) -> None:
    """Raise `SplitError` if the intervals of time differ from the checkpoint's; no labels are no difference."""
    saved = memory.get("time_bins")
    if bins and saved is not None and list(bins) != list(saved):
        raise SplitError(
            f"the checkpoint's intervals of time end at {saved}, and those of the table at {list(bins)}. Pass "
            f"time_bins={saved}."
        )


def check_remembered_split(
    memory: dict[str, Any], table: pd.DataFrame, skipped: pd.DataFrame, evaluated: Part | None = None
) -> None:
    """Raise `SplitError` if training would resume with another split, or `evaluated` holds images trained on.

    Args:
        memory: What `remember` returned.
        table: Columns `image_id` and `split`, and perhaps `case` and `group`.
        skipped: Its rows that are left out.
        evaluated: The split to evaluate; None where training resumes.

    Warns:
        LeakWarning: if cases or groups that it was trained on have other images among those to evaluate.
    """
    memory = _with_names(memory, table)
    if evaluated is not None:
        rows = table[table["split"] == evaluated]
        check_no_leak(memory["split"], list(rows["image_id"]), evaluated)
        _warn_of_units(memory, rows, evaluated)
        return
    if memory["digest"] != split_digest(table):
        check_same_split(memory["split"], split_parts(table))
    check_same_skipped(memory.get("skipped", []), skipped)


def warn_of_trained(memory: dict[str, Any], table: pd.DataFrame) -> None:
    """Warn of images to evaluate that a checkpoint was trained on.

    Args:
        memory: What `remember` returned.
        table: Columns `image_id` and `split`, and perhaps `case` and `group`.

    Warns:
        LeakWarning: naming them; and cases and groups that it was trained on, if they have other images here.
    """
    memory = _with_names(memory, table)
    for part in ("val", "test"):
        rows = table[table["split"] == part]
        leak = describe_leak(memory["split"], list(rows["image_id"]), part)
        if leak:
            warnings.warn(
                f"{leak} Take them out of the table, unless they are others of the same names.",
                LeakWarning,
                stacklevel=4,
            )
        _warn_of_units(memory, rows[~rows["image_id"].isin(memory["split"]["train"])], part)


def _warn_of_units(memory: Mapping[str, Any], rows: pd.DataFrame, part: str) -> None:
    """Warn of cases and groups that a checkpoint was trained on, by other images."""
    for unit, others in _UNITS.items():
        trained = set(memory.get(f"{unit}s", ()))
        named = [str(name) for name in rows[unit].unique() if name] if trained and unit in rows.columns else []
        seen = [name for name in named if name in trained or _hashed(name, memory["digest"]) in trained]
        if seen:
            warnings.warn(
                f"{len(seen)} {part} {unit}s are called as those that the checkpoint was trained on "
                f"[{name_some(seen)}]: if these are the same patients, with other {others}, its scores will be too "
                "good. Take them out of the table; or give other patients other names.",
                LeakWarning,
                stacklevel=4,
            )
            rows = rows[~rows[unit].isin(seen)]


def _hashed(name: object, digest: str) -> str:
    """An id that is only recognized by who has it; `digest` makes it another one in every split."""
    return hashlib.sha256(f"{digest}\t{name}".encode()).hexdigest()[:_DIGITS]


def _with_names(memory: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """The memory with ids where it has digests; those that the table does not know stay digests."""
    if not memory.get("hashed"):
        return memory
    known = {_hashed(str(name), memory["digest"]): str(name) for name in table["image_id"]}
    parts = {part: sorted(known.get(one, one) for one in ids) for part, ids in memory["split"].items()}
    return {**memory, "split": parts, "skipped": [known.get(one, one) for one in memory["skipped"]]}


def remembered_stats(memory: dict[str, Any], ours: ChannelStats | None) -> ChannelStats | None:
    """The checkpoint's channel statistics, if it has any; raises `SplitError` if this run's are known and differ."""
    if memory.get("stats") is None:
        return None
    saved = ChannelStats.from_json(memory["stats"])
    if ours is not None and None in (ours.reading, saved.reading):  # of an earlier version
        ours, known = replace(ours, reading=None), replace(saved, reading=None)
    else:
        known = saved
    if ours is not None and ours.digest != known.digest:
        raise SplitError(
            f"the checkpoint was trained with other channel statistics: mean {saved.mean}, and here {ours.mean}. "
            "Leave stats= out, and those of the checkpoint are taken."
        )
    return saved


def plain(value: Any) -> Any:
    """A path or mapping as plain values; `OBJECTS` stay."""
    if isinstance(value, Mapping):
        return {str(key): str(name) for key, name in value.items()}
    return value if value is None or isinstance(value, (int, *OBJECTS)) else str(value)


def plain_values(value: Any) -> Any:
    """NumPy numbers and arrays as Python's, at any depth; `weights_only=True` loads no others."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (pd.Index, pd.Series, pd.api.extensions.ExtensionArray)):
        return list(value)
    if isinstance(value, Mapping):
        return {plain_values(key): plain_values(one) for key, one in value.items()}
    return type(value)(map(plain_values, value)) if type(value) in (list, tuple) else value
