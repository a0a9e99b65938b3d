"""Four mixtures of sizes on which `Dataset.push_to_hub` (datasets 5.2) ends in an error, a hundredth of their size.

Its errors come from Arrow's arrays of at most 2 GB, which row groups of an average size pass, and from shards that are
cut by the number of rows. Here both are cut by bytes; rows and the two limits are divided by 100, so that what is cut
where is what would be cut at full size. What is shown is that no row group holds more than one row or its limit, and no
shard is empty: then no array can pass 2 GB. Arrow's own limit cannot be scaled, and is not reached here. Images are
tiny PNGs followed by zeros up to the size wanted, which decoders pass over.
"""

import hashlib
import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
import pyvips
from preloaded import run_python

from wsidata.hub.client import HubError
from wsidata.hub.export import tables as export_tables
from wsidata.hub.export.journal import Entry, Journal
from wsidata.hub.export.tables import SplitRows, write_shards
from wsidata.hub.load.unpack import unpack_shards

pytestmark = pytest.mark.slow
MB = 1000**2 // 100
"""A hundredth of a megabyte."""

READ = """
import sys
from datasets import Image, load_dataset
rows = load_dataset("parquet", data_files=sys.argv[1:], split="train", streaming=True)
rows = rows.cast_column("image", Image(decode=False))
print([len(row["image"]["bytes"]) for row in rows])
"""


@pytest.fixture(autouse=True)
def _hundredth(monkeypatch):
    monkeypatch.setattr(export_tables, "SHARD_BYTES", export_tables.SHARD_BYTES // 100)
    monkeypatch.setattr(export_tables, "ROW_GROUP_BYTES", export_tables.ROW_GROUP_BYTES // 100)


def shards_of(folder, sizes):
    """The shards of images of these sizes, and the images' digests."""
    journal = Journal(folder)
    journal.begin()
    entries, digests = [], []
    for number, size in enumerate(sizes):
        file = journal.staging / f"{number}.png"
        picture = pyvips.Image.black(4, 4, bands=3) + number % 250
        start = picture.cast("uchar").pngsave_buffer()
        with file.open("wb") as image:
            image.write(start)
            image.truncate(max(size, len(start)))  # takes no room on the disk
        with file.open("rb") as image:
            digests.append(hashlib.file_digest(image, "sha256").hexdigest())
        entries.append(Entry(str(number), "key", file.name, digests[-1], file.stat().st_size, 4, 4))
    ids = [f"image-{number}" for number in range(len(sizes))]
    rows = pd.DataFrame({"image_id": ids, "label": 0, "label_name": "a", "row": range(len(sizes))})
    tables = write_shards(folder, journal, SplitRows("train", rows, entries), ["a"])
    for entry in entries:
        (journal.staging / entry.file).unlink()
    return [folder / table.path for table in tables], tables, digests


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [
        pytest.param([600 * MB], 1, id="one huge row, for which push_to_hub wants two shards"),
        pytest.param([200 * MB] * 12, 6, id="many rows of 200 MB, more than 2 GB in a batch"),
        pytest.param([200] * 600 + [200 * MB] * 12, 6, id="huge beside tiny"),
        pytest.param([10] * 2, 1, id="fewer rows than requested processes or shards"),
    ],
)
def test_any_mixture_of_sizes_is_written_and_read_again(tmp_path, sizes, shards):
    paths, tables, digests = shards_of(tmp_path / "export", sizes)
    assert len(paths) in (shards, shards + 1)
    assert sum(table.rows for table in tables) == len(sizes)
    assert all(table.rows for table in tables)
    assert all(path.stat().st_size < max(500 * MB, max(sizes)) * 1.1 for path in paths)
    for path in paths:
        with pq.ParquetFile(path) as shard:
            groups = [shard.metadata.row_group(number) for number in range(shard.num_row_groups)]
            assert all(group.num_rows == 1 or group.total_byte_size < 50 * MB for group in groups)
    read = run_python("-c", READ, *paths, check=True)
    lengths = json.loads(read.stdout)
    assert len(lengths) == len(sizes)
    assert all(length >= size for length, size in zip(lengths, sizes, strict=True))

    unpack_shards(paths, {"image": "sha256"}, tmp_path / "images")
    files = sorted((tmp_path / "images").rglob("*.png"))
    assert len(files) == len(sizes)
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == digests
    assert {pyvips.Image.new_from_file(str(file)).width for file in files} == {4}


def test_damaged_rows_are_named(tmp_path):
    paths, _, _ = shards_of(tmp_path / "export", [1000, 1000])
    table = pq.read_table(paths[0])
    changed = table.set_column(table.schema.get_field_index("sha256"), "sha256", [["0" * 64] * 2])
    pq.write_table(changed, paths[0])
    with pytest.raises(HubError, match=r"the image of 'image-0' in .* is not the one that was published"):
        unpack_shards(paths, {"image": "sha256"}, tmp_path / "images")
