"""Structures of TIFF files that were closed, kept for opening them again.

Opening a slide means to parse its directories, to check that all of it is there, and to try its decoder: milliseconds,
and for the largest slides tens of them. A closed pyramid keeps what it knows, and no descriptor. It is opened again
only if its path still has the same file (see `wsidata.utils.same_file`), and by one user at a time.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

from wsidata.formats.tiff.reader import TiffPyramid

MAX_BYTES = 64 * 1024**2
"""Memory of all kept structures of a process, approximately."""


class KeptPyramids:
    """The closed pyramids that were used last, in bounded memory. For several threads.

    Args:
        max_bytes: Memory of the structures; the least recently used are dropped beyond.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._lock = Lock()  # a new one: in the child of a fork the old one may be locked forever
        self._pyramids: OrderedDict[Hashable, TiffPyramid] = OrderedDict()
        self._bytes = 0

    def put(self, key: Hashable, pyramid: TiffPyramid) -> None:
        """Keep a closed pyramid by the name that it is asked for by."""
        with self._lock:
            self._drop(key)
            self._pyramids[key] = pyramid
            self._bytes += pyramid.nbytes
            while self._bytes > self.max_bytes:
                self._drop(next(iter(self._pyramids)))

    def take(self, key: Hashable) -> TiffPyramid | None:
        """The pyramid of a name with its file open again, for the caller alone; None if there is none of this file."""
        with self._lock:
            found = self._drop(key)
        return None if found is None else found.reopened()

    def __len__(self) -> int:
        return len(self._pyramids)

    def _drop(self, key: Hashable) -> TiffPyramid | None:
        found = self._pyramids.pop(key, None)
        if found is not None:
            self._bytes -= found.nbytes
        return found


KEPT = KeptPyramids()
"""Those of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=KEPT.clear)
