"""A cache of recently used blocks of pixels, for several threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any

from numpy.typing import NDArray

Block = NDArray[Any]


class BlockCache:
    """The blocks of pixels that were used last, in bounded memory.

    Args:
        max_bytes: The least recently used blocks are dropped beyond this many bytes...
        min_blocks: ... but so many are kept, whatever their size. Blocks that are being made come on top.
    """

    def __init__(self, max_bytes: int, min_blocks: int = 2) -> None:
        self.max_bytes = max_bytes
        self.min_blocks = min_blocks
        self._lock = Lock()
        self._blocks: OrderedDict[Hashable, Future[Block]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], Block]) -> Block:
        """The block of a key. Read-only.

        Args:
            key: Name of the block.
            make: Called if it is missing, by one of the threads that need it; the others wait. An exception is raised
                in all of them, and the next call tries again.
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
                if self._blocks.get(key) is block:
                    del self._blocks[key]
            block.set_exception(error)
            raise
        with self._lock:
            block.set_result(pixels)
            if self._blocks.get(key) is block:  # not cleared meanwhile
                self._bytes += pixels.nbytes
                self._forget_oldest()
        return pixels

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that are kept."""
        return self._bytes

    def clear(self) -> None:
        """Drop all blocks. Blocks that are being made reach the waiting threads, and are not kept."""
        with self._lock:
            self._blocks.clear()
            self._bytes = 0

    def _forget_oldest(self) -> None:
        while self._bytes > self.max_bytes and len(self._blocks) > self.min_blocks:
            oldest = next((key for key, block in self._blocks.items() if block.done()), None)
            if oldest is None:
                return
            self._bytes -= self._blocks.pop(oldest).result().nbytes
