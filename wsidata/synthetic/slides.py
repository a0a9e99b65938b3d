"""Small artificial slides, for the demo and the tests: real files with real tiles, whose truth is known.

They stand in for data nobody may hand out. What is painted is described in `wsidata.synthetic.tissue`, how scanners'
files are imitated in `wsidata.synthetic.tiff`.

    write_slide("tumor.svs", tumor=True, seed=1, vendor="aperio")
    write_camelyon16("camelyon16", normal=8, tumor=8, test=6)
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsidata.synthetic.tiff import Vendor, pyramid, write_aperio, write_generic, write_philips
from wsidata.synthetic.tissue import paint
from wsidata.utils.messages import check_choice

Compression = Literal["jpeg", "jpeg2000", "deflate", "lzw", "zstd", "none"]
CENTRES: tuple[tuple[Vendor, float], ...] = (("philips", 0.5), ("generic", 0.46))
"""Dialect and spacing of the two scanning centres that the artificial CAMELYON16 comes from."""


def write_slide(
    path: str | Path,
    *,
    width: int = 2048,
    height: int = 2048,
    tumor: bool = False,
    seed: int = 0,
    mpp: float | None = 0.5,
    vendor: Vendor = "generic",
    tile: int = 256,
    levels: int | None = None,
    compression: Compression = "jpeg",
    quality: int = 85,
    subifds: bool = False,
) -> Path:
    """Paint a slide and write it as a pyramidal TIFF.

    Args:
        path: The file to write; its folder is made. An existing file is replaced.
        width: Columns of level 0 in pixels.
        height: Rows of level 0 in pixels.
        tumor: Whether the tissue holds tumour.
        seed: The same arguments and seed give the same file.
        mpp: um per pixel of level 0; None leaves the spacing out of the file (not for "philips"), and paints for 0.5.
        vendor: "generic", "aperio" or "philips": whose tags and page order to imitate.
        tile: Side of a tile in pixels, a multiple of 16.
        levels: Levels in all, each half the one before; None goes on until a level fits into one tile.
        compression: How tiles are stored.
        quality: JPEG quality, 1 to 100.
        subifds: Store the lower levels as SubIFDs; "generic" only.

    Returns:
        The path.

    Raises:
        ValueError: for a combination no such file could have.
    """
    pixels = paint(width, height, tumor=tumor, mpp=mpp or 0.5, rng=np.random.default_rng(seed))
    return write_pixels(
        path, pixels, mpp=mpp, vendor=vendor, tile=tile, levels=levels, compression=compression, quality=quality,
        subifds=subifds,
    )  # fmt: skip


def write_pixels(
    path: str | Path,
    pixels: NDArray[np.uint8],
    *,
    mpp: float | None = 0.5,
    vendor: Vendor = "generic",
    tile: int = 256,
    levels: int | None = None,
    compression: Compression = "jpeg",
    quality: int = 85,
    subifds: bool = False,
) -> Path:
    """Write given pixels as a pyramidal TIFF; arguments as for `write_slide`.

    Args:
        path: The file to write.
        pixels: Level 0, (height, width, 3) uint8 RGB.
        mpp: um per pixel of level 0, or None.
        vendor: Whose tags and page order to imitate.
        tile: Side of a tile in pixels, a multiple of 16.
        levels: Levels in all, or None.
        compression: How tiles are stored.
        quality: JPEG quality.
        subifds: Store the lower levels as SubIFDs; "generic" only.

    Returns:
        The path.

    Raises:
        ValueError: for a combination no such file could have.
    """
    path = Path(path)
    if tile % 16 != 0 or tile < 16:
        raise ValueError(f"tile={tile} must be a multiple of 16: the TIFF standard asks for it.")
    check_choice("vendor", vendor, ("generic", "aperio", "philips"))
    if subifds and vendor != "generic":
        raise ValueError(f"subifds=True goes with vendor='generic', not '{vendor}': that maker's levels are pages.")
    path.parent.mkdir(parents=True, exist_ok=True)
    made, options = pyramid(pixels, levels, tile), _codec(compression, quality, vendor)
    if vendor == "generic":
        write_generic(path, made, mpp=mpp, tile_px=tile, subifds=subifds, options=options)
    elif vendor == "aperio":
        write_aperio(path, made, mpp=mpp, tile_px=tile, options=options)
    else:
        if mpp is None:
            raise ValueError("vendor='philips' needs mpp: such files always state it.")
        write_philips(path, made, mpp=mpp, tile_px=tile, options=options)
    return path


def write_camelyon16(
    folder: str | Path,
    *,
    normal: int = 8,
    tumor: int = 8,
    test: int = 6,
    size_px: tuple[int, int] = (2048, 2048),
    seed: int = 0,
    tile: int = 256,
    levels: int | None = None,
) -> Path:
    """Write a small artificial CAMELYON16: the layout of the public one, slides from two centres.

        folder/evaluation/reference.csv     image,class
        folder/images/normal_001.tif ... tumor_001.tif ... test_001.tif

    As in the original the test slides have their class in the table, both classes come from both centres, and the two
    centres differ in spacing. Slides vary a little in size.

    Args:
        folder: Where to write; made if need be.
        normal: Number of normal_ slides.
        tumor: Number of tumor_ slides.
        test: Number of test_ slides, half of them (rounded down) tumour.
        size_px: About (width, height) of level 0.
        seed: The same arguments and seed give the same files.
        tile: Side of a tile in pixels.
        levels: Levels of each slide; None goes on until a level fits into one tile.

    Returns:
        The folder.
    """
    folder = Path(folder)
    rows = [(f"normal_{index + 1:03d}", False) for index in range(normal)]
    rows += [(f"tumor_{index + 1:03d}", True) for index in range(tumor)]
    rows += [(f"test_{index + 1:03d}", index % 2 == 1) for index in range(test)]
    for number, (name, is_tumor) in enumerate(rows):
        rng = np.random.default_rng([seed, number])
        vendor, mpp = CENTRES[int(rng.integers(len(CENTRES)))]
        width, height = (int(side * rng.uniform(0.92, 1.0)) for side in size_px)
        slide: dict[str, Any] = {"tumor": is_tumor, "seed": int(rng.integers(2**31)), "mpp": mpp, "vendor": vendor}
        write_slide(folder / "images" / f"{name}.tif", width=width, height=height, tile=tile, levels=levels, **slide)
    (folder / "evaluation").mkdir(parents=True, exist_ok=True)
    with (folder / "evaluation" / "reference.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("image", "class"))
        table.writerows((name, "tumor" if is_tumor else "normal") for name, is_tumor in rows)
    return folder


def _codec(compression: Compression, quality: int, vendor: Vendor) -> dict[str, Any]:
    """Arguments for tifffile. Aperio stores RGB in its JPEG tiles, the others YCbCr at half the colour resolution."""
    if compression == "jpeg":
        colour: dict[str, Any] = {"subsampling": (2, 2)} if vendor != "aperio" else {}
        stored = "YCBCR" if vendor != "aperio" else "RGB"
        return {
            "compression": "jpeg",
            "compressionargs": {"level": quality, "outcolorspace": stored},
            "photometric": "rgb",
        } | colour
    if compression == "jpeg2000":
        code = 33005 if vendor == "aperio" else 34712
        return {"compression": code, "photometric": "rgb", "compressionargs": {"reversible": True}}
    return {"compression": None if compression == "none" else compression, "photometric": "rgb"}
