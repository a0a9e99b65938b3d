import json
import os

import pytest
from preloaded import run_python

from wsidata.hub.export.journal import Entry, Journal, content_key, record
from wsidata.utils.files import file_sha256


def entry(name="a", **changes):
    place = f"train/images/00000/{name}"
    return Entry(**{"place": place, "key": "k", "file": f"{place}.png", "sha256": "s", "size_bytes": 1, "width": 2,
                    "height": 3, "mpp": (0.5, 0.5)} | changes)  # fmt: skip


def names(folder):
    return {place.rpartition("/")[2] for place in Journal(folder).entries}


def begun(folder):
    journal = Journal(folder)
    journal.begin()
    return journal


def test_entries_are_stored_at_once_and_the_last_one_counts(tmp_path):
    assert not Journal(tmp_path).exists
    journal = begun(tmp_path)
    record(journal.staging, entry())
    record(journal.staging, entry(key="new", mpp=None))
    again = Journal(tmp_path)
    assert again.exists
    assert again.entries == {entry().place: entry(key="new", mpp=None)}


@pytest.mark.slow
def test_lines_of_several_processes_are_joined_and_are_newer(tmp_path):
    journal = begun(tmp_path)
    record(journal.staging, entry("a", key="old"))
    begun(tmp_path)
    code = (
        "import sys; from pathlib import Path; from wsidata.hub.export.journal import Entry, record; "
        "record(Path(sys.argv[1]), Entry(sys.argv[2], 'new', sys.argv[2] + '.png', 's', 1, 2, 3))"
    )
    for name in ("a", "b"):
        run_python("-c", code, journal.staging, entry(name).place, check=True)
    assert len(list(journal.root.glob("*.jsonl"))) == 3
    joined = begun(tmp_path)
    assert [path.name for path in journal.root.glob("*.jsonl")] == ["journal.jsonl"]
    assert {one.key for one in joined.entries.values()} == {"new"}
    assert Journal(tmp_path).entries == joined.entries


def test_truncated_line_is_dropped_and_harms_no_other(tmp_path):
    journal = begun(tmp_path)
    record(journal.staging, entry("a"))
    (path,) = journal.root.glob("journal-*.jsonl")
    path.write_text(path.read_text() + '{"place": "b", "ke')
    record(begun(tmp_path).staging, entry("c"))
    assert names(tmp_path) == {"a", "c"}


@pytest.mark.parametrize(
    "line", [b"[]", b"3", b"null", b"[" * 100_000, b'{"place": []}', b'{"mpp": 3}', b"\xff\xfe", b"9" * 5000]
)
def test_other_lines_are_dropped(tmp_path, line):
    journal = begun(tmp_path)
    (journal.root / "journal.jsonl").write_bytes(line + b"\n" + json.dumps(vars(entry("a"))).encode() + b"\n")
    assert names(tmp_path) == {"a"}


@pytest.mark.parametrize("file", ["../../evil.png", "/etc/evil.png", "train/images/00000/../../../evil.png", 3])
def test_files_outside_the_export_are_not_taken_from_a_journal(tmp_path, file):
    journal = begun(tmp_path)
    for changes in ({"file": file}, {"mask_file": file}):
        (journal.root / "journal.jsonl").write_text(json.dumps(vars(entry("a", **changes))) + "\n")
        assert Journal(tmp_path).entries == {}


def test_only_what_is_kept_stays(tmp_path):
    journal = begun(tmp_path)
    for name in ("a", "b"):
        record(journal.staging, entry(name))
    journal = Journal(tmp_path)
    journal.keep_only({entry("b").place})
    assert names(tmp_path) == {"b"}


def test_notes(tmp_path):
    journal = Journal(tmp_path)
    journal.begin()
    assert journal.noted("x") == {}
    journal.note("x", {"a": 1})
    assert Journal(tmp_path).noted("x") == {"a": 1}


def test_key_follows_content_time_and_settings(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"1" * 100)
    os.utime(path, ns=(0, 0))
    first = content_key([path], {"level": 1})
    assert content_key([path], {"level": 1}) == first
    assert content_key([path], {"level": 2}) != first
    path.write_bytes(b"2" * 100)
    os.utime(path, ns=(0, 0))
    assert content_key([path], {"level": 1}) != first
    path.write_bytes(b"1" * 100)
    os.utime(path, ns=(5, 5))
    assert content_key([path], {"level": 1}) != first


def test_sha256_of_a_missing_file_is_none(tmp_path):
    assert file_sha256(tmp_path / "a") is None
