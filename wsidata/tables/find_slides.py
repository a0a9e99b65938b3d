"""Slide files by the names in a table, such as `normal_001` or `center_0/normal_001.TIF`.

A name means exactly one file or is an error, never "the first that fits".
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote

from wsidata.remote.address import WEB, Address, is_address
from wsidata.tables.name_table import MOST_HINTS, NameTable, list_some, nearest, nfc, suggestion

SLIDE_SUFFIXES = (
    *(".ome.tiff", ".ome.tif", ".ome.zarr", ".zarr", ".ome.zarr.zip", ".zarr.zip", ".ozx"),
    *(".qptiff", ".tiff", ".tif", ".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm", ".czi"),
    *(".jpeg", ".jpg", ".png", ".webp", ".bmp"),
)
"""Suffixes that a table may leave out; each stands before those it ends in. Other dots belong to the name."""


FEATURE_SUFFIX = ".h5"
"""Suffix of files of features."""

OUTLINE_SUFFIXES = (".xml", ".geojson", ".json")
"""Suffixes of files of annotations."""

_BY_END = {
    end: tuple(suffix for suffix in SLIDE_SUFFIXES if suffix.endswith(end))
    for end in {suffix[suffix.rfind(".") :] for suffix in SLIDE_SUFFIXES}
}


class ImageLookupError(LookupError):
    """A name fits no file, or several."""


def split_suffix(name: str) -> tuple[str, str]:
    """Split a file name into stem and slide suffix.

    >>> split_suffix("TCGA-A1-01.8DE5.svs"), split_suffix("TCGA-A1-01.8DE5")
    (('TCGA-A1-01.8DE5', '.svs'), ('TCGA-A1-01.8DE5', ''))
    """
    lowered = name.lower()
    for suffix in _BY_END.get(lowered[lowered.rfind(".") :], ()):
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
        self._listings: dict[str, _Listing] = {}
        self._ids: dict[str, str | None] = {}
        self._hints = 0

    @staticmethod
    def is_image_name(name: str) -> bool:
        """Whether a file is an image by its name."""
        return bool(split_suffix(name)[1])

    def find(self, name: str) -> Path:
        """The file that `name` means.

        Tried in this order: the exact name; the name in another case or Unicode form; the name without a slide suffix,
        equal to a file's stem; the same in another case.

        Args:
            name: File name with or without a slide suffix, with or without folders in front.

        Returns:
            The path below `root`.

        Raises:
            ImageLookupError: if no file fits (with the nearest names) or several do (naming them).
        """
        return Path(self.find_text(name))

    def find_text(self, name: str) -> str:
        """`find`, which costs less as text: tables may have a million names."""
        if is_address(name):
            raise ImageLookupError(
                f"'{name}' is an address, and a table may name only those below the one that you pass as image_dir=, "
                "such as image_dir='https://host/slides'"
            )
        above, name = os.path.split(name)
        if name in ("", ".", ".."):  # as `Path` reads them
            above, name = os.path.split(Path(above) / name)
        listing = self._list(above)
        fitting = listing.fitting(name)
        if len(fitting) == 1:
            return os.path.join(listing.folder, fitting[0])
        if fitting:
            raise ImageLookupError(
                f"'{name}' fits {len(fitting)} files in '{listing.folder}': {list_some(fitting)}; "
                "write the full file name in the table"
            )
        raise ImageLookupError(f"no file '{name}' in '{listing.folder}'{self._hint(name, listing)}")

    def image_id(self, path: str | Path) -> str:
        """Id of a slide, independent of the folder's location: the path below `root` without slide suffix."""
        above, name = os.path.split(path)
        if above not in self._ids:
            relative = os.path.relpath(os.path.abspath(above), os.path.abspath(self.root))
            outside = relative.startswith(os.pardir)
            self._ids[above] = None if outside else Path(relative, "_").as_posix()[:-1]
        if (below := self._ids[above]) is not None and name not in ("", ".", ".."):
            return split_suffix(below + name)[0]
        # Names may lead out of the folder and in again, and the folder may be a link; the id stays the same.
        for resolved in (os.path.abspath, os.path.realpath):
            relative = os.path.relpath(resolved(path), resolved(self.root))
            if not relative.startswith(os.pardir):
                return split_suffix(Path(relative).as_posix())[0]
        return split_suffix(Path(os.path.abspath(path)).as_posix())[0]

    def _list(self, above: str) -> _Listing:
        """The files of a folder, given by what stands before a name."""
        if above not in self._listings:
            folder = str(self.root / above)
            if folder not in self._listings:
                self._listings[folder] = _Listing(folder)
            self._listings[above] = self._listings[folder]
        return self._listings[above]

    def _hint(self, name: str, listing: _Listing) -> str:
        if not listing.names:
            return " (the folder is absent or has no files of its own; name those in folders of it as folder/name)"
        self._hints += 1
        if self._hints > MOST_HINTS:
            return ""
        near = listing.loose_stems.get(_loose(split_suffix(name)[0])) or nearest(name, listing.names)
        return suggestion(near[:2], f"{len(listing.names)} other files there")


class AddressFolder(ImageFolder):
    """The slides below an address, named in full: a server does not tell which files there are.

    A table may come from others: it names nothing that is not below the address, so no other server is asked.

    Args:
        root: The address that names are relative to; whole addresses have to begin with it.
    """

    def __init__(self, root: str) -> None:
        super().__init__(Path(root))
        self._base = Address(root)
        self._start = self._base.below("").text.partition("?")[0]

    def find_text(self, name: str) -> str:
        """The address that `name` means.

        Raises:
            ImageLookupError: if it is not below the address of the folder.
        """
        if is_address(name):
            whole = Address(name)
            rest = whole.text.removeprefix(self._start) if whole.text.startswith(self._start) else ""
        else:
            rest = quote(name) if self._base.protocol in WEB else name
            whole = self._base.below(rest)
        steps = re.split(r"[/\\]", unquote(rest.partition("?")[0]))
        if not rest or not {"", ".", ".."}.isdisjoint(steps) or not name.isprintable():
            raise ImageLookupError(
                f"'{name}' is no file below '{self._base}' (image_dir=), where all slides have to be"
            )
        return whole.text

    def image_id(self, path: str | Path) -> str:
        """Id of a slide: what follows the address of the folder, without query and slide suffix."""
        rest = str(path).removeprefix(self._start)
        return split_suffix(unquote(rest.partition("?")[0]) if self._base.protocol in WEB else rest)[0]


class MaskFolder(ImageFolder):
    """The masks of a folder, or the annotations that they are drawn from.

    A slide's name means the annotations of that name, too: `tumor_001.tif` fits `tumor_001.xml` and
    `tumor_001.tif.geojson`.
    """

    noun = "mask"

    def find_text(self, name: str) -> str:
        """`find`, as text."""
        above, last = os.path.split(name)
        listing = self._list(above)
        outlined, images = listing.outlined(last), listing.fitting(last)
        if not outlined or [_loose(one) for one in images] == [_loose(last)]:
            return super().find_text(name)
        return self._only(sorted({*images, *outlined}), name, listing)

    def find_outlines(self, name: str) -> Path | None:
        """The annotations of a slide; None if there are none.

        Raises:
            ImageLookupError: if there are several, naming them.
        """
        above, last = os.path.split(name)
        listing = self._list(above)
        outlined = listing.outlined(last)
        return Path(self._only(outlined, name, listing)) if outlined else None

    @staticmethod
    def _only(fitting: list[str], name: str, listing: _Listing) -> str:
        if len(fitting) == 1:
            return os.path.join(listing.folder, fitting[0])
        raise ImageLookupError(
            f"'{name}' fits {len(fitting)} files in '{listing.folder}': {list_some(fitting)}; "
            "write the full file name in the table"
        )


class FeatureFolder(ImageFolder):
    """The feature files of a folder, found by the names of slides, with or without folders and suffix."""

    noun = "feature file"

    @staticmethod
    def is_image_name(name: str) -> bool:
        """Whether a file may hold features by its name."""
        return name.lower().endswith(FEATURE_SUFFIX)

    def find_text(self, name: str) -> str:
        """`find`, as text."""
        stems = dict.fromkeys((name.removesuffix(FEATURE_SUFFIX), split_suffix(name)[0]))
        found = [path for stem in stems if os.path.isfile(path := os.path.join(self.root, f"{stem}{FEATURE_SUFFIX}"))]
        if not found:
            raise ImageLookupError(f"no file '{split_suffix(name)[0]}{FEATURE_SUFFIX}' in '{self.root}'")
        if len(found) > 1:
            raise ImageLookupError(f"'{name}' fits {len(found)} files in '{self.root}'; write the full name")
        return found[0]

    def image_id(self, path: str | Path) -> str:
        """Id of a slide: the path of its file below the folder, without suffix."""
        relative = os.path.relpath(os.path.abspath(path), os.path.abspath(self.root))
        name = os.fspath(path) if relative.startswith(os.pardir) else relative
        return name.removesuffix(FEATURE_SUFFIX).replace(os.sep, "/")


class _Listing:
    """The files of one folder; tables are made when they are first needed."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        entries = os.scandir(folder) if os.path.isdir(folder) else ()
        self.names = sorted(e.name for e in entries if e.is_file() or e.name.lower().endswith(".zarr"))

    def fitting(self, name: str) -> Sequence[str]:
        """The files that `name` fits best."""
        if name in self._exact:
            return [name]
        found = self._loose.get(_loose(name))
        if found or split_suffix(name)[1]:
            return found
        return self._stems.get(name) or self.loose_stems.get(_loose(name))

    @cached_property
    def _exact(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def _loose(self) -> NameTable:
        return NameTable((_loose(name), name) for name in self.names)

    @cached_property
    def _stems(self) -> NameTable:
        return NameTable((stem, name) for name in self.names for stem in _stems(name))

    @cached_property
    def loose_stems(self) -> NameTable:
        """Files by their stems, in any case."""
        return NameTable((_loose(stem), name) for name in self.names for stem in _stems(name))

    def outlined(self, name: str) -> list[str]:
        """The files of annotations that a slide's name fits."""
        stems = {_loose(name), _loose(split_suffix(name)[0])}
        return sorted({one for stem in stems for one in self._outlines.get(stem)})

    @cached_property
    def _outlines(self) -> NameTable:
        files = [(*os.path.splitext(name), name) for name in self.names]
        found = [(stem, name) for stem, end, name in files if end.lower() in OUTLINE_SUFFIXES]
        return NameTable((_loose(one), name) for stem, name in found for one in {stem, split_suffix(stem)[0]})


def _loose(name: str) -> str:
    """A name without regard to case and Unicode form."""
    return nfc(name).lower()
