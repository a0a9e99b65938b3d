"""Identity of a file by what the file system records, and a file that is reopened if it is the same.

What was found out about a file (its structure, a verdict on its decoder) holds as long as the file is the same: the
same inode, size, time of modification and time of change. The last one is set by the system whenever content or
attributes change, and cannot be set back, so a file edited in place with its old time of modification is another one.
Not detected are changes that the file system does not record: blocks overwritten below it, and writes within one tick
of its clock. So only files that have been at rest for some time count as known (`is_at_rest`).
"""

from __future__ import annotations

import copy
import io
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from wsidata.utils.retries import facts_of, read_at

REST_NS = 2_000_000_000
"""Nanoseconds since the last change after which a file is at rest: the coarsest clocks of file systems tick so."""


class FileIdentity(NamedTuple):
    """What tells whether a path still has the file it had."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """The identity in the status of a file."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_at_rest(self) -> bool:
        """Whether the last change is so old that another one would have another time."""
        return time.time_ns() - max(self.modified_ns, self.changed_ns) >= REST_NS


class Identity(Protocol):
    """What tells whether a file, on a disk or a server, is what it was: equal and hashed by it."""

    @property
    def size(self) -> int:
        """Bytes of the file."""

    def is_at_rest(self) -> bool:
        """Whether another file would have another identity."""

    def __hash__(self) -> int:
        """Hash of what it consists of."""


class ByteSource(Protocol):
    """Bytes of one file, read at any place, by several threads at a time.

    Attributes:
        is_remote: Whether each read is a request to a server, so that few large ones are better.
    """

    is_remote: bool

    def read(self, offset: int, count: int) -> bytes:
        """Bytes from a place on; fewer where the file ends."""

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        """Request the bytes (offset, count) of some places together that are read soon; nothing on a disk."""

    def detached(self) -> ByteSource:
        """The same bytes, which stay readable when the file is closed."""


class FileBytes:
    """The bytes of an open file on a disk or mount.

    Args:
        path: The file, for errors, and to open it again where its mount lost it.
        fileno: Gives the descriptor of the open file.
    """

    is_remote = False

    def __init__(self, path: Any, fileno: Callable[[], int]) -> None:
        self._path, self._fileno = path, fileno
        self._facts = facts_of(fileno())

    def read(self, offset: int, count: int) -> bytes:
        """Bytes read without moving a shared file position: safe under threads and after a fork."""
        return read_at(self._fileno(), count, offset, self._path, self._facts)

    def prefetch(self, places: Sequence[tuple[int, int]]) -> None:
        """Nothing."""

    def detached(self) -> FileBytes:
        """The same bytes by a descriptor of their own, which is closed with its last user."""
        twin, descriptor = copy.copy(self), os.dup(self._fileno())
        twin._fileno = lambda: descriptor
        weakref.finalize(twin, os.close, descriptor)
        return twin


class SameFile(io.RawIOBase):
    """The bytes of a file, which can be closed for a while and opened again as long as they are the same.

    Args:
        path: The file, which is opened.

    Attributes:
        name: Its path without links.
        identity: What it was when it was first opened.
    """

    identity: Identity

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self.name = path, os.path.realpath(path)
        self._descriptor: int | None = os.open(path, _FLAGS)
        self._place = 0
        self.identity = FileIdentity.of(os.fstat(self._descriptor))

    def source(self) -> ByteSource:
        """Its bytes, while it is open, for several threads."""
        return FileBytes(self._path, self.fileno)

    def watch(self) -> FileWatch:
        """Tells whether it is still what it was."""
        return FileWatch(self)

    def pause(self) -> None:
        """Close the file, until it is resumed."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def resume(self) -> bool:
        """Open the file again; false, and closed, if the path has another one now."""
        try:
            if FileIdentity.of(os.stat(self._path)) != self.identity:
                return False
            self._descriptor = os.open(self._path, _FLAGS)
        except OSError:
            return False
        if FileIdentity.of(os.fstat(self._descriptor)) == self.identity:
            return True
        self.pause()
        return False

    @property
    def is_open(self) -> bool:
        """Whether it can be read now."""
        return self._descriptor is not None

    def close(self) -> None:
        """Close the file for good."""
        self.pause()
        super().close()

    def fileno(self) -> int:
        """The descriptor of the open file."""
        if self._descriptor is None:
            raise ValueError(f"'{self._path}' is closed.")
        return self._descriptor

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the place to read from."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.identity.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, from the place on."""
        data = os.pread(self.fileno(), len(buffer), self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


class FileWatch:
    """An open file that is asked whether it is still what it was, by a descriptor of its own.

    Args:
        file: The file, open.
    """

    def __init__(self, file: SameFile) -> None:
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._identity: Identity = file.identity
        self._is_known = file.identity.is_at_rest()

    @property
    def version(self) -> Identity | None:
        """The identity of the file, which is another one when its bytes changed; None if it did, or might unnoticed."""
        same = FileIdentity.of(os.fstat(self._descriptor)) == self._identity
        return self._identity if same and self._is_known else None


_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_BINARY", 0)
