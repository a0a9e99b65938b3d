"""Photo files by the names in a table, such as `img_12` for `2019/IMG_12.JPG`.

A name means exactly one file or is an error. Names are compared in one Unicode form (NFC). Files are listed once, with
those in subfolders, without hidden ones.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from wsidata.tables.find_slides import ImageFolder, ImageLookupError
from wsidata.tables.name_table import MOST_HINTS, NameTable, list_some, nearest, nfc, suggestion
from wsidata.utils.files import list_files

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".avif"),
    *(".heic", ".heif", ".bmp"),
)
"""Suffixes of photos. Whether a file can be decoded is checked elsewhere."""


def photo_stem(name: str) -> str:
    """A file name without a photo's suffix.

    >>> photo_stem("img_1.5.JPG"), photo_stem("img_1.5")
    ('img_1.5', 'img_1.5')
    """
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and dot + suffix.lower() in PHOTO_SUFFIXES else name


class NameIndex:
    """Files by loosely written names.

    Args:
        files: Paths relative to one folder, with `/` between folders.
        root_name: Name of that folder, with which names may begin.
    """

    def __init__(self, files: Iterable[str], root_name: str = "") -> None:
        self.files = tuple(files)
        self._root_name = root_name
        self._tables: dict[tuple[bool, bool, int], NameTable] = {}
        self._exact = NameTable((nfc(file), file) for file in self.files)

    def fitting(self, name: str) -> Sequence[str]:
        """Files that `name` fits best: several if it is ambiguous, none if it fits no file.

        Tried in this order: the very path; the end of a path; the same in another case, blanks aside; the end of a path
        without the photo's suffix; the same in another case, blanks aside.
        """
        name = nfc(name.replace("\\", "/"))
        found = self._exact.get(name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for without_suffix in (False, True):
            for relaxed in (False, True):
                if not found and parts:
                    key = "/".join(_key(part, relaxed) for part in parts)
                    found = self._table(relaxed, without_suffix, len(parts)).get(key)
        return found

    def _table(self, relaxed: bool, without_suffix: bool, depth: int) -> NameTable:
        """Files by the last `depth` parts of their paths."""
        key = relaxed, without_suffix, depth
        if key not in self._tables:
            self._tables[key] = NameTable(self._ends(*key))
        return self._tables[key]

    def _ends(self, relaxed: bool, without_suffix: bool, depth: int) -> Iterator[tuple[str, str]]:
        for file in self.files:
            above, slash, last = file.rpartition("/")
            if without_suffix and photo_stem(last) == last:
                continue
            last = photo_stem(last) if without_suffix else last
            parts = f"{self._root_name}/{above}{slash}{last}".split("/")
            if len(parts) >= depth:
                yield "/".join(_key(part, relaxed) for part in parts[-depth:]), file


class PhotoFolder(ImageFolder):
    """The photos of a folder and all folders below it, found by their names in a table.

    Args:
        root: Folder that names are relative to. Absolute names are taken as they are.
    """

    noun = "photo"

    @staticmethod
    def is_image_name(name: str) -> bool:
        """Whether a file is a photo by its name."""
        return photo_stem(name) != name

    @cached_property
    def index(self) -> NameIndex:
        """All files below the folder that are not hidden."""
        return NameIndex(list_files(self.root, skip=is_hidden), self.root.name)

    @cached_property
    def photos(self) -> tuple[str, ...]:
        """Relative paths of the files that are photos by their names, sorted."""
        return tuple(sorted(file for file in self.index.files if self.is_image_name(file)))

    def find_text(self, name: str) -> str:
        """The file that `name` means.

        Args:
            name: File name with or without suffix, in any case, with all, some or none of the folders above it.

        Raises:
            ImageLookupError: if no file fits (with the nearest names) or several do (naming them).
        """
        if os.path.isabs(name):
            return super().find_text(name)
        fitting = self.index.fitting(name)
        if len(fitting) == 1:
            return self.path_of(fitting[0])
        if fitting:
            raise ImageLookupError(
                f"'{name}' fits {len(fitting)} files in '{self.root}': {list_some(fitting)}; write the whole path in "
                "the table, or take copies away"
            )
        if (self.root / name).is_file():  # in a hidden folder, or above this one
            return str(self.root / name)
        raise ImageLookupError(f"no file '{name}' in '{self.root}' or below{self._near(name)}")

    def path_of(self, file: str) -> str:
        """The whole path of one of the files of `index`."""
        return self._prefix + file.replace("/", os.sep)

    def image_id(self, path: str | Path) -> str:
        """The path below the folder without suffix, or with it where another photo differs by its suffix only."""
        path = str(path)
        if not path.startswith(self._prefix):
            return nfc(photo_stem(Path(path).as_posix()))
        relative = path[len(self._prefix) :].replace(os.sep, "/")
        stem = nfc(photo_stem(relative))
        return nfc(relative) if stem in self._shared_stems else stem

    @cached_property
    def _prefix(self) -> str:
        return os.path.join(self.root, "")

    @cached_property
    def _shared_stems(self) -> frozenset[str]:
        """Paths without suffix that several photos have."""
        counts = Counter(nfc(photo_stem(file)) for file in self.photos)
        return frozenset(stem for stem, count in counts.items() if count > 1)

    def _near(self, name: str) -> str:
        if not self.photos:
            return " (the folder has no photos)"
        self._hints += 1
        if self._hints > MOST_HINTS:
            return ""
        names, files = self._lasts
        last = _key(photo_stem(name.rpartition("/")[2]), True)
        return suggestion([files[key] for key in nearest(last, names)], f"{len(self.photos)} other photos there")

    @cached_property
    def _lasts(self) -> tuple[list[str], dict[str, str]]:
        """The names of the photos, sorted, and a photo of each name."""
        files = {_key(photo_stem(file.rpartition("/")[2]), True): file for file in self.photos}
        return sorted(files), files


def _key(part: str, relaxed: bool) -> str:
    part = nfc(part)
    return nfc(part.casefold()).strip() if relaxed else part


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that file systems and archivers keep to themselves."""
    return name.startswith(".") or name == "__MACOSX"
