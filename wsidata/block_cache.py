"""Several threads may want the same pixels at once: they are made once, and kept for a while, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = NDArray[Any]


class BlockCache:
    """The blocks of pixels that were used last.

    Args:
        max_bytes: Blocks that were not used for the longest time are forgotten beyond this many bytes...
        min_blocks: ... but so many are kept, whatever their size. Blocks that are being made come on top.
    """

    def __init__(self, max_bytes: int, min_blocks: int = 2) -> None:
        self.max_bytes = max_bytes
        self.min_blocks = min_blocks
        self._lock = Lock()
        self._blocks: OrderedDict[Hashable, Future[Block]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Block]) -> Block:
        """The block of that key. Nobody may write to it.

        Args:
            key: Name of the block.
            make: Called if it is not there, by one of the threads that ask; the others wait. An exception goes to all
                of them, and the next one to ask tries again.
        """
        with self._lock:
            found = self._blocks.get(key)
            block: Future[Block] = Future() if found is None else found
            self._blocks[key] = block
            self._blocks.move_to_end(key)
        if found is not None:
            return block.result()
        try:
            pixels = make()
        except BaseException as error:
            with self._lock:
                self._blocks.pop(key, None)
            block.set_exception(error)
            raise
        block.set_result(pixels)
        self._forget_oldest()
        return pixels

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that are kept."""
        with self._lock:
            return sum(_nbytes(block) for block in self._blocks.values())

    def clear(self) -> None:
        """Forget all blocks."""
        with self._lock:
            self._blocks.clear()

    def _forget_oldest(self) -> None:
        with self._lock:
            kept = sum(_nbytes(block) for block in self._blocks.values())
            for key in [key for key, block in self._blocks.items() if block.done()]:
                if kept <= self.max_bytes or len(self._blocks) <= self.min_blocks:
                    return
                kept -= _nbytes(self._blocks.pop(key))


def _nbytes(block: Future[Block]) -> int:
    return int(np.asarray(block.result()).nbytes) if block.done() and block.exception() is None else 0
