"""Layout of Ventana (Roche) BIF, whose camera tiles may overlap on the glass.

Tiles are stored side by side: read as a plain TIFF, a BIF shows every strip of tissue on the seams twice. The XMP
packet of level 0 lists, for each pair of neighboring tiles, by how many pixels they overlap. Where all are 0 the file
is read as a plain TIFF; otherwise it has to be stitched, which OpenSlide does.

The packet of directory 0 (`iScan`) has the spacing (ScanRes, um/px) and the objective power.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

import tifffile

from wsidata.errors import ForeignFormatError, UnsupportedImageError
from wsidata.formats.metadata import positive_number
from wsidata.formats.tiff.layout import TiffLayout, levels_by_size
from wsidata.formats.tiff.metadata import parse_xml, vendor_metadata
from wsidata.remote.address import SlidePath

XMP_TAG = 700
LEVEL = re.compile(r"\blevel=(\d+)")
ASSOCIATED = {"Label Image": "macro", "Label_Image": "macro", "Thumbnail": "thumbnail"}


def is_bif(tiff: tifffile.TiffFile) -> bool:
    """Whether a TIFF is a Ventana slide by its XMP packet, whatever program saved it."""
    return bool(tiff.is_bif) or _scan(tiff.pages.first) is not None


def bif_layout(tiff: tifffile.TiffFile, path: SlidePath) -> TiffLayout:
    """Levels of a BIF whose tiles do not overlap.

    Raises:
        ForeignFormatError: if its tiles overlap, or do not say whether they do.
        UnsupportedImageError: if it holds several focal planes, or no level.
    """
    by_level: dict[int, tifffile.TiffPage] = {}
    associated: dict[str, tifffile.TiffPage] = {}
    for page in tiff.pages:
        match = LEVEL.search(page.description)
        if match is not None:
            by_level[int(match[1])] = page
        elif page.description.strip() in ASSOCIATED:
            associated[ASSOCIATED[page.description.strip()]] = page
    if not by_level:
        raise UnsupportedImageError(f"'{path}' is a Ventana BIF without a level. Export it again from the scanner.")
    scan = next((dict(found.attrib) for found in map(_scan, tiff.pages) if found is not None), {})
    if scan.get("Z-layers", "1") != "1":
        raise UnsupportedImageError(f"'{path}' holds {scan['Z-layers']} focal planes. Export the one you need.")
    pages = [by_level[number] for number in sorted(by_level)]
    _check_overlaps(_xmp(pages[0]), path)
    mpp = positive_number(scan.get("ScanRes"))
    metadata = vendor_metadata(
        pages[0],
        "iScan XMP",
        "ScanRes",
        None if mpp is None else (mpp, mpp),
        positive_number(scan.get("Magnification")),
        {f"ventana.{key}": value for key, value in scan.items()},
    )
    return TiffLayout("bif", levels_by_size(pages), tuple((page,) for page in pages), metadata, (), associated)


def _check_overlaps(packet: ElementTree.Element | None, path: SlidePath) -> None:
    joints = [] if packet is None else packet.findall(".//TileJointInfo")
    overlaps = [joint.get(key, "unknown") for joint in joints for key in ("OverlapX", "OverlapY")]
    if overlaps and all(overlap == "0" for overlap in overlaps):
        return
    wrong = sum(overlap != "0" for overlap in overlaps)
    found = f"{wrong} of {len(overlaps)} stated overlaps are not 0" if overlaps else "it does not say by how much"
    raise ForeignFormatError(
        f"'{path}' is a Ventana BIF whose tiles overlap ({found}) and have to be stitched, which is not supported: "
        "read as a plain TIFF, tissue on the seams would come twice. Convert it to a pyramidal TIFF."
    )


def _scan(page: tifffile.TiffPage) -> ElementTree.Element | None:
    """The iScan element in the XMP packet of a directory, or None."""
    packet = _xmp(page)
    return packet if packet is None or packet.tag == "iScan" else packet.find(".//iScan")


def _xmp(page: tifffile.TiffPage) -> ElementTree.Element | None:
    """The XMP packet of a directory; None where there is none, or no XML."""
    value = page.tags.valueof(XMP_TAG, b"")
    text = value if isinstance(value, bytes) else str(value).encode()
    return parse_xml(text.rstrip(b"\0 \n"))
