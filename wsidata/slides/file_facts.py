"""Facts about image files, kept on disk between runs for as long as a file is the same.

`setup` of a data module opens every slide of a study. What it finds out (sizes, crops, thumbnails for the leak check)
is kept in a file per slide, so that the next run asks for the slide's status only. A fact holds for one path and one
file: same inode, size, time of modification and time of change (see `wsidata.utils.same_file`; at an address, length
and version), found out by the same versions of this package and of its decoders, with the same settings and limits.
Otherwise it is found out again.

    ~/.cache/slidestream/facts/3f/9c...e1.json      named by the SHA-256 of the path, which is not in it

Files are plain JSON with a checksum, and replaced as a whole, so any number of processes may write them, the last one
wins, and a cut-off or altered one is not believed. Neither is one that belongs to another user. They may be deleted at
any time. The environment variable `WSIDATA_CACHE` names another folder; "off" keeps nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from wsidata.errors import UnsupportedImageError
from wsidata.formats.limits import limits
from wsidata.remote.address import Address, SlidePath, slide_path
from wsidata.remote.source import identity_of
from wsidata.remote.transport import RemoteIdentity
from wsidata.utils.files import atomic_write, json_sha256
from wsidata.utils.plain_json import PlainJSONError, from_plain, json_object
from wsidata.utils.same_file import FileIdentity

VARIABLE = "WSIDATA_CACHE"
OFF = ("off", "no", "none", "0")
FORMAT = 1
"""Version of the facts, to be incremented whenever other ones are found out about the same file."""
MAX_BYTES = 4 * 1024**2
MAX_FACTS = 32
"""Facts about a file, the latest: each resolution, crop and choice of channels has its own."""
DECODERS = ("slidestream", "tifffile", "imagecodecs", "simplejpeg", "pyvips-binary", "pyvips", "opencv-python-headless")

Fact = TypeVar("Fact")


def cache_folder() -> Path | None:
    """The folder of the facts; None if none are kept."""
    stated = os.environ.get(VARIABLE, "").strip()
    if stated.lower() in OFF:
        return None
    try:
        above = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(stated).expanduser() if stated else Path(above) / "slidestream" / "facts"
    except RuntimeError:  # no home
        return None


def fact_name(kind: str, *settings: Any) -> str:
    """Name of a fact that depends on settings, and on the limits that hold now."""
    return f"{kind} {json_sha256([*settings, asdict(limits())], default=repr)}"


class FileFacts:
    """What is known about one file; of folders, and without a cache, nothing is.

    Args:
        path: The file. It is not opened.
    """

    def __init__(self, path: str | SlidePath) -> None:
        self._path = slide_path(path)
        self._identity = self._present_identity()
        folder = cache_folder()
        self._file: Path | None = None
        if self._identity is not None and folder is not None:
            name = self._path.text if isinstance(self._path, Address) else os.path.abspath(self._path)
            digest = hashlib.sha256(os.fsencode(name)).hexdigest()
            self._file = folder / digest[:2] / f"{digest[2:]}.json"
        self._known = self._read()
        self._new: dict[str, Any] = {}

    def get(self, kind: type[Fact], name: str) -> Fact | None:
        """A fact; None if it is not known.

        Args:
            kind: Its dataclass, of plain values.
            name: Its name; see `fact_name`.
        """
        if name not in self._known:
            return None
        try:
            return from_plain(kind, self._known[name])
        except PlainJSONError:
            return None

    def put(self, name: str, fact: Any) -> None:
        """Add a fact, a dataclass of plain values that was found out since this was made."""
        self._new[name] = json.loads(json.dumps(asdict(fact)))

    def save(self) -> None:
        """Keep the facts that were added, if the file is what it was; does nothing where that is not possible."""
        if self._file is None or self._identity is None or not self._new:
            return
        if not self._identity.is_at_rest() or self._present_identity() != self._identity:
            return
        facts = self._read() | self._new  # another process may have added some
        facts = dict(list(facts.items())[-MAX_FACTS:])
        with suppress(OSError):  # a full or read-only disk
            self._file.parents[1].mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(self._file, sync=False) as unfinished:
                unfinished.write_text(json.dumps({"of": self._of(), "facts": facts, "sha256": self._digest(facts)}))

    def _present_identity(self) -> FileIdentity | RemoteIdentity | None:
        try:
            if isinstance(self._path, Address):
                return None if self._path.is_store else identity_of(self._path)
            status = self._path.stat()
        except (OSError, UnsupportedImageError):  # whoever opens it says it better
            return None
        return FileIdentity.of(status) if stat.S_ISREG(status.st_mode) else None

    def _read(self) -> dict[str, Any]:
        """Facts of the cache; none if they are not there, of another file, or damaged."""
        if self._file is None:
            return {}
        try:
            with self._file.open("rb") as file:
                status = os.fstat(file.fileno())
                is_ours = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
                if not is_ours or status.st_size > MAX_BYTES:
                    return {}
                content = json_object(file.read().decode())
        except (OSError, ValueError):  # also if it is no text, or no JSON
            return {}
        facts = content.get("facts")
        if content.get("of") != self._of() or not isinstance(facts, dict):
            return {}
        return facts if content.get("sha256") == self._digest(facts) else {}

    def _of(self) -> list[Any]:
        """What the facts hold for; without the device, whose number is another one after a restart."""
        assert self._identity is not None
        return [FORMAT, _versions(), *self._identity[1:]]

    def _digest(self, facts: dict[str, Any]) -> str:
        assert self._file is not None
        return json_sha256([self._file.name, self._of(), facts])


@cache
def _versions() -> str:
    found = []
    for name in DECODERS:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)
