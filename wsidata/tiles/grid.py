"""Grids of tiles over slides, as pure geometry.

A tile is a rectangle of the image that `Slide.image` gives at the resolution of the grid. So it has the pixels of the
same region of the whole slide, to the last bit, also where levels are resampled: their phase is that of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsidata.formats.resolution import MEASURES, Resolution
from wsidata.slides.tissue.mask import TissueMask
from wsidata.slides.tissue.packing import Packing, Piece
from wsidata.tiles.tissue import tissue_shares
from wsidata.transforms.geometry.crop import check_size
from wsidata.utils.messages import check_choice
from wsidata.utils.rectangle import Rectangle

Border = Literal["drop", "pad", "shift"]
"""Tiles that reach beyond the right or lower edge: left out, filled with background, or moved inside."""

Places = NDArray[np.int64]


class _HasResolutions(Protocol):
    def size_at(self, **resolution: Any) -> tuple[int, int]: ...

    def downsample_at(self, **resolution: Any) -> tuple[float, float]: ...


@dataclass(frozen=True)
class TileGrid:
    """A regular grid of tiles at a resolution, from the upper left corner of a slide.

    Attributes:
        tile_size: Height and width of a tile in pixels of the resolution; one number for a square.
        stride: Rows and columns from one tile to the next. None: `tile_size`, side by side without overlap.
        level: A pyramid level to read; or
        mpp: um per pixel; or
        magnification: objective power; or
        downsample: level-0 pixels per pixel. Exactly one of the four.
        border: What becomes of tiles that reach beyond the right or lower edge: "drop" leaves them out, "pad" fills
            them with background (white; 0 for chosen channels), "shift" moves them inside, so that they overlap their
            neighbors more. With "pad" and "shift" tiles cover the whole slide; a slide that is smaller than a tile is
            padded.
        min_tissue: Least share of a tile's area that is tissue, 0 to 1. What lies beyond the slide is none.

    Raises:
        ValueError: for a size, stride or share out of range, or not exactly one resolution.

    Example:
        >>> grid = TileGrid(256, mpp=0.5, min_tissue=0.25)
        >>> tiles = grid.of(slide)
        >>> tiles.coords_lv0[0]
        array([10240,  2560])
    """

    tile_size: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    _: KW_ONLY
    level: int | None = None
    mpp: float | tuple[float, float] | None = None
    magnification: float | None = None
    downsample: float | tuple[float, float] | None = None
    border: Border = "drop"
    min_tissue: float = 0.0

    def __post_init__(self) -> None:
        check_choice("border", self.border, ("drop", "pad", "shift"))
        _ = self.size, self.step
        if not 0 <= self.min_tissue <= 1:
            raise ValueError(f"min_tissue={self.min_tissue!r} must be a share of the tile's area, 0 to 1.")
        if len(self.resolution) != 1:
            names = ", ".join(f"{name}=" for name in MEASURES if name != "max_side")
            raise ValueError(f"TileGrid: pass exactly one of {names} (got {dict(self.resolution) or 'none'}).")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a tile."""
        return check_size(self.tile_size, "tile_size")

    @property
    def step(self) -> tuple[int, int]:
        """Rows and columns from one tile to the next."""
        return self.size if self.stride is None else check_size(self.stride, "stride")

    @property
    def resolution(self) -> Resolution:
        """The resolution that tiles are read at."""
        return Resolution(self.level, self.mpp, self.magnification, self.downsample)

    def over(self, width: int, height: int, downsample: tuple[float, float], mask: TissueMask | None = None) -> Tiles:
        """The tiles of an image, row by row.

        Args:
            width: Columns of the image at the grid's resolution.
            height: Its rows.
            downsample: Level-0 pixels per pixel of the image, (x, y).
            mask: The tissue. None: there is no rule about it.

        Raises:
            ValueError: if `min_tissue` is above 0, and there is no mask.
        """
        if mask is None and self.min_tissue:
            raise ValueError(f"min_tissue={self.min_tissue} needs the mask of the tissue. Pass slide.tissue_mask().")
        (tile_height, tile_width), (down, right) = self.size, self.step
        columns = starts(width, tile_width, right, self.border)
        rows = starts(height, tile_height, down, self.border)
        y, x = (place.ravel() for place in np.meshgrid(rows, columns, indexing="ij"))
        tiles = Tiles(x, y, tile_width, tile_height, width, height, *downsample)
        if mask is None:
            return tiles
        tiles = replace(tiles, tissue=tissue_shares(mask, *tiles.edges_lv0))
        assert tiles.tissue is not None
        return tiles[tiles.tissue >= self.min_tissue]

    def of(self, slide: _HasResolutions, mask: TissueMask | None = None) -> Tiles:
        """The tiles of an open slide; without a `mask`, where the rule needs one, its `tissue_mask` with defaults."""
        if mask is None and self.min_tissue:
            mask = slide.tissue_mask()  # type: ignore[attr-defined]  # of a Slide; without a rule less will do
        width, height = slide.size_at(**self.resolution)
        return self.over(width, height, slide.downsample_at(**self.resolution), mask)


def starts(side: int, tile: int, stride: int, border: Border) -> Places:
    """First pixels of the tiles along one axis.

    Args:
        side: Pixels of the image.
        tile: Pixels of a tile.
        stride: Pixels from one tile to the next.
        border: See `TileGrid`.
    """
    if border == "drop":
        return np.arange(0, side - tile + 1, stride, dtype=np.int64)
    count = min(max(0, math.ceil((side - tile) / stride)) + 1, math.ceil(side / stride))
    found = np.arange(count, dtype=np.int64) * stride
    return np.minimum(found, max(0, side - tile)) if border == "shift" else found


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of one slide, all of one size; `tiles[index]` are some of them.

    Attributes:
        x: (n,) first column of each, in pixels of the image at the resolution.
        y: (n,) first row of each.
        width: Columns of a tile.
        height: Rows of a tile.
        image_width: Columns of the image.
        image_height: Rows of the image.
        downsample_x: Level-0 pixels per pixel along x.
        downsample_y: The same along y.
        tissue: (n,) share of the area of each that is tissue, 0 to 1, rounded to 1e-9; None if there is no mask.
    """

    x: Places
    y: Places
    width: int
    height: int
    image_width: int
    image_height: int
    downsample_x: float = 1.0
    downsample_y: float = 1.0
    tissue: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: ArrayLike | slice) -> Self:
        """Some of the tiles, by numbers, booleans or a slice."""
        index = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        tissue = None if self.tissue is None else self.tissue[index]
        return replace(self, x=self.x[index], y=self.y[index], tissue=tissue)

    def __iter__(self) -> Iterator[Rectangle]:
        """The tiles as rectangles of the image."""
        for x, y in zip(self.x.tolist(), self.y.tolist(), strict=True):
            yield Rectangle(x, y, self.width, self.height)

    @property
    def coords_lv0(self) -> Places:
        """(n, 2) x and y of the upper left corners in pixels of level 0, rounded.

        `Slide.read_region` gives the tile for them, as long as level 0 is not enlarged (by up to the tolerance of 5 %).
        """
        x, y = self.x * self.downsample_x, self.y * self.downsample_y
        return np.ceil(np.stack([x, y], axis=1) - 0.5).astype(np.int64)

    @property
    def edges_lv0(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Left, top, right and bottom edges in pixels of level 0, not rounded."""
        x, y = self.x.astype(np.float64), self.y.astype(np.float64)
        right, bottom = (x + self.width) * self.downsample_x, (y + self.height) * self.downsample_y
        return x * self.downsample_x, y * self.downsample_y, right, bottom

    @property
    def size_lv0(self) -> tuple[int, int]:
        """Width and height of a tile in pixels of level 0, rounded."""
        return round(self.width * self.downsample_x), round(self.height * self.downsample_y)

    def at(self, number: int) -> Rectangle:
        """One of the tiles as a rectangle of the image."""
        return Rectangle(int(self.x[number]), int(self.y[number]), self.width, self.height)

    def packing(self, number: int) -> Packing:
        """One of the tiles as a crop of the image, on background where it reaches beyond."""
        return tile_packing(
            self.at(number), self.image_width, self.image_height, (self.downsample_x, self.downsample_y)
        )


def tile_packing(tile: Rectangle, width: int, height: int, downsample: tuple[float, float] = (1.0, 1.0)) -> Packing:
    """A tile of an image of some size as a crop.

    Raises:
        ValueError: if it lies wholly beside the image.
    """
    inside = tile.inside(width, height)
    if inside is None:
        raise ValueError(f"{tile} lies beside the image of {width}x{height} pixels. Leave it out.")
    piece = Piece(inside.x, inside.y, inside.width, inside.height, inside.x - tile.x, inside.y - tile.y)
    return Packing((piece,), tile.width, tile.height, width, height, *downsample)
