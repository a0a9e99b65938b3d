"""Disks and mounts that fail are tried again a few times, then named; damage is not, and nothing is left out."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pyvips

from wsidata.datamodules.checks import survey_slides
from wsidata.datasets.epochs import SampleError
from wsidata.datasets.slides import SlideDataset
from wsidata.errors import UnreachableImageError, UnreadableImageError
from wsidata.photos.read import read_photo
from wsidata.photos.survey import PhotoSurvey
from wsidata.slides.slide import Slide
from wsidata.transforms.compose import Compose
from wsidata.utils import retries
from wsidata.utils.processes import why_unreadable
from wsidata.utils.retries import fault_of_mount, retried


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that would have been waited."""
    waited = []
    monkeypatch.setattr(retries.time, "sleep", waited.append)
    return waited


@pytest.fixture
def slide(camelyon):
    return camelyon / "images" / "normal_001.tif"


def fail(monkeypatch, owner, name, number, times):
    """Let the first calls of a function fail with an error of the system. Returns the list of all calls."""
    real, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) <= times:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    return calls


def reader(*errors):
    left = list(errors)

    def read():
        if left:
            raise left.pop(0)
        return "read"

    return read


def test_failures_are_tried_again_after_waits_that_double(waits):
    faults = [OSError(number, "") for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)]
    assert retried(reader(*faults), "a.tif") == "read"
    assert waits == [0.5, 1, 2, 4]


def test_the_words_of_libraries_are_understood():
    told = pyvips.Error("unable to call", "VipsSource: Input/output error")
    assert retried(reader(told, UnreadableImageError("a.tif: Stale file handle")), "a.tif") == "read"


@pytest.mark.parametrize(
    "error", [UnreadableImageError("cut off"), FileNotFoundError(errno.ENOENT, "no"), ValueError("Input/output error")]
)
def test_damage_is_not_tried_again(waits, error):
    with pytest.raises(type(error)):
        retried(reader(error), "a.tif")
    assert not waits


def test_the_error_names_file_number_tries_and_remedy(monkeypatch, waits):
    monkeypatch.setenv("WSIDATA_READ_RETRIES", "2")
    with pytest.raises(
        UnreachableImageError, match=r"'a.tif' .* failed 3 times in a row \(ESTALE, .*Check the mou"
    ) as e:
        retried(reader(*(OSError(errno.ESTALE, "") for _ in range(9))), "a.tif")
    assert e.value.errno == errno.ESTALE
    assert len(waits) == 2
    assert why_unreadable(e.value) is None  # not to be left out
    with pytest.raises(UnreachableImageError):  # not 3 times 3
        retried(reader(e.value), "a.tif")
    assert len(waits) == 2


@pytest.mark.parametrize("number", ["x", "-1"])
def test_an_odd_number_of_retries_is_named(monkeypatch, number):
    monkeypatch.setenv("WSIDATA_READ_RETRIES", number)
    with pytest.raises(ValueError, match="WSIDATA_READ_RETRIES"):
        retried(reader(OSError(errno.EIO, "")), "a.tif")


# -- slides and photos -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_slide_is_read_through_failures(monkeypatch, slide, number):
    expected = Slide(slide).numpy(level=0)
    with Slide(slide) as opened:
        fail(monkeypatch, os, "pread", number, 2)
        np.testing.assert_array_equal(opened.numpy(level=0), expected)


def test_a_file_that_the_server_replaced_is_not_mixed_with_the_old_one(monkeypatch, tmp_path, slide):
    path = shutil.copy(slide, tmp_path / "a.tif")
    with Slide(path) as opened:
        shutil.copy(slide.with_name("normal_002.tif"), path)
        fail(monkeypatch, os, "pread", errno.ESTALE, 1)
        with pytest.raises(UnreadableImageError, match="was replaced by another file while it was read"):
            opened.numpy(level=0)


def test_opening_is_tried_again(monkeypatch, waits, slide):
    fail(monkeypatch, os, "open", errno.EIO, 2)
    assert Slide(slide).width == 448
    assert waits


def test_a_slide_out_of_reach_is_named_and_never_left_out(monkeypatch, slide):
    table = pd.DataFrame({"image_id": ["a"], "path": [str(slide)], "label": 0})
    fail(monkeypatch, os, "open", errno.EHOSTDOWN, 99)
    with pytest.raises(UnreachableImageError, match=r"normal_001.tif' cannot be reached.*EHOSTDOWN"):
        survey_slides(table, {"level": 0})
    dataset = SlideDataset(table, {"level": 0}, Compose([]))
    dataset.numbered = "skip"
    with pytest.raises(SampleError, match=r"slide 'a' .*UnreachableImageError"):
        dataset.__getitems__([0])


def test_photos_are_read_through_failures(monkeypatch, waits, toadstools):
    path = sorted((toadstools / "photos").iterdir())[0]
    expected = read_photo(path)
    fail(monkeypatch, Path, "read_bytes", errno.ETIMEDOUT, 3)
    np.testing.assert_array_equal(read_photo(path), expected)
    assert len(waits) == 3
    fail(monkeypatch, Path, "open", errno.EIO, 99)
    with pytest.raises(UnreachableImageError, match="failed 6 times"):
        PhotoSurvey(None, False).look([path])


def test_errors_of_the_program_are_no_fault_of_a_mount():
    assert fault_of_mount(RuntimeError("Connection refused")) is None
    assert fault_of_mount(OSError(errno.ENOSPC, "")) is None
