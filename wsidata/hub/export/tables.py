"""The rows of an export, as Parquet: beside image files, or with the images inside.

Shards are cut, and their row groups bounded, by bytes and not by a number of rows per something: whatever the mixture
of sizes, no array passes Arrow's 2 GB, no shard is empty, and no more than a row group is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from wsidata.hub.export.journal import Entry, Journal
from wsidata.hub.export.plan import ExportError
from wsidata.hub.manifest import METADATA_FILE, SHARD_FOLDER, Layout, TableFile
from wsidata.utils.files import atomic_write, file_sha256

SHARD_BYTES = 500 * 1000**2
ROW_GROUP_BYTES = 32 * 1000**2
ROW_GROUP_ROWS = 100
LARGEST_ROW_BYTES = 1000**3
"""Arrow ends at 2 GB; loaders that copy rows together need half."""

_PLAIN: dict[str, pa.DataType] = {
    "image_id": pa.string(),
    "label": pa.int64(),
    "label_name": pa.string(),
    "target": pa.list_(pa.float64()),
    "group": pa.string(),
    "site": pa.string(),
    "row": pa.int64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "mpp_x": pa.float64(),
    "mpp_y": pa.float64(),
    "sha256": pa.string(),
    "mask_sha256": pa.string(),
}
"""Columns of both layouts, in their order; those that an export does not have are left out."""


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split, with what was made of them.

    Attributes:
        split: Name on the Hub.
        rows: Of `ExportPlan.rows`.
        entries: Of the journal, row by row.
    """

    split: str
    rows: pd.DataFrame
    entries: Sequence[Entry]

    def columns(self) -> dict[str, list[Any]]:
        """Values of all columns of both layouts."""
        made = self.entries
        values = {name: self.rows[name].tolist() for name in _PLAIN if name in self.rows.columns}
        values["width"], values["height"] = [one.width for one in made], [one.height for one in made]
        for axis, name in enumerate(("mpp_x", "mpp_y")):
            values[name] = [None if one.mpp is None else one.mpp[axis] for one in made]
        values["sha256"] = [one.sha256 for one in made]
        if any(one.mask_file for one in made):
            values["mask_sha256"] = [one.mask_sha256 for one in made]
        return {name: values[name] for name in _PLAIN if name in values}


def split_rows(rows: pd.DataFrame, journal: Journal) -> list[SplitRows]:
    """The splits that have rows, in the order they come in."""
    return [
        SplitRows(split, ours, [journal.entries[place] for place in ours["place"]])
        for split in dict.fromkeys(rows["split"])
        for ours in [rows[rows["split"] == split]]
    ]


def write_metadata(folder: Path, part: SplitRows) -> TableFile:
    """Write metadata.parquet of a split, for the layout "files"."""
    columns: dict[str, Any] = {"file_name": pa.array([_below(one.file) for one in part.entries], pa.string())}
    if any(one.mask_file for one in part.entries):
        columns["mask_file_name"] = pa.array([_below(one.mask_file or "") for one in part.entries], pa.string())
    columns |= {name: pa.array(values, _PLAIN[name]) for name, values in part.columns().items()}
    path = folder / part.split / METADATA_FILE
    with atomic_write(path) as unfinished:
        pq.write_table(pa.table(columns), unfinished)
    return _table_file(folder, path, part.split, len(part.entries))


def write_shards(folder: Path, journal: Journal, part: SplitRows, class_names: Sequence[str]) -> list[TableFile]:
    """Write the shards of a split, for the layout "parquet".

    Raises:
        ExportError: if `datasets` is not installed, or a row is too large.
    """
    shards = list(_cut([one.size_bytes for one in part.entries]))
    schema = _schema(part, class_names)
    columns = part.columns()
    tables: list[TableFile] = []
    for number, (start, stop) in enumerate(shards):
        path = folder / SHARD_FOLDER / f"{part.split}-{number:05d}-of-{len(shards):05d}.parquet"
        step = _rows_a_group([one.size_bytes for one in part.entries[start:stop]])
        # Images are compressed already, and the least and greatest of them are no statistics. A page index lets the
        # Hub's viewer read single rows.
        with atomic_write(path) as unfinished, pq.ParquetWriter(
            unfinished, schema, compression="none", use_dictionary=False, write_statistics=list(columns),
            write_page_index=True,
        ) as writer:  # fmt: skip
            for low in range(start, stop, step):
                group = slice(low, min(low + step, stop))
                writer.write_table(_group(folder, journal, part.entries[group], columns, group, schema))
        tables.append(_table_file(folder, path, part.split, stop - start))
    return tables


_DIGESTS = {"image": "sha256", "mask": "mask_sha256"}


def packed_digests(shards: Sequence[Path]) -> set[str]:
    """SHA-256 of all images and masks inside shards, without reading them."""
    found: set[str] = set()
    for path in shards:
        with pq.ParquetFile(path) as shard:
            names = [name for name in _DIGESTS.values() if name in shard.schema_arrow.names]
            found.update(*shard.read(columns=names).to_pydict().values())
    return found


def unpack_shards(shards: Sequence[Path], journal: Journal) -> None:
    """Put the images inside an export's shards where its journal says they wait; what waits already stays."""
    waiting: dict[str, list[str]] = {}
    for entry in journal.entries.values():
        for sha256, file in ((entry.sha256, entry.file), (entry.mask_sha256, entry.mask_file)):
            if sha256 and file and not (journal.staging / file).exists():
                waiting.setdefault(sha256, []).append(file)
    for path in shards:
        with pq.ParquetFile(path) as shard:
            names = [name for name in _DIGESTS if name in shard.schema_arrow.names]
            for batch in shard.iter_batches(batch_size=1, columns=[*names, *(_DIGESTS[name] for name in names)]):
                row = batch.to_pylist()[0]
                for name in names:
                    for file in waiting.get(row[_DIGESTS[name]], []):
                        target = journal.staging / file
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(row[name]["bytes"])


def located(folder: Path, journal: Journal, file: str) -> Path:
    """Where a file of the export lies now: in its place, or waiting."""
    waiting = journal.staging / file
    return waiting if waiting.exists() else folder / file


def is_intact(folder: Path, table: TableFile) -> bool:
    """Whether a table is as it was written."""
    return file_sha256(folder / table.path) == table.sha256


def _below(file: str) -> str:
    """A path below the export as one below its split's folder."""
    return str(PurePosixPath(*PurePosixPath(file).parts[1:]))


def _table_file(folder: Path, path: Path, split: str, rows: int) -> TableFile:
    return TableFile(split, path.relative_to(folder).as_posix(), rows, file_sha256(path) or "")


def _cut(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of rows, each at least one row, of at most `SHARD_BYTES` unless one row is more."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > SHARD_BYTES:
            yield start, index
            start, total = index, 0
        total += size
    if sizes:
        yield start, len(sizes)


def _rows_a_group(sizes: Sequence[int]) -> int:
    """Rows of every row group of a shard, so that none is too large.

    All have as many, because `datasets` reads a file in batches of as many rows as its first group has: huge images
    behind tiny ones would come in one batch, beyond Arrow's 2 GB.
    """
    rows = ROW_GROUP_ROWS
    while rows > 1 and any(sum(sizes[low : low + rows]) > ROW_GROUP_BYTES for low in range(0, len(sizes), rows)):
        rows //= 2
    return rows


def _schema(part: SplitRows, class_names: Sequence[str]) -> pa.Schema:
    """Columns with what `datasets` is to make of them, so that a shard explains itself."""
    try:
        from datasets import ClassLabel, Features, Image, Value
    except ImportError as error:
        raise ExportError("layout='parquet' needs the library datasets: pip install 'slidestream[hub]'.") from error
    features: dict[str, Any] = {"image": Image()}
    if any(one.mask_file for one in part.entries):
        features["mask"] = Image()
    for name in part.columns():
        kind = _PLAIN[name]
        if name == "label":
            features[name] = ClassLabel(names=list(class_names)) if class_names else Value("int64")
        else:
            features[name] = [Value("float64")] if kind == _PLAIN["target"] else Value(_VALUES[kind])
    return Features(features).arrow_schema


_VALUES = {pa.string(): "string", pa.int64(): "int64", pa.float64(): "float64"}


def _group(
    folder: Path,
    journal: Journal,
    entries: Sequence[Entry],
    columns: dict[str, list[Any]],
    group: slice,
    schema: pa.Schema,
) -> pa.Table:
    """A row group, with its images."""
    arrays: dict[str, Any] = {"image": [_image(folder, journal, one.file) for one in entries]}
    if "mask" in schema.names:
        arrays["mask"] = [_image(folder, journal, one.mask_file or "") for one in entries]
    arrays |= {name: list(islice(values, group.start, group.stop)) for name, values in columns.items()}
    return pa.table({name: pa.array(arrays[name], schema.field(name).type) for name in schema.names}, schema=schema)


def _image(folder: Path, journal: Journal, file: str) -> dict[str, Any]:
    return {"bytes": located(folder, journal, file).read_bytes(), "path": PurePosixPath(file).name}


def choose_layout(layout: Layout | None, entries: Sequence[Entry], *, lazy: bool) -> Layout:
    """What was asked for, or what suits the encoded sizes.

    Files above 1 MB a picture on average (the Hub's own advice), for pyramids, and where a picture is above 100 MB.

    Raises:
        ExportError: if Parquet cannot hold a picture.
    """
    largest = max(entries, key=lambda one: one.size_bytes)
    if layout is None:
        mean = sum(one.size_bytes for one in entries) / len(entries)
        large = mean > 1000**2 or largest.size_bytes > 100 * 1000**2
        return "files" if large or lazy or any(one.file.endswith(".tif") for one in entries) else "parquet"
    if layout == "parquet" and largest.size_bytes > LARGEST_ROW_BYTES:
        raise ExportError(
            f"'{largest.file}' has {largest.size_bytes / 1e9:.2f} GB, and a row of Parquet cannot hold more than 1 GB "
            "safely. Pass layout='files'."
        )
    return layout
