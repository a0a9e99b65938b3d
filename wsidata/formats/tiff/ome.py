"""Checks of the XML of an OME-TIFF, before anything it names is opened or counted.

The XML may place planes in other files, anywhere on the disk, which tifffile opens; and it may state more planes than
there is memory for their list. OME-TIFF specification, "TiffData" and "UUID".
"""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import tifffile

from wsidata.errors import UnsupportedImageError
from wsidata.formats.limits import check_limit
from wsidata.formats.tiff.metadata import parse_xml
from wsidata.remote.address import SlidePath


def check_ome(tiff: tifffile.TiffFile, path: SlidePath) -> None:
    """Check that the image of an OME-TIFF lies in this file, and is of a reasonable number of planes; other TIFFs pass.

    Images that lie in other files of a set are left out of the XML, so that tifffile does not open those.

    Raises:
        UnsupportedImageError: if its planes are spread over files, or its first image lies in another one.
        LimitExceededError: if there are too many planes.
    """
    root = parse_xml(tiff.ome_metadata) if tiff.is_ome else None
    if root is None:
        return
    for element in _named(root, "BinaryOnly"):
        companion = Path(element.get("MetadataFile", "")).name
        raise UnsupportedImageError(
            f"'{path}' is one file of an OME-TIFF set, a plane or some of them: what it shows is described in "
            f"'{companion}'. Save the set as one file (bfconvert {companion} slide.ome.tif)."
        )
    if _leave_out_other_files(root, path):
        tiff._omexml = ElementTree.tostring(root, encoding="unicode")  # what tifffile reads instead of the file's own
    planes = sum(_planes(pixels) for pixels in _named(root, "Pixels"))
    listed = sum(_listed(data, len(tiff.pages)) for data in _named(root, "TiffData"))
    along = sum(_steps(element) for element in root.iter() if _name(element).startswith("ModuloAlong"))
    found = max(planes, listed, along)
    check_limit("max_planes", found, path, f"{found:,} planes in its OME-XML")


def _leave_out_other_files(root: Element, path: SlidePath) -> bool:
    """Remove images in other files, by their identifiers, as tifffile does: a renamed file keeps its own."""
    own, is_changed = root.get("UUID"), False
    for number, image in enumerate([child for child in root if _name(child).endswith("Image")]):
        elsewhere = []
        for element in _named(image, "UUID"):
            name = element.get("FileName", "")
            if own is None and name.lower() == path.name.lower():
                own = element.text
            elsewhere += [name] if element.text != own else []
        if not elsewhere:
            continue
        other = Path(elsewhere[0]).name
        is_split = len(elsewhere) < len(_named(image, "TiffData"))
        is_there = not isinstance(path, Path) or path.with_name(other).exists()  # a server cannot be asked for it
        if is_split or (number == 0 and is_there):
            where = "its planes lie in others, too" if is_split else "its first image lies in another one"
            raise UnsupportedImageError(
                f"'{path}' is spread over several files, one for each of its images or planes; {where} "
                f"('{other}'), which is not opened from here. Save it as one file (bfconvert)."
            )
        root.remove(image)
        is_changed = True
    return is_changed


def _planes(pixels: Element) -> int:
    return math.prod(_number(pixels.get(f"Size{axis}"), 1) for axis in "CZT")


def _listed(data: Element, directories: int) -> int:
    """Planes that an element places: as many as stated, one if it names a directory, or all there are."""
    stated = data.get("PlaneCount") or data.get("NumPlanes")
    return _number(stated, 1 if "IFD" in data.attrib else directories)


def _steps(element: Element) -> int:
    start, stop, step = (
        float(element.get(name) or default) for name, default in (("Start", 0), ("End", 0), ("Step", 1))
    )
    count = abs((stop - start) / step) if step else math.inf
    return math.ceil(min(count, 1e18)) if not math.isnan(count) else 0


def _number(text: str | None, default: int) -> int:
    return abs(int(text)) if text and text.strip().lstrip("+-").isdecimal() else default


def _named(root: Element, name: str) -> list[Element]:
    return [element for element in root.iter() if _name(element).endswith(name)]


def _name(element: Element) -> str:
    """Without the namespace, which is that of a version of the schema."""
    return str(element.tag).rpartition("}")[2]
