"""Writers of pyramidal TIFFs in the formats of scanners, tag for tag where it matters.

generic   levels are pages (or SubIFDs) flagged as reduced; spacing in the resolution tags
aperio    page 0 level 0, page 1 the thumbnail (in strips), then the other levels, then label and macro; spacing
          and power in the description
philips   every level padded to whole tiles; spacing of each level in the XML description
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyvips
import tifffile
from numpy.typing import NDArray

Vendor = Literal["generic", "aperio", "philips"]
Pixels = NDArray[np.uint8]

LABEL_SUBFILE, MACRO_SUBFILE, REDUCED_SUBFILE = 1, 9, 1
UM_PER_CM = 10_000.0


def halved_levels(pixels: Pixels, levels: int | None, tile_px: int) -> list[Pixels]:
    """Pyramid levels, each half the one before, by box filter; `levels` None continues until one fits into a tile."""
    made = [pixels]
    while (levels is None and max(made[-1].shape[:2]) > tile_px) or (levels is not None and len(made) < levels):
        if min(made[-1].shape[:2]) < 2:
            raise ValueError(f"levels={levels} is too many for {pixels.shape[1]}x{pixels.shape[0]} pixels.")
        made.append(shrink(made[-1], 2))
    return made


def shrink(pixels: Pixels, factor: int) -> Pixels:
    """Box-shrink by a whole factor; an incomplete last row or column is dropped, as scanners do."""
    return np.asarray(pyvips.Image.new_from_array(pixels).shrink(factor, factor).numpy(), dtype=np.uint8)


def write_generic(
    path: Path, levels: list[Pixels], *, mpp: float | None, tile_px: int, subifds: bool, options: dict[str, Any]
) -> None:
    """Write levels as pages flagged as reduced, or as SubIFDs of the first."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for index, pixels in enumerate(levels):
            children = len(levels) - 1 if subifds and index == 0 else None
            tiff.write(
                pixels,
                tile=(tile_px, tile_px),
                subfiletype=REDUCED_SUBFILE if index else 0,
                subifds=children,
                metadata=None,
                **_resolution(mpp, len(levels[0][0]) / len(pixels[0])),
                **options,
            )


def write_aperio(path: Path, levels: list[Pixels], *, mpp: float | None, tile_px: int, options: dict[str, Any]) -> None:
    """Write an SVS, with the thumbnail on page 1, label and macro at the end."""
    height, width = levels[0].shape[:2]
    header = f"Aperio Image Library v12.0.15 \r\n{width}x{height} [0,0 {width}x{height}] ({tile_px}x{tile_px})"
    entries = f"|AppMag = {_power(mpp)}|ScanScope ID = SYNTHETIC|MPP = {mpp:.4f}" if mpp is not None else ""
    thumbnail = shrink(levels[-1], max(1, max(levels[-1].shape[:2]) // 256))
    small = {"compression": "jpeg", "photometric": "rgb", "rowsperstrip": 16, "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for index, pixels in enumerate(levels):
            arrow = f" -> {pixels.shape[1]}x{pixels.shape[0]}" if index else ""
            text = f"{header}{arrow} JPEG/RGB Q=85{entries}"
            tiff.write(pixels, tile=(tile_px, tile_px), description=text, metadata=None, **options)
            if index == 0:
                text = f"Aperio Image Library v12.0.15 \r\n{width}x{height} -> thumbnail{entries}"
                tiff.write(thumbnail, description=text, **small)
        label, macro = _label(), _macro(thumbnail)
        lzw = {**small, "compression": "lzw", "rowsperstrip": None}
        for name, pixels, kind, how in (("label", label, LABEL_SUBFILE, lzw), ("macro", macro, MACRO_SUBFILE, small)):
            text = f"Aperio Image Library v12.0.15 \r\n{name} {pixels.shape[1]}x{pixels.shape[0]}"
            tiff.write(pixels, subfiletype=kind, description=text, **how)


def write_philips(path: Path, levels: list[Pixels], *, mpp: float, tile_px: int, options: dict[str, Any]) -> None:
    """Write a Philips TIFF, with each level padded to whole tiles in white, and true spacings in the XML."""
    blocks = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{_philips_spacing(mpp * 2**index)}</DataObject>'
        for index in range(len(levels))
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute '
        'Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array><DataObject '
        'ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" '
        f'PMSVR="IString">WSI</Attribute>{_philips_spacing(mpp)}'
        '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" '
        f'Element="0x8B01" PMSVR="IDataObjectArray"><Array>{blocks}</Array></Attribute></DataObject></Array>'
        "</Attribute></DataObject>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for index, pixels in enumerate(levels):
            pad = [(0, -side % tile_px) for side in pixels.shape[:2]]
            tiff.write(
                np.pad(pixels, [*pad, (0, 0)], constant_values=255),
                tile=(tile_px, tile_px),
                software="Philips DP v1.0",
                description=xml if index == 0 else f"level={index}",
                subfiletype=REDUCED_SUBFILE if index else 0,
                metadata=None,
                **options,
            )


def _philips_spacing(mpp: float) -> str:
    """DICOM pixel spacing in mm, (row, column)."""
    return (
        '<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">'
        f"&quot;{mpp / 1e3:.10g}&quot; &quot;{mpp / 1e3:.10g}&quot;</Attribute>"
    )


def _resolution(mpp: float | None, downsample: float) -> dict[str, Any]:
    if mpp is None:
        return {"resolutionunit": "NONE"}
    per_cm = UM_PER_CM / (mpp * downsample)
    return {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}


def _power(mpp: float) -> int:
    """Nominal objective power of a scanner with that spacing."""
    return min((5, 10, 20, 40), key=lambda power: abs(10 / mpp - power))


def _label() -> Pixels:
    """Label image: a frame and a few bars, no text."""
    label = np.full((120, 100, 3), 235, dtype=np.uint8)
    label[4:116, 4:7] = label[4:116, 93:96] = label[4:7, 4:96] = label[113:116, 4:96] = 40
    for left in range(16, 84, 7):
        label[24:60, left : left + 3] = 20
    return label


def _macro(thumbnail: Pixels) -> Pixels:
    """Macro image of the whole glass, with the label at the left and tissue at the right."""
    macro = np.full((120, 320, 3), 225, dtype=np.uint8)
    macro[:, :100] = _label()
    small = shrink(thumbnail, max(1, -(-max(thumbnail.shape[:2]) // 110)))
    macro[5 : 5 + small.shape[0], 160 : 160 + small.shape[1]] = small
    return macro
