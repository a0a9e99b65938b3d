"""A pyramidal TIFF written block by block, in memory that does not grow with the slide's tissue.

Level 0 is painted in bands of blocks; the coarser levels (each half the one before, mean of 2 x 2) are made of the
blocks as they come. Tiles are JPEGs of 256 pixels in YCbCr with 4:2:0 chroma, levels are pages flagged as reduced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsidata.synthetic.lesions.cells import MPP
from wsidata.utils.files import atomic_write

TILE_PX, BLOCK_PX = 256, 1024
Pixels = NDArray[np.uint8]

Painter = Callable[[int, int, int], "Pixels | None"]
"""Of left edge, upper edge and side to (side, side, 3) RGB; None where all is glass."""


@dataclass
class _Levels:
    """Tiles of coarser levels as they come, and the smallest of them as an image."""

    side_px: int
    glass: tuple[int, int, int]
    quality: int
    tiles: list[list[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.block_px = min(BLOCK_PX, self.side_px)
        self.inside = (self.block_px // TILE_PX).bit_length() - 1
        self.tiles = [[] for _ in range(self.inside)]
        self.small = np.empty((self.side_px >> self.inside + 1, self.side_px >> self.inside + 1, 3), dtype=np.uint8)
        self.small[:] = self.glass
        empty = np.full((TILE_PX, TILE_PX, 3), self.glass, dtype=np.uint8)
        self.empty = self.encoded(empty)

    def encoded(self, tile: Pixels) -> bytes:
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(tile), self.quality, "RGB", "420"))

    def band(self, top: int, paint: Painter) -> list[bytes]:
        """Paint a band of blocks: the tiles of its rows of level 0; those of the other levels are kept."""
        grids = [self._grid(level) for level in range(self.inside + 1)]
        for left in range(0, self.side_px, self.block_px):
            pixels = paint(left, top, self.block_px)
            if pixels is None:
                continue
            for level, grid in enumerate(grids):
                first = (left >> level) // TILE_PX
                for row in range(len(grid)):
                    for column in range(len(grid)):
                        if first + column < len(grid[0]):
                            tile = pixels[row * TILE_PX :, column * TILE_PX :][:TILE_PX, :TILE_PX]
                            grid[row][first + column] = self.encoded(tile)
                pixels = _halved(pixels)
            place = np.s_[top >> self.inside + 1 :, left >> self.inside + 1 :]
            self.small[place][: len(pixels), : len(pixels)] = pixels
        for tiles, grid in zip(self.tiles, grids[1:], strict=True):
            tiles += [tile for row in grid for tile in row]
        return [tile for row in grids[0] for tile in row]

    def _grid(self, level: int) -> list[list[bytes]]:
        rows = (self.block_px >> level) // TILE_PX
        return [[self.empty] * ((self.side_px >> level) // TILE_PX) for _ in range(rows)]

    def coarse(self) -> Iterator[tuple[int, list[bytes]]]:
        """Sides and tiles of all levels but the first."""
        for level, tiles in enumerate(self.tiles, start=1):
            yield self.side_px >> level, tiles
        pixels: Pixels = self.small
        while self.tiles and len(pixels) * 2 > TILE_PX:
            padded = np.pad(pixels, [(0, -len(pixels) % TILE_PX)] * 2 + [(0, 0)], mode="edge")
            places = range(0, len(padded), TILE_PX)
            yield len(pixels), [self.encoded(padded[y:, x:][:TILE_PX, :TILE_PX]) for y in places for x in places]
            pixels = _halved(pixels)


def _halved(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def write_blocks(path: Path, side_px: int, paint: Painter, *, glass: tuple[int, int, int], quality: int) -> None:
    """Write a square slide of `MPP` um/px that is painted block by block.

    Args:
        path: The file, replaced whole.
        side_px: 256, 512, or a multiple of 1024.
        paint: Called once for each block, row by row.
        glass: Color where nothing is painted.
        quality: JPEG quality, 1 to 100.
    """
    levels = _Levels(side_px, glass, quality)
    with atomic_write(path) as part, tifffile.TiffWriter(part, bigtiff=True) as tiff:
        bands = (tile for top in range(0, side_px, levels.block_px) for tile in levels.band(top, paint))
        _write_level(tiff, side_px, 1, bands)
        for side, tiles in levels.coarse():
            _write_level(tiff, side, side_px / side, iter(tiles))


def _write_level(tiff: tifffile.TiffWriter, side_px: int, down: float, tiles: Iterator[bytes]) -> None:
    per_cm = 10_000 / (MPP * down)
    tiff.write(
        tiles, shape=(side_px, side_px, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX), subfiletype=int(down > 1),
        compression="jpeg", photometric="ycbcr", subsampling=(2, 2), metadata=None, resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
