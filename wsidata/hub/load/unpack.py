"""Unpacking of images inside Parquet to files, without decoding them.

The `datasets` library would copy them into equally large Arrow files, and decode them by PIL, which refuses
16,384 x 16,384 pixels. A folder is renamed when it is complete, so one that exists is complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wsidata.hub.client import HubError, is_disk_full

_FILES_PER_FOLDER = 10_000
_MAGIC = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"II+\0": ".tif",
    b"MM\0+": ".tif",
    b"BM": ".bmp",
    b"GIF8": ".gif",
}


def cache_folder(cache_dir: Path | None) -> Path:
    """Folder of unpacked datasets, beside the downloads in `HF_HOME`."""
    if cache_dir is None:
        above = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        cache_dir = Path(os.environ.get("HF_HOME") or Path(above) / "huggingface").expanduser()
    return cache_dir / "slidestream"


def once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Create a folder unless it exists.

    Args:
        folder: The folder, which exists only if it is complete.
        write: Fills the empty folder it is called with.

    Returns:
        `folder`.

    Raises:
        HubError: if the disk is full. Nothing is left behind.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as unfinished:
            made = Path(unfinished) / folder.name
            made.mkdir()
            write(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process made the same
                    raise
    except OSError as error:
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(folder.parent).free / 1e9
        raise HubError(
            f"images could not be unpacked to '{folder}': no space is left on the disk ({free:.1f} GB free). Free some "
            "more, or pass another cache_dir=."
        ) from error
    return folder


def write_image(folder: Path, number: int, content: bytes, name: str | None = None) -> Path:
    """Write the bytes of an image to a numbered file.

    Args:
        folder: The folder.
        number: 0, 1, ...
        content: The encoded image.
        name: Its original name, for the suffix of unrecognized formats.

    Returns:
        The path.
    """
    suffix = next((known for start, known in _MAGIC.items() if content.startswith(start)), None)
    if suffix is None:
        stated = Path(name or "").suffix.lower()
        suffix = stated if re.fullmatch(r"\.[a-z0-9]{1,8}", stated) else ""
    path = folder / f"{number // _FILES_PER_FOLDER:05d}" / f"{number:07d}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def shard_rows(shard: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, one at a time, with one row group in memory."""
    with pq.ParquetFile(shard) as file:
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(batch_size=1, row_groups=[group]):
                yield from batch.to_pylist()


def unpack_shards(shards: list[Path], columns: dict[str, str], folder: Path) -> None:
    """Write the images of shards to files `folder/<column>/00000/0000000.png`, numbered by row.

    Args:
        shards: Parquet files, in the order of their rows.
        columns: Columns of images, each with the column of their SHA-256.
        folder: The folder.

    Raises:
        HubError: naming the row whose bytes are not those that were published.
    """
    number = 0
    for shard in shards:
        for row in shard_rows(shard):
            for column, digest_column in columns.items():
                content = (row.get(column) or {}).get("bytes")
                if content is None:
                    raise HubError(f"'{row['image_id']}' in '{shard}' has no {column}. Download or export it again.")
                if hashlib.sha256(content).hexdigest() != row[digest_column]:
                    raise HubError(
                        f"the {column} of '{row['image_id']}' in '{shard}' is not the one that was published: its "
                        "SHA-256 differs. Download or export it again."
                    )
                write_image(folder / column, number, content)
            number += 1
