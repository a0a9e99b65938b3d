"""Heat maps as pyramidal TIFFs for slide viewers, of float32 values or of 8-bit colors.

    write_pyramid(heatmap, "map.tif", mpp=(2.0, 2.0))                 the values
    write_color_pyramid(heatmap, "colors.tif", placement=placement)   their colors, transparent where there is nothing

Both have tiles, resolution tags and levels marked as reduced images, so that OpenSlide takes them for slides; their
level 0 covers exactly that of the slide.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from streammodels.explain.colors import Limits, color_bar_label, color_limits, colored
from streammodels.explain.heatmap import Heatmap
from streammodels.explain.placement import PlacedMap, Placement, place

_TILE_PX = 256


def write_pyramid(
    heatmap: Heatmap,
    path: str | Path,
    mpp: tuple[float, float] | None = None,
    *,
    placement: Placement | None = None,
    index: int = 0,
    tile_px: int = _TILE_PX,
    class_name: str | None = None,
) -> Path:
    """Write the values as a pyramidal, tiled TIFF of float32 that covers the slide.

    Its pixels are the cells of `streammodels.place`, NaN where the network saw nothing; coarser levels hold means, of
    gradients the largest values.

    Args:
        heatmap: The map, one value per location.
        path: The TIFF to write.
        mpp: Resolution (x, y) of the explained image in um/px, where it is the whole slide; or
        placement: where it lies on the slide. Neither: the whole slide, of unknown resolution.
        index: Index of the image in the batch.
        tile_px: Side of the tiles, a multiple of 16.
        class_name: Name of the class in the file's description; None for its number.

    Returns:
        The path.

    Raises:
        ValueError: If the map holds a gradient of several channels or values that are not finite, the resolution is
            not positive, or both `mpp` and `placement` are given.
    """
    placed = place(heatmap, _placement(heatmap, mpp, placement), index=index)
    options = {"photometric": "minisblack", "predictor": 3}
    label = color_bar_label(heatmap, index, class_name)
    return _write(path, placed, placed.levels(tile_px), tile_px, label, options)


def write_color_pyramid(
    heatmap: Heatmap,
    path: str | Path,
    mpp: tuple[float, float] | None = None,
    *,
    placement: Placement | None = None,
    index: int = 0,
    tile_px: int = _TILE_PX,
    class_name: str | None = None,
    limits: Limits | None = None,
) -> Path:
    """Write the colors of `write_overlay` as a pyramidal, tiled TIFF of 8-bit RGBA that covers the slide.

    The alpha channel (not premultiplied) is 0 where the network saw nothing. Arguments and errors are those of
    `write_pyramid`; `limits` those of `write_overlay`.
    """
    placed = place(heatmap, _placement(heatmap, mpp, placement), index=index)
    low, high = color_limits(placed, limits)
    levels = (colored(values, low, high) for values in placed.levels(tile_px))
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "predictor": 2}
    label = f"{color_bar_label(heatmap, index, class_name)}, colors from {low:.4g} to {high:.4g}"
    return _write(path, placed, levels, tile_px, label, options)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an error; else removed."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".part-{token_hex(8)}{path.suffix}")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _placement(heatmap: Heatmap, mpp: tuple[float, float] | None, placement: Placement | None) -> Placement:
    if placement is not None and mpp is not None:
        raise ValueError("mpp is that of an image which is the whole slide; placement has its own. Pass one of them.")
    return placement or Placement.of_whole(heatmap.image_size, mpp)


def _write(
    path: str | Path,
    placed: PlacedMap,
    levels: Iterator[NDArray[Any]],
    tile_px: int,
    label: str,
    options: dict[str, Any],
) -> Path:
    """A tiled TIFF of levels, all but the first marked as reduced images, with the resolution of each."""
    description = f"slidestream heat map: {label}".encode()
    with (
        whole_file(Path(path)) as unfinished,
        tifffile.TiffWriter(unfinished, bigtiff=placed.values.nbytes > 2**31) as file,
    ):
        for number, pixels in enumerate(levels):
            rows, columns = pixels.shape[:2]
            file.write(
                np.ascontiguousarray(pixels), tile=(tile_px, tile_px), compression="zlib", metadata=None,
                subfiletype=int(number > 0), description=description if number == 0 else None,
                **_resolution(placed, rows, columns), **options,
            )  # fmt: skip
    return Path(path)


def _resolution(placed: PlacedMap, rows: int, columns: int) -> dict[str, Any]:
    """Resolution tags of a level."""
    if placed.mpp is None:
        return {}
    (width, height), (mpp_x, mpp_y) = placed.size_lv0, placed.mpp
    per_cm = 10_000 * columns / (width * mpp_x), 10_000 * rows / (height * mpp_y)
    return {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
