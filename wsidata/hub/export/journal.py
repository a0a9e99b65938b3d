"""Journal of an export, from which an interrupted export resumes and a repeated one reuses images.

Images are first written to the export's `.export/` folder, and a line of the journal records each one's source (`key`)
and result (`sha256`). They are moved to their places when all are there; the journal stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsidata.hub.manifest import JOURNAL_FOLDER
from wsidata.utils.files import files_of, json_sha256, sample_digest, write_text

STAGING = "files"


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
        self._lines = self.root / "journal.jsonl"
        self.entries: dict[str, Entry] = {}
        if self._lines.is_file():
            for line in self._lines.read_text(encoding="utf-8").splitlines():
                entry = _entry(line)
                if entry is not None:
                    self.entries[entry.place] = entry

    @property
    def exists(self) -> bool:
        """Whether an export was ever started here."""
        return self._lines.is_file()

    def begin(self) -> None:
        """Create the folder."""
        self.staging.mkdir(parents=True, exist_ok=True)
        if not self._lines.exists():
            self._lines.touch()
        elif self._lines.stat().st_size and not self._lines.read_bytes().endswith(b"\n"):
            with self._lines.open("a", encoding="utf-8") as file:  # the next line must not continue a truncated one
                file.write("\n")

    def add(self, entry: Entry) -> None:
        """Append an image."""
        self.entries[entry.place] = entry
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(entry)) + "\n")

    def keep_only(self, places: set[str]) -> None:
        """Remove all other images."""
        self.entries = {place: entry for place, entry in self.entries.items() if place in places}
        write_text(self._lines, "".join(json.dumps(asdict(one)) + "\n" for one in self.entries.values()))

    def note(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a small JSON object beside the entries."""
        write_text(self.root / f"{name}.json", json.dumps(content))

    def noted(self, name: str) -> dict[str, Any]:
        """The stored object; empty if there is none."""
        try:
            return dict(json.loads((self.root / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}


def _entry(line: str) -> Entry | None:
    """A line of the journal; None if it is truncated."""
    try:
        content = json.loads(line)
        return Entry(**{**content, "mpp": None if content["mpp"] is None else tuple(content["mpp"])})
    except (ValueError, TypeError, KeyError):
        return None


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
