"""Saved splits with a digest, applied to a table or compared with a checkpoint.

The files are CSV. The digest is a fingerprint of which image is in which split, whatever the order. It is in every row,
so that a file that was edited, cut or mixed with another is noticed when it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from wsidata.tables.cells import escaped, restored
from wsidata.tables.name_table import nfc
from wsidata.tables.parts import SPLITS, SplitError
from wsidata.tables.text_table import TableError, read_text_table
from wsidata.utils.files import write_text
from wsidata.utils.messages import name_some

DIGEST_COLUMN = "split_digest"
_COLUMNS = ("image_id", "case", "label_name", "group", "split", "skipped")
_DIGITS = 16
_PREFIX = "sha256:"  # without it a spreadsheet takes digits for a number

Parts = dict[str, list[str]]
"""Ids of each split, sorted: `{"train": [...], "val": [...], "test": [...]}`."""


def split_parts(table: pd.DataFrame) -> Parts:
    """Ids of every split of a table with the columns `image_id` and `split`, sorted."""
    return {name: sorted(table.loc[table["split"] == name, "image_id"].astype(str)) for name in SPLITS}


def split_digest(table: pd.DataFrame) -> str:
    """SHA-256 over the sorted `split<tab>image_id` lines, in hexadecimal; independent of row order and paths."""
    pairs = zip(table["split"].tolist(), table["image_id"].tolist(), strict=True)  # lists are faster than columns
    lines = sorted(f"{split}\t{name}\n" for split, name in pairs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def parts_digest(parts: Parts) -> str:
    """The digest of the ids of every split."""
    rows = [(name, image_id) for name, ids in parts.items() for image_id in ids]
    return split_digest(pd.DataFrame(rows, columns=["split", "image_id"]))


def save_splits(table: pd.DataFrame, path: str | Path) -> str:
    """Write `image_id, case, label_name, group, split, skipped` (those that `table` has) and the digest as CSV.

    The file is written whole or not at all, and not touched where it holds the same already. Cells that a spreadsheet
    would take for formulas are escaped (see `tables.cells`); `load_splits` restores them.

    Args:
        table: What `make_splits` returned.
        path: CSV file to write; its folder is created.

    Returns:
        The digest of the split.
    """
    columns = [name for name in _COLUMNS if name in table.columns]
    columns = [name for name in columns if name not in ("group", "skipped") or (table[name] != "").any()]
    digest = split_digest(table)
    frame = table[columns].assign(**{DIGEST_COLUMN: _PREFIX + digest[:_DIGITS]})
    write_text(path, escaped(frame).to_csv(index=False, lineterminator="\n"))
    return digest


def save_splits_beside(table: pd.DataFrame, folder: str | Path) -> Path:
    """Write `split.csv` into a folder, or `split_DIGEST.csv` where there is another split of that name already.

    Repeated runs, and folds of one experiment, may share a folder: the split of an earlier one is kept. A file that
    holds this split already is not touched, whatever other columns it has.

    Args:
        table: What `make_splits` returned.
        folder: Created if it does not exist.

    Returns:
        The file.
    """
    path = Path(folder) / "split.csv"
    if path.exists() and not holds_split(path, table):
        path = path.with_name(f"split_{split_digest(table)[:8]}.csv")
    if not holds_split(path, table):
        save_splits(table, path)
    return path


def holds_split(path: Path, table: pd.DataFrame) -> bool:
    """Whether a file holds the split of a table, and says the same of rows that are left out."""
    try:
        saved = load_splits(path)
    except SplitError:  # none, edited, or no split
        return False
    return split_digest(saved) == split_digest(table) and _left_out(saved) == _left_out(table)


def _left_out(table: pd.DataFrame) -> dict[str, str]:
    """Why rows are left out, by id."""
    if "skipped" not in table.columns:
        return {}
    left_out = table[table["skipped"] != ""]
    return dict(zip(left_out["image_id"].astype(str), left_out["skipped"], strict=True))


def load_splits(path: str | Path | pd.DataFrame, *, expected_digest: str | None = None) -> pd.DataFrame:
    """Read a split file, or check a split in a DataFrame.

    Args:
        path: CSV, Parquet or DataFrame with at least the columns `image_id` and `split`. A column `split_digest` must
            be right.
        expected_digest: Digest (or its first digits) that the split must have.

    Returns:
        The other columns of the file as text.

    Raises:
        SplitError: if columns are missing, a split name is unknown, an id is repeated, or the digest differs.
    """
    name = "the split" if isinstance(path, pd.DataFrame) else f"split file '{path}'"
    try:
        frame = read_text_table(path).frame
    except TableError as error:
        raise SplitError(f"cannot read {name}: {error}") from error
    frame = _as_saved(frame)
    absent = [name for name in ("image_id", "split") if name not in frame.columns]
    if absent:
        raise SplitError(
            f"{name} has no column {absent}; its columns are {list(frame.columns)}. `wsidata split` writes such files "
            "from a table of labels, and training does."
        )
    unknown = sorted(set(frame["split"]) - set(SPLITS))
    repeated = sorted(frame.loc[frame["image_id"].duplicated(), "image_id"].unique())
    if unknown or repeated:
        raise SplitError(
            f"{name} has unknown splits [{name_some(unknown)}] and repeated ids [{name_some(repeated)}]. "
            "Every image must be there once, with train, val or test."
        )
    digest = split_digest(frame)
    if expected_digest is not None and not digest.startswith(expected_digest.removeprefix(_PREFIX)):
        raise SplitError(f"{name} has digest {digest[:12]}, not {expected_digest[:12]}: it was changed.")
    if DIGEST_COLUMN in frame.columns and set(frame[DIGEST_COLUMN]) != {_PREFIX + digest[:_DIGITS]}:
        raise SplitError(
            f"{name} was changed since it was saved: its rows have digest {_PREFIX}{digest[:_DIGITS]} and its "
            f"column {DIGEST_COLUMN} says {name_some(sorted(set(frame[DIGEST_COLUMN])))}. Use the file as it was "
            "saved; if the change is meant, delete that column."
        )
    return frame.drop(columns=DIGEST_COLUMN, errors="ignore")


def _as_saved(frame: pd.DataFrame) -> pd.DataFrame:
    """A table with its cells restored, if its digest says that they were escaped when it was saved."""
    if not {"image_id", "split", DIGEST_COLUMN} <= set(frame.columns):
        return frame
    as_saved = restored(frame)
    return as_saved if set(frame[DIGEST_COLUMN]) == {_PREFIX + split_digest(as_saved)[:_DIGITS]} else frame


def apply_splits(table: pd.DataFrame, saved: pd.DataFrame) -> pd.DataFrame:
    """Apply a saved split to the table of the same images.

    Args:
        table: Images, with the column `image_id`.
        saved: What `load_splits` returned.

    Returns:
        A copy of `table` with the column `split`.

    Raises:
        SplitError: if one has images that the other lacks.
    """
    of = dict(zip(map(nfc, map(str, saved["image_id"].tolist())), saved["split"].astype(str).tolist(), strict=True))
    ids = pd.Series(list(map(nfc, map(str, table["image_id"].tolist()))), index=table.index, dtype=object)
    new, gone = sorted(set(ids) - set(of)), sorted(set(of) - set(ids))
    if new or gone:
        raise SplitError(
            f"the saved split is of other images: {len(new)} in the table are not in it [{name_some(new)}], "
            f"{len(gone)} in it are not in the table [{name_some(gone)}]. "
            "Use the table it was made from, or make a new split."
        )
    return table.assign(split=ids.map(of).astype(object))


def check_same_split(saved: Parts, current: Parts) -> None:
    """Raise if training would resume with another split than the checkpoint's.

    Raises:
        SplitError: saying how many images moved, and which.
    """
    moved = [
        f"{name} ({was} -> {now})"
        for was in SPLITS
        for now in SPLITS
        if was != now
        for name in sorted(set(saved[was]) & set(current[now]))
    ]
    ids = [{name for part in parts.values() for name in part} for parts in (saved, current)]
    gone, new = sorted(ids[0] - ids[1]), sorted(ids[1] - ids[0])
    if moved or gone or new:
        raise SplitError(
            f"the checkpoint was trained on another split: {len(moved)} images moved [{name_some(moved)}], "
            f"{len(gone)} are gone [{name_some(gone)}], {len(new)} are new [{name_some(new)}]. Resume with the "
            f"split saved beside that run (split='.../split.csv', or '.../split_{parts_digest(saved)[:8]}.csv'), "
            "or start a new run without ckpt_path."
        )


def check_no_leak(saved: Parts, evaluated: Collection[str], part: str) -> None:
    """Raise if a checkpoint would be evaluated on images it was trained on.

    Raises:
        SplitError: naming them.
    """
    leak = describe_leak(saved, evaluated, part)
    if leak:
        raise SplitError(f"{leak} Evaluate with the split.csv saved beside that run (split='.../split.csv').")


def describe_leak(saved: Parts, evaluated: Collection[str], part: str) -> str:
    """A sentence about the images to evaluate that a checkpoint was trained on; "" if there are none."""
    leaked = sorted(set(saved["train"]) & set(evaluated))
    if not leaked:
        return ""
    return (
        f"{len(leaked)} {part} images were in the checkpoint's training set [{name_some(leaked)}], so its scores "
        "would be too good."
    )
