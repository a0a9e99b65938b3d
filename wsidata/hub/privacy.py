"""Allowlist of what is published about slides; everything else stays local.

From the table: ids (or opaque ones), labels, and which rows share a patient or a site, as numbers unless their names
are requested. From the arguments: those that define samples. From the files: pixels, size and resolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd

from wsidata.hub.manifest import HUB_SPLITS
from wsidata.tables.label_table import LabelTable
from wsidata.tables.targets import ONE_CLASS

NAMED_COLUMNS = ("group", "site", "case")
"""Columns whose values are published only on request; otherwise they are replaced by numbers."""

READING_ARGUMENTS = (
    "level", "mpp", "magnification", "downsample", "max_side", "mpp_override", "channels", "scale_to_8bit", "apply_icc",
    "series", "z", "t", "image_size", "resize_px", "target", "lazy",
)  # fmt: skip
"""Arguments that published pixels depend on."""

PUBLISHED_ARGUMENTS = (
    *READING_ARGUMENTS, "dtype", "normalize", "val_fraction", "test_fraction", "stratify", "k_fold", "repeat",
    "small_classes", "seed", "sampling", "batch_size", "predict_on", "leaks", "leak_checks", "max_slides",
)  # fmt: skip
"""Published arguments of data modules; paths, ids, prefixes and column names of the source are not published."""


class PrivacyError(ValueError):
    """Something outside the allowlist would be published; nothing was written or sent."""


def published_rows(labels: LabelTable, *, opaque_ids: bool, keep_names: Sequence[str] = ()) -> pd.DataFrame:
    """The published columns of a table.

    Args:
        labels: The whole table, split.
        opaque_ids: Replace ids by numbers in the table's order.
        keep_names: Which of "group", "site" and "case" keep their values; they become "group-0001", ... otherwise.

    Returns:
        The table's rows in its order, with `image_id`, `label` (if `target` is "class"), `label_name`, `target` (if
        there is one), `group`, `site` and `case` (where there are any), `row`, and `split` as named on the Hub.

    Raises:
        PrivacyError: if ids are absolute paths.
        ValueError: for other names in `keep_names`.
    """
    unknown = sorted(set(keep_names) - set(NAMED_COLUMNS))
    if unknown:
        raise ValueError(f"keep_names={list(keep_names)}: {unknown} is not one of {', '.join(NAMED_COLUMNS)}.")
    frame = labels.frame
    ids = _numbered("image", range(len(frame))) if opaque_ids else [str(name) for name in frame["image_id"]]
    absolute = [name for name in ids if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()]
    if absolute:
        raise PrivacyError(
            f"{len(absolute)} images lie outside image_dir, so their ids are absolute paths, such as "
            f"'{absolute[0]}'. Pass opaque_ids=True, or a parent folder of all images as image_dir."
        )
    columns: dict[str, Any] = {"image_id": ids}
    if labels.target in ONE_CLASS:
        columns["label"] = frame["label"].astype("int64")
    columns["label_name"] = frame["label_name"].astype(str)
    if "target" in frame.columns:
        columns["target"] = [[float(number) for number in target] for target in frame["target"]]
    for name in NAMED_COLUMNS:
        values = [str(value) for value in frame.get(name, ())]
        if any(values):
            columns[name] = values if name in keep_names else _numbered(name, values)
    columns["row"] = range(len(frame))
    columns["split"] = [HUB_SPLITS[str(part)] for part in frame["split"]]
    return pd.DataFrame(columns)


def published_arguments(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """The published arguments of a data module, as plain values; those that are none are left out."""
    return {name: _plain(hparams[name]) for name in PUBLISHED_ARGUMENTS if name in hparams and _is_plain(hparams[name])}


def disclosure(rows: pd.DataFrame, where: str, *, opaque_ids: bool, class_names: Sequence[str]) -> str:
    """One line saying what will be visible, and to whom.

    Args:
        rows: Result of `published_rows`.
        where: To whom, such as "PUBLIC, for everybody, at ...".
        opaque_ids: Whether ids were replaced.
        class_names: Names of the classes.
    """
    parts = ", ".join(f"{count} {split}" for split, count in rows["split"].value_counts(sort=False).items())
    ids = "numbers for ids" if opaque_ids else f"ids as they are (such as '{rows['image_id'].iloc[0]}')"
    shared = [_shown(name, rows) for name in NAMED_COLUMNS if name in rows.columns]
    names = ", ".join(class_names[:4]) + (", ..." if len(class_names) > 4 else "")
    what = [f"{len(rows)} images ({parts})", f"labels ({names})" if class_names else "no labels", ids, *shared]
    return (
        f"{where}: {'; '.join(what)}; resolution and size. No other column, description, EXIF, profile or label image."
    )


def _shown(name: str, rows: pd.DataFrame) -> str:
    numbered = re.fullmatch(rf"{name}-\d+", str(rows[name].iloc[0])) is not None
    return f"{name}s as numbers" if numbered else f"{name}s by name (such as '{rows[name].iloc[0]}')"


def _numbered(name: str, values: Sequence[Any]) -> list[str]:
    """Values replaced by numbers in order of appearance; empty ones stay empty."""
    known = {value: number for number, value in enumerate(dict.fromkeys(v for v in values if v != ""), start=1)}
    digits = max(4, len(str(len(known))))
    return ["" if value == "" else f"{name}-{known[value]:0{digits}d}" for value in values]


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
