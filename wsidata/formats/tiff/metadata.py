"""Resolution (um/px, mpp), magnification and other metadata of a TIFF in its many dialects.

Sources, most trustworthy first. A vendor's own text is written by the scanner; the resolution tags are often rewritten,
or filled with 72 dpi, by the program that saved the file last.

1. OME-XML: PhysicalSizeX/Y with its unit.
2. The text of Aperio, Leica and Ventana: see `vendors`.
3. Philips XML: DICOM_PIXEL_SPACING, in mm, (row, column).
4. XResolution / YResolution in the unit that a description of ImageJ states, which is where ImageJ keeps it.
5. XResolution / YResolution with ResolutionUnit. An absent unit means inch (TIFF 6.0, page 38); NONE means no length.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

import tifffile

from wsidata.formats.metadata import SlideMetadata, StatedSpacing, positive_number

CHECKED = ("OME-XML", "Aperio description", "Philips XML", "ImageJ description", "TIFF resolution")
UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0, 4: 1_000.0, 5: 1.0}
"""ResolutionUnit: inch, centimeter, and the common extensions millimeter and micrometer."""
INCH = 2
UM_PER_OME_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "pm": 1e-6, "Å": 1e-4}
UM_PER_IMAGEJ_UNIT = {**UM_PER_OME_UNIT, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "inch": 25_400.0}
PHILIPS_SPACING = (
    ".//*/DataObject[@ObjectType='PixelDataRepresentation']/Attribute[@Name='DICOM_PIXEL_SPACING']"  # one per level
)


def read_metadata(tiff: tifffile.TiffFile, page: tifffile.TiffPage, kind: str) -> SlideMetadata:
    """Metadata of a TIFF whose dialect (`kind`, tifffile's name for it) has no module of its own, by its level 0."""
    philips = philips_spacings(tiff) if tiff.is_philips else []
    spacings = [
        *_ome_spacing(tiff, page),
        *(StatedSpacing("Philips XML (DICOM_PIXEL_SPACING)", mpp) for mpp in philips[:1]),
        *_imagej_spacing(tiff.pages.first if kind == "imagej" else page),  # which alone describes all planes
        *resolution_tags(page),
    ]
    properties = {"tiff.kind": kind, "tiff.description": page.description}
    power = (_ndpi_lens(page) if kind == "ndpi" else None) or _ome_power(tiff, page)
    return SlideMetadata(tuple(spacings), power, CHECKED, properties, icc_profile(page))


def vendor_metadata(
    page: tifffile.TiffPage,
    source: str,
    field: str,
    mpp: tuple[float, float] | None,
    power: float | None,
    properties: dict[str, str],
) -> SlideMetadata:
    """Metadata of a TIFF with a vendor's own text.

    Args:
        page: The directory of level 0.
        source: Name of the text.
        field: Where in it the resolution is stated.
        mpp: The resolution in um/px, (x, y), or None where the text does not state it.
        power: Objective power, or None.
        properties: Everything else.
    """
    stated = () if mpp is None else (StatedSpacing(f"{source} ({field})", mpp),)
    spacings, checked = (*stated, *resolution_tags(page)), (source, "TIFF resolution")
    return SlideMetadata(spacings, power, checked, properties, icc_profile(page))


def icc_profile(page: tifffile.TiffPage) -> bytes | None:
    """The ICC profile embedded in a directory."""
    profile = page.tags.valueof(34675)
    return None if profile is None else bytes(profile)


def philips_spacings(tiff: tifffile.TiffFile) -> list[tuple[float, float]]:
    """Resolution of each level of a Philips TIFF in um/px, (x, y), level 0 first; empty where not stated."""
    root = parse_xml(tiff.philips_metadata)
    if root is None:
        return []
    spacings = []
    for element in root.findall(PHILIPS_SPACING):
        sides = [positive_number(part) for part in (element.text or "").replace('"', "").split()]
        if len(sides) != 2 or sides[0] is None or sides[1] is None:
            return []
        spacings.append((sides[1] * 1e3, sides[0] * 1e3))
    return spacings


def resolution_tags(page: tifffile.TiffPage) -> tuple[StatedSpacing, ...]:
    """Resolution stated by XResolution, YResolution and ResolutionUnit; empty where one of them is absent."""
    um_per_unit = UM_PER_UNIT.get(int(page.tags.valueof("ResolutionUnit", INCH)))
    x, y = (_rational(page, name) for name in ("XResolution", "YResolution"))
    if um_per_unit is None or x is None or y is None:
        return ()
    return (StatedSpacing("TIFF resolution", (um_per_unit / x, um_per_unit / y)),)


def _imagej_spacing(page: tifffile.TiffPage) -> tuple[StatedSpacing, ...]:
    """Resolution by a description of ImageJ: the tags are pixels per its `unit`, whatever ResolutionUnit says."""
    lines = str(page.description).splitlines()
    if not lines or not lines[0].startswith("ImageJ="):
        return ()
    stated = {key: value for key, _, value in (line.partition("=") for line in lines)}
    unit = stated.get("unit", "")
    um = [
        UM_PER_IMAGEJ_UNIT.get(re.sub(r"\\u00b5", "µ", one.strip(), flags=re.IGNORECASE))
        for one in (unit, stated.get("yunit", unit))
    ]
    x, y = (_rational(page, name) for name in ("XResolution", "YResolution"))
    if um[0] is None or um[1] is None or x is None or y is None:
        return ()
    return (StatedSpacing("ImageJ description (unit)", (um[0] / x, um[1] / y)),)


def _rational(page: tifffile.TiffPage, name: str) -> float | None:
    """Value of a rational tag; None where absent, zero or divided by zero (0/1000 and 1/0 both exist in the wild)."""
    value = page.tags.valueof(name, 0)
    numerator, denominator = value if isinstance(value, tuple) else (value, 1)
    return numerator / denominator if numerator > 0 and denominator > 0 else None


def _ome_spacing(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> list[StatedSpacing]:
    image = _ome_image(tiff, page)
    pixels = None if image is None else image.find("{*}Pixels")
    if pixels is None:
        return []
    sizes = []
    for axis in "XY":
        size = positive_number(pixels.get(f"PhysicalSize{axis}"))
        um_per_unit = UM_PER_OME_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size is None or um_per_unit is None:
            return []
        sizes.append(size * um_per_unit)
    return [StatedSpacing("OME-XML (PhysicalSizeX)", (sizes[0], sizes[1]))]


def ome_channel_names(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[str, ...]:
    """Names of the channels of a directory's image; the number of a channel without one."""
    image = _ome_image(tiff, page)
    channels = [] if image is None else image.findall("{*}Pixels/{*}Channel")
    if any(int(channel.get("SamplesPerPixel", "1")) > 1 for channel in channels):  # RGB
        return ()
    return tuple(channel.get("Name") or str(number) for number, channel in enumerate(channels))


def _ome_power(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> float | None:
    """Power of the objective that the image names, or of the first one."""
    image, root = _ome_image(tiff, page), parse_xml(tiff.ome_metadata)
    if image is None or root is None:
        return None
    settings = image.find("{*}ObjectiveSettings")
    named = None if settings is None else settings.get("ID")
    objectives = [one for one in root.findall(".//{*}Objective") if named is None or one.get("ID") == named]
    return positive_number(objectives[0].get("NominalMagnification")) if objectives else None


def _ome_image(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> ElementTree.Element | None:
    """The image element of a directory, whatever the version of the schema (which is its XML namespace).

    The XML may list images of other files of a set, and several of this one: it is the one of this file and size that
    places the directory, or else the first one.
    """
    root, found = parse_xml(tiff.ome_metadata), []
    for image in () if root is None else root.findall("{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            continue
        files = {element.text for element in pixels.findall("{*}TiffData/{*}UUID")}
        size = str(page.imagewidth), str(page.imagelength)
        is_here = not files or root is None or root.get("UUID") is None or root.get("UUID") in files
        if is_here and (pixels.get("SizeX"), pixels.get("SizeY")) == size:
            found.append((image, any(_places(data, page.index) for data in pixels.findall("{*}TiffData"))))
    return next((image for image, is_placed in found if is_placed), found[0][0] if found else None)


def _places(data: ElementTree.Element, directory: object) -> bool:
    """Whether an element of OME-XML names a directory by its number, or is of several planes of which it is one."""
    first, count = (data.get(name, "1") for name in ("IFD", "PlaneCount"))
    is_stated = "IFD" in data.attrib and first.isdecimal() and count.isdecimal() and isinstance(directory, int)
    return is_stated and int(first) <= int(str(directory)) < int(first) + int(count)


def _ndpi_lens(page: tifffile.TiffPage) -> float | None:
    return positive_number(page.tags.valueof(65421))


def parse_xml(text: str | bytes | None) -> ElementTree.Element | None:
    """The root element of a text; None where there is none, or no XML."""
    if not text:
        return None
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
