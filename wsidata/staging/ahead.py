"""Copying the files of an epoch in the order of their use, some ahead of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from wsidata.errors import SlideError
from wsidata.staging.stage import Stage, StagedCopy

MAX_AHEAD = 128
"""Files to be ahead at most: each is held open."""

POLL_S = 0.05
JOIN_S = 5.0


@contextmanager
def copying_ahead(
    stage: Stage, paths: Sequence[str], used: Callable[[], int], ahead: int, processes: int = 1
) -> Iterator[None]:
    """While it is entered, a thread copies files before they are used, and keeps them from being removed until then.

    It never fails: a file that cannot be copied is dealt with where it is used.

    Args:
        stage: Where to.
        paths: The files, in the order of use.
        used: The number of files that were used so far.
        ahead: Files to be ahead, at most, as half of the stage may hold.
        processes: How many share that half.
    """
    is_over = threading.Event()
    thread = threading.Thread(
        target=_copy,
        args=(stage, paths, used, ahead, stage.max_bytes // (2 * processes), is_over),
        name="copying slides ahead",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(JOIN_S)  # longer only if the mount hangs


def _copy(
    stage: Stage,
    paths: Sequence[str],
    used: Callable[[], int],
    ahead: int,
    most_bytes: int,
    is_over: threading.Event,
) -> None:
    held: deque[tuple[int, StagedCopy]] = deque()

    def wait_while(is_early: Callable[[], bool]) -> None:
        while not is_over.is_set():
            while held and held[0][0] < used():
                held.popleft()[1].close()
            if not is_early():
                break
            is_over.wait(POLL_S)

    for place, path in enumerate(paths):

        def is_early(place: int = place) -> bool:
            is_full = sum(copy.facts.size_bytes for _, copy in held) >= most_bytes
            return is_full or place >= used() + min(ahead, MAX_AHEAD)

        def is_late(place: int = place) -> bool:
            return is_over.is_set() or place < used()

        wait_while(is_early)
        try:
            copy = None if is_late() else stage.copy_of(path, ahead=is_late)
        except (SlideError, OSError):
            continue
        if copy is not None:
            held.append((place, copy))
    wait_while(lambda: bool(held))
    while held:
        held.pop()[1].close()
