"""Writing a slide, a level or a region of it as a pyramidal OME-TIFF.

The file is one image of the OME model: RGB samples side by side, or a plane for each channel; tiles; coarser levels as
SubIFDs, each half the one before (mean of 2 x 2). https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import pyvips
import tifffile

from wsidata.formats.codecs.icc import ICC_FIELD
from wsidata.formats.vips import naming_errors
from wsidata.slides.slide import Slide
from wsidata.utils.files import atomic_write
from wsidata.utils.messages import check_choice

Compression = Literal["deflate", "lzw", "none", "jpeg"]
NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
OME_TYPES = {"uchar": "uint8", "ushort": "uint16", "float": "float"}
"""OME's names of libvips' types of samples."""
NO_UNIT = 1
"""Value of ResolutionUnit by which the resolution tags are no lengths."""
BIG_BYTES = 2 * 1024**3
"""Decoded size from which a file is a BigTIFF."""


def write_ome_tiff(
    slide: Slide,
    path: str | Path,
    *,
    region: tuple[float, float, float, float] | None = None,
    compression: Compression = "deflate",
    quality: int = 90,
    tile_px: int = 256,
    overwrite: bool = False,
    **resolution: Any,
) -> Path:
    """Write a slide at one resolution, or a region of it, as a pyramidal OME-TIFF.

    Its level 0 has the pixels of `slide.image(**resolution)`, to the last bit unless `compression` is "jpeg"; its
    resolution (um/px), objective power, channel names and color profile are kept. Label and macro are left out, as a
    label often shows a patient's name. Rows are decoded and written as they come, in bounded memory, and the file is
    written whole or not at all.

    Args:
        slide: The open slide. Chosen channels are written as planes, in their own type.
        path: The file to write, such as "region.ome.tif". Its folder is created.
        region: (x, y, width, height) in pixels of level 0, inside the slide; each edge is that of the nearest pixel of
            the result. None: the whole slide.
        compression: "deflate", "lzw" and "none" keep every bit; "jpeg" does not.
        quality: Of JPEG, 1 to 100.
        tile_px: Side of the tiles, a multiple of 16.
        overwrite: Replace an existing file.
        **resolution: As for `Slide.image`; none means level 0.

    Returns:
        The path.

    Raises:
        FileExistsError: if there is such a file, and not `overwrite`; or if it is the slide itself.
        ValueError: if the region is not inside the slide or less than a pixel, for JPEG of other than 8-bit RGB, or a
            name that does not end in .tif or .tiff.
        UnreadableImageError: if a part of the slide is damaged.
    """
    path = Path(path)
    check_choice("compression", compression, ("deflate", "lzw", "none", "jpeg"))
    if tile_px < 16 or tile_px % 16:
        raise ValueError(f"tile_px={tile_px} must be a multiple of 16, as the TIFF standard requires.")
    if path.exists() and (not overwrite or _is_file_of(slide, path)):
        raise FileExistsError(
            f"'{path}' exists{' and is the slide itself' if overwrite else ''}. Choose another name"
            f"{'' if overwrite else ', or pass overwrite=True'}."
        )
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"'{path}' would be a TIFF of another name. Let it end in .ome.tif.")
    image = slide.image(**resolution, keep_tiles=True)
    down = slide.downsample_at(**resolution)
    if region is not None:
        image = image.crop(*_pixels_of(region, slide, down, (image.width, image.height)))
    if compression == "jpeg" and (image.bands, image.format) != (3, "uchar"):
        raise ValueError(f"JPEG is for 8-bit RGB; '{slide.path.name}' is read otherwise. Pass compression='deflate'.")
    xml = _ome_xml(slide, image, down)
    is_big = image.width * image.height * image.bands * (4 if image.format == "float" else 2) > BIG_BYTES
    is_rgb = slide.options.has_colors
    width, height = image.width, image.height
    if not is_rgb:  # planes below each other, which libvips writes as pages
        image = pyvips.Image.arrayjoin(image.bandsplit(), across=1)
    image = image.copy(interpretation="srgb" if is_rgb else "b-w" if image.format == "uchar" else "grey16")
    if slide.mpp is not None:
        x_mm, y_mm = (1000 / (mpp * step) for mpp, step in zip(slide.mpp, down, strict=True))
        image = image.copy(xres=x_mm, yres=y_mm)
    image.set_type(pyvips.GValue.gint_type, "page-height", height)
    image.set_type(pyvips.GValue.gstr_type, "image-description", xml)
    profile = None if slide.options.apply_icc or not is_rgb else slide.icc_profile
    if profile:
        image.set_type(pyvips.GValue.blob_type, ICC_FIELD, profile)
    with atomic_write(path) as unfinished, naming_errors(slide.path):
        image.tiffsave(
            str(unfinished), tile=True, tile_width=tile_px, tile_height=tile_px, pyramid=True, subifd=True,
            depth="onetile" if min(width, height) > 1 else "one", bigtiff=is_big, compression=compression, Q=quality,
            predictor="float" if image.format == "float" else "horizontal", region_shrink="mean", resunit="cm",
        )  # fmt: skip
        if slide.mpp is None:  # libvips states its default as a resolution
            with tifffile.TiffFile(unfinished, mode="r+b") as tiff:
                for page in tiff.pages:
                    page.tags["ResolutionUnit"].overwrite(NO_UNIT)
    return path


def _is_file_of(slide: Slide, path: Path) -> bool:
    """Whether a path that exists is the file of a slide."""
    return isinstance(slide.path, Path) and slide.path.exists() and path.samefile(slide.path)


def _pixels_of(
    region: tuple[float, float, float, float], slide: Slide, down: tuple[float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(x, y, width, height) in pixels of the result of a region in those of level 0."""
    spans = [
        (math.floor(start / step + 0.5), min(side, math.floor((start + length) / step + 0.5)))
        for start, length, step, side, whole in zip(
            region[:2], region[2:], down, size, slide.levels[0].size, strict=True
        )
        if start >= 0 and start + length <= whole  # neither is true of what is no number
    ]
    if len(spans) < 2 or any(first >= end for first, end in spans):
        raise ValueError(
            f"region={tuple(region)} (x, y, width, height in pixels of level 0) must lie inside slide "
            f"'{slide.path.name}' of {slide.width}x{slide.height} pixels, and be a pixel of the result at least, which "
            f"is {down[0]:.4g} x {down[1]:.4g} of level 0."
        )
    (left, right), (top, bottom) = spans
    return left, top, right - left, bottom - top


def _ome_xml(slide: Slide, image: pyvips.Image, down: tuple[float, float]) -> str:
    """The description of the file, in ASCII."""
    root = ElementTree.Element("OME", xmlns=NAMESPACE)
    power = None if slide.magnification is None else slide.magnification * 2 / sum(down)
    if power is not None:
        instrument = ElementTree.SubElement(root, "Instrument", ID="Instrument:0")
        ElementTree.SubElement(instrument, "Objective", ID="Objective:0:0", NominalMagnification=f"{power:.6g}")
    element = ElementTree.SubElement(root, "Image", ID="Image:0", Name="slide")
    if power is not None:
        ElementTree.SubElement(element, "InstrumentRef", ID="Instrument:0")
        ElementTree.SubElement(element, "ObjectiveSettings", ID="Objective:0:0")
    names = ("RGB",) if slide.options.has_colors else slide.channel_names
    sizes = {"SizeX": image.width, "SizeY": image.height, "SizeC": image.bands, "SizeZ": 1, "SizeT": 1}
    pixels = ElementTree.SubElement(
        element, "Pixels", {key: str(value) for key, value in sizes.items()}, ID="Pixels:0", DimensionOrder="XYCZT",
        Type=OME_TYPES[image.format], BigEndian="false",
    )  # fmt: skip
    if slide.mpp is not None:
        for axis, mpp, step in zip("XY", slide.mpp, down, strict=True):  # in um where no unit is stated
            pixels.set(f"PhysicalSize{axis}", repr(mpp) if step == 1 else f"{mpp * step:.15g}")
    for number, name in enumerate(names):
        samples = str(image.bands // len(names))
        ElementTree.SubElement(pixels, "Channel", ID=f"Channel:0:{number}", Name=name, SamplesPerPixel=samples)
    for number in range(len(names)):
        ElementTree.SubElement(pixels, "TiffData", FirstC=str(number), IFD=str(number), PlaneCount="1")
    text: bytes = ElementTree.tostring(root, encoding="us-ascii")
    return text.decode()
