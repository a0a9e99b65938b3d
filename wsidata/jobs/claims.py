"""Runs that several jobs share, on any machines, each taking the items that no other has.

    settings.json      what the jobs have in common
    <item>.json        the result of an item, written whole or not at all
    <item>.retry.json  the same, of one that is tried again by the next run, as failures are
    <item>.lock        locked by the job that is at the item
    job-<name>.lock    locked by a job as long as it lives

Locks are the kernel's (flock): they end with their process, however that ends. So what a job that was killed had taken
is free, and nothing has to be cleaned up. On a network file system the server must know of locks; see docs/cluster.md.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

from filelock import FileLock, Timeout

from wsidata.utils.files import write_text
from wsidata.utils.messages import name_some

POLL_S = 1.0
"""Seconds between looks at what other jobs are doing."""

Result = dict[str, Any]
"""The result of an item: plain values."""

Results = Generator[tuple[str, Result], None, None]
"""Items with their results."""


class SharedRunError(ValueError):
    """Jobs cannot share a folder; the message says why."""


class SharedRun:
    """Work on many items that several jobs share through a folder; a context.

    Args:
        folder: The folder, the same for all jobs.
        settings: All that results and the run's output follow from, as plain values. Jobs with other settings are
            refused while one lives.
        prepare: Called in the first job, before others may begin.
        keeps: Whether results stay when the last job has ended well. A later run of the same settings takes them up.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        *,
        prepare: Callable[[SharedRun], object] | None = None,
        keeps: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._prepare, self._keeps = prepare, keeps
        self._claims: dict[str, FileLock] = {}
        host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())
        self._alive = self._lock(f"job-{host}-{os.getpid()}-{token_hex(4)}")

    def __enter__(self) -> Self:
        """Join the run.

        Raises:
            SharedRunError: if jobs with other settings are at work in this folder.
            OSError: if files cannot be locked there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            self._acquire(entry := self._lock("settings"))
            undo.callback(entry.release)
            if self._others():
                self._compare()
            else:
                self._begin()
            self._acquire(self._alive)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the run; the last job that ends well tidies up."""
        self.give_back()
        self._acquire(entry := self._lock("settings"))
        try:
            self._alive.release()
            if not self._others() and kind is None:
                self._remove("*.lock", *([] if self._keeps else ["*.json"]))
        finally:
            entry.release()

    def outcomes(
        self,
        keys: Iterable[str],
        compute: Callable[[Iterator[str]], Results],
    ) -> Results:
        """Each item with its result, of this job or another, as they come. Waits for what others are at.

        Args:
            keys: Names of the items; those of one image must change with its file.
            compute: From items that were taken, one by one as they are asked for, to these with their results. A
                result with "retry": true is tried again by the next run, but not by another job of this one.
        """
        left = dict.fromkeys(keys)
        while left:
            with closing(compute(self._taken(left))) as computed:
                for key, result in computed:
                    self.finish(key, result)
                    left.pop(key)
                    yield key, json.loads(json.dumps(result))  # as other jobs read it
            for key in list(left):
                if (found := self.result(key)) is not None:
                    left.pop(key)
                    yield key, found
            if left:
                time.sleep(POLL_S)

    def result(self, key: str) -> Result | None:
        """The result of an item; None if there is none yet."""
        for path in self._paths(key):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["key"] == key:  # else it is damaged
                    return dict(content["result"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def forget(self) -> None:
        """Remove all results; for `prepare`."""
        self._remove("*.json")

    def take(self, key: str) -> bool:
        """Take an item; False if another job has it, or has done it."""
        lock = self._lock(_name(key))
        if self.result(key) is not None or not self._acquire(lock, wait=False):
            return False
        if self.result(key) is not None:  # since
            lock.release()
            return False
        self._claims[key] = lock
        return True

    def give_back(self) -> None:
        """Let others have what this job has taken and not finished."""
        for lock in self._claims.values():
            lock.release()
        self._claims.clear()

    def finish(self, key: str, result: Result) -> None:
        """Keep the result of an item, and give it back, if it was taken."""
        path = self._paths(key)[bool(result.get("retry"))]
        write_text(path, json.dumps({"key": key, "result": result}))
        if key in self._claims:
            self._claims.pop(key).release()

    def _taken(self, left: Mapping[str, object]) -> Iterator[str]:
        """Items that nobody has, taken as they are asked for."""
        for key in list(left):
            if self.take(key):
                yield key

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Be the first job."""
        self._remove("*.retry.json")
        write_text(self.folder / "settings.json", json.dumps(self._settings, indent=1))
        if self._prepare is not None:
            self._prepare(self)

    def _compare(self) -> None:
        """Raise `SharedRunError` if other jobs have other settings."""
        theirs = json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))
        names = [name for name in {**theirs, **self._settings} if theirs.get(name) != self._settings.get(name)]
        if names:
            raise SharedRunError(
                f"other jobs share '{self.folder}', and differ from this one in {name_some(names)}. Start all jobs of "
                "one run by the same command, name another output, or wait until they have ended."
            )

    def _others(self) -> bool:
        """Whether other jobs live; the locks of those that are dead are removed."""
        for path in self.folder.glob("job-*.lock"):
            lock = FileLock(path, thread_local=False, fallback_to_soft=False)
            if not self._acquire(lock, wait=False):
                return True
            path.unlink(missing_ok=True)
            lock.release()
        return False

    def _remove(self, *patterns: str) -> None:
        """Remove files, while no other job lives."""
        for pattern in patterns:
            for path in self.folder.glob(pattern):
                if path.stem != "settings":
                    path.unlink(missing_ok=True)

    # -- files ---------------------------------------------------------------------------------------------------------

    def _paths(self, key: str) -> tuple[Path, Path]:
        """Where the result of an item is: one that stays, and one to be tried again."""
        return self.folder / f"{_name(key)}.json", self.folder / f"{_name(key)}.retry.json"

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / f"{name}.lock", thread_local=False, fallback_to_soft=False)

    def _acquire(self, lock: FileLock, *, wait: bool = True) -> bool:
        """Lock a file; False if another job has it, and this one does not wait.

        Raises:
            OSError: naming the folder, if nothing can be locked there.
        """
        try:
            lock.acquire(blocking=wait, poll_interval=POLL_S)
        except Timeout:
            return False
        except (OSError, RuntimeError) as error:  # an error that says it is not implemented, too
            raise OSError(
                getattr(error, "errno", None) or errno.ENOLCK,
                f"files cannot be locked here ({error}), so jobs cannot share a run. Name an output on another file "
                "system, have this one mounted with locks, or use one job",
                str(self.folder),
            ) from error
        return True


def _name(key: str) -> str:
    """The name of an item's files."""
    return sha256(key.encode()).hexdigest()[:32]
