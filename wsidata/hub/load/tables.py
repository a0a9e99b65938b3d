"""Table of an export, with the rows, classes and splits of the data module it was made from.

The columns are described in `manifest`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from wsidata.hub.client import HubError
from wsidata.hub.load.download import LocalCopy
from wsidata.hub.load.unpack import cache_folder, once, unpack_shards
from wsidata.hub.manifest import COLUMNS as KINDS
from wsidata.hub.manifest import (
    IMAGE_DIGESTS,
    PREPROCESSING_FILE,
    TABLE_SPLITS,
    ExportFormatError,
    Preprocessing,
    TableFile,
)
from wsidata.splits.split_file import split_digest
from wsidata.tables.label_table import COLUMNS, FURTHER_COLUMNS, LabelTable
from wsidata.tables.targets import TARGETS, Target
from wsidata.utils.files import file_sha256
from wsidata.utils.messages import describe_problems

FACTS = ("sha256", "mask_sha256", "width", "height", "file_name", "mask_file_name")
"""Columns that describe each published image beside its labels."""


_TYPES = {
    **{name: pa.list_(pa.float64()) if name == "target" else pa.type_for_alias(kind) for name, kind in KINDS.items()},
    **dict.fromkeys(("file_name", "mask_file_name"), pa.string()),
}
_NULLABLE = ("mpp_x", "mpp_y")


def read_export(
    copy: LocalCopy, preprocessing: Preprocessing, *, remote: bool = False
) -> tuple[LabelTable, pd.DataFrame]:
    """The table of an export.

    Args:
        copy: Its files.
        preprocessing: Its manifest.
        remote: Whether the images are left on the Hub, so that `path` is empty.

    Returns:
        The table, in the data module's order, and the columns `FACTS` of its rows, with `file_name` and
        `mask_file_name` below the root of the repository.

    Raises:
        ExportFormatError: if a table was modified, or does not belong to the others.
        HubError: if a path leads out of the folder, or images inside Parquet are not those that were published.
    """
    target = _target(preprocessing, copy)
    frames = [_read_table(copy, preprocessing, table) for table in preprocessing.tables]
    frame = pd.concat(frames, ignore_index=True)
    if preprocessing.layout == "parquet":
        _add_unpacked(frame, copy, preprocessing)
    elif remote:
        frame["path"] = ""
    frame = frame.sort_values("row", kind="stable", ignore_index=True).astype(
        {"split": object}
    )  # as in a table that was read
    order = [*COLUMNS, *(name for name in FURTHER_COLUMNS if name in frame.columns)]
    facts = frame[[name for name in FACTS if name in frame.columns]]
    digest = split_digest(frame)
    if digest != preprocessing.split_digest or frame["image_id"].duplicated().any():
        raise ExportFormatError(
            f"the tables of '{copy.name}' do not belong together: their split has the digest {digest[:12]}, and "
            f"{preprocessing.split_digest[:12]} was published. Download or export it again."
        )
    return LabelTable(frame[order], preprocessing.class_names, copy.name, target), facts


def check_images(table: pd.DataFrame, facts: pd.DataFrame, executor: Executor) -> None:
    """Compare the digest of every image on this disk with the published one.

    Args:
        table: Columns `image_id`, `path`, and perhaps `mask`.
        facts: The rows' `sha256`, and perhaps `mask_sha256`.
        executor: Reads the files.

    Raises:
        HubError: naming every file that is missing or differs.
    """
    pairs = [("path", "sha256"), ("mask", "mask_sha256")]
    published = [
        (path, digest)
        for column, digests in pairs
        if column in table.columns
        for path, digest in zip(table[column], facts[digests], strict=True)
    ]
    found: Iterable[str] = executor.map(_digest_or_problem, [path for path, _ in published])
    problems = [
        f"{path}: {'is not the image that was published' if len(said) == 64 else said}"
        for (path, digest), said in zip(published, found, strict=True)
        if said != digest
    ]
    if problems:
        remedy = "Export or download them again; verify=False trains on whatever is there."
        raise HubError(describe_problems("published images", problems, remedy))


def _digest_or_problem(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({type(error).__name__})"


def _target(preprocessing: Preprocessing, copy: LocalCopy) -> Target:
    for target in TARGETS:
        if target == preprocessing.target:
            return target
    raise ExportFormatError(f"'{copy.name}' has an unknown kind of target, '{preprocessing.target}'.")


def _read_table(copy: LocalCopy, preprocessing: Preprocessing, table: TableFile) -> pd.DataFrame:
    """The rows of one file, with the columns of `label_table.COLUMNS`, `row` and `FACTS`."""
    path = copy.file(table.path, f"{PREPROCESSING_FILE} of '{copy.name}'")
    digest = file_sha256(path) if path.is_file() else None
    if digest != table.sha256:
        what = "is absent" if digest is None else "was changed since it was published"
        raise ExportFormatError(f"'{path}' {what}. Download or export it again.")
    stored = _stored(path, preprocessing)
    if len(stored["image_id"]) != table.rows or table.split not in TABLE_SPLITS:
        raise ExportFormatError(f"'{path}' has {len(stored['image_id'])} rows of '{table.split}', not {table.rows}.")
    columns: dict[str, Any] = {
        "image_id": stored["image_id"],
        "label_name": stored["label_name"],
        "label": [-1 if label is None else label for label in stored.get("label", [None] * table.rows)],
        "group": stored.get("group", [""] * table.rows),
        "site": stored.get("site", [""] * table.rows),
        "split": [TABLE_SPLITS[table.split]] * table.rows,
        **{name: stored[name] for name in ("row", "width", "height", "sha256", "mask_sha256") if name in stored},
    }
    if "case" in stored:
        columns["case"] = stored["case"]
    if "target" in stored:
        columns["target"] = [tuple(numbers) for numbers in stored["target"]]
    below = Path(table.path).parent
    for stored_name, name in (("file_name", "path"), ("mask_file_name", "mask")):
        if stored_name in stored:
            columns[stored_name] = [(below / file).as_posix() for file in stored[stored_name]]
            columns[name] = [str(copy.file(file, f"'{path}'")) for file in columns[stored_name]]
    return pd.DataFrame(columns)


def _stored(path: Path, preprocessing: Preprocessing) -> dict[str, list[Any]]:
    """The columns of a file other than images, each of the type that `manifest` states.

    Raises:
        ExportFormatError: naming the column that is missing, of another type, or incomplete.
    """
    required = {"image_id", "label_name", "row", "sha256"} | (
        {"file_name"} if preprocessing.layout == "files" else set()
    )
    try:
        names = [name for name in pq.read_schema(path).names if name not in IMAGE_DIGESTS]
        absent = sorted(required - set(names))
        if absent:
            raise ExportFormatError(f"'{path}' has no column '{absent[0]}'. Download or export it again.")
        table = pq.read_table(path, columns=names)
    except (pa.ArrowException, OSError) as error:
        raise ExportFormatError(f"'{path}' is no table of Parquet ({error}). Download or export it again.") from error
    stored: dict[str, list[Any]] = {}
    for name in (name for name in names if name in _TYPES):
        try:
            column = table.column(name).cast(_TYPES[name])
        except pa.ArrowException as error:
            raise ExportFormatError(
                f"'{path}': column '{name}' is not of {_TYPES[name]} ({error}). Download or export it again."
            ) from error
        if column.null_count and name not in _NULLABLE:
            raise ExportFormatError(f"'{path}': column '{name}' has rows without a value. Download or export it again.")
        stored[name] = column.to_pylist()
    classes = len(preprocessing.class_names)
    if any(not -1 <= label < classes for label in stored.get("label", ())):
        raise ExportFormatError(
            f"'{path}': column 'label' has numbers that are none of the {classes} classes. Download or export it again."
        )
    return stored


def _add_unpacked(frame: pd.DataFrame, copy: LocalCopy, preprocessing: Preprocessing) -> None:
    """Unpack the images of shards, unless done before, and add their paths."""
    shards = [copy.folder / table.path for table in preprocessing.tables]
    columns = {name: digest for name, digest in IMAGE_DIGESTS.items() if digest in frame.columns}
    folder = cache_folder(copy.cache_dir) / preprocessing.digest[:40]
    once(folder, lambda empty: unpack_shards(shards, columns, empty))
    for name, column in (("image", "path"), ("mask", "mask")):
        if name in columns:
            files = sorted((folder / name).rglob("*.*"), key=lambda path: path.stem)
            if len(files) != len(frame):
                raise HubError(
                    f"'{folder / name}' holds {len(files)} of {len(frame)} images. Delete it, and try again."
                )
            frame[column] = [str(path) for path in files]
