"""Layout of Aperio SVS, where levels are tiled, and thumbnail, label and macro photo lie in strips.

    level 0 | thumbnail | level 1 | level 2 | ... | label | macro

The first line of a directory's description names the program, the second says what the directory is. tifffile goes by
the order and by flags, which other programs change when they save an SVS again: libvips flags all levels as reduced
(tifffile then calls them thumbnail and label) or puts them into SubIFDs, and keeps the description, whatever it did to
the image. A label often shows a patient's name, so it must not pass under another name.
https://openslide.org/formats/aperio/
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import tifffile

from wsidata.formats.metadata import SlideMetadata, positive_number
from wsidata.formats.tiff.layout import TiffLayout, is_like, levels_by_size
from wsidata.formats.tiff.metadata import vendor_metadata

LABEL, MACRO = 1, 9
"""Values of NewSubfileType."""
SIZE = re.compile(r"^(?:\d+x\d+ \[\d+,\d+ )?(\d+)x(\d+)")
"""The second line of level 0: its size, or the size of the scan and the part of it that this is."""


def svs_layout(tiff: tifffile.TiffFile, base_pages: tuple[tifffile.TiffPage, ...]) -> TiffLayout:
    """Levels of an SVS, and its associated images by their right names.

    Level 0 has several directories where it is a stack, which `support.check_rgb` raises for.
    """
    base = base_pages[0]
    levels = {(base.imagewidth, base.imagelength): base}
    for page in _smaller(tiff, base):
        if page.is_tiled and is_like(page, base):
            levels.setdefault((page.imagewidth, page.imagelength), page)
    pages = [levels[size] for size in sorted(levels, reverse=True)]
    offsets = {page.offset for page in pages}
    sizes = {(page.imagewidth, page.imagelength) for page in pages if page.is_tiled}
    associated: dict[str, tifffile.TiffPage] = {}
    for page in (page for page in _smaller(tiff, base) if page.offset not in offsets):
        if page.is_tiled and (page.imagewidth, page.imagelength) in sizes:
            continue  # a level that is there twice
        name = _name(page)
        associated[name if name not in associated else f"{name} {page.index}"] = page
    return TiffLayout(
        "svs", levels_by_size(pages), (base_pages, *((page,) for page in pages[1:])), _metadata(base), (), associated
    )


def aperio_entries(description: str) -> dict[str, str]:
    """The `key = value` entries of an Aperio description, as text."""
    pairs = (item.split("=", maxsplit=1) for item in description.split("|")[1:] if "=" in item)
    return {key.strip(): value.strip() for key, value in pairs}


def _smaller(tiff: tifffile.TiffFile, base: tifffile.TiffPage) -> Iterator[tifffile.TiffPage]:
    """All directories but level 0."""
    for page in (*tiff.pages, *(base.pages or ())):
        page = page.aspage() if page.is_frame else page
        if page.offset != base.offset:
            yield page


def _second_line(page: tifffile.TiffPage) -> str:
    lines = page.description.splitlines()
    return lines[1].strip() if len(lines) > 1 else ""


def _name(page: tifffile.TiffPage) -> str:
    """Name of an associated image by its description; where that is lost, by its flag or place."""
    line = _second_line(page).lower()
    for name in ("label", "macro"):
        if line.startswith(name):
            return name
    if page.subfiletype in (LABEL, MACRO):
        return "label" if page.subfiletype == LABEL else "macro"
    return "thumbnail" if page.index == 1 else f"page {page.index}"


def _metadata(base: tifffile.TiffPage) -> SlideMetadata:
    entries = aperio_entries(base.description)
    mpp, power = positive_number(entries.get("MPP")), positive_number(entries.get("AppMag"))
    source = "Aperio description"
    stated = SIZE.match(_second_line(base))
    size = f"{base.imagewidth}x{base.imagelength}"
    if stated is not None and f"{stated[1]}x{stated[2]}" != size:  # saved again, smaller or cut
        source += f" (not believed: it is of an image of {stated[1]}x{stated[2]} px, and this one has {size})"
        mpp = power = None
    properties = {"tiff.kind": "svs", "tiff.description": base.description}
    properties |= {f"aperio.{key}": value for key, value in entries.items()}
    return vendor_metadata(base, source, "MPP", None if mpp is None else (mpp, mpp), power, properties)
