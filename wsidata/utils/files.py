"""Digests of files, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

SAMPLE_BYTES = 1 << 20
"""Bytes of each of the places that `sample_digest` reads."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


def list_files(
    root: str | Path, *, skip: Callable[[str], bool] | None = None, whole: Callable[[str], bool] | None = None
) -> list[str]:
    """All files below a folder, as paths relative to it with `/`, folder by folder, sorted in each.

    Every folder is listed once, whatever links lead to it: under its own path if it lies below `root`, else under that
    of the first link.

    Args:
        root: The folder.
        skip: Whether a file or folder of this name is left out.
        whole: Whether a folder of this name is listed as if it were a file.

    Raises:
        OSError: naming a folder that cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    found: list[str] = []
    waiting, links = [""], deque[str]()
    while waiting or links:
        prefix = waiting.pop() if waiting else links.popleft()
        folder = os.path.join(root, prefix)
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as listed:
            entries = sorted((one for one in listed if skip is None or not skip(one.name)), key=lambda one: one.name)
        folders = [one for one in entries if _is_folder(one) and not (whole is not None and whole(one.name))]
        links += [f"{prefix}{one.name}/" for one in folders if one.is_symlink()]
        waiting += [f"{prefix}{one.name}/" for one in reversed(folders) if not one.is_symlink()]
        names = {one.name for one in folders}
        found += [f"{prefix}{one.name}" for one in entries if one.name not in names]
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def files_of(path: Path) -> list[Path]:
    """A file alone, or all files of a folder, sorted."""
    if not path.is_dir():
        return [path]
    return sorted(file for name in list_files(path) if (file := path / name).is_file())


def sample_digest(path: Path) -> str:
    """SHA-256 of the ends and the middle of each file of `files_of`, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files_of(path):
        size = file.stat().st_size
        with file.open("rb") as stream:
            for start in (0, size // 2, max(0, size - SAMPLE_BYTES)):
                stream.seek(start)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file, in hexadecimal; None if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None


def json_sha256(content: Any, default: Callable[[Any], Any] | None = None) -> str:
    """SHA-256 of a value as JSON with sorted keys, in hexadecimal.

    Args:
        content: Plain values.
        default: Makes plain values of others; see `json.dumps`.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=default).encode()).hexdigest()


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to it when the block ends without an error.

    The name is another one for every call (several processes may write the same file) and has the suffix of `path`
    (writers choose a format by it). A file that is replaced keeps its permissions. A link is followed; what is no file
    (`/dev/stdout`) is written to directly.

    Args:
        path: The file; its folder is made.
        sync: Wait until the disk has the file and its name, so that a power cut leaves the old file or the new one.

    Yields:
        Where to write. It is removed if the block raises.

    Raises:
        OSError: naming `path`, if the disk is full, or the folder cannot be written to; the old file is as it was.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "This is a folder. Name a file in it", str(path))
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    unfinished = path.with_name(f".part-{token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        if sync:
            _wait_for_disk(unfinished)
        if path.exists():
            shutil.copymode(path, unfinished)
        os.replace(unfinished, path)
        if sync and os.name == "posix":  # elsewhere folders cannot be opened
            _wait_for_disk(path.parent)
    except BaseException as error:
        with suppress(OSError):  # what cannot be written to cannot be searched, either
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM | _NO_PERMISSION:
            remedy = "make room there" if error.errno in _NO_ROOM else "get permission to write there"
            reason = f"{error.strerror}. Nothing was changed; {remedy}, or write to another folder"
            raise OSError(error.errno, reason, str(path)) from error
        raise


def _wait_for_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:  # file systems that cannot
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text with `atomic_write`; a file that holds this text already is not touched."""
    content = text.encode()
    path = Path(path)
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content)
