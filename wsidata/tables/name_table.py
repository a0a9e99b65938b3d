"""Names of files by keys that several may share, and the nearest of many names."""

from __future__ import annotations

import difflib
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence

_COMPARED = 1000
"""Names that one is compared with, those beside it in alphabetical order: all of a large folder would take seconds."""

MOST_HINTS = 20
"""Hints at nearest names that a folder gives; messages do not show more, and a wrong folder would need millions."""


_SHOWN = 5


def nfc(name: str) -> str:
    """A name in composed form: macOS writes `é` as two characters, most systems as one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


class NameTable:
    """Names by key; looking one up takes the same time, however many there are.

    Args:
        pairs: Key and name. Names of one key are kept in this order.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._names: dict[str, str | list[str]] = {}  # mostly one each, which is no list, as millions would take memory
        for key, name in pairs:
            before = self._names.setdefault(key, name)
            if before is not name:
                if isinstance(before, str):
                    self._names[key] = before = [before]
                before.append(name)

    def get(self, key: str) -> Sequence[str]:
        """The names of a key; none if it is unknown."""
        names = self._names.get(key, ())
        return (names,) if isinstance(names, str) else names


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """Up to two of `names`, which are sorted, that are written almost like `name`."""
    place = bisect_left(names, name)
    beside = names[max(0, place - _COMPARED // 2) : place + _COMPARED // 2]
    return difflib.get_close_matches(name, beside, n=2, cutoff=0.8)


def list_some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def suggestion(near: Sequence[str], otherwise: str) -> str:
    """The end of a message, with the names that were perhaps meant."""
    return f" (did you mean {' or '.join(near)}?)" if near else f" ({otherwise})"
