"""Exact sums of the pixels of the tiles of a slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from wsidata.slides.slide import Slide
from wsidata.slides.tissue.methods import TissueMethod, find_tissue
from wsidata.stats.pixel_sums import PixelSums, StatsJob, count_array, suits_count_array
from wsidata.tiles.grid import TileGrid
from wsidata.transforms.describe import described
from wsidata.utils.rectangle import Pixels, Rectangle


@dataclass(frozen=True)
class TileStatsJob(StatsJob):
    """Sums the pixels of the tiles of a slide, as often as tiles have them.

    Attributes:
        grid: The tiles, at the job's resolution.
        method: Finds the tissue, where the grid has a rule about it.
    """

    grid: TileGrid | None = None
    method: TissueMethod = find_tissue

    @property
    def further(self) -> dict[str, Any]:
        """The grid and the method."""
        assert self.grid is not None
        return {"grid": asdict(self.grid), "tissue": described(self.method, digests=True)}

    def _count_slide(self, slide: Slide) -> PixelSums:
        assert self.grid is not None
        tiles = self.grid.of(slide, slide.tissue_mask(self.method) if self.grid.min_tissue else None)
        read = _reader(slide, self.grid)
        sums = []
        for tile in tiles:
            inside = tile.inside(tiles.image_width, tiles.image_height)
            assert inside is not None
            pixels = read(inside)
            if inside != tile:
                whole = np.full((tile.height, tile.width, pixels.shape[2]), slide.background, pixels.dtype)
                whole[inside.within(tile)] = pixels
                pixels = whole
            sums.append(count_array(pixels) if suits_count_array(pixels) else self._count(pixels))
        return reduce(add, sums) if sums else PixelSums(0, (), (), 255)


def _reader(slide: Slide, grid: TileGrid) -> Callable[[Rectangle], Pixels]:
    reader = slide.regions(**grid.resolution)
    if reader is not None:
        return reader
    image = slide.image(**grid.resolution, keep_tiles=True)
    return lambda part: image.crop(part.x, part.y, part.width, part.height).numpy()
