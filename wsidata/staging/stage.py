"""A local folder that slides and photos are copied to before they are read.

    <folder>/wsidata-stage/
      lock                 locked while anything here is added or removed; holds the bytes taken
      <key>.part           a copy in the making, locked by the process that writes it
      <key>/<file name>    a whole copy; whoever reads it holds a shared lock. The folder's time is its last use

The key is a digest of path, length and times of change, so a source that changed has another copy. Locks are those of
the system (flock), which end with their process, however it ends: what a killed process left half made is recognized by
being unlocked, and removed. A copy appears under its name when it is whole, by renaming.

Staging never decides whether a sample can be read: where there is no room, or the local disk fails, the source is read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from wsidata.remote.address import SlidePath, slide_path
from wsidata.staging.copying import (
    CopyStoppedError,
    Facts,
    SourceChangedError,
    StageDiskError,
    StageWarning,
    copy_into,
    count_bytes,
    is_one_file,
)
from wsidata.utils.retries import retried

FOLDER = "wsidata-stage"
ROOM_FRACTION = 0.05
"""Room that is made at once, as a fraction of the limit, so that the folder is not listed for every photo."""
PAUSE_S = 60.0
"""How long nothing is copied after the local disk failed."""
TRIES = 3
"""How often a source that changes while it is copied is copied again, before it is read where it is."""
_KEY_LENGTH = 32
_FULL = {errno.ENOSPC, errno.EDQUOT}


class StagedCopy:
    """A whole copy, which is not removed until it is closed or dropped.

    Attributes:
        path: The copy.
        source: What it is a copy of.
        facts: Length and time of change of both.
    """

    def __init__(self, path: Path, source: SlidePath, facts: Facts, descriptor: int) -> None:
        self.path, self.source, self.facts = path, source, facts
        self.close = weakref.finalize(self, os.close, descriptor)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


class Stage:
    """The folder of the copies, shared by all processes of a machine that name it; can be pickled.

    Args:
        folder: Folder on a local disk; it is made, readable by its owner alone. Nothing in it is touched but the
            subfolder `FOLDER`.
        max_bytes: The most that copies take, in bytes, or a text such as "200GB". The least recently used ones are
            removed to make room, never one that is being read. None: half of what is free, or taken by copies, now.

    Raises:
        ValueError: if `max_bytes` is no positive number of bytes.
        OSError: if the folder cannot be written to, or files in it not be locked.
    """

    def __init__(self, folder: str | Path, max_bytes: int | str | None = None) -> None:
        limit_bytes = None if max_bytes is None else count_bytes(max_bytes)
        self.folder = Path(folder).absolute() / FOLDER
        self._warned = False
        self._paused_until = 0.0
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                taken = self._clean()
        except (OSError, StageDiskError) as error:
            cause: Any = error.__cause__ or error
            raise OSError(
                cause.errno,
                f"{cause.strerror}: slides cannot be copied there, or files there not locked. Name a folder on a local "
                "disk that you may write to, such as $TMPDIR of your job, as stage_dir=",
                str(folder),
            ) from error
        self.max_bytes = limit_bytes or (shutil.disk_usage(self.folder).free + taken) // 2

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_warned": False, "_paused_until": 0.0}

    def copy_of(self, source: str | SlidePath, *, ahead: Callable[[], bool] | None = None) -> StagedCopy | None:
        """A copy to read in place of the source, made now if there is none; None: read the source.

        Waits for another process that is making the same copy.

        Args:
            source: The slide or photo.
            ahead: If it is copied ahead of use: asked now and then whether it is not needed any more. Nothing is
                warned of then, as that happens on use.

        Raises:
            UnreachableImageError: if the source cannot be read, after retries.

        Warns:
            StageWarning: once, if there is no room, or the disk fails.
        """
        source = slide_path(source)
        try:
            for _ in range(TRIES):
                try:
                    return self._copy(source, retried(partial(Facts.of, source), source), ahead)
                except SourceChangedError:
                    continue
        except (FileNotFoundError, NotADirectoryError, CopyStoppedError):
            return None  # whoever opens the source says it better
        except StageDiskError as error:
            self._paused_until = time.monotonic() + PAUSE_S
            if ahead is None:
                self._warn(f"slides cannot be copied to '{self.folder}' ({error.__cause__})")
        return None

    def reject(self, source: str | SlidePath, error: BaseException) -> None:
        """Remove the copy of a source that could be read where its copy could not, and warn; if it has one."""
        source = slide_path(source)
        path = self._place(source, Facts.of(source))
        try:
            with self._locked():
                size_bytes = path.stat().st_size
                path.unlink()  # others that read it can go on
                self._take(-size_bytes)
        except StageDiskError as disk:
            if isinstance(disk.__cause__, FileNotFoundError):
                return
        warnings.warn(
            f"'{path}', the copy of '{source}', could not be read ({type(error).__name__}: {error}). It was removed, "
            "and its source is read instead. Check the disk of stage_dir=.",
            StageWarning,
            stacklevel=3,
        )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _copy(self, source: SlidePath, facts: Facts, ahead: Callable[[], bool] | None) -> StagedCopy | None:
        path = self._place(source, facts)
        part = path.parent.with_suffix(".part")
        is_checked = False
        while True:
            found = self._lease(path, source, facts)
            if found is not None:
                return found
            if time.monotonic() < self._paused_until or not (
                is_checked or retried(partial(is_one_file, source), source)
            ):
                return None
            is_checked = True
            if not facts.size_bytes:
                return None
            descriptor = self._begin(part, path, facts, ahead)
            if descriptor is None:
                return None
            if descriptor >= 0:
                return self._made(descriptor, part, path, source, facts, ahead)

    def _place(self, source: SlidePath, facts: Facts) -> Path:
        """Where the copy of a source is, or belongs."""
        named = "\0".join(map(str, (source.absolute() if isinstance(source, Path) else source.text, *facts)))
        key = hashlib.sha256(named.encode(errors="surrogateescape")).hexdigest()[:_KEY_LENGTH]
        return self.folder / key / source.name

    def _lease(self, path: Path, source: SlidePath, facts: Facts) -> StagedCopy | None:
        """The copy, if it is there and whole, protected from being removed."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StageDiskError from error
        copy = StagedCopy(path, source, facts, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            is_whole = os.fstat(descriptor).st_nlink > 0 and facts.is_of(os.fstat(descriptor))
            if is_whole:
                os.utime(path.parent)
        except FileNotFoundError:
            is_whole = False
        except OSError as error:
            copy.close()
            raise StageDiskError from error
        if not is_whole:
            copy.close()
        return copy if is_whole else None

    def _begin(self, part: Path, path: Path, facts: Facts, ahead: Callable[[], bool] | None) -> int | None:
        """A new file for a copy, locked, and its room taken; -1 to look again; None if there is no room."""
        with self._locked():
            if path.exists() and facts.is_of(path.stat()):
                return -1
            making = self._is_made(part)
            if making is None and not self._make_room(facts.size_bytes):
                if ahead is None:
                    self._warn(
                        f"there is no room for the {facts.size_bytes:,} bytes of '{path.name}' in '{self.folder}' "
                        f"beside the copies in use (stage_max_bytes={self.max_bytes:,})"
                    )
                return None
            if making is None:
                return self._reserve(part, facts.size_bytes)
        try:
            fcntl.flock(making, fcntl.LOCK_SH)  # until it is whole, or its process is gone
        finally:
            os.close(making)
        return -1

    def _is_made(self, part: Path) -> int | None:
        """The file of a copy that another process, or thread, is making, opened; what a killed one left is removed."""
        try:
            descriptor = os.open(part, os.O_RDONLY)
        except FileNotFoundError:
            return None
        if not _try_lock(descriptor):
            return descriptor
        os.close(descriptor)
        part.unlink()
        return None

    def _reserve(self, part: Path, size_bytes: int) -> int:
        """A new file of full length on the disk, so that a full disk shows now."""
        self._take(size_bytes)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                _allocate(descriptor, size_bytes)
                return descriptor
            except OSError as error:
                if error.errno in _FULL and self._evict_one():
                    continue
                os.close(descriptor)
                self._discard(part, size_bytes)
                raise

    def _made(
        self,
        descriptor: int,
        part: Path,
        path: Path,
        source: SlidePath,
        facts: Facts,
        ahead: Callable[[], bool] | None,
    ) -> StagedCopy:
        """Copy, and give the copy its name."""
        try:
            copy_into(descriptor, source, facts, ahead)
            with self._locked():
                path.parent.mkdir(mode=0o700, exist_ok=True)
                os.replace(part, path)
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # from here on it is read
        except BaseException:
            with suppress(StageDiskError), self._locked():
                self._discard(part, facts.size_bytes)
            os.close(descriptor)
            raise
        return StagedCopy(path, source, facts, descriptor)

    def _discard(self, part: Path, size_bytes: int) -> None:
        part.unlink(missing_ok=True)
        self._take(-size_bytes)

    def _make_room(self, size_bytes: int) -> bool:
        """Whether there is room, after removing copies that were not used for the longest time."""
        if self._taken() + size_bytes <= self.max_bytes:
            return True
        if size_bytes > self.max_bytes:
            return False
        goal = self.max_bytes - max(size_bytes, int(ROOM_FRACTION * self.max_bytes))
        taken = self._clean()
        for copy in self._by_last_use():
            if taken <= goal:
                break
            taken -= self._remove_unused(copy)
        self._set_taken(taken)
        return taken + size_bytes <= self.max_bytes

    def _evict_one(self) -> bool:
        """Remove the copy that was not used for the longest time; False if there is none."""
        for copy in self._by_last_use():
            if removed := self._remove_unused(copy):
                self._take(-removed)
                return True
        return False

    def _by_last_use(self) -> list[Path]:
        """Folders of the copies, the one not used for the longest time first."""
        with os.scandir(self.folder) as entries:
            used = [(one.stat().st_mtime_ns, one.path) for one in entries if one.is_dir() and _is_key(one.name)]
        return [Path(path) for _, path in sorted(used)]

    def _remove_unused(self, folder: Path) -> int:
        """Remove a copy that nobody reads. Returns the bytes freed."""
        freed = 0
        for path in folder.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if not _try_lock(descriptor):
                    return 0
                freed += os.fstat(descriptor).st_size
                path.unlink()
            finally:
                os.close(descriptor)
        folder.rmdir()
        return freed

    def _clean(self) -> int:
        """Remove what killed processes left, count the bytes taken, and note them."""
        taken = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.endswith(".part") and _is_key(path.stem):
                    making = self._is_made(path)
                    if making is not None:
                        taken += os.fstat(making).st_size
                        os.close(making)
                elif entry.is_dir() and _is_key(entry.name):
                    copies = list(path.iterdir())
                    taken += sum(copy.stat().st_size for copy in copies)
                    if not copies:
                        path.rmdir()
        self._set_taken(taken)
        return taken

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes and threads; errors inside are those of the disk."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StageDiskError from error

    def _taken(self) -> int:
        """Bytes taken, as noted; never too few."""
        text = (self.folder / "lock").read_text()
        return int(text) if text.isdecimal() else self._clean()

    def _set_taken(self, taken: int) -> None:
        with suppress(OSError):  # of a full disk; they are counted again then
            (self.folder / "lock").write_text(str(max(0, taken)))

    def _take(self, more: int) -> None:
        self._set_taken(self._taken() + more)

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{what}; slides are read from their source instead. Make room there, choose another folder "
                "(stage_dir=) or limit (stage_max_bytes=), or fewer workers: each holds the copy it reads.",
                StageWarning,
                stacklevel=4,
            )


def _is_key(name: str) -> bool:
    return len(name) == _KEY_LENGTH and set(name) <= set("0123456789abcdef")


def _try_lock(descriptor: int) -> bool:
    """Lock a file for oneself; False if another holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _allocate(descriptor: int, size_bytes: int) -> None:
    """Take the room of a file on its disk; where a file system cannot, only its length."""
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(descriptor, size_bytes)
