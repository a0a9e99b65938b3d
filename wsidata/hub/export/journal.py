"""Journal of an export, from which an interrupted export resumes and a repeated one reuses images.

Images are first written to the export's `.export/` folder, and a line of the journal records each one's source (`key`)
and result (`sha256`). They are moved to their places when all are there; the journal stays.

Whoever writes an image writes its line too, at once, to a journal of its own process; the next `begin` or `keep_only`
joins these. So nothing that was written is lost, whatever ends the export.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsidata.hub.manifest import JOURNAL_FOLDER
from wsidata.utils.files import files_of, json_sha256, sample_digest, write_text
from wsidata.utils.plain_json import PlainJSONError, from_plain, json_object

STAGING = "files"

_LINES = "journal.jsonl"
_FILE = re.compile(r"[a-z]+/[a-z]+/\d{5}/[A-Za-z0-9_-]+\.[a-z]+")
"""Every file of an export; a journal that names others, such as files above the folder, was not written here."""


@dataclass(frozen=True)
class Entry:
    """An image that was written.

    Attributes:
        place: Path below the export without suffix, such as "train/images/00000/normal_001".
        key: Digest of its source; see `content_key`.
        file: Path below the export.
        sha256: Of the file.
        size_bytes: Of the file.
        width: In pixels.
        height: In pixels.
        mpp: Resolution in um/px (x, y), if known.
        mask_file: The mask's path below the export, if it has one.
        mask_sha256: Of that file.
    """

    place: str
    key: str
    file: str
    sha256: str
    size_bytes: int
    width: int
    height: int
    mpp: tuple[float, float] | None = None
    mask_file: str | None = None
    mask_sha256: str | None = None


class Journal:
    """The journal of an export folder.

    Args:
        folder: The export.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / JOURNAL_FOLDER
        self.staging = self.root / STAGING
        self._lines = self.root / _LINES
        self.entries: dict[str, Entry] = {}
        for path in (self._lines, *self._of_processes()):
            for entry in _entries(path):
                self.entries[entry.place] = entry

    @property
    def exists(self) -> bool:
        """Whether an export was ever started here."""
        return self._lines.is_file()

    def begin(self) -> None:
        """Create the folder, and join what processes of an interrupted export recorded."""
        self.staging.mkdir(parents=True, exist_ok=True)
        if not self._lines.exists():
            self._lines.touch()
        if self._of_processes():
            self.keep_only(set(self.entries))

    def keep_only(self, places: set[str]) -> None:
        """Remove all other images."""
        self.entries = {place: entry for place, entry in self.entries.items() if place in places}
        write_text(self._lines, "".join(_line(one) for one in self.entries.values()))
        for path in self._of_processes():
            path.unlink(missing_ok=True)

    def _of_processes(self) -> list[Path]:
        """Journals of processes, which are newer than the one they are to be joined with."""
        return sorted(self.root.glob(f"{Path(_LINES).stem}-*.jsonl"))

    def note(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a small JSON object beside the entries."""
        write_text(self.root / f"{name}.json", json.dumps(content))

    def noted(self, name: str) -> dict[str, Any]:
        """The stored object; empty if there is none."""
        try:
            return json_object((self.root / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


def record(staging: Path, entry: Entry) -> None:
    """Append an image to the journal of this process; for workers, as soon as the file is there.

    Args:
        staging: `Journal.staging`.
        entry: The image.
    """
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())
    with (staging.parent / f"{Path(_LINES).stem}-{host}-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(_line(entry))


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"


def _entries(path: Path) -> Iterator[Entry]:
    """The images in a journal; lines that are truncated, or name files outside the export, are left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = from_plain(Entry, json_object(line))
        except PlainJSONError:
            continue
        if all(_FILE.fullmatch(file) for file in (entry.file, entry.mask_file) if file is not None):
            yield entry


def content_key(paths: list[Path], settings: Mapping[str, Any]) -> str:
    """Digest of everything a published image depends on.

    Files count by size, modification time, and the content of their ends and middle, so that large slides are not read
    whole.

    Args:
        paths: The image, and perhaps its mask; folders (Zarr) count with all their files.
        settings: How it is processed, as plain values.
    """
    files = [
        [str(file.name), file.stat().st_size, file.stat().st_mtime_ns] for path in paths for file in files_of(path)
    ]
    return json_sha256([files, [sample_digest(path) for path in paths], settings], default=str)
