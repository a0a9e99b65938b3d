"""Unreadable images that are left out of a split, and checks of what the split loses.

The split is drawn over the whole table first, so an image that is left out moves no other. Losing a whole split, or a
class of one, is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from wsidata.tables.parts import SPLITS, SplitError
from wsidata.utils.messages import bullets, name_some

SKIPPED_COLUMNS = ("image_id", "split", "label_name", "path", "reason")
_SHOWN = 20


class SkipWarning(UserWarning):
    """Images were left out because they cannot be read; the message names them."""


def skipped_rows(table: pd.DataFrame, reasons: Mapping[str, str]) -> pd.DataFrame:
    """The unreadable rows of a table that is split, in its order, as `SKIPPED_COLUMNS`; `reasons` by `image_id`."""
    rows = table[table["image_id"].isin(list(reasons))].reset_index(drop=True)
    return rows.assign(reason=[reasons[name] for name in rows["image_id"]])[list(SKIPPED_COLUMNS)]


def without_skipped(table: pd.DataFrame, skipped: pd.DataFrame) -> pd.DataFrame:
    """The other rows, index 0, 1, ...."""
    return table[~table["image_id"].isin(skipped["image_id"])].reset_index(drop=True)


def check_skipped(table: pd.DataFrame, skipped: pd.DataFrame) -> None:
    """Raise `SplitError` if all of a split, or all images of a class in a split, would be left out."""
    left = without_skipped(table, skipped)
    lost: list[str] = []
    for part in SPLITS:
        before, after = table[table["split"] == part], left[left["split"] == part]
        if len(before) and after.empty:
            lost.append(f"every {part} row")
        else:
            classes = before.loc[before["label"] >= 0, "label_name"].drop_duplicates()
            lost += [f"every {part} row of '{name}'" for name in classes if name not in set(after["label_name"])]
    if len(skipped) and left.empty:
        lost = ["every row"]
    if lost:
        raise SplitError(
            f"on_error='skip' would leave out {', '.join(lost)}:{_listed(skipped)}\n"
            "Repair these files, or take them out of the table, so that the split is drawn without them."
        )


def describe_skipped(table: pd.DataFrame, skipped: pd.DataFrame) -> str:
    """A message that says what is left out of which split, and why."""
    counts: list[str] = []
    for part in (*SPLITS, ""):
        gone, whole = skipped[skipped["split"] == part], int((table["split"] == part).sum())
        if len(gone):
            labeled = gone[gone["image_id"].isin(table.loc[table["label"] >= 0, "image_id"])]
            classes = labeled["label_name"].value_counts().sort_index()
            of = ", ".join(f"{count} {name}" for name, count in classes.items())
            counts.append(f"{len(gone)} of {whole} {part or 'unlabeled'}" + (f" ({of})" if of else ""))
    return (
        f"{len(skipped)} of {len(table)} images cannot be read and are left out (on_error='skip'): "
        f"{'; '.join(counts)}. The split of the others is as it was drawn.{_listed(skipped)}"
    )


def check_same_skipped(saved: Sequence[str], skipped: pd.DataFrame) -> None:
    """Raise `SplitError` if training would resume without images that were trained on, or with ones that were not.

    Args:
        saved: Ids that the checkpoint's run left out of training and validation.
        skipped: Rows that this run leaves out.
    """
    before, now = set(saved), set(trained_without(skipped))
    if before != now:
        lost, back = sorted(now - before), sorted(before - now)
        raise SplitError(
            f"the checkpoint was trained on other images: {len(lost)} of them cannot be read any more "
            f"[{name_some(lost)}], {len(back)} that it had to leave out can be read now [{name_some(back)}]. Make the "
            "files what they were, or start a new run without ckpt_path."
        )


def trained_without(skipped: pd.DataFrame) -> list[str]:
    """Ids of the training and validation rows that are left out, sorted."""
    return sorted(skipped.loc[skipped["split"].isin(["train", "val"]), "image_id"])


def _listed(skipped: pd.DataFrame) -> str:
    lines = [f"{row['split'] or 'no split'} '{row['image_id']}': {row['reason']}" for row in skipped.to_dict("records")]
    return bullets(lines, _SHOWN)
