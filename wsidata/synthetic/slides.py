"""Small synthetic slides with known labels, as real pyramidal TIFF files, for demos and tests.

The tissue is described in `wsidata.synthetic.tissue`, the scanner formats in `wsidata.synthetic.tiff`.

    write_slide("tumor.svs", tumor=True, seed=1, vendor="aperio")
    write_camelyon16("camelyon16", normal=8, tumor=8, test=6)
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyvips
from numpy.typing import NDArray

from wsidata.synthetic.outlines import tumor_outlines
from wsidata.synthetic.tiff import Vendor, halved_levels, write_aperio, write_generic, write_philips
from wsidata.synthetic.tissue import paint_tissue, tumor_mask
from wsidata.utils.messages import check_choice

Compression = Literal["jpeg", "jpeg2000", "deflate", "lzw", "zstd", "none"]
CENTERS: tuple[tuple[Vendor, float], ...] = (("philips", 0.5), ("generic", 0.46))
"""Vendor and spacing of the two scanning centers of the synthetic CAMELYON16."""


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
        path: The file to write; its folder is created. An existing file is replaced.
        width: Columns of level 0 in pixels.
        height: Rows of level 0 in pixels.
        tumor: Whether the tissue holds tumor.
        seed: The same arguments and seed give the same file.
        mpp: um per pixel of level 0; None leaves it out of the file (not for "philips"), and paints for 0.5.
        vendor: "generic", "aperio" or "philips": whose tags and page order to imitate.
        tile: Side of a tile in pixels, a multiple of 16.
        levels: Number of levels, each half the one before; None continues until a level fits into one tile.
        compression: Compression of the tiles.
        quality: JPEG quality, 1 to 100.
        subifds: Store the lower levels as SubIFDs; "generic" only.

    Returns:
        The path.

    Raises:
        ValueError: for a combination that no such file could have.
    """
    pixels = paint_tissue(width, height, tumor=tumor, mpp=mpp or 0.5, rng=np.random.default_rng(seed))
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
    """Write given pixels, (height, width, 3) uint8 RGB of level 0, as a pyramidal TIFF.

    All other arguments, the result and the errors are those of `write_slide`.
    """
    path = Path(path)
    if tile % 16 != 0 or tile < 16:
        raise ValueError(f"tile={tile} must be a multiple of 16, as the TIFF standard requires.")
    check_choice("vendor", vendor, ("generic", "aperio", "philips"))
    if subifds and vendor != "generic":
        raise ValueError(f"subifds=True goes with vendor='generic', not '{vendor}': that maker's levels are pages.")
    path.parent.mkdir(parents=True, exist_ok=True)
    made, options = halved_levels(pixels, levels, tile), _codec(compression, quality, vendor)
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
    masks: bool = False,
    annotations: bool = False,
) -> Path:
    """Write a small synthetic CAMELYON16: the layout of the public one, slides from two centers.

        folder/evaluation/reference.csv     image,type,class,center
        folder/images/normal_001.tif ... tumor_001.tif ... test_001.tif
        folder/masks/tumor_001.png ...      255 where there is tumor, on level 0; with `masks`
        folder/annotations/tumor_001.xml ...    outlines of the tumor, for ASAP; with `annotations`

    The table is as published: names end in .tif; `type` is normal or tumor; `class` is negative, or the extent of the
    tumor, micro or macro (here by turns, and not visible); `center` is 0 or 1. As in the original, the test slides are
    in the table, all classes come from both centers, and these differ in resolution. Slides vary a little in size.

    Args:
        folder: Where to write; created if missing.
        normal: Number of normal_ slides.
        tumor: Number of tumor_ slides.
        test: Number of test_ slides, half of them (rounded down) tumor.
        size_px: About (width, height) of level 0.
        seed: The same arguments and seed give the same files.
        tile: Side of a tile in pixels.
        levels: Levels of each slide; None continues until a level fits into one tile.
        masks: Whether to write a mask of the tumor of each slide that has one.
        annotations: Whether to write its outlines, along the borders of pixels.

    Returns:
        The folder.
    """
    folder = Path(folder)
    rows = [(f"normal_{index + 1:03d}", False) for index in range(normal)]
    rows += [(f"tumor_{index + 1:03d}", True) for index in range(tumor)]
    rows += [(f"test_{index + 1:03d}", index % 2 == 1) for index in range(test)]
    extents, table = cycle(("micro", "macro")), []
    for number, (name, is_tumor) in enumerate(rows):
        rng = np.random.default_rng([seed, number])
        center = int(rng.integers(len(CENTERS)))
        vendor, mpp = CENTERS[center]
        width, height = (int(side * rng.uniform(0.92, 1.0)) for side in size_px)
        slide_seed = int(rng.integers(2**31))
        write_slide(
            folder / "images" / f"{name}.tif", width=width, height=height, tumor=is_tumor, seed=slide_seed, mpp=mpp,
            vendor=vendor, tile=tile, levels=levels,
        )  # fmt: skip
        if masks and is_tumor:
            (folder / "masks").mkdir(exist_ok=True)
            mask = tumor_mask(width, height, seed=slide_seed).astype(np.uint8) * 255
            if vendor == "philips":  # stores whole tiles
                mask = np.pad(mask, [(0, -side % tile) for side in mask.shape])
            pyvips.Image.new_from_array(mask).pngsave(str(folder / "masks" / f"{name}.png"))
        if annotations and is_tumor:
            (folder / "annotations").mkdir(exist_ok=True)
            groups = ("Tumor", "Exclusion") if name.startswith("test_") else ("_0", "_2")
            tumor_outlines(width, height, seed=slide_seed, groups=groups).write(folder / "annotations" / f"{name}.xml")
        labels = ("tumor", next(extents)) if is_tumor else ("normal", "negative")
        table.append((f"{name}.tif", *labels, center))
    (folder / "evaluation").mkdir(parents=True, exist_ok=True)
    reference = pd.DataFrame(table, columns=["image", "type", "class", "center"])
    reference.to_csv(folder / "evaluation" / "reference.csv", index=False, lineterminator="\n")
    return folder


def _codec(compression: Compression, quality: int, vendor: Vendor) -> dict[str, Any]:
    """Arguments for tifffile. Aperio stores RGB in its JPEG tiles, the others YCbCr with 4:2:0 chroma subsampling."""
    is_aperio = vendor == "aperio"
    if compression == "jpeg":
        stored = {"level": quality, "outcolorspace": "RGB" if is_aperio else "YCBCR"}
        options: dict[str, Any] = {"compression": "jpeg", "compressionargs": stored}
        if not is_aperio:
            options["subsampling"] = (2, 2)
    elif compression == "jpeg2000":
        options = {"compression": 33005 if is_aperio else 34712, "compressionargs": {"reversible": True}}
    else:
        options = {"compression": None if compression == "none" else compression}
    return {**options, "photometric": "rgb"}
