"""Facts of an earlier run: believed for the same file only, and only if they are whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from wsidata.slides import file_facts
from wsidata.slides.file_facts import FileFacts, cache_folder, fact_name
from wsidata.utils import same_file

TICK_S = 0.02


@dataclass(frozen=True)
class Size:
    width: int
    names: tuple[str, ...] = ()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WSIDATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(same_file, "REST_NS", 0)
    return tmp_path / "cache"


@pytest.fixture
def slide(tmp_path) -> Path:
    """A file with a fact."""
    path = tmp_path / "a.tif"
    path.write_bytes(b"pixels")
    learn(path, Size(6, ("red", "µm")))
    return path


def learn(path: Path, fact: Size, name: str = "size") -> None:
    facts = FileFacts(path)
    facts.put(name, fact)
    facts.save()


def known(path: Path, name: str = "size") -> Size | None:
    return FileFacts(path).get(Size, name)


def only_file(cache: Path) -> Path:
    (file,) = cache.rglob("*.json")
    return file


def test_facts_are_those_of_the_run_before(slide, cache):
    assert known(slide) == Size(6, ("red", "µm"))
    assert known(slide, "other") is None
    assert str(slide.parent) not in only_file(cache).read_text()
    assert cache.stat().st_mode & 0o077 == 0


def test_facts_of_other_names_are_added_and_the_oldest_leave(slide):
    for number in range(file_facts.MAX_FACTS):
        learn(slide, Size(number), str(number))
    assert known(slide) is None
    assert [known(slide, name) for name in ("0", "31")] == [Size(0), Size(31)]


def replace(path: Path) -> None:
    """Another file of the same size and times takes the path."""
    status, new = path.stat(), path.with_name("new")
    new.write_bytes(b"PIXELS")
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(new, path)


def edit(path: Path) -> None:
    """The bytes change, and the time of modification is set back."""
    status = path.stat()
    path.write_bytes(b"PIXELS")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touch(path: Path) -> None:
    """The time of modification changes."""
    os.utime(path)


def grow(path: Path) -> None:
    """The size changes."""
    path.write_bytes(b"more pixels")


@pytest.mark.parametrize("change", [replace, edit, touch, grow, Path.unlink])
def test_facts_of_a_changed_file_are_forgotten(slide, change):
    time.sleep(TICK_S)
    change(slide)
    assert known(slide) is None


def test_a_file_that_changes_while_it_is_looked_at_has_no_facts(slide):
    facts = FileFacts(slide)
    facts.put("new", Size(1))
    time.sleep(TICK_S)
    edit(slide)
    facts.save()
    assert known(slide, "new") is None


def test_a_file_changed_a_moment_ago_has_no_facts(slide, monkeypatch):
    monkeypatch.setattr(same_file, "REST_NS", 60 * 10**9)
    learn(slide, Size(1), "new")
    assert known(slide, "new") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: "\0" * len(text),
        lambda text: "null",
        lambda text: text.replace('"width": 6', '"width": 7'),
        lambda text: text.replace('"facts": {', '"facts": {"more": {"width": 1}, '),
        lambda text: json.dumps(json.loads(text) | {"facts": []}),
        lambda text: " " * (file_facts.MAX_BYTES + 1),
    ],
)
def test_damaged_and_foreign_facts_are_not_believed_and_are_replaced(slide, cache, damage):
    file = only_file(cache)
    file.write_text(damage(file.read_text()))
    assert known(slide) is None
    learn(slide, Size(8))
    assert known(slide) == Size(8)


def test_facts_of_bytes_that_are_no_text_are_not_believed(slide, cache):
    only_file(cache).write_bytes(b"\xff\xfe\x80\x04pickle")
    assert known(slide) is None


def test_facts_of_another_form_are_not_believed(slide):
    @dataclass(frozen=True)
    class Other:
        width: str

    assert FileFacts(slide).get(Other, "size") is None


def test_facts_of_one_file_are_not_those_of_another(slide, cache, tmp_path):
    other = tmp_path / "b.tif"
    os.link(slide, other)  # the same inode, size and times
    learn(slide, Size(6))
    learn(other, Size(7))
    first, second = sorted(cache.rglob("*.json"), key=lambda file: '"width": 7' in file.read_text())
    second.write_bytes(first.read_bytes())
    assert known(other) is None


def test_facts_of_other_users_are_not_believed(slide, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert known(slide) is None


def test_facts_of_other_versions_are_not_believed(slide, monkeypatch):
    monkeypatch.setattr(file_facts, "_versions", lambda: "tifffile 2099.1.1")
    assert known(slide) is None


def test_facts_depend_on_settings_and_limits(monkeypatch):
    names = {
        fact_name("slide", settings)
        for settings in ({"mpp": 1.0}, {"mpp": 2.0}, {"channels": (3,)}, {"channels": ("3",)})
    }
    monkeypatch.setenv("WSIDATA_MAX_PIXELS", "1000")
    assert len(names | {fact_name("slide", {"mpp": 1.0})}) == 5


def test_nothing_is_kept_of_folders_and_without_a_cache(slide, cache, tmp_path, monkeypatch):
    learn(tmp_path, Size(1))
    assert known(tmp_path) is None
    for word in ("off", "OFF", "0"):
        monkeypatch.setenv("WSIDATA_CACHE", word)
        assert known(slide) is None
    assert len(list(cache.rglob("*.json"))) == 1


def test_a_cache_that_cannot_be_written_is_done_without(slide, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WSIDATA_CACHE", str(tmp_path / "file"))
    learn(slide, Size(1))
    assert known(slide) is None


def test_the_cache_lies_where_such_data_belong(monkeypatch, tmp_path):
    monkeypatch.delenv("WSIDATA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "slidestream" / "facts"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "slidestream" / "facts"


WRITER = """
import sys
from dataclasses import dataclass
from wsidata.slides.file_facts import FileFacts
from wsidata.utils import same_file

@dataclass
class Size:
    width: int

same_file.REST_NS = 0
path, first = sys.argv[1], int(sys.argv[2])
for number in range(first, first + 100):
    facts = FileFacts(path)
    facts.put("size", Size(number))
    facts.save()
"""


@pytest.mark.slow
def test_two_processes_may_write_at_once(slide, cache):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(slide), str(first)]) for first in (0, 1000)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        fact = known(slide)
        assert fact is not None
        seen.add(fact)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert known(slide) in (Size(99), Size(1099))
    assert len(seen) > 2
    assert not list(cache.rglob(".part*"))
