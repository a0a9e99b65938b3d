"""A file on a server as a file that is read by ranges, with a cache of the blocks that were read last.

Headers and directories of a slide are many short reads close to each other, tiles some of 10 to 200 kB, of which
neighbors often follow each other in the file. So whole blocks are requested, blocks in a row by one request, and rows
apart by several requests at a time.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from wsidata.remote.address import Address, SlidePath
from wsidata.remote.transport import RemoteIdentity, fetch
from wsidata.utils.same_file import ByteSource, FileWatch, Identity, SameFile

BLOCK_BYTES = 64 * 1024
KEPT_BYTES = 32 * 1024**2
"""Blocks that are kept of an open file."""
REQUEST_BLOCKS = 128
"""Most blocks of a request: 8 MB, a second of a slow connection."""
REQUESTS_AT_ONCE = 8


class RemoteBytes:
    """The bytes of an address, as long as it has the same file.

    Args:
        address: The address, which is asked for its first blocks.
        known: What the file has to be, if it is known; nothing is asked then.
        first_blocks: How many blocks are asked for at first.
        kept_bytes: The most that is kept of the blocks.
    """

    is_remote = True

    def __init__(
        self,
        address: Address,
        known: RemoteIdentity | None = None,
        *,
        first_blocks: int = 1,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._address, self._kept_bytes = address, kept_bytes
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()
        if known is None:
            first = fetch(address, 0, first_blocks * BLOCK_BYTES)
            known = first.identity
            self._blocks.update(_cut(first.data, 0))
        self.identity = known

    def read(self, offset: int, count: int) -> bytes:
        """Bytes from a place on; fewer where the file ends."""
        stop = min(offset + count, self.identity.length)
        if offset >= stop:
            return b""
        numbers = range(offset // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1)
        blocks = self._have(numbers)
        data = b"".join(blocks[number] for number in numbers)
        start = offset - numbers[0] * BLOCK_BYTES
        return data[start : start + stop - offset]

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        """Request the blocks of some places (offset, count)."""
        length = self.identity.length
        ends = [(offset, min(offset + count, length)) for offset, count in places]
        numbers = {
            number
            for offset, stop in ends
            if offset < stop
            for number in range(offset // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES + 1)
        }
        self._have(numbers)

    def detached(self) -> RemoteBytes:
        """The same, which holds nothing open."""
        return self

    def _have(self, numbers: Collection[int]) -> dict[int, bytes]:
        """Blocks by their numbers, the missing ones requested."""
        found: dict[int, bytes] = {}
        with self._lock:
            for number in numbers:
                if number in self._blocks:
                    self._blocks.move_to_end(number)
                    found[number] = self._blocks[number]
        runs = _runs(sorted(set(numbers) - found.keys()))
        if len(runs) > 1:
            with ThreadPoolExecutor(min(REQUESTS_AT_ONCE, len(runs))) as pool:
                answers = list(pool.map(self._request, runs))
        else:
            answers = [self._request(run) for run in runs]
        for blocks in answers:
            found.update(blocks)
            with self._lock:
                self._blocks.update(blocks)
                while len(self._blocks) * BLOCK_BYTES > self._kept_bytes:
                    self._blocks.popitem(last=False)
        return found

    def _request(self, run: range) -> dict[int, bytes]:
        """Blocks that follow each other, by one request."""
        return _cut(
            fetch(self._address, run.start * BLOCK_BYTES, len(run) * BLOCK_BYTES, self.identity).data, run.start
        )


def _cut(data: bytes, first: int) -> dict[int, bytes]:
    """Bytes as blocks, of which the first has that number."""
    return {first + at // BLOCK_BYTES: data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)}


def _runs(numbers: Sequence[int]) -> list[range]:
    """Numbers in rising order as ranges without gaps, each of `REQUEST_BLOCKS` at most."""
    runs: list[range] = []
    for number in numbers:
        if runs and runs[-1].stop == number and len(runs[-1]) < REQUEST_BLOCKS:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


class RemoteFile(SameFile):
    """The bytes of an address, which can be closed for a while and opened again as long as they are the same.

    Args:
        address: The address, which is asked for its first block.
    """

    def __init__(self, address: Address) -> None:
        io.RawIOBase.__init__(self)
        self._address, self.name, self._place = address, str(address), 0
        self._bytes: RemoteBytes | None = RemoteBytes(address)
        self._identity = self._bytes.identity
        self.identity = self._identity

    def pause(self) -> None:
        """Drop what was read, until it is resumed."""
        self._bytes = None

    def resume(self) -> bool:
        """Ask for it again; false if the address has another file now, or none."""
        try:
            is_same = fetch(self._address, 0, 1).identity == self._identity
        except OSError:
            return False
        self._bytes = RemoteBytes(self._address, self._identity) if is_same else None
        return is_same

    @property
    def is_open(self) -> bool:
        """Whether it can be read now."""
        return self._bytes is not None

    def source(self) -> ByteSource:
        """Its bytes, while it is open, for several threads."""
        return _OpenBytes(self)

    def watch(self) -> FileWatch:
        """Tells whether it is still what it was."""
        return _RemoteWatch(self._identity)

    def opened(self) -> RemoteBytes:
        """Its bytes.

        Raises:
            ValueError: if it is closed.
        """
        if self._bytes is None:
            raise ValueError(f"'{self._address}' is closed.")
        return self._bytes

    def fileno(self) -> int:
        """None, as an error that says so."""
        raise io.UnsupportedOperation("a file on a server has no descriptor")

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, from the place on."""
        data = self.opened().read(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


class _OpenBytes:
    """The bytes of a file that may be paused and resumed."""

    is_remote = True

    def __init__(self, file: RemoteFile) -> None:
        self._file = file

    def read(self, offset: int, count: int) -> bytes:
        return self._file.opened().read(offset, count)

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        self._file.opened().prefetch(places)

    def detached(self) -> RemoteBytes:
        return self._file.opened().detached()


class _RemoteWatch(FileWatch):
    """A file each byte of which was compared with its identity when it was read."""

    def __init__(self, identity: RemoteIdentity) -> None:
        self._identity: Identity = identity

    @property
    def version(self) -> Identity | None:
        return self._identity if self._identity.is_at_rest() else None


def open_file(path: SlidePath) -> SameFile:
    """The bytes of a file on a disk, or on a server."""
    return RemoteFile(path) if isinstance(path, Address) else SameFile(path)


def identity_of(address: Address) -> RemoteIdentity:
    """What the file of an address is now.

    Raises:
        FileNotFoundError: if there is none. Otherwise as `fetch`.
    """
    return fetch(address, 0, 1).identity
