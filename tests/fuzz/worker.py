"""The process that reads damaged files, under a limit on memory, and says what came of each."""

from __future__ import annotations

import faulthandler
import os
import resource
import shutil
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyvips

from fuzz.judge import judge, read
from fuzz.kinds import KINDS, Kind
from fuzz.mutate import mutate, mutate_folder

MEMORY_BYTES = 4 * 1024**3
"""Address space, besides what the libraries take when they are loaded."""


def kind_of(number: int) -> Kind:
    """The kinds come in turn."""
    return KINDS[number % len(KINDS)]


def write_intact(folder: Path) -> None:
    """One file of each kind, in folders of their own."""
    for number, kind in enumerate(KINDS):
        place = folder / str(number)
        place.mkdir(parents=True)
        kind.write(place / kind.name)


def write_damaged(intact: Path, folder: Path, seed: int, number: int) -> Path:
    """A damaged file; the same seed and number give the same damage."""
    kind, random = kind_of(number), np.random.default_rng([seed, number])
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(intact / str(number % len(KINDS)), folder)
    path = folder / kind.name
    if path.is_dir():
        mutate_folder(path, random)
    else:
        path.write_bytes(mutate(path.read_bytes(), random))
    return path


def outcome(intact: Path, folder: Path, seed: int, number: int, known: dict[str, object]) -> str:
    """What comes of one damaged file. Intact results are kept in `known`."""
    kind = kind_of(number)
    if kind.name not in known:
        known[kind.name] = read(kind, intact / str(number % len(KINDS)) / kind.name)
    return judge(kind, write_damaged(intact, folder, seed, number), known[kind.name])


def work(connection: Connection, intact: Path, folder: Path, seed: int) -> None:
    """Answers numbers of files with what came of them, until there are no more."""
    faulthandler.enable()
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    pyvips.cache_set_max(0)
    limit = MEMORY_BYTES + resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    known: dict[str, object] = {}
    while (number := connection.recv()) is not None:
        try:
            answer = outcome(intact, folder, seed, number, known)
        except BaseException:
            answer = f"fuzz: {traceback.format_exc(limit=-6)}"
        connection.send(answer)
