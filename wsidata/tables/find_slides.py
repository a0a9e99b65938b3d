"""Slide files by the names in a table, such as `normal_001` or `center_0/normal_001.TIF`.

A name means exactly one file or is an error, never "the first that fits".
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

SLIDE_SUFFIXES = (
    *(".ome.tiff", ".ome.tif", ".ome.zarr", ".zarr"),
    *(".qptiff", ".tiff", ".tif", ".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm", ".czi"),
    *(".jpeg", ".jpg", ".png", ".webp", ".bmp"),
)
"""Suffixes that a table may leave out; each stands before those it ends in. Other dots belong to the name."""


class ImageLookupError(LookupError):
    """A name fits no file, or several."""


def split_suffix(name: str) -> tuple[str, str]:
    """Split a file name into stem and slide suffix.

    >>> split_suffix("TCGA-A1-01.8DE5.svs"), split_suffix("TCGA-A1-01.8DE5")
    (('TCGA-A1-01.8DE5', '.svs'), ('TCGA-A1-01.8DE5', ''))
    """
    lowered = name.lower()
    for suffix in SLIDE_SUFFIXES:
        if lowered.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return name, ""


def _stems(name: str) -> set[str]:
    """The stems of a name: `a.ome.tif` may be called `a` or `a.ome`."""
    return {name[: -len(suffix)] for suffix in SLIDE_SUFFIXES if name.lower().endswith(suffix)}


class ImageFolder:
    """The slides of a folder, found by their names in a table; each folder is listed once.

    Args:
        root: Folder that names are relative to. Absolute names are taken as they are.

    Attributes:
        noun: Word for an image in messages.
    """

    noun = "slide"

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._listings: dict[Path, list[str]] = {}

    @staticmethod
    def is_image_name(name: str) -> bool:
        """Whether a file is an image by its name."""
        return bool(split_suffix(name)[1])

    def find(self, name: str) -> Path:
        """The file that `name` means.

        Tried in this order: the exact name; the name in another case; the name without a slide suffix, equal to a
        file's stem; the same in another case.

        Args:
            name: File name with or without a slide suffix, with or without folders in front.

        Returns:
            The path below `root`.

        Raises:
            ImageLookupError: if no file fits (with the nearest names) or several do (naming them).
        """
        folder = (self.root / name).parent
        name = Path(name).name
        listing = self._list(folder)
        stems = [entry for entry in listing if split_suffix(entry)[1]] if not split_suffix(name)[1] else []
        for fitting in (
            [entry for entry in listing if entry == name],
            [entry for entry in listing if entry.lower() == name.lower()],
            [entry for entry in stems if name in _stems(entry)],
            [entry for entry in stems if name.lower() in _stems(entry.lower())],
        ):
            if len(fitting) == 1:
                return folder / fitting[0]
            if fitting:
                raise ImageLookupError(
                    f"'{name}' fits {len(fitting)} files in '{folder}': {', '.join(fitting)}; "
                    "write the full file name in the table"
                )
        raise ImageLookupError(f"no file '{name}' in '{folder}'{self._hint(name, listing)}")

    def image_id(self, path: Path) -> str:
        """Id of a slide, independent of the folder's location: the path below `root` without slide suffix."""
        # Names may lead out of the folder and in again, and the folder may be a link; the id stays the same.
        for resolved in (os.path.abspath, os.path.realpath):
            relative = os.path.relpath(resolved(path), resolved(self.root))
            if not relative.startswith(os.pardir):
                return split_suffix(Path(relative).as_posix())[0]
        return split_suffix(Path(os.path.abspath(path)).as_posix())[0]

    def _list(self, folder: Path) -> list[str]:
        if folder not in self._listings:
            entries = folder.iterdir() if folder.is_dir() else ()
            self._listings[folder] = sorted(e.name for e in entries if e.is_file() or e.suffix.lower() == ".zarr")
        return self._listings[folder]

    @staticmethod
    def _hint(name: str, listing: list[str]) -> str:
        if not listing:
            return " (the folder is absent or has no files)"
        stem = split_suffix(name)[0].lower()
        near = [entry for entry in listing if split_suffix(entry)[0].lower() == stem]
        near = near or difflib.get_close_matches(name, listing, n=2, cutoff=0.8)
        return suggestion(near, f"{len(listing)} other files there")


def suggestion(near: list[str], otherwise: str) -> str:
    """The end of a message, with the names that were perhaps meant."""
    return f" (did you mean {' or '.join(near)}?)" if near else f" ({otherwise})"
