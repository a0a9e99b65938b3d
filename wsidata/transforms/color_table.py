"""A table of what becomes of each 8-bit color, filled in as colors occur.

An image of millions of pixels has some ten thousand colors. Each is changed once, by the exact rule, and looked up from
then on: however long the rule, a pixel costs one look-up.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.utils.rectangle import Pixels, Put, Rectangle

Colors: TypeAlias = NDArray[np.uint8]
"""(N, 3) colors: red, green and blue."""

Recolor: TypeAlias = Callable[[Colors], Colors]
"""From colors to what becomes of them."""

PIXELS_AT_ONCE = 2**19
"""Parts with unknown colors wait until they have so many pixels, as a rule costs as much for one color as for many."""

MANY_PIXELS = 2**22

Keys: TypeAlias = NDArray[np.int32]
"""Places in the table."""


class ColorTable:
    """What becomes of the colors of RGB images by some rules, one after the other. For several threads at a time.

    Args:
        recolors: The rules.
        pixels: About how many there are to be changed. The table of many takes 64 MB.
    """

    def __init__(self, recolors: Sequence[Recolor], pixels: int) -> None:
        self.recolors = tuple(recolors)
        self._table = _empty_table(in_large_pages=pixels >= MANY_PIXELS)

    @contextmanager
    def changing(self, put: Put) -> Iterator[Put]:
        """Context manager of a function that changes the colors of parts and passes them on to `put`, all by its end.

        Args:
            put: Takes a part of an image and its pixels, (height, width, 3) uint8.
        """
        waiting: list[_Part] = []
        lock = Lock()

        def change(place: Rectangle, pixels: Pixels) -> None:
            keys = _keys(pixels)
            entries = np.take(self._table, keys, mode="wrap")
            if entries.min() > 0:  # several times as fast as all()
                put(place, _rgb(entries))
                return
            unknown = np.flatnonzero(entries.ravel() == 0)
            part = _Part(place, entries, unknown, keys.ravel()[unknown])
            with lock:
                waiting.append(part)
                is_enough = sum(one.entries.size for one in waiting) >= PIXELS_AT_ONCE
                taken, waiting[:] = (list(waiting), []) if is_enough else ([], waiting[:])
            if taken:
                finish(taken)

        def finish(parts: Sequence[_Part]) -> None:
            self._learn([part.keys for part in parts])
            for part in parts:
                part.entries.ravel()[part.unknown] = np.take(self._table, part.keys, mode="wrap")
                put(part.place, _rgb(part.entries))

        yield change
        finish(waiting)

    def _learn(self, unknown: Sequence[Keys]) -> None:
        """Enter some colors."""
        if not unknown:
            return
        keys = pd.unique(np.concatenate(unknown))
        colors: Colors = keys.view(np.uint8).reshape(-1, 4)[:, :3]
        for recolor in self.recolors:
            colors = recolor(colors)
        entries = np.concatenate([colors, np.full((len(colors), 1), 255, dtype=np.uint8)], axis=1)
        self._table[keys] = entries.view("<u4")[:, 0]


class _Part(NamedTuple):
    """A part of an image with unknown colors.

    Attributes:
        place: The part.
        entries: What its colors become, as they stand in the table; 0 where that is unknown.
        unknown: The places of these, in row-major order.
        keys: Their colors.
    """

    place: Rectangle
    entries: NDArray[np.uint32]
    unknown: NDArray[np.intp]
    keys: Keys


def _empty_table(*, in_large_pages: bool) -> NDArray[np.uint32]:
    """Zeros, of which memory is taken where colors occur; look-ups in large pages are faster, but the first slower."""
    memory = mmap.mmap(-1, 4 * 2**24)
    if in_large_pages and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint32)


def _keys(pixels: Pixels) -> Keys:
    """The place of each color in the table, counted from its end: the fourth byte, 255, makes them negative."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)).view("<i4")[..., 0]


def _rgb(entries: NDArray[np.uint32]) -> Pixels:
    """Colors as they stand in the table, (height, width), as pixels."""
    return np.asarray(cv2.cvtColor(entries.view(np.uint8).reshape(*entries.shape, 4), cv2.COLOR_RGBA2RGB))
