"""The number of tiles that are decoded at a time, in a worker and in process."""

import threading

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from wsidata.datamodules.wsi import WSIDataModule
from wsidata.datasets.photos import PhotoDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.formats.tiff.jpeg_tiles import JpegTiles
from wsidata.formats.vips import decoding_threads, thread_count
from wsidata.slides.slide import Slide
from wsidata.transforms.compose import default_eval_transform


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A slide of 64 tiles."""
    path = tmp_path_factory.mktemp("tiles") / "slide.tif"
    pixels = np.random.default_rng(3).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="jpeg")
    return pd.DataFrame({"image_id": ["slide"], "path": [str(path)], "label": [0]})


@pytest.fixture
def decoders(monkeypatch):
    """Names of the threads that have decoded JPEG tiles."""
    names, decode = set(), JpegTiles.decode

    def named(self, *args, **options):
        names.add(threading.current_thread().name)
        return decode(self, *args, **options)

    monkeypatch.setattr(JpegTiles, "decode", named)
    return names


def sample(table, threads, decoders, **options):
    dataset = SlideDataset(table, {"level": 0}, default_eval_transform(500), with_labels=False, **options)
    dataset.decode_threads = threads
    with Slide(dataset.paths[0]) as slide:
        assert slide.reader == "libjpeg-turbo"
    decoders.clear()
    image = dataset[0]
    return image.rows(0, image.shape[1]) if dataset.lazy else image


@pytest.mark.parametrize("lazy", [False, True])
def test_one_and_four_threads_give_the_same_sample(table, decoders, lazy):
    alone = sample(table, 1, decoders, lazy=lazy)
    assert decoders == {threading.current_thread().name}
    together = sample(table, 4, decoders, lazy=lazy)
    assert len(decoders) > 1
    assert torch.equal(torch.as_tensor(alone), torch.as_tensor(together))


def threads_seen(image):
    return image * 0 + thread_count()


def seen(toadstools, threads, in_worker):
    path = str(next((toadstools / "photos").iterdir()))
    rows = pd.DataFrame({"image_id": ["a"], "path": [path], "label": [0]})
    dataset = PhotoDataset(rows, threads_seen, resize_px=16, with_labels=False)
    dataset.decode_threads = threads
    dataset.reading = torch.tensor(-1) if in_worker else None
    return int(dataset[0].max())


def test_a_worker_decodes_on_one_thread_unless_asked(toadstools, monkeypatch):
    monkeypatch.setenv("VIPS_CONCURRENCY", "7")
    assert [seen(toadstools, threads, in_worker=True) for threads in (None, 3)] == [7, 3]
    assert [seen(toadstools, threads, in_worker=False) for threads in (None, 3)] == [7, 3]
    monkeypatch.delenv("VIPS_CONCURRENCY")
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert [seen(toadstools, threads, in_worker=True) for threads in (None, 3)] == [1, 3]
    assert [seen(toadstools, threads, in_worker=False) for threads in (None, 3)] == [5, 3]
    assert thread_count() == 5


def test_the_number_holds_in_its_block_and_thread_alone():
    before = thread_count()
    with decoding_threads(9):
        with decoding_threads(None):
            assert thread_count() == 9
        others = []
        thread = threading.Thread(target=lambda: others.append(thread_count()))
        thread.start()
        thread.join()
    assert [*others, thread_count()] == [before, before]


def test_data_modules_pass_it_on(camelyon):
    arguments = (camelyon / "evaluation" / "reference.csv", camelyon / "images")
    dm = WSIDataModule(*arguments, test_prefix="test_", level=1, image_size=64, leaks="off", decode_threads=3)
    dm.setup("fit")
    dm.train_dataloader()
    assert dm.datasets["train"].decode_threads == 3
    with pytest.raises(ValueError, match="decode_threads=0 must be a number of at least 1, or None"):
        WSIDataModule(*arguments, level=1, decode_threads=0)
