"""Copies are whole or absent, shared, bounded, and of the source as it is now."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import tifffile

from wsidata.errors import UnreachableImageError
from wsidata.staging import copying
from wsidata.staging.ahead import copying_ahead
from wsidata.staging.copying import StageWarning, count_bytes, is_one_file
from wsidata.staging.stage import Stage
from wsidata.utils import retries


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path / "local", 10_000)


@pytest.fixture
def sources(tmp_path):
    """Five files of 3,000 bytes each, no two alike."""
    folder = tmp_path / "mount"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.svs").write_bytes(bytes([number]) * 3_000)
    return sorted(folder.iterdir())


def copies(stage):
    """Names of the copies there are."""
    return sorted(path.name for path in stage.folder.glob("*/*"))


def use(stage, path, seconds_ago=0):
    """Read through the stage; and let that have been some time ago."""
    copy = stage.copy_of(path)
    content = copy.path.read_bytes()
    copy.close()
    os.utime(copy.path.parent, (time.time() - seconds_ago,) * 2)
    return content


def on_read(monkeypatch, action):
    """Call a function with the number of each read of a source, before it."""
    real, calls = os.pread, []

    def read(*args):
        calls.append(args)
        action(len(calls))
        return real(*args)

    monkeypatch.setattr(os, "pread", read)
    return calls


def fault(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_is_copied_once_under_its_own_name(stage, sources, monkeypatch):
    with stage.copy_of(sources[3]) as path:
        assert path.name == "3.svs"
        assert path.read_bytes() == sources[3].read_bytes()
        assert path.stat().st_mtime_ns == sources[3].stat().st_mtime_ns
        assert stage.folder.stat().st_mode & 0o077 == path.stat().st_mode & 0o077 == 0  # the owner's alone
    monkeypatch.setattr(copying, "copy_into", fault(errno.EIO))
    with stage.copy_of(str(sources[3])) as again, pickle.loads(pickle.dumps(stage)).copy_of(sources[3]) as other:
        assert again == other == path
    assert (stage.folder / "lock").read_text() == "3000"


def test_a_changed_source_is_copied_anew(stage, sources):
    assert use(stage, sources[0]) == b"\0" * 3_000
    times = sources[0].stat().st_mtime_ns
    sources[0].write_bytes(b"x" * 3_000)
    os.utime(sources[0], ns=(times, times))  # the same length and time
    assert use(stage, sources[0]) == b"x" * 3_000


def test_a_copy_that_lost_bytes_is_made_again(stage, sources):
    with stage.copy_of(sources[1]) as path:
        os.truncate(path, 100)
    assert use(stage, sources[1]) == sources[1].read_bytes()


def test_a_source_that_changes_during_the_copy_is_copied_again_or_read_where_it_is(stage, sources, monkeypatch):
    monkeypatch.setattr(copying, "CHUNK_BYTES", 1_000)
    on_read(monkeypatch, lambda number: sources[0].write_bytes(b"new" * 1_000) if number == 2 else None)
    assert use(stage, sources[0]) == b"new" * 1_000
    on_read(monkeypatch, lambda number: sources[2].write_bytes(bytes(100 * number)))
    assert stage.copy_of(sources[2]) is None
    assert copies(stage) == ["0.svs"]
    assert not list(stage.folder.glob("*.part"))


def test_the_least_recently_used_copies_leave_and_none_in_use(stage, sources):
    for ago, source in enumerate(reversed(sources[:3])):
        use(stage, source, seconds_ago=10 * ago)
    assert copies(stage) == ["0.svs", "1.svs", "2.svs"]
    with stage.copy_of(sources[0]), stage.copy_of(sources[1]):  # 0 was longest ago; 2 is not in use now
        assert use(stage, sources[3]) == sources[3].read_bytes()
        assert copies(stage) == ["0.svs", "1.svs", "3.svs"]
        with stage.copy_of(sources[3]):
            with pytest.warns(
                StageWarning,
                match=r"no room for the 3,000 bytes of '4.svs'.*stage_max_bytes=10,000.*read from their source inst",
            ):
                assert stage.copy_of(sources[4]) is None
            assert stage.copy_of(sources[4]) is None  # without a second warning
    assert use(stage, sources[4]) == sources[4].read_bytes()
    assert sum(path.stat().st_size for path in stage.folder.glob("*/*")) <= 10_000


def test_a_file_larger_than_the_limit_is_read_where_it_is(tmp_path, sources):
    with pytest.warns(StageWarning, match="no room"):
        assert Stage(tmp_path / "small", 2_999).copy_of(sources[0]) is None


# -- several at a time, and killed ones --------------------------------------------------------------------------------


def test_one_copies_while_others_wait(stage, sources, monkeypatch):
    reads = on_read(monkeypatch, lambda number: time.sleep(0.1))
    found = []
    threads = [threading.Thread(target=lambda: found.append(stage.copy_of(sources[0]).path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 4
    assert len(set(found)) == len(reads) == 1


HANGING = """
import sys, time
from wsidata.staging import copying
from wsidata.staging.stage import Stage

def write(descriptor, data):
    print("half", flush=True)
    time.sleep(600)

copying._write = write
Stage(sys.argv[1], 10_000).copy_of(sys.argv[2])
"""


@pytest.mark.slow
def test_who_waits_for_a_process_that_is_killed_makes_the_copy(stage, sources):
    command = [sys.executable, "-c", HANGING, str(stage.folder.parent), str(sources[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "half\n"
        assert len(list(stage.folder.glob("*.part"))) == 1
        Stage(stage.folder.parent)  # does not take the copy in the making for a rest
        found = []
        waiting = threading.Thread(target=lambda: found.append(use(stage, sources[0])))
        waiting.start()
        waiting.join(0.3)
        assert not found
        other.kill()
        waiting.join(10)
    assert found == [sources[0].read_bytes()]
    assert not list(stage.folder.glob("*.part"))


def test_what_killed_copiers_left_is_removed(stage, sources):
    use(stage, sources[0])
    (stage.folder / f"{'0' * 32}.part").write_bytes(bytes(9_000))
    (stage.folder / ("1" * 32)).mkdir()
    theirs = stage.folder / "theirs.part"
    theirs.write_text("not ours")
    for taken in ("", "9999"):  # noted before the process was killed, or in the middle of noting
        (stage.folder / "lock").write_text(taken)
        Stage(stage.folder.parent, 10_000)
        assert (stage.folder / "lock").read_text() == "3000"
    assert theirs.exists()
    assert not list(stage.folder.glob("0*.part"))


# -- disks and mounts that fail ----------------------------------------------------------------------------------------


def test_a_full_disk_is_warned_of_once_and_the_source_is_read(stage, sources, full_disk):
    with full_disk, pytest.warns(StageWarning, match=r"cannot be copied to .*File too large.*Make room") as warned:
        found = [stage.copy_of(source) for source in sources]
    assert found == [None] * 5
    assert len(warned) == 1
    assert not [path for path in stage.folder.iterdir() if path.name != "lock"]


def test_copies_make_room_on_a_disk_that_is_full_of_them(stage, sources, monkeypatch):
    use(stage, sources[0])
    real, left = os.posix_fallocate, [OSError(errno.ENOSPC, "")]
    monkeypatch.setattr(
        os, "posix_fallocate", lambda *args: fault(errno.ENOSPC)() if left and left.pop() else real(*args)
    )
    assert use(stage, sources[1]) == sources[1].read_bytes()
    assert copies(stage) == ["1.svs"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_local_disk_that_fails_loses_nothing(stage, sources, monkeypatch, name):
    monkeypatch.setattr(os, name, fault(errno.EIO))
    with pytest.warns(StageWarning, match="Input/output error"):
        assert stage.copy_of(sources[0]) is None
    assert not [path for path in stage.folder.rglob("*") if path.is_file() and path.name != "lock"]
    assert (stage.folder / "lock").read_text() == "0"


def test_a_failing_mount_is_tried_again_then_named(stage, sources, monkeypatch):
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: None)
    faults = on_read(monkeypatch, lambda number: fault(errno.EIO)() if number <= 2 else None)
    assert use(stage, sources[0]) == sources[0].read_bytes()
    assert len(faults) == 3
    on_read(monkeypatch, lambda number: fault(errno.ESTALE)())
    with pytest.raises(UnreachableImageError, match=r"1.svs' cannot be reached.*6 times"):
        stage.copy_of(sources[1])
    assert copies(stage) == ["0.svs"]
    assert not list(stage.folder.glob("*.part"))


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be copied there.*stage_dir=.*file"):
        Stage(tmp_path / "file")


# -- what is copied ----------------------------------------------------------------------------------------------------


def test_what_is_not_one_file_stays_where_it_is(stage, tmp_path, tissue):
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8")
    (tmp_path / "dicom").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "a.zarr").mkdir()
    set_of_two, alone = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    for path, other in ((set_of_two, "c.ome.tif"), (alone, "B.ome.tif")):
        tifffile.imwrite(
            path,
            tissue,
            metadata=None,
            description=f'<?xml version="1.0"?><OME><UUID FileName="{other}">1</UUID></OME>',
        )
    for path in (tmp_path / "a.mrxs", tmp_path / "dicom", tmp_path / "a.zarr", set_of_two, tmp_path / "absent.svs"):
        assert stage.copy_of(path) is None
    assert is_one_file(alone)


@pytest.mark.parametrize(
    ("stated", "count"), [("200GB", 200 * 10**9), ("1.5 MiB", 3 * 2**19), ("7", 7), (5, 5), ("9B", 9)]
)
def test_sizes_are_bytes_or_text(stated, count):
    assert count_bytes(stated) == count


@pytest.mark.parametrize("stated", ["much", "-1", 0, "1 G", "0.1"])
def test_other_sizes_are_refused(stated):
    with pytest.raises(ValueError, match="stage_max_bytes="):
        count_bytes(stated)


# -- ahead of use ------------------------------------------------------------------------------------------------------


def wait_until(true, seconds=10):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_files_are_copied_ahead_in_order_and_kept_until_they_are_used(stage, sources):
    used = [0]
    with copying_ahead(stage, [*map(str, sources), "absent", str(sources[0])], lambda: used[0], 2):
        wait_until(lambda: copies(stage) == ["0.svs", "1.svs"])
        with ExitStack() as kept:
            kept.enter_context(stage.copy_of(sources[2]))
            with pytest.warns(StageWarning, match="in use"):  # the first two are waiting
                assert stage.copy_of(sources[4]) is None
        used[0] = 3
        wait_until(lambda: {"3.svs", "4.svs"} <= set(copies(stage)))
        used[0] = 6
        wait_until(lambda: "0.svs" in copies(stage))
    assert not [one for one in threading.enumerate() if one.name == "copying slides ahead"]
    for source in sources:  # all can leave
        assert use(stage, source) == source.read_bytes()


def test_copies_ahead_of_use_take_half_of_the_room(stage, sources):
    with copying_ahead(stage, list(map(str, sources)), lambda: 0, 5), pytest.raises(AssertionError):
        wait_until(lambda: len(copies(stage)) > 2, 0.5)
    assert copies(stage) == ["0.svs", "1.svs"]


def test_copying_ahead_ends_in_the_middle_of_a_file(stage, sources, monkeypatch):
    monkeypatch.setattr(copying, "CHUNK_BYTES", 10)
    reads = on_read(monkeypatch, lambda number: time.sleep(0.02))
    with copying_ahead(stage, [str(sources[0])], lambda: 0, 1):
        wait_until(lambda: reads)
    assert len(reads) < 100
    assert not copies(stage)
    assert not list(stage.folder.glob("*.part"))


def test_nothing_is_left_open(stage, sources):
    def descriptors():
        return {
            os.readlink(f"/proc/self/fd/{one}")
            for one in os.listdir("/proc/self/fd")
            if Path(f"/proc/self/fd/{one}").exists()
        }

    before = descriptors()
    for source in sources:
        use(stage, source)
    stage.copy_of(sources[4])  # dropped without being closed
    assert not {one for one in descriptors() - before if "wsidata-stage" in one}
