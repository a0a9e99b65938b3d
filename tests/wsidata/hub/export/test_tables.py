import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsidata.hub.export import tables as export_tables
from wsidata.hub.export.journal import Entry, Journal
from wsidata.hub.export.plan import ExportError
from wsidata.hub.export.tables import choose_layout, packed_digests, restore_images, split_rows, write_shards
from wsidata.utils.files import file_sha256


def journal_of(folder, sizes):
    """A journal of images that are mere bytes, and their rows."""
    journal = Journal(folder)
    journal.begin()
    for number, size in enumerate(sizes):
        place = f"train/images/00000/{number}"
        path = journal.staging / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 251]) * size)
        journal.entries[place] = Entry(place, "k", f"{place}.png", file_sha256(path) or "", size, 1, 1)
    rows = pd.DataFrame(
        {
            "image_id": [str(number) for number in range(len(sizes))],
            "label": [number % 2 for number in range(len(sizes))],
            "label_name": ["ab"[number % 2] for number in range(len(sizes))],
            "row": range(len(sizes)),
            "split": "train",
            "place": list(journal.entries),
        }
    )
    return journal, rows


MB = 1000**2


@given(st.lists(st.integers(0, 700 * MB), max_size=40))
def test_shards_hold_every_row_once_and_are_never_empty(sizes):
    runs = list(export_tables._cut(sizes))
    assert [index for start, stop in runs for index in range(start, stop)] == list(range(len(sizes)))
    for start, stop in runs:
        assert stop - start == 1 or sum(sizes[start:stop]) <= export_tables.SHARD_BYTES
        assert stop > start


@given(st.lists(st.one_of(st.integers(0, MB), st.integers(0, 40 * MB)), min_size=1, max_size=250))
def test_batches_of_as_many_rows_as_the_first_group_has_are_never_too_large(sizes):
    rows = export_tables._rows_a_group(sizes)
    assert 1 <= rows <= export_tables.ROW_GROUP_ROWS
    groups = [sizes[low : low + rows] for low in range(0, len(sizes), rows)]
    assert all(len(group) == 1 or sum(group) <= export_tables.ROW_GROUP_BYTES for group in groups)


@pytest.mark.parametrize(
    ("sizes", "shards", "groups"),
    [
        ([900], 1, [1]),  # one huge row
        ([300] * 12, 6, [1] * 12),  # many large rows
        ([*[1] * 60, 300, *[1] * 60, 300], 2, [1] * 121 + [1]),  # huge beside tiny
        ([1] * 45, 1, [20, 20, 5]),
        ([1], 1, [1]),
    ],
)
def test_shards_and_groups_are_cut_by_bytes_whatever_the_mixture(tmp_path, monkeypatch, sizes, shards, groups):
    for name, value in (("SHARD_BYTES", 650), ("ROW_GROUP_BYTES", 100), ("ROW_GROUP_ROWS", 20)):
        monkeypatch.setattr(export_tables, name, value)
    journal, rows = journal_of(tmp_path, sizes)
    tables = write_shards(tmp_path, journal, split_rows(rows, journal)[0], ("a", "b"))
    assert [table.path for table in tables] == [f"data/train-{n:05d}-of-{shards:05d}.parquet" for n in range(shards)]
    files = [pq.ParquetFile(tmp_path / table.path) for table in tables]
    assert [file.metadata.row_group(g).num_rows for file in files for g in range(file.num_row_groups)] == groups
    images = [row["bytes"] for file in files for row in file.read(columns=["image"]).column("image").to_pylist()]
    assert images == [bytes([number % 251]) * size for number, size in enumerate(sizes)]


def test_shards_describe_their_columns(tmp_path):
    journal, rows = journal_of(tmp_path, [5, 6])
    table = write_shards(tmp_path, journal, split_rows(rows, journal)[0], ("a", "b"))[0]
    schema = pq.read_schema(tmp_path / table.path)
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": ["a", "b"], "_type": "ClassLabel"}
    assert features["image"] == {"_type": "Image"}


@pytest.mark.slow
def test_datasets_loads_shards_with_class_names(tmp_path):
    from datasets import Image, load_dataset

    journal, rows = journal_of(tmp_path, [5, 6, 7])
    write_shards(tmp_path, journal, split_rows(rows, journal)[0], ("a", "b"))
    data = load_dataset(str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    assert data.features["label"].names == ["a", "b"]
    assert data.cast_column("image", Image(decode=False))[2]["image"]["bytes"] == b"\x02" * 7


def test_shards_are_unpacked_to_the_staging_folder(tmp_path):
    journal, rows = journal_of(tmp_path, [50, 60])
    shards = [tmp_path / table.path for table in write_shards(tmp_path, journal, split_rows(rows, journal)[0], ())]
    expected = {one.file: (journal.staging / one.file).read_bytes() for one in journal.entries.values()}
    assert packed_digests(shards) == {one.sha256 for one in journal.entries.values()}
    first, second = expected
    (journal.staging / second).unlink()
    (journal.staging / first).write_bytes(b"newer")
    restore_images(shards, journal)
    assert (journal.staging / second).read_bytes() == expected[second]
    assert (journal.staging / first).read_bytes() == b"newer"


def entry(size_bytes, suffix=".png"):
    return Entry("p", "k", f"p{suffix}", "s", size_bytes, 1, 1)


@pytest.mark.parametrize(
    ("entries", "lazy", "layout"),
    [
        ([entry(2_000_000), entry(100_000)], False, "files"),
        ([entry(900_000)] * 3, False, "parquet"),
        ([entry(120_000_000), *[entry(1000)] * 500], False, "files"),
        ([entry(1000)], True, "files"),
        ([entry(1000), entry(1000, ".tif")], False, "files"),
    ],
)
def test_layout_suits_the_sizes(entries, lazy, layout):
    assert choose_layout(None, entries, lazy=lazy) == layout
    assert choose_layout("files", entries, lazy=lazy) == "files"


def test_rows_beyond_a_gigabyte_are_refused():
    with pytest.raises(ExportError, match=r"1\.20 GB.*layout='files'"):
        choose_layout("parquet", [entry(1_200_000_000)], lazy=False)
