"""Layout of Akoya (PerkinElmer, Vectra) QPTIFF, whose directories state type and channel in XML.

    channels of level 0 | an RGB thumbnail | channels of level 1 | ... | macro ("Overview") | label

Brightfield slides have one RGB directory per level, fluorescence ones one directory per channel. tifffile goes by the
order and by exact halves of the size; here the `ImageType` of each directory decides.
"""

from __future__ import annotations

from xml.etree import ElementTree

import tifffile

from wsidata.errors import UnsupportedImageError
from wsidata.formats.metadata import SlideMetadata, positive_number
from wsidata.formats.tiff.layout import TiffLayout, levels_by_size
from wsidata.formats.tiff.metadata import icc_profile, parse_xml, resolution_tags
from wsidata.remote.address import SlidePath

LEVEL_TYPES = ("FullResolution", "ReducedResolution")
ASSOCIATED_TYPES = {"Thumbnail": "thumbnail", "Overview": "macro", "Label": "label"}


def qptiff_layout(tiff: tifffile.TiffFile, path: SlidePath) -> TiffLayout:
    """Levels and channels of a QPTIFF.

    Raises:
        UnsupportedImageError: if the levels differ in channels, or a directory does not say what it is.
    """
    by_size: dict[tuple[int, int], list[tifffile.TiffPage]] = {}
    associated: dict[str, tifffile.TiffPage] = {}
    names: list[str] = []
    descriptions = [(page, _description(page)) for page in tiff.pages]
    for page, description in descriptions:
        kind = description.findtext("ImageType") or ""
        if kind in LEVEL_TYPES:
            by_size.setdefault((page.imagewidth, page.imagelength), []).append(page)
        elif kind in ASSOCIATED_TYPES:
            associated[ASSOCIATED_TYPES[kind]] = page
        elif page.is_tiled:  # a level would be lost, and the numbers of those after it would mean others
            raise UnsupportedImageError(
                f"'{path}': TIFF directory {page.index} of this QPTIFF says it is '{kind}', which is unknown. "
                "Export it again as OME-TIFF (QuPath or bfconvert)."
            )
        if kind == "FullResolution":
            names.append(description.findtext("Name") or description.findtext("Biomarker") or str(len(names)))
    pages = tuple(tuple(by_size[size]) for size in sorted(by_size, reverse=True))
    if not pages or len({len(level) for level in pages}) != 1:
        counts = ", ".join(f"{width}x{height}: {len(found)}" for (width, height), found in by_size.items()) or "none"
        raise UnsupportedImageError(
            f"'{path}' is a QPTIFF whose levels have not the same number of channels ({counts}). Export it again as "
            "OME-TIFF (QuPath or bfconvert)."
        )
    base = pages[0][0]
    first = descriptions[0][1]
    properties = {f"qptiff.{child.tag}": child.text.strip() for child in first if child.text and child.text.strip()}
    objective = (first.findtext("Objective") or "").lower().rstrip("x ")
    metadata = SlideMetadata(
        resolution_tags(base), positive_number(objective), ("TIFF resolution",), properties, icc_profile(base)
    )
    levels = levels_by_size([level[0] for level in pages])
    is_rgb = len(pages[0]) == 1 and base.samplesperpixel > 1
    return TiffLayout("qptiff", levels, pages, metadata, () if is_rgb else tuple(names), associated)


def _description(page: tifffile.TiffPage) -> ElementTree.Element:
    """The XML of a directory; an empty element where there is none."""
    found = parse_xml(page.description)
    return ElementTree.Element("none") if found is None else found
