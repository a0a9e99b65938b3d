"""Confinement of paths that came with data to the folder they came in.

Whatever arrives with a data set or a slide - a manifest, rows of a published table, the `data_files` of a card, an
index that names companion files - may name files below its own folder and no others. Else a data set could have any
file of the user's disk read, and published again. Symbolic links are resolved.

A label table that the user passes is the user's own word: it may name any file, and is not confined.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from wsidata.errors import ConfinementError


class Confinement:
    """The files of one folder, found by names that came with the data; an instance is called with each name.

    Args:
        folder: The folder; may be a link itself.
        also: Other folders that links in it may lead to, such as the blobs of a download cache.
        error: Class of the errors.
    """

    def __init__(
        self, folder: str | Path, *, also: Iterable[str | Path] = (), error: type[Exception] = ConfinementError
    ) -> None:
        self.folder, self._error = Path(folder), error
        self._roots = tuple(Path(os.path.realpath(root)) for root in (folder, *also))
        self._inside: dict[Path, bool] = {}  # by folder; resolving links takes long, and tables name many files

    def __call__(self, name: object, source: str) -> Path:
        """The path that a name means.

        Args:
            name: Path relative to the folder, or an absolute path below it.
            source: What names it, for messages.

        Returns:
            The path below the folder, with its links; nothing need be there.

        Raises:
            ConfinementError: (or `error`) if it leads out of the folder, through `..` or a link, or is no file or
                folder (a named pipe, a device).
        """
        if not isinstance(name, str) or not name or "\0" in name or "://" in name:
            raise self._error(f"{source} names {name!r} as a file, which is no path. {_REMEDY}")
        path = self.folder / name
        if ".." in Path(name).parts or not path.is_relative_to(self.folder):
            raise self._error(f"{source} names '{name}', which leads out of '{self.folder}'. {_REMEDY}")
        if path.parent not in self._inside:
            self._inside[path.parent] = self._is_inside(path.parent)
        try:
            mode = os.lstat(path).st_mode if self._inside[path.parent] else stat.S_IFLNK
            if stat.S_ISLNK(mode):
                if not self._is_inside(path):
                    raise self._error(
                        f"{source} names '{name}', a link that leads out of '{self.folder}' to "
                        f"'{os.path.realpath(path)}'. {_REMEDY}"
                    )
                mode = os.stat(path).st_mode
        except OSError:  # nothing there, or a name that is too long
            return path
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise self._error(f"{source} names '{path}', which is neither a file nor a folder. {_REMEDY}")
        return path

    def _is_inside(self, path: Path) -> bool:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(root) for root in self._roots)


_REMEDY = (
    "What comes with data may name only files in its own folder. If you trust it, copy the file there; files of your "
    "own may lie anywhere if a label table names them (WSIDataModule, ImageFolderDataModule)."
)


def confined(
    folder: str | Path,
    name: object,
    source: str,
    *,
    also: Iterable[str | Path] = (),
    error: type[Exception] = ConfinementError,
) -> Path:
    """One path that came with data; see `Confinement`."""
    return Confinement(folder, also=also, error=error)(name, source)
