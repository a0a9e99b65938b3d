"""Photo files by the names in a table, such as `img_12` for `2019/IMG_12.JPG`.

A name means exactly one file or is an error. Names are compared in one Unicode form (NFC): macOS writes `é` as two
characters, most systems as one. Files are listed once, with those in subfolders, without hidden ones.
"""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from wsidata.tables.find_slides import ImageFolder, ImageLookupError, suggestion

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".avif"),
    *(".heic", ".heif", ".bmp"),
)
"""Suffixes of photos. Whether a file can be decoded is checked elsewhere."""

_SHOWN = 5


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
        self._tables: dict[tuple[bool, bool], dict[str, list[str]]] = {}
        self._exact: defaultdict[str, list[str]] = defaultdict(list)
        for file in self.files:
            self._exact[_nfc(file)].append(file)

    def fitting(self, name: str) -> list[str]:
        """Files that `name` fits best: several if it is ambiguous, none if it fits no file.

        Tried in this order: the very path; the end of a path; the same in another case, blanks aside; the end of a path
        without the photo's suffix; the same in another case, blanks aside.
        """
        name = _nfc(name.replace("\\", "/"))
        if name in self._exact:
            return self._exact[name]
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for without_suffix in (False, True):
            for relaxed in (False, True):
                keys = [_key(part, relaxed) for part in parts]
                found = self._table(relaxed, without_suffix).get(keys[-1], []) if keys else []
                found = [file for file in found if self._lies_in(file, keys[:-1], relaxed)]
                if found:
                    return found
        return []

    def _table(self, relaxed: bool, without_suffix: bool) -> dict[str, list[str]]:
        """Files by their last name."""
        if (relaxed, without_suffix) not in self._tables:
            table = defaultdict(list)
            for file in self.files:
                last = file.rpartition("/")[2]
                if without_suffix and photo_stem(last) == last:
                    continue
                table[_key(photo_stem(last) if without_suffix else last, relaxed)].append(file)
            self._tables[relaxed, without_suffix] = dict(table)
        return self._tables[relaxed, without_suffix]

    def _lies_in(self, file: str, folders: list[str], relaxed: bool) -> bool:
        """Whether the folders above a file end in `folders`."""
        above = [_key(part, relaxed) for part in (self._root_name, *file.split("/")[:-1])]
        return not folders or above[-len(folders) :] == folders


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
        return NameIndex(_list_files(self.root), self.root.name)

    @cached_property
    def photos(self) -> tuple[str, ...]:
        """Relative paths of the files that are photos by their names, sorted."""
        return tuple(sorted(file for file in self.index.files if self.is_image_name(file)))

    def find(self, name: str) -> Path:
        """The file that `name` means.

        Args:
            name: File name with or without suffix, in any case, with all, some or none of the folders above it.

        Raises:
            ImageLookupError: if no file fits (with the nearest names) or several do (naming them).
        """
        if Path(name).is_absolute():
            return super().find(name)
        fitting = self.index.fitting(name)
        if len(fitting) == 1:
            return self.root / fitting[0]
        if fitting:
            shown = ", ".join(fitting[:_SHOWN]) + (", ..." if len(fitting) > _SHOWN else "")
            raise ImageLookupError(
                f"'{name}' fits {len(fitting)} files in '{self.root}': {shown}; write the whole path in the table, or "
                "take copies away"
            )
        if (self.root / name).is_file():  # in a hidden folder, or above this one
            return self.root / name
        raise ImageLookupError(f"no file '{name}' in '{self.root}' or below{self._near(name)}")

    def image_id(self, path: Path) -> str:
        """The path below the folder without suffix, or with it where another photo differs by its suffix only."""
        try:
            relative = path.relative_to(self.root).as_posix()
        except ValueError:
            return _nfc(photo_stem(path.as_posix()))
        stem = _nfc(photo_stem(relative))
        return stem if self._stem_counts[stem] < 2 else _nfc(relative)

    @cached_property
    def _stem_counts(self) -> Counter[str]:
        return Counter(_nfc(photo_stem(file)) for file in self.photos)

    def _near(self, name: str) -> str:
        if not self.photos:
            return " (the folder has no photos)"
        lasts = {_key(photo_stem(file.rpartition("/")[2]), True): file for file in self.photos}
        last = _key(photo_stem(name.rpartition("/")[2]), True)
        near = [lasts[key] for key in difflib.get_close_matches(last, lasts, n=2, cutoff=0.8)]
        return suggestion(near, f"{len(self.photos)} other photos there")


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _key(part: str, relaxed: bool) -> str:
    part = _nfc(part)
    return _nfc(part.casefold()).strip() if relaxed else part


def _list_files(root: Path) -> list[str]:
    """Relative paths of all files below a folder that are not hidden; links are followed unless they lead back."""
    found: list[str] = []
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not _is_hidden(name) and not _leads_back(real, name))
        start = Path(folder).relative_to(root)
        found += [(start / name).as_posix() for name in sorted(files) if not _is_hidden(name)]
    return found


def _leads_back(folder: str, name: str) -> bool:
    """Whether a folder is a link to one that contains it."""
    target = os.path.realpath(os.path.join(folder, name))
    return f"{folder}{os.sep}".startswith(f"{target}{os.sep}")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
