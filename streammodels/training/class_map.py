"""Files of class numbers, as pyramidal TIFFs that slide viewers open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from streammodels.explain.heatmap_files import whole_file

_TILE_PX = 512
_STOP_PX = 512


def write_class_map(
    classes: NDArray[np.uint8], path: str | Path, mpp: tuple[float, float] | None = None, tile_px: int = _TILE_PX
) -> Path:
    """Write class numbers as a tiled TIFF of uint8, whose coarser levels hold every second pixel of the level before.

    The array is read tile by tile, so that it may lie in a file.

    Args:
        classes: (H, W).
        path: The TIFF to write; an existing one is replaced when the new one is complete.
        mpp: Resolution (x, y) in um/px; None if it is not known.
        tile_px: Side of the tiles, a multiple of 16.

    Returns:
        The path.

    Raises:
        ValueError: If the resolution is not positive.
    """
    if mpp is not None and min(mpp) <= 0:
        raise ValueError(f"mpp has to be positive, got {mpp}. Give um per pixel along x and y, or None.")
    with (
        whole_file(Path(path)) as unfinished,
        tifffile.TiffWriter(unfinished, bigtiff=classes.nbytes > 2**31) as file,
    ):
        step = 1
        while True:
            level = classes[::step, ::step]
            options: dict[str, Any] = {}
            if mpp is not None:
                options = {"resolution": tuple(10_000 / (step * own) for own in mpp), "resolutionunit": "CENTIMETER"}
            file.write(
                _tiles(level, tile_px), shape=level.shape, dtype=np.uint8, tile=(tile_px, tile_px), compression="zlib",
                photometric="minisblack", metadata=None, subfiletype=int(step > 1),
                description=b"slidestream class numbers" if step == 1 else None, **options,
            )  # fmt: skip
            if max(level.shape) <= _STOP_PX:
                return Path(path)
            step *= 2


def _tiles(level: NDArray[np.uint8], tile_px: int) -> Iterator[NDArray[np.uint8]]:
    """The tiles of a level in reading order, filled up with zeros."""
    for top in range(0, level.shape[0], tile_px):
        for left in range(0, level.shape[1], tile_px):
            part = level[top : top + tile_px, left : left + tile_px]
            tile = np.zeros((tile_px, tile_px), np.uint8)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile
