"""Duplicates in a table are found, described and grouped."""

import time
from pathlib import Path

import pandas as pd
import pytest

from wsidata.splits import describe_duplicates, find_duplicates, group_duplicates, near_duplicates
from wsidata.splits.duplicates import with_duplicates_grouped
from wsidata.splits.near_duplicates import photo_thumbnail, same_bytes
from wsidata.synthetic.photos import write_photo_folders


def test_duplicates_of_duplicates_are_one_group() -> None:
    pairs = pd.DataFrame({"first": ["a", "c", "b"], "second": ["b", "d", "c"]})
    group = dict(zip("abcde", group_duplicates(list("abcde"), pairs), strict=True))
    assert group["a"] == group["b"] == group["c"] == group["d"] != group["e"]


def test_grouping_is_linear_and_keeps_the_first_name() -> None:
    names = [f"{i:05d}" for i in range(20_000)]
    chain = pd.DataFrame({"first": names[1:], "second": names[:-1]}).iloc[::-1]
    assert set(group_duplicates(names, chain)) == {names[-1]}


def test_different_photos_are_no_duplicates(tmp_path: Path) -> None:
    paths = sorted(map(str, write_photo_folders(tmp_path, classes=2, per_class=3, side_px=64).rglob("*.jpg")))
    table = pd.DataFrame({"image_id": paths, "path": paths, "label_name": "x"})
    duplicates = find_duplicates(table, photo_thumbnail)
    assert duplicates.empty
    assert describe_duplicates(duplicates, 6, "photos") == (
        "Duplicates: none among 6 photos (compared by bytes and by perceptual hash)."
    )


def test_duplicates_join_the_groups_that_a_table_has() -> None:
    table = pd.DataFrame({"image_id": list("abcde"), "group": ["1", "1", "2", "", ""]})
    pairs = pd.DataFrame({"first": ["b"], "second": ["c"]})
    group = dict(zip("abcde", with_duplicates_grouped(table, pairs)["group"], strict=True))
    assert group["a"] == group["b"] == group["c"]
    assert len({group["a"], group["d"], group["e"]}) == 3


def test_digests_of_large_files_are_known_from_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSIDATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("wsidata.utils.same_file.REST_NS", 0)
    monkeypatch.setattr(near_duplicates, "_LARGE_BYTES", 100)
    paths = [str(tmp_path / name) for name in "abcd"]
    for path, content in zip(paths, (b"1" * 200, b"1" * 200, b"2" * 200, b"1" * 50), strict=True):
        Path(path).write_bytes(content)
    read: list[Path] = []
    whole = near_duplicates.file_sha256
    monkeypatch.setattr(near_duplicates, "file_sha256", lambda path: read.append(path) or whole(path))
    for _ in range(2):
        assert same_bytes(paths) == [paths[:2]]
    assert len(read) == 2
    time.sleep(0.02)
    Path(paths[1]).write_bytes(b"3" * 200)
    assert same_bytes(paths) == []
