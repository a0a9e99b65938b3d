"""Reading from disks and network mounts that fail now and then, tried again a limited number of times.

A mount that hangs in the middle of a call cannot be interrupted from within its process; `read_timeout_s` of the data
modules names what a worker is stuck in.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyvips

from wsidata.errors import UnreachableImageError, UnreadableImageError

FAILING = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED",
        "ESHUTDOWN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOLINK", "ENXIO",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Error numbers of a disk or mount, not of a file's content."""

LOST_HANDLE = FAILING - {errno.EIO, errno.ETIMEDOUT}
"""Those after which an open file may stay unusable: it has to be opened again."""

VARIABLE = "WSIDATA_READ_RETRIES"
RETRIES = 5
"""How often reading is tried again, unless the environment variable `WSIDATA_READ_RETRIES` says otherwise; 0: never."""

FIRST_WAIT_S = 0.5
"""Seconds before the first retry; twice as long before each further one, so 15.5 s for all five."""

T = TypeVar("T")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def fault_of_mount(error: BaseException) -> int | None:
    """The error number, if an error comes from a disk or mount that failed; None for all others.

    Libraries (libvips, OpenSlide, tifffile) pass on the system's words for it.
    """
    for cause in causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number is None and isinstance(cause, (OSError, pyvips.Error)):
            number = next((one for one in FAILING if os.strerror(one) in str(cause)), None)
        if number in FAILING:
            return number
    return None


def retries() -> int:
    """How often reading is tried again.

    Raises:
        ValueError: if the environment variable is no whole number of at least 0.
    """
    text = os.environ.get(VARIABLE) or str(RETRIES)
    if not text.strip().isdecimal():
        raise ValueError(f"the environment variable {VARIABLE}={text!r} must be a whole number, such as {RETRIES}.")
    return int(text)


def unreachable(path: object, error: BaseException, tries: int = 1) -> UnreachableImageError:
    """The error for a file whose disk or mount failed so many times."""
    number = fault_of_mount(error) or errno.EIO
    times = f"{tries} times in a row" if tries > 1 else "now"
    name = errno.errorcode.get(number, str(number))
    found = UnreachableImageError(
        f"'{path}' cannot be reached: reading it failed {times} ({name}, {os.strerror(number)}). Its disk or mount "
        "fails, which says nothing about the file. Check the mount (`mount`, `df`, `dmesg`), or its server, and start "
        f"again; if it happens now and then, raise the number of retries by the environment variable {VARIABLE} (now "
        f"{retries()}), or copy slides to a local disk (stage_dir=). If it is always this one file, its disk "
        "has a defect there."
    )
    found.errno = number
    return found


def retried(read: Callable[[], T], path: object) -> T:
    """The result of reading, which is tried again where the disk or mount fails; other errors are raised at once.

    Args:
        read: Reads from the beginning, whenever it is called.
        path: The file, for errors.

    Raises:
        UnreachableImageError: naming the file, the error and the number of tries, if all failed.
    """
    wait_s: float = FIRST_WAIT_S
    tries = 1
    while True:
        try:
            return read()
        except Exception as error:  # libraries raise their own
            if any(isinstance(cause, UnreachableImageError) for cause in causes(error)) or not fault_of_mount(error):
                raise
            if tries > retries():
                raise unreachable(path, error, tries) from error
        time.sleep(wait_s)
        wait_s, tries = 2 * wait_s, tries + 1


def facts_of(descriptor: int) -> tuple[int, int]:
    """Length (bytes) and time of the last change (ns), by which an open file is recognized."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def read_at(descriptor: int, count: int, offset: int, path: Path, facts: tuple[int, int]) -> bytes:
    """Bytes of an open file, read without moving its position; where its mount lost it, it is opened again.

    Args:
        descriptor: The open file.
        count: Bytes to read.
        offset: Where they begin.
        path: The file.
        facts: `facts_of` the file when it was opened.

    Raises:
        UnreachableImageError: if its disk or mount fails, after retries.
        UnreadableImageError: if the path has another file by now.
    """
    return retried(partial(_read_at, descriptor, count, offset, path, facts), path)


def _read_at(descriptor: int, count: int, offset: int, path: Path, facts: tuple[int, int]) -> bytes:
    try:
        return os.pread(descriptor, count, offset)
    except OSError as error:
        if error.errno not in LOST_HANDLE:
            raise
    with path.open("rb") as again:
        if facts_of(again.fileno()) != facts:
            raise UnreadableImageError(f"'{path}' was replaced by another file while it was read. Open it again.")
        return os.pread(again.fileno(), count, offset)
