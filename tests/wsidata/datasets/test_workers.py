"""Loader workers after threaded libvips work here: no hang, no file left open, the same batches for the same seed."""

import gc
import os
import time
from pathlib import Path

import pandas as pd
import pytest
import pyvips
import torch
from preloaded import run_python

from wsidata.datasets.loader import check_worker_start, make_loader
from wsidata.datasets.slides import SlideDataset
from wsidata.transforms.compose import Compose
from wsidata.transforms.geometry.affine import RandomD4
from wsidata.transforms.geometry.crop import CropOrPad

pytestmark = pytest.mark.slow
LINUX = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")


@pytest.fixture(scope="module")
def dataset(camelyon):
    paths = sorted((camelyon / "images").glob("*.tif"))[:13]
    table = pd.DataFrame({"image_id": [p.stem for p in paths], "path": map(str, paths), "label": range(len(paths))})
    return SlideDataset(table, {"downsample": 3.3}, Compose([CropOrPad(64), RandomD4()]), fresh_epochs=True)


@pytest.fixture(scope="module", autouse=True)
def threaded_libvips_work(dataset):
    for path in dataset.paths[:3]:
        assert pyvips.Image.new_from_file(path).avg() > 0  # starts libvips' threads, which a fork would not inherit


def epoch(loader):
    return [(image.clone(), label.tolist()) for image, label in loader]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) and x == y for (a, x), (b, y) in zip(first, second, strict=True)
    )


def open_files(process_id, folder):
    links = Path(f"/proc/{process_id}/fd")
    return [target for link in links.iterdir() if link.exists() and (target := os.readlink(link)).startswith(folder)]


def count_of_files(process_id):
    """How many files a process has open, without its few buffers, whose number follows the speed of the reader.

    A file that was passed on is closed a moment later, so the least of some counts is what counts.
    """
    counts = []
    for _ in range(10):
        counts.append(len(open_files(process_id, "")) - len(open_files(process_id, "/memfd:wsidata")))
        time.sleep(0.02)
    return min(counts)


@LINUX
@pytest.mark.parametrize(("start", "count"), [("forkserver", 4), ("spawn", 1)])
def test_workers_neither_hang_nor_keep_files_and_agree_with_none(dataset, start, count):
    torch.manual_seed(7)
    alone = make_loader(dataset, batch_size=2, shuffle=True)
    expected = [epoch(alone), epoch(alone)]
    torch.manual_seed(7)
    loader = make_loader(dataset, batch_size=2, shuffle=True, num_workers=count, worker_start=start)
    loader.timeout = 180  # a hanging worker fails this test instead of stopping the suite
    first = epoch(loader)
    workers = [worker.pid for worker in loader._iterator._workers]
    after_one = [count_of_files(pid) for pid in workers]
    second = epoch(loader)
    assert same(first, expected[0])
    assert same(second, expected[1])
    assert not same(first, second)
    assert [worker.pid for worker in loader._iterator._workers] == workers
    folder = str(Path(dataset.paths[0]).parent)
    gc.collect()  # slides that other tests of this process never closed
    assert [open_files(pid, folder) for pid in (*workers, os.getpid())] == [[]] * (count + 1)
    assert [count_of_files(pid) for pid in workers] == after_one


def test_each_of_four_workers_augments_differently(dataset):
    """The same slide in every worker: a generator shared by workers would turn it the same way in all of them."""
    table = pd.DataFrame({"image_id": list("abcdefgh"), "path": dataset.paths[:1] * 8, "label": 0})
    one = SlideDataset(table, {"level": 1}, Compose([CropOrPad(64), RandomD4()]), fresh_epochs=True)
    torch.manual_seed(1)
    loader = make_loader(one, num_workers=4)
    loader.timeout = 180
    pictures = [{image.numpy().tobytes() for image, _ in loader} for _ in range(2)]
    assert min(len(epoch_pictures) for epoch_pictures in pictures) > 3
    assert pictures[0] != pictures[1]


def test_fork_is_refused_and_says_why():
    with pytest.raises(ValueError, match="a forked worker hangs at its first pixel"):
        check_worker_start("fork")
    with pytest.raises(ValueError, match="worker_start='threads' is not one of forkserver, spawn"):
        check_worker_start("threads")


def test_spawned_workers_of_a_script_end_with_it(camelyon, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = run_python(tmp_path / "script.py", camelyon, check=True)
    assert run.stdout.split() == ["10"]


SCRIPT = """
import sys
from pathlib import Path
from wsidata import Slide, WSIDataModule

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    Slide(folder / "images" / "normal_001.tif").numpy(level=0)
    dm = WSIDataModule(folder / "evaluation" / "reference.csv", folder / "images", test_prefix="test_", level=1,
                       image_size=64, num_workers=1, worker_start="spawn", leaks="off")
    dm.setup("fit")
    print(sum(len(labels) for _, labels in dm.train_dataloader()))
"""
