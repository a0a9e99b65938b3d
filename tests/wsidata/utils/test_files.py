"""Files are written whole or not at all, and their digests depend on nothing but their content."""

import errno
import os
import stat

import pandas as pd
import pytest
import torch

from wsidata.evaluation import save_figure, save_table
from wsidata.plots import plot_images
from wsidata.splits.split_file import save_splits
from wsidata.stats.result import ChannelStats
from wsidata.utils.files import atomic_write, json_sha256, write_text


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_text(path, "old")
    with atomic_write(path) as unfinished:
        unfinished.write_text("ä", encoding="utf-8")
        assert path.read_text() == "old"
        assert (unfinished.parent, unfinished.suffix) == (path.parent, ".csv")
    assert path.read_text(encoding="utf-8") == "ä"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_file_as_it_was(tmp_path, error):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def interrupted():
        with atomic_write(path) as unfinished:
            unfinished.write_text("half of the n")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with atomic_write(tmp_path / "a") as first, atomic_write(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    file = tmp_path / "private.json"
    file.write_text("old")
    file.chmod(0o600)
    write_text(file, "new")
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o600


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_text(tmp_path / "a", "")
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_links_are_followed_and_pipes_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    with atomic_write(tmp_path / "pipe") as unfinished:
        assert unfinished == tmp_path / "pipe"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_the_disk_has_the_file_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    write_text(tmp_path / "a", "text")
    with atomic_write(tmp_path / "b", sync=False) as unfinished:
        unfinished.touch()
    assert order == ["fsync", "replace", "fsync", "replace"]  # the file, its name, the folder that has the name


def test_an_equal_file_is_not_touched(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "text")
    os.utime(path, ns=(1, 1))
    write_text(path, "text")
    assert path.stat().st_mtime_ns == 1
    write_text(path, "tent")
    assert path.read_text() == "tent"


def test_a_full_disk_leaves_the_old_file_and_names_the_new_one(tmp_path, full_disk):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with full_disk, pytest.raises(OSError, match=r"Nothing was changed; make room there.*table\.csv") as raised:
        write_text(path, "new" * 1000)
    assert raised.value.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_fault_at_any_step_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named_with_a_remedy(tmp_path, monkeypatch):
    with pytest.raises(IsADirectoryError, match=rf"is a folder. Name a file in it: '{tmp_path}'"):
        write_text(tmp_path, "text")

    def read_only(name, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(name))

    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(OSError, match=r"Read-only file system. Nothing.* write to another folder: '.*table\.csv'"):
        write_text(tmp_path / "table.csv", "text")
    monkeypatch.setattr("pathlib.Path.mkdir", read_only)
    with pytest.raises(OSError, match=r"Read-only file system. Nothing.* write to another folder: '.*new.table\.csv'"):
        write_text(tmp_path / "new" / "table.csv", "text")
    assert list(tmp_path.iterdir()) == []


def test_every_file_that_results_are_saved_to_survives_a_full_disk(tmp_path, full_disk):
    table = pd.DataFrame({"image_id": [f"slide_{i}" for i in range(500)], "split": "train", "path": "/a"})
    stats = ChannelStats((0.5,) * 300, (0.1,) * 300, 9, 1, "pooled", tissue_only=False, max_value=255)
    figure = plot_images([torch.zeros(3, 8, 8)], ["a"], "title")
    saved = {
        "split.csv": lambda path: save_splits(table, path),
        "stats.json": stats.save,
        "predictions.csv": lambda path: save_table(table, path),
        "roc.png": lambda path: save_figure(figure, path),
    }
    for name, save in saved.items():
        (tmp_path / name).write_text("old")
        with full_disk, pytest.raises(OSError, match="Nothing was changed"):
            save(tmp_path / name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(saved, "old")
    for name, save in saved.items():
        save(tmp_path / name)
    assert all(path.stat().st_size > 3 for path in tmp_path.iterdir())


def test_the_digest_of_values_does_not_depend_on_the_order_of_keys():
    assert json_sha256({"a": 1, "b": [2.5]}) == json_sha256({"b": [2.5], "a": 1})
    assert json_sha256({"a": 1}) != json_sha256({"a": 2})
