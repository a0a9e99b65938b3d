"""Fixtures shared by the whole suite."""

from __future__ import annotations

import multiprocessing
import os
import resource
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from preloaded import MODULES

from wsidata.synthetic.slides import write_camelyon16

os.environ["WSIDATA_CACHE"] = "off"  # nothing from an earlier run, here and in the processes of tests

# Those of pools and loaders are forked from one that has imported what most need, which takes each of them seconds.
multiprocessing.set_forkserver_preload([*MODULES, "slidestream.predicting"])
multiprocessing.set_forkserver_preload = lambda _: None


@pytest.fixture(scope="session")
def camelyon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small artificial CAMELYON16: 6 normal, 6 tumor, 4 test slides of about 400 x 360 pixels. Read only.

    The columns of its table are `image`, without suffix, and `class`, normal or tumor.
    """
    folder = tmp_path_factory.mktemp("camelyon16")
    write_camelyon16(folder, normal=6, tumor=6, test=4, size_px=(400, 360), tile=64, seed=1)
    path = folder / "evaluation" / "reference.csv"
    table = pd.read_csv(path, dtype=str)
    names = table["image"].str.removesuffix(".tif")
    pd.DataFrame({"image": names, "class": table["type"]}).to_csv(path, index=False)
    return folder


class _FullDisk(AbstractContextManager["_FullDisk"]):
    """While it is entered, no file of this process may grow beyond 100 bytes; can be entered again."""

    def __enter__(self) -> _FullDisk:
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, self._limits[1]))
        return self

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


@pytest.fixture
def full_disk() -> _FullDisk:
    """A context in which the operating system refuses to write large files."""
    return _FullDisk()


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are saved without what is drawn, which takes half a second each: for tests that look at none."""
    from matplotlib.figure import Figure

    save = Figure.savefig

    def save_blank(figure: Figure, *arguments: Any, **options: Any) -> None:
        save(Figure(figure.get_size_inches()), *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", save_blank)
