"""Faults of workers and of the system name the file and the remedy, and leave no process behind."""

import multiprocessing
import os
import resource
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from preloaded import run_python, start_python

from wsidata.datamodules.image_folder import ImageFolderDataModule
from wsidata.datasets.epochs import SampleError
from wsidata.datasets.loader import make_loader
from wsidata.datasets.photos import PhotoDataset
from wsidata.datasets.workers import WorkerError
from wsidata.transforms.compose import Compose
from wsidata.utils.processes import OpenFilesError, end_with_parent


def photo_table(toadstools, count=6):
    paths = sorted((toadstools / "photos").iterdir())[:count]
    return pd.DataFrame({"image_id": [path.stem for path in paths], "path": map(str, paths), "label": 0})


@pytest.fixture
def table(toadstools):
    return photo_table(toadstools)


# -- no process is left ------------------------------------------------------------------------------------------------


def living(group):
    """Processes of a group that are not zombies."""
    shown = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in shown.splitlines()]
    return [int(pid) for pid, of, state in rows if int(of) == group and not state.startswith("Z")]


LOADER = """
import sys, time
import pandas as pd
from wsidata.datasets.loader import make_loader
from wsidata.datasets.photos import PhotoDataset
from wsidata.transforms.compose import Compose

if __name__ == "__main__":
    start, *paths = sys.argv[1:]
    table = pd.DataFrame({"image_id": paths, "path": paths, "label": 0})
    loader = make_loader(PhotoDataset(table, Compose([]), resize_px=32), num_workers=1, worker_start=start)
    batches = iter(loader)
    next(batches)
    print("ready", flush=True)
    time.sleep(600)
"""
POOL = """
import sys, time
from wsidata.stats.compute import process_pool

if __name__ == "__main__":
    with process_pool(2) as pool:
        print(*pool.map(abs, [1, 2, 3]), flush=True)
        time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("script", "start"), [(LOADER, "forkserver"), (LOADER, "spawn"), (POOL, "")])
def test_no_process_outlives_one_that_was_killed(tmp_path, table, script, start):
    (tmp_path / "script.py").write_text(script)
    run = start_python(tmp_path / "script.py", start, *table["path"], new_session=True)
    deadline = time.monotonic() + 60
    while not run.output():
        assert time.monotonic() < deadline, run.output("stderr")
        time.sleep(0.05)
    assert len(living(run.pid)) >= 3
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait().returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while left := living(run.pid):
        if time.monotonic() > deadline:
            os.killpg(run.pid, signal.SIGKILL)
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_process_without_a_parent_goes_on():
    end_with_parent()


# -- a worker ends -----------------------------------------------------------------------------------------------------


def end_by(number):
    assert multiprocessing.parent_process() is not None  # not here
    os.kill(os.getpid(), number)


def killed(image):
    end_by(signal.SIGKILL)


def crashed(image):
    end_by(signal.SIGSEGV)


def left(image):
    os._exit(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (killed, r"was killed by signal 9 \(SIGKILL\) while it was reading {}. Most often .* out of mem"),
        (crashed, r"crashed by signal 11 \(SIGSEGV\) while it was reading {}. .*num_workers=0"),
        (left, "ended with exit code 3 while it was reading {}"),
    ],
)
def test_a_lost_worker_is_named_with_its_file_and_the_remedy(table, transform, words):
    loader = make_loader(PhotoDataset(table, transform, resize_px=32), num_workers=1)
    row = rf"photo '{table['image_id'][0]}' \({table['path'][0]}\)"
    with pytest.raises(WorkerError, match=words.format(row)):
        list(loader)


def stuck(image):
    time.sleep(600)


@pytest.mark.slow
def test_what_a_stuck_worker_reads_is_named(table):
    loader = make_loader(PhotoDataset(table[:1], stuck, resize_px=32), num_workers=1, read_timeout_s=0.5)
    row = rf"photo '{table['image_id'][0]}' \({table['path'][0]}\)"
    with pytest.raises(WorkerError, match=rf"no batch came for 0.5 s, while workers were reading ({row}|nothing)\. Th"):
        list(loader)


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_waits_says_so(table):
    loader = make_loader(PhotoDataset(table, Compose([]), resize_px=32), num_workers=1)
    assert len(list(loader)) == len(table)
    loader._iterator._workers[0].kill()
    with pytest.raises(WorkerError, match=r"killed by signal 9 .* while it was reading nothing"):
        list(loader)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["forkserver", "spawn"])
def test_a_missing_main_guard_is_named(tmp_path, table, start):
    script = LOADER.replace('if __name__ == "__main__":', "if True:")
    (tmp_path / "script.py").write_text(script)
    run = run_python(tmp_path / "script.py", start, *table["path"], timeout=120)
    last = run.stderr.splitlines()[-1]
    assert run.returncode == 1
    assert last.startswith("wsidata.datasets.workers.WorkerError: worker process")
    assert "'script.py' has no main guard" in last
    assert 'below `if __name__ == "__main__":`' in last


# -- too many open files -----------------------------------------------------------------------------------------------


@contextmanager
def no_more_files():
    """While it is entered, this process can open no file."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_open_files_are_no_damage_of_a_photo(table):
    dataset = PhotoDataset(table, Compose([]), resize_px=32)
    dataset[0]  # imports what it needs
    with no_more_files(), pytest.raises(SampleError, match=r"too many files are open at once; no file is.*ulimit -n"):
        dataset[0]


def test_too_many_open_files_leave_no_image_out(toadstools):
    photos = ImageFolderDataModule(
        toadstools / "labels.csv", toadstools / "photos", label_column="label", on_error="skip", unlisted="off"
    )
    assert len(photos.labels.frame) == 24
    with no_more_files(), pytest.raises(OpenFilesError, match="too many files are open at once"):
        photos.find_unreadable()


CROWDED = """
import resource, sys
import pandas as pd
from wsidata.datasets.loader import make_loader
from wsidata.datasets.photos import PhotoDataset
from wsidata.transforms.compose import Compose

if __name__ == "__main__":
    table = pd.DataFrame({"image_id": sys.argv[1:], "path": sys.argv[1:], "label": 0})
    loader = make_loader(PhotoDataset(pd.concat([table] * 20), Compose([]), resize_px=100), num_workers=1)
    batches = iter(loader)
    kept = [next(batches)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    kept += batches
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tensors of workers have file descriptors on Linux")
def test_too_many_batches_that_are_kept_name_the_remedy(tmp_path, table):
    (tmp_path / "script.py").write_text(CROWDED)
    run = run_python(tmp_path / "script.py", *table["path"], timeout=120)
    assert "too many files are open at once" in run.stderr.splitlines()[-1], run.stderr[-3000:]
    assert "set_sharing_strategy('file_system')" in run.stderr.splitlines()[-1]
