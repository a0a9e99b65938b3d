"""Finding files takes time in proportion to rows and files, also where all names are wrong; counted, not timed."""

import sys
from contextlib import suppress
from functools import partial

import pandas as pd
import pytest

from wsidata.tables.find_photos import PhotoFolder
from wsidata.tables.find_slides import ImageFolder, ImageLookupError
from wsidata.tables.label_table import read_table
from wsidata.tables.text_table import TableError


def operations(work):
    """Bytecodes that a call executes, its calls included."""
    count = 0

    def traced(frame, event, argument):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def find_all(folder, names):
    for name in names:
        with suppress(ImageLookupError):
            folder.find(name)


NAMES = {
    "as they are": lambda i: f"case_{i:05d}.jpg",
    "without suffix": lambda i: f"case_{i:05d}",
    "in another case": lambda i: f"CASE_{i:05d}.JPG",
    "all wrong": lambda i: f"kase_{i:05d}.jpg",
    "one file's": lambda i: "case_00000",
}


@pytest.mark.slow
@pytest.mark.parametrize("folder_type", [ImageFolder, PhotoFolder])
@pytest.mark.parametrize("names", NAMES)
def test_lookups_are_linear(tmp_path, monkeypatch, folder_type, names):
    monkeypatch.setattr("wsidata.tables.name_table._COMPARED", 20)
    monkeypatch.setattr(f"{folder_type.__module__}.MOST_HINTS", 5)
    counts = []
    for size in (50, 400):
        root = tmp_path / str(size)
        root.mkdir()
        for i in range(size):
            (root / f"case_{i:05d}.jpg").touch()
        folder = folder_type(root)
        counts.append(operations(partial(find_all, folder, map(NAMES[names], range(size)))))
    assert counts[1] < 8 * 1.3 * counts[0]


@pytest.mark.slow
@pytest.mark.parametrize("names", ["{}/image", "{}\\image.JPG", "image"])
def test_photos_of_one_name_in_many_folders_are_found_in_linear_time(tmp_path, names):
    counts = []
    for size in (20, 160):
        for i in range(size):
            (tmp_path / str(size) / str(i)).mkdir(parents=True)
            (tmp_path / str(size) / str(i) / "image.jpg").touch()
        folder = PhotoFolder(tmp_path / str(size))
        counts.append(operations(partial(find_all, folder, [names.format(i) for i in range(size)])))
    assert counts[1] < 8 * 1.3 * counts[0]


def test_hints_are_given_for_the_names_that_are_shown(tmp_path):
    for i in range(30):
        (tmp_path / f"case_{i}.svs").touch()
    names = [f"kase_{i}.svs" for i in range(30)]
    with pytest.raises(TableError, match="none of the 30 names in column 'image' is a file, among them row 0: no file"):
        read_table(pd.DataFrame({"image": names, "class": "a"}), tmp_path)
    with pytest.raises(TableError) as error:
        read_table(pd.DataFrame({"image": ["case_0.svs", *names], "class": "a"}), tmp_path)
    lines = str(error.value).splitlines()
    assert sum("did you mean" in line for line in lines) == 20
    assert lines[-2] == "  ... and 10 more"
