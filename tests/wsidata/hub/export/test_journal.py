import os

from wsidata.hub.export.journal import Entry, Journal, content_key
from wsidata.utils.files import file_sha256


def entry(place="train/images/00000/a", **changes):
    return Entry(**{"place": place, "key": "k", "file": f"{place}.png", "sha256": "s", "size_bytes": 1, "width": 2,
                    "height": 3, "mpp": (0.5, 0.5)} | changes)  # fmt: skip


def test_entries_are_stored_at_once_and_the_last_one_counts(tmp_path):
    journal = Journal(tmp_path)
    assert not journal.exists
    journal.begin()
    journal.add(entry())
    journal.add(entry(key="new", mpp=None))
    again = Journal(tmp_path)
    assert again.exists
    assert again.entries == {entry().place: entry(key="new", mpp=None)}


def test_truncated_line_is_dropped_and_harms_no_other(tmp_path):
    journal = Journal(tmp_path)
    journal.begin()
    journal.add(entry("a"))
    path = journal.root / "journal.jsonl"
    path.write_text(path.read_text() + '{"place": "b", "ke')
    again = Journal(tmp_path)
    again.begin()
    again.add(entry("c"))
    assert set(Journal(tmp_path).entries) == {"a", "c"}


def test_only_what_is_kept_stays(tmp_path):
    journal = Journal(tmp_path)
    journal.begin()
    for place in ("a", "b"):
        journal.add(entry(place))
    journal.keep_only({"b"})
    assert set(Journal(tmp_path).entries) == {"b"}


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
