"""Parquet tables of an export, beside image files or with the images inside.

Shards and their row groups are limited by bytes instead of rows: whatever the image sizes, no array exceeds Arrow's
2 GB, no shard is empty, and at most one row group is in memory.
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
from wsidata.hub.manifest import COLUMNS, IMAGE_DIGESTS, METADATA_FILE, SHARD_FOLDER, Layout, TableFile
from wsidata.utils.files import atomic_write, file_sha256

SHARD_BYTES = 500 * 1000**2
ROW_GROUP_BYTES = 32 * 1000**2
ROW_GROUP_ROWS = 100
LARGEST_ROW_BYTES = 1000**3
"""Arrow's limit is 2 GB; loaders that concatenate rows need half of it."""


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split, with their images.

    Attributes:
        split: Name on the Hub.
        rows: Rows of `ExportPlan.rows`.
        entries: Journal entry of each row.
    """

    split: str
    rows: pd.DataFrame
    entries: Sequence[Entry]

    def columns(self) -> dict[str, list[Any]]:
        """Values of the columns of both layouts."""
        made = self.entries
        values = {name: self.rows[name].tolist() for name in COLUMNS if name in self.rows.columns}
        values["width"], values["height"] = [one.width for one in made], [one.height for one in made]
        for axis, name in enumerate(("mpp_x", "mpp_y")):
            values[name] = [None if one.mpp is None else one.mpp[axis] for one in made]
        values["sha256"] = [one.sha256 for one in made]
        if any(one.mask_file for one in made):
            values["mask_sha256"] = [one.mask_sha256 for one in made]
        return {name: values[name] for name in COLUMNS if name in values}


def split_rows(rows: pd.DataFrame, journal: Journal) -> list[SplitRows]:
    """The splits that have rows, in order of appearance."""
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
    columns |= {name: pa.array(values, _arrow_type(name)) for name, values in part.columns().items()}
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
        # Images are compressed already, and their minimum and maximum are meaningless. A page index lets the Hub's
        # viewer read single rows.
        with atomic_write(path) as unfinished, pq.ParquetWriter(
            unfinished, schema, compression="none", use_dictionary=False, write_statistics=list(columns),
            write_page_index=True,
        ) as writer:  # fmt: skip
            for low in range(start, stop, step):
                group = slice(low, min(low + step, stop))
                writer.write_table(_group(folder, journal, part.entries[group], columns, group, schema))
        tables.append(_table_file(folder, path, part.split, stop - start))
    return tables


def packed_digests(shards: Sequence[Path]) -> set[str]:
    """SHA-256 of all images and masks inside shards, from their columns."""
    found: set[str] = set()
    for path in shards:
        with pq.ParquetFile(path) as shard:
            names = [name for name in IMAGE_DIGESTS.values() if name in shard.schema_arrow.names]
            found.update(*shard.read(columns=names).to_pydict().values())
    return found


def restore_images(shards: Sequence[Path], journal: Journal) -> None:
    """Extract images from an export's shards into the staging folder, unless they are there."""
    waiting: dict[str, list[str]] = {}
    for entry in journal.entries.values():
        for sha256, file in ((entry.sha256, entry.file), (entry.mask_sha256, entry.mask_file)):
            if sha256 and file and not (journal.staging / file).exists():
                waiting.setdefault(sha256, []).append(file)
    for path in shards:
        with pq.ParquetFile(path) as shard:
            names = [name for name in IMAGE_DIGESTS if name in shard.schema_arrow.names]
            for batch in shard.iter_batches(batch_size=1, columns=[*names, *(IMAGE_DIGESTS[name] for name in names)]):
                row = batch.to_pylist()[0]
                for name in names:
                    for file in waiting.get(row[IMAGE_DIGESTS[name]], []):
                        target = journal.staging / file
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(row[name]["bytes"])


def located(folder: Path, journal: Journal, file: str) -> Path:
    """Current path of a file of the export: in the staging folder, or in its place."""
    waiting = journal.staging / file
    return waiting if waiting.exists() else folder / file


def is_intact(folder: Path, table: TableFile) -> bool:
    """Whether a table is unchanged since it was written."""
    return file_sha256(folder / table.path) == table.sha256


def _below(file: str) -> str:
    """A path relative to its split's folder instead of the export."""
    return str(PurePosixPath(*PurePosixPath(file).parts[1:]))


def _table_file(folder: Path, path: Path, split: str, rows: int) -> TableFile:
    return TableFile(split, path.relative_to(folder).as_posix(), rows, file_sha256(path) or "")


def _cut(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Row ranges of at most `SHARD_BYTES` each, or of a single larger row."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > SHARD_BYTES:
            yield start, index
            start, total = index, 0
        total += size
    if sizes:
        yield start, len(sizes)


def _rows_a_group(sizes: Sequence[int]) -> int:
    """Rows per row group of a shard, so that none is too large.

    It is the same for all groups, because `datasets` reads a file in batches of the first group's size: huge images
    after tiny ones would form a batch beyond Arrow's 2 GB.
    """
    rows = ROW_GROUP_ROWS
    while rows > 1 and any(sum(sizes[low : low + rows]) > ROW_GROUP_BYTES for low in range(0, len(sizes), rows)):
        rows //= 2
    return rows


def _schema(part: SplitRows, class_names: Sequence[str]) -> pa.Schema:
    """Schema with the `datasets` features, so that shards are self-describing."""
    try:
        from datasets import ClassLabel, Features, Image, Value
    except ImportError as error:
        raise ExportError("layout='parquet' needs the library datasets: pip install 'slidestream[hub]'.") from error
    features: dict[str, Any] = {"image": Image()}
    if any(one.mask_file for one in part.entries):
        features["mask"] = Image()
    for name in part.columns():
        value = Value(COLUMNS[name])
        if name == "label" and class_names:
            value = ClassLabel(names=list(class_names))
        features[name] = [value] if name == "target" else value
    return Features(features).arrow_schema


def _arrow_type(column: str) -> pa.DataType:
    plain = pa.type_for_alias(COLUMNS[column])
    return pa.list_(plain) if column == "target" else plain


def _group(
    folder: Path,
    journal: Journal,
    entries: Sequence[Entry],
    columns: dict[str, list[Any]],
    group: slice,
    schema: pa.Schema,
) -> pa.Table:
    """A row group with its images."""
    arrays: dict[str, Any] = {"image": [_image(folder, journal, one.file) for one in entries]}
    if "mask" in schema.names:
        arrays["mask"] = [_image(folder, journal, one.mask_file or "") for one in entries]
    arrays |= {name: list(islice(values, group.start, group.stop)) for name, values in columns.items()}
    return pa.table({name: pa.array(arrays[name], schema.field(name).type) for name in schema.names}, schema=schema)


def _image(folder: Path, journal: Journal, file: str) -> dict[str, Any]:
    return {"bytes": located(folder, journal, file).read_bytes(), "path": PurePosixPath(file).name}


def choose_layout(layout: Layout | None, entries: Sequence[Entry], *, lazy: bool) -> Layout:
    """The requested layout, or one that suits the encoded sizes.

    "files" for images above 1 MB on average (the Hub's advice), for pyramids, and if an image exceeds 100 MB.

    Raises:
        ExportError: if Parquet cannot hold an image.
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
