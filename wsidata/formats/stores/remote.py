"""The files of a Zarr store at an address, as a store for zarr.

Each file is read by ranges and kept for a while (see `wsidata.remote.source`): chunks whole by one request, of a shard
its index and the chunks that are needed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from wsidata.remote.address import WEB, Address
from wsidata.remote.source import REQUESTS_AT_ONCE, RemoteBytes
from wsidata.remote.transport import filesystem

FIRST_BLOCKS = 16
"""Blocks of a file that are requested at first: 1 MB, more than most chunks have."""
KEPT_FILES = 64
KEPT_FILE_BYTES = 2 * 1024**2


class RemoteFiles(Store):
    """A store at an address. For several threads.

    Args:
        address: The store.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, address: Address) -> None:
        super().__init__(read_only=True)
        self.address = address
        self.can_list = address.protocol not in WEB
        self._files: OrderedDict[str, RemoteBytes | None] = OrderedDict()
        self._lock = Lock()

    def size(self, key: str) -> int | None:
        """Length of a file in bytes; None where there is none."""
        file = self._file(key)
        return None if file is None else file.identity.length

    def read(self, key: str, start: int, count: int) -> bytes:
        """Up to `count` bytes of a file; none where there is no file."""
        file = self._file(key)
        return b"" if file is None else file.read(start, count)

    def keys(self, folder: str) -> Iterator[str]:
        """Names of all files below a folder of the store, relative to it, where the server lists them."""
        store = filesystem(self.address)
        root = store._strip_protocol(self.address.below(folder).text).rstrip("/")
        for path in store.find(root):
            yield str(path)[len(root) + 1 :]

    def prefetch(self, keys: Sequence[str]) -> None:
        """Request some files together, as many as are kept."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            for _ in pool.map(self._file, list(dict.fromkeys(keys))[:KEPT_FILES]):
                pass

    def _file(self, key: str) -> RemoteBytes | None:
        """A file, or None where there is none; what is not there is asked for once, too."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        try:
            file = RemoteBytes(self.address.below(key), first_blocks=FIRST_BLOCKS, kept_bytes=KEPT_FILE_BYTES)
        except FileNotFoundError:
            file = None
        with self._lock:
            self._files[key] = file
            while len(self._files) > KEPT_FILES:
                self._files.popitem(last=False)
        return file

    # -- what zarr calls -----------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteFiles) and other.address == self.address

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The content of a file, or a part of it, or None where there is none."""
        data = await asyncio.to_thread(self._part, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Parts of several files."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is a file."""
        return await asyncio.to_thread(self._file, key) is not None

    def _part(self, key: str, part: ByteRequest | None) -> bytes | None:
        file = self._file(key)
        if file is None:
            return None
        start, stop = 0, file.identity.length
        if isinstance(part, RangeByteRequest):
            start, stop = part.start, part.end
        elif isinstance(part, OffsetByteRequest):
            start = part.offset
        elif isinstance(part, SuffixByteRequest):
            start = max(0, stop - part.suffix)
        return file.read(start, stop - start)

    async def set(self, key: str, value: Buffer) -> None:
        """Never: it is read only."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Never: it is read only."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """Names of all files."""
        for name in self.keys("") if self.can_list else ():
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Names of the files that begin so."""
        async for name in self.list():
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names in a folder; none where the server does not tell: what is needed is asked for."""
        start = f"{prefix.rstrip('/')}/".lstrip("/")
        names = [name.removeprefix(start).partition("/")[0] async for name in self.list_prefix(start)]
        for name in dict.fromkeys(names):
            yield name
