"""Pictures beside the slide (label, macro, thumbnail): listed when a slide is opened, decoded only when asked for.

A label shows a patient's name more often than not, so nothing may touch it by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pyvips
import tifffile

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.segments import Segments
from wsidata.formats.tiff_checks import check_picture, shown

Loaders = Mapping[str, Callable[[], pyvips.Image]]
"""For each associated picture, what decodes it to RGB."""


class AssociatedImages(Mapping[str, pyvips.Image]):
    """Names of the pictures, and the pictures, each decoded when it is looked up.

    Args:
        loaders: What decodes each.
        path: The slide, for errors.
    """

    def __init__(self, loaders: Loaders, path: Path) -> None:
        self._loaders, self._path = loaders, path

    def __getitem__(self, name: str) -> pyvips.Image:
        if name not in self._loaders:
            listing = ", ".join(f"'{one}'" for one in self._loaders) or "none"
            raise KeyError(f"slide '{self._path.name}' has no associated image '{name}' (it has: {listing}).")
        return self._loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def __contains__(self, name: object) -> bool:  # Mapping's own would decode the picture
        return name in self._loaders

    def __repr__(self) -> str:
        return f"AssociatedImages({', '.join(self._loaders) or 'none'})"


def tiff_loaders(pages: Mapping[str, tifffile.TiffPage], path: Path) -> Loaders:
    """Loaders for TIFF directories.

    Args:
        pages: Directories by name, of an open file.
        path: The file, for errors.
    """
    return {name: partial(_read_page, page, path) for name, page in pages.items()}


def _read_page(page: tifffile.TiffPage, path: Path) -> pyvips.Image:
    if page.parent.filehandle.closed:
        raise ValueError(f"slide '{path}' is closed. Read its associated images before closing it.")
    check_picture(page, path)
    if page.imagewidth * page.imagelength == 0:
        raise UnsupportedImageError(f"TIFF directory {page.index} of '{path}' is empty.")
    segments = Segments(page, path, page.imagewidth, page.imagelength)
    segments.check_extent(path.stat().st_size)
    pixels = segments.read(0, 0, page.imagewidth, page.imagelength)
    try:
        return shown(page, pixels, path.name).copy_memory()
    except pyvips.Error as error:
        raise UnreadableImageError(f"TIFF directory {page.index} of '{path}' could not be shown: {error}.") from error
