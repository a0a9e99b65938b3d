"""Structures of closed files: opened again without parsing, and never for another file."""

from __future__ import annotations

import gc
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsidata.datasets.slides import SlideDataset
from wsidata.errors import LimitExceededError, UnreadableImageError
from wsidata.formats import kept
from wsidata.formats.tiff import jpeg_tiles, reader
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_slide
from wsidata.tables.label_table import read_table
from wsidata.transforms.compose import Compose
from wsidata.utils import same_file

TICK_S = 0.02
"""Longer than the clock of a file system ticks."""


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins without structures, and takes files that were just written for files at rest."""
    kept.KEPT.clear()
    monkeypatch.setattr(reader, "_readers", {})
    monkeypatch.setattr(same_file, "REST_NS", 0)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that tifffile parses."""
    names: list[str] = []

    class Counted(tifffile.TiffFile):
        def __init__(self, file, *arguments, **options):
            super().__init__(file, *arguments, **options)
            names.append(self.filename)

    monkeypatch.setattr(tifffile, "TiffFile", Counted)
    return names


def plain(path: Path, value: int) -> Path:
    """A tiled TIFF of one gray value, whose size does not depend on it."""
    pixels = np.full((96, 128, 3), value, np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb")
    return path


def value_of(path: Path) -> int:
    with Slide(path) as slide:
        values = np.unique(slide.numpy())
    assert len(values) == 1
    return int(values[0])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_second_opening_parses_nothing_and_tries_no_decoder(tmp_path, parsed, monkeypatch):
    tried: list[object] = []
    agree = jpeg_tiles.agree_with_tifffile
    monkeypatch.setattr(reader, "agree_with_tifffile", lambda levels: tried.append(levels) or agree(levels))
    path = write_slide(tmp_path / "a.tif", width=300, height=200, tile=64)
    found = []
    for _ in range(3):
        with Slide(path) as slide:
            found.append((slide.reader, slide.levels, slide.mpp, slide.numpy(level=1), slide.read_region(3, 5, 90, 70)))
    assert (len(parsed), len(tried)) == (1, 1)
    for one in found[1:]:
        assert one[:3] == found[0][:3]
        assert all(np.array_equal(ours, first) for ours, first in zip(one[3:], found[0][3:], strict=True))
    kept.KEPT.clear()
    assert Slide(path).reader == "libjpeg-turbo"
    assert (len(parsed), len(tried)) == (2, 1)


def test_samples_of_one_slide_parse_it_once_lazy_or_not(camelyon, parsed):
    table = read_table(camelyon / "evaluation" / "reference.csv", camelyon / "images").frame.head(1)
    for lazy in (False, True):
        kept.KEPT.clear()
        parsed.clear()
        dataset = SlideDataset(table.assign(label=0), {"level": 0}, Compose([]), lazy=lazy)
        images = [dataset.image(0) for _ in range(2)]
        images = [image.rows(0, image.shape[1]) if lazy else image for image in images]
        assert images[0].equal(images[1])
        assert len(parsed) == 1


def replace(path: Path) -> None:
    """Another file of the same size and times takes the path."""
    status = path.stat()
    os.utime(plain(path.with_name("new.tif"), 2), ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(path.with_name("new.tif"), path)


def edit(path: Path) -> None:
    """The bytes of the file are overwritten, and its time of modification is set back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(plain(path.with_name("new.tif"), 2).read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touch(path: Path) -> None:
    """The bytes are overwritten as any program does it."""
    path.write_bytes(plain(path.with_name("new.tif"), 2).read_bytes())


@pytest.mark.parametrize("change", [replace, edit, touch])
def test_a_changed_file_is_opened_afresh(tmp_path, change: Callable[[Path], None]):
    path = plain(tmp_path / "a.tif", 1)
    size = path.stat().st_size
    assert value_of(path) == 1
    assert len(kept.KEPT) == 1
    time.sleep(TICK_S)
    change(path)
    assert path.stat().st_size == size
    assert value_of(path) == 2


def test_a_link_that_leads_elsewhere_is_another_file(tmp_path):
    link = tmp_path / "link.tif"
    for value in (1, 2):
        link.unlink(missing_ok=True)
        link.symlink_to(plain(tmp_path / f"{value}.tif", value))
        assert value_of(link) == value


def test_an_open_slide_reads_the_file_that_it_opened(tmp_path):
    path = plain(tmp_path / "a.tif", 1)
    with Slide(path) as old:
        replace(path)
        with Slide(path) as new:
            assert (np.unique(old.numpy()), np.unique(new.numpy())) == (1, 2)
    assert value_of(path) == 2  # whichever of the two was closed last


def test_a_removed_file_is_missing(tmp_path):
    path = plain(tmp_path / "a.tif", 1)
    value_of(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Slide(path)


def test_a_relative_path_is_looked_up_from_the_present_folder(tmp_path, monkeypatch):
    for value in (1, 2):
        (tmp_path / str(value)).mkdir()
        plain(tmp_path / str(value) / "a.tif", value)
        monkeypatch.chdir(tmp_path / str(value))
        assert value_of(Path("a.tif")) == value


def test_bad_files_raise_the_same_error_each_time(tmp_path):
    path = plain(tmp_path / "a.tif", 1)
    path.write_bytes(path.read_bytes()[:-10_000])
    errors = []
    for _ in range(2):
        with pytest.raises(UnreadableImageError) as raised:
            Slide(path)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]
    assert len(kept.KEPT) == 0


def test_limits_hold_for_files_that_were_open_before(tmp_path, monkeypatch):
    path = plain(tmp_path / "a.tif", 1)
    value_of(path)
    monkeypatch.setenv("WSIDATA_MAX_PIXELS", "1000")
    with pytest.raises(LimitExceededError):
        Slide(path)


def test_a_file_changed_a_moment_ago_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(same_file, "REST_NS", 60 * 10**9)
    path = write_slide(tmp_path / "a.tif", width=64, height=64, tile=64)
    with Slide(path) as slide:
        assert slide.reader == "libjpeg-turbo"
    assert len(kept.KEPT) == 0
    assert not reader._readers


def test_slides_open_at_once_do_not_share_their_file(tmp_path, parsed):
    path = plain(tmp_path / "a.tif", 1)
    value_of(path)
    first, second = Slide(path), Slide(path)
    assert len(parsed) == 2
    second.close()
    third = pickle.loads(pickle.dumps(first))
    first.close()
    assert value_of(path) == 1
    assert np.unique(third.numpy()) == 1


def test_associated_images_of_a_closed_slide_stay_closed(tmp_path):
    path = write_slide(tmp_path / "a.svs", width=300, height=200, tile=64, vendor="aperio")
    with Slide(path) as closed:
        images = closed.associated_images
    with Slide(path) as slide:
        assert slide.associated_images["thumbnail"].width > 0
        with pytest.raises(ValueError, match="is closed"):
            images["thumbnail"]


def test_lazy_images_outlive_the_slides_after_them(tmp_path):
    path = write_slide(tmp_path / "a.tif", width=300, height=200, tile=64)
    with Slide(path) as slide:
        whole, lazy = slide.numpy(), slide.lazy()
    for _ in range(2):
        with Slide(path) as slide:
            assert np.array_equal(slide.numpy(), whole)
    assert np.array_equal(lazy.rows(0, 200).permute(1, 2, 0).numpy(), whole)


@pytest.mark.slow
def test_descriptors_and_memory_do_not_grow(tmp_path, monkeypatch):
    source = plain(tmp_path / "a.tif", 1).read_bytes()
    monkeypatch.setattr(kept.KEPT, "max_bytes", 20 * reader.STRUCTURE_BYTES)
    value_of(tmp_path / "a.tif")
    gc.collect()  # of files that other tests left
    before = open_files()
    for number in range(300):
        path = tmp_path / f"{number}.tif"
        path.write_bytes(source)
        value_of(path)
        assert open_files() == before
    assert len(kept.KEPT) == 19
    value_of(tmp_path / "299.tif")
    assert len(kept.KEPT) == 19


def test_threads_take_turns(tmp_path):
    path = write_slide(tmp_path / "a.tif", width=300, height=200, tile=64)
    with Slide(path) as slide:
        expected = slide.numpy(level=0)

    def is_right(_: int) -> bool:
        with Slide(path) as slide:
            return np.array_equal(slide.numpy(level=0), expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_right, range(40)))
    assert len(kept.KEPT) == 1
