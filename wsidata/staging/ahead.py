"""Copying the files of an epoch in the order of their use, some ahead of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from wsidata.errors import SlideError
from wsidata.staging.stage import Stage, StagedCopy

POLL_S = 0.05
JOIN_S = 5.0


@contextmanager
def copying_ahead(stage: Stage, paths: Sequence[str], used: Callable[[], int], ahead: int) -> Iterator[None]:
    """While it is entered, a thread copies files before they are used, and keeps them from being removed until then.

    It never fails: a file that cannot be copied is dealt with where it is used.

    Args:
        stage: Where to.
        paths: The files, in the order of use.
        used: The number of files that were used so far.
        ahead: Files to be ahead.
    """
    is_over = threading.Event()
    thread = threading.Thread(
        target=_copy, args=(stage, paths, used, ahead, is_over), name="copying slides ahead", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(JOIN_S)  # longer only if the mount hangs


def _copy(stage: Stage, paths: Sequence[str], used: Callable[[], int], ahead: int, is_over: threading.Event) -> None:
    held: deque[tuple[int, StagedCopy]] = deque()
    for place, path in enumerate(paths):
        while not is_over.is_set() and place >= used() + ahead:
            _release(held, used())
            is_over.wait(POLL_S)
        if is_over.is_set():
            break
        _release(held, used())

        def is_late(place: int = place) -> bool:
            return is_over.is_set() or place < used()

        try:
            copy = None if is_late() else stage.copy_of(path, ahead=is_late)
        except (SlideError, OSError):
            continue
        if copy is not None:
            held.append((place, copy))
    is_over.wait()  # the last ones are kept until they are used
    _release(held, len(paths))


def _release(held: deque[tuple[int, StagedCopy]], used: int) -> None:
    while held and held[0][0] < used:
        held.popleft()[1].close()
