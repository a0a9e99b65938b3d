"""Child processes that end with their parent, and errors of the machine told from those of files."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading

import pyvips

from wsidata.errors import SlideError, UnreachableImageError
from wsidata.utils.retries import causes, fault_of_mount, unreachable


class OpenFilesError(RuntimeError):
    """Too many files are open at once, which says nothing about the file that was to be opened."""


def raise_open_files(error: BaseException) -> None:
    """Raise `OpenFilesError` if an error is about too many open files; call it before a file is blamed.

    Raises:
        OpenFilesError: with the remedy.
    """
    for cause in causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.EMFILE, errno.ENFILE) or os.strerror(errno.EMFILE) in str(cause):
            raise OpenFilesError(
                f"{error} - too many files are open at once; no file is damaged. Raise the limit (`ulimit -n 65536` in "
                "the shell that starts Python), use fewer workers (num_workers=), or call "
                "torch.multiprocessing.set_sharing_strategy('file_system') at the start of the script."
            ) from error


def raise_system_fault(error: BaseException, path: object) -> None:
    """Raise what the error is really about, if that is the system and not the file; call it before a file is blamed.

    Raises:
        OpenFilesError: if too many files are open.
        UnreachableImageError: if the disk or mount of the file failed.
    """
    raise_open_files(error)
    for cause in causes(error):
        if isinstance(cause, UnreachableImageError):
            raise cause
    if fault_of_mount(error):
        raise unreachable(path, error) from error


def end_with_parent() -> None:
    """Let this child process end as soon as its parent has ended, however that happened.

    Children of a fork server have the server as parent process, which lives as long as they do: where the process that
    uses them is killed, all would wait for each other forever. So a thread waits for the pipe that only that process
    holds. Does nothing in a process without a parent of multiprocessing.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_await_end, args=(parent,), name="end with parent", daemon=True).start()


def _await_end(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)  # the other threads may wait for a lock forever


def why_unreadable(error: BaseException | None) -> str | None:
    """The reason in one line, if an error is about one image; None if it is of the code, or of the whole machine."""
    if not isinstance(error, (SlideError, OSError, pyvips.Error)):
        return None
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT):
        return None
    try:
        raise_system_fault(error, "")
    except (OpenFilesError, UnreachableImageError):
        return None
    return " ".join(f"{type(error).__name__}: {error}".split())
