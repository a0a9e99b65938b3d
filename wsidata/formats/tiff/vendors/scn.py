"""Layout of Leica SCN, a TIFF with a photo of the glass and one or more scanned regions in levels.

tifffile lists the images, but the first of them is the photo of the glass ("macro"). Which is which, the position of
each and its scale are in the XML of the first directory (namespace scn/2010/10/01), in nanometers.
"""

from __future__ import annotations

from collections import defaultdict
from xml.etree import ElementTree

import tifffile

from wsidata.errors import ForeignFormatError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.channels import ImageChoice
from wsidata.formats.metadata import positive_number
from wsidata.formats.tiff.layout import TiffLayout, levels_by_size
from wsidata.formats.tiff.metadata import vendor_metadata
from wsidata.remote.address import SlidePath

UM_PER_NM = 1e-3


def scn_layout(tiff: tifffile.TiffFile, path: SlidePath, choice: ImageChoice) -> TiffLayout:
    """The scanned region of an SCN, or the chosen one, and its focal plane.

    Raises:
        ForeignFormatError: if several regions were scanned, which would have to be placed on one canvas.
        UnsupportedImageError: if there is none, or it is a stack of focal planes.
        UnreadableImageError: if the XML names directories that are not there.
    """
    root = ElementTree.fromstring(tiff.pages.first.description)
    collection = root.find("{*}collection")
    elements = [] if collection is None else collection.findall("{*}image")
    glass = (None, None) if collection is None else (collection.get("sizeX"), collection.get("sizeY"))
    regions = [element for element in elements if not _is_macro(element, glass)]
    if not regions:
        raise UnsupportedImageError(f"'{path}' is an SCN without a scanned region: it holds a photo of the glass only.")
    names_of_regions = [region.get("name", "unnamed") for region in regions]
    at = choice.place("series", names_of_regions, path)
    if len(regions) > 1 and choice.series is None:
        names = ", ".join(f"{number}: {name}" for number, name in enumerate(names_of_regions))
        raise ForeignFormatError(
            f"'{path}' is an SCN of {len(regions)} scanned regions ({names}), which would have to be placed on one "
            "canvas. Choose one of them: Slide(path, series=...)."
        )
    region = regions[at]
    planes = sorted({int(dimension.get("z", "0")) for dimension in region.findall("{*}pixels/{*}dimension")})
    z = planes[choice.place("z", range(len(planes)), path)]
    choice.place("t", range(1), path)
    if len(planes) > 1 and choice.z is None:
        raise UnsupportedImageError(
            f"'{path}' holds a stack of {len(planes)} focal planes. Choose one: Slide(path, ...) takes z=0 to "
            f"z={len(planes) - 1}."
        )
    pages = tuple(
        tuple(_page(tiff, number, path, width) for number in directories) for width, directories in _levels(region, z)
    )
    levels = levels_by_size([level[0] for level in pages])
    power = positive_number(region.findtext(".//{*}objective"))
    properties = {"scn.name": region.get("name", "unnamed")}
    metadata = vendor_metadata(pages[0][0], "Leica XML", "view size", _spacing(region), power, properties)
    channels = region.findall(".//{*}channel")
    channel_names = tuple(channel.get("name") or channel.get("index") or "" for channel in channels)
    macros = [_page(tiff, _levels(element)[0][1][0], path) for element in elements if _is_macro(element, glass)]
    associated = {"macro": macros[0]} if macros else {}
    return TiffLayout("scn", levels, pages, metadata, channel_names, associated)


def _is_macro(element: ElementTree.Element, glass: tuple[str | None, str | None]) -> bool:
    """Whether an image shows the whole glass, of this (width, height)."""
    view = element.find("{*}view")
    return view is not None and tuple(map(view.get, ("offsetX", "offsetY", "sizeX", "sizeY"))) == ("0", "0", *glass)


def _levels(element: ElementTree.Element, z: int = 0) -> list[tuple[int, list[int]]]:
    """Width and directories, one per channel, of each level of a focal plane of an image, finest first."""
    by_width: dict[int, dict[int, int]] = defaultdict(dict)
    for dimension in element.findall("{*}pixels/{*}dimension"):
        if int(dimension.get("z", "0")) == z:
            by_width[int(dimension.get("sizeX", "0"))][int(dimension.get("c", "0"))] = int(dimension.get("ifd", "-1"))
    return [(width, [by_width[width][c] for c in sorted(by_width[width])]) for width in sorted(by_width, reverse=True)]


def _spacing(element: ElementTree.Element) -> tuple[float, float] | None:
    """Resolution in um/px, per axis: size of the view over size of the image."""
    view, pixels = element.find("{*}view"), element.find("{*}pixels")
    if view is None or pixels is None:
        return None
    view_x, view_y, pixels_x, pixels_y = (
        positive_number(part.get(key)) for part in (view, pixels) for key in ("sizeX", "sizeY")
    )
    if view_x is None or view_y is None or pixels_x is None or pixels_y is None:
        return None
    return view_x * UM_PER_NM / pixels_x, view_y * UM_PER_NM / pixels_y


def _page(tiff: tifffile.TiffFile, number: int, path: SlidePath, width: int | None = None) -> tifffile.TiffPage:
    """A directory by its number, checked to be as wide as the XML says, but for a tile of padding."""
    if not 0 <= number < len(tiff.pages):
        raise UnreadableImageError(
            f"'{path}' is damaged: its XML names TIFF directory {number} of {len(tiff.pages)}. Copy it again."
        )
    page = tiff.pages[number]
    if width is not None and not 0 <= page.imagewidth - width < max(page.tilewidth, 1):
        raise UnreadableImageError(
            f"'{path}' is damaged: TIFF directory {number} is {page.imagewidth} pixels wide, its XML says {width}. "
            "Copy it again from its source."
        )
    return page
