"""Place of an explained image on its slide, and its map in level-0 coordinates of the slide.

A network may have seen a crop of a slide, its pieces packed on a canvas, or a padded image. A `Placement` says which
rectangle of the explained image was read from where; `place` lays the map over the whole slide with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streammodels.explain.heatmap import Heatmap, MapAxis, Method, Unit

Values = NDArray[np.float32]


@dataclass(frozen=True)
class PlacedPiece:
    """A rectangle of the explained image, and where it was read on the slide.

    Attributes:
        x: First column, in pixels of the explained image.
        y: First row.
        width: Columns.
        height: Rows.
        x_lv0: Left edge on the slide, in pixels of level 0.
        y_lv0: Top edge on the slide.
    """

    x: float
    y: float
    width: float
    height: float
    x_lv0: float
    y_lv0: float


@dataclass(frozen=True)
class Placement:
    """The pieces of an explained image on its slide.

    Attributes:
        size_lv0: Width and height of the slide in pixels of level 0.
        pieces: The pieces; what lies in none, such as padding, is left out.
        downsample: Level-0 pixels per pixel of the explained image, (x, y).
        mpp: Resolution (x, y) of level 0 in um/px; None where it is unknown.
    """

    size_lv0: tuple[int, int]
    pieces: tuple[PlacedPiece, ...]
    downsample: tuple[float, float] = (1.0, 1.0)
    mpp: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, pair in (("mpp", self.mpp or (1.0, 1.0)), ("downsample", self.downsample)):
            if not all(math.isfinite(one) and one > 0 for one in pair):
                raise ValueError(f"{name}={pair} has to be two positive numbers (x, y).")

    @classmethod
    def of_whole(cls, image_size: tuple[int, int], mpp: tuple[float, float] | None = None) -> Placement:
        """The placement of an image, (height, width), that is its own slide."""
        height, width = image_size
        return cls((width, height), (PlacedPiece(0, 0, width, height, 0, 0),), mpp=mpp)


@dataclass(frozen=True)
class PlacedMap:
    """A map over a whole slide: equal cells, which together cover exactly its level 0.

    Attributes:
        values: (rows, columns) float32, NaN where the network saw nothing of the slide.
        size_lv0: Width and height of the slide in pixels of level 0.
        mpp: Resolution (x, y) of level 0 in um/px, or None.
        method: The method that computed the values.
        unit: Their unit.
    """

    values: Values
    size_lv0: tuple[int, int]
    mpp: tuple[float, float] | None
    method: Method
    unit: Unit

    @property
    def cell_lv0(self) -> tuple[float, float]:
        """Width and height of a cell in pixels of level 0."""
        rows, columns = self.values.shape
        return self.size_lv0[0] / columns, self.size_lv0[1] / rows

    def levels(self, side: int) -> Iterator[Values]:
        """The values, and their halves, until both sides are at most `side`: means, for gradients the largest values.

        Cells that the network did not see are left out; the last row and column of a half may cover a single one.
        """
        values = self.values
        yield values
        while max(values.shape) > side:
            values = _halved(values, largest=self.method == "gradient")
            yield values


def place(heatmap: Heatmap, placement: Placement | None = None, *, index: int = 0) -> PlacedMap:
    """Lay a map over its slide.

    Cells have half the map's stride or less (the stride itself where map pixels and cells coincide). Each holds the
    value of the map pixel nearest to its center, without interpolation, so that no value is displaced by more than a
    quarter of the stride.

    Args:
        heatmap: The map, one value per location.
        placement: Where the explained image lies; None: it is the whole slide.
        index: Index of the image in the batch.

    Raises:
        ValueError: If the map holds a gradient of several channels or values that are not finite.
    """
    values = map_values(heatmap, index)
    placement = placement or Placement.of_whole(heatmap.image_size)
    axes = (heatmap.grid.x, heatmap.grid.y)
    columns, rows = (
        _cells(axis, side, down)
        for axis, side, down in zip(axes, placement.size_lv0, placement.downsample, strict=True)
    )
    placed = np.full((rows, columns), np.nan, dtype=np.float32)
    for piece in placement.pieces:
        along_x = (piece.x_lv0, piece.x, piece.width)
        along_y = (piece.y_lv0, piece.y, piece.height)
        to_x, from_x = _nearest(heatmap.grid.x, values.shape[1], columns, placement, 0, *along_x)
        to_y, from_y = _nearest(heatmap.grid.y, values.shape[0], rows, placement, 1, *along_y)
        placed[to_y, to_x] = values[np.ix_(from_y, from_x)]
    return PlacedMap(placed, placement.size_lv0, placement.mpp, heatmap.method, heatmap.unit)


def map_values(heatmap: Heatmap, index: int) -> Values:
    """(h, w) float32, checked to be one finite number per location."""
    if heatmap.values.ndim != 3:
        raise ValueError(
            f"the map holds a gradient of shape {tuple(heatmap.values.shape)}, not one value per location. "
            "Use saliency(..., reduce='max') or 'mean'."
        )
    values: Values = heatmap.values[index].detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError("the map holds NaN or infinite values, which have no color. Look for them in the image.")
    return values


def _cells(axis: MapAxis, size_lv0: int, downsample: float) -> int:
    """Cells along one axis of the slide."""
    count = size_lv0 / (axis.stride * downsample)
    coincide = axis.first == (axis.stride - 1) / 2 and abs(count - round(count)) < 1e-6
    return max(1, round(count) if coincide else math.ceil(2 * count - 1e-6))


def _nearest(
    axis: MapAxis,
    size: int,
    cells: int,
    placement: Placement,
    along: int,
    start_lv0: float,
    start: float,
    extent: float,
) -> tuple[slice, NDArray[np.int64]]:
    """The cells whose centers lie in a piece along one axis (at least one), and the map pixel nearest to each."""
    size_lv0, downsample = placement.size_lv0[along], placement.downsample[along]
    stop_lv0 = start_lv0 + extent * downsample
    if stop_lv0 > size_lv0 - downsample:  # the size of a shrunk level was rounded
        stop_lv0 = size_lv0
    cell = size_lv0 / cells
    first, stop = (math.ceil(edge / cell - 0.5 - 1e-9) for edge in (start_lv0, stop_lv0))
    first = min(max(first, 0), cells - 1)
    stop = min(max(stop, first + 1), cells)
    in_image = ((np.arange(first, stop) + 0.5) * cell - start_lv0) / downsample + start - 0.5
    nearest = np.floor((in_image - axis.first) / axis.stride + 0.5).astype(np.int64)
    return slice(first, stop), nearest.clip(0, size - 1)


def _halved(values: Values, *, largest: bool) -> Values:
    """Blocks of 2 x 2 cells as one: the mean or largest of those that are not NaN."""
    padded = np.pad(values, [(0, side % 2) for side in values.shape], constant_values=np.nan)
    rows, columns = (side // 2 for side in padded.shape)
    blocks = padded.reshape(rows, 2, columns, 2)
    if largest:
        reduced: Values = np.fmax.reduce(np.fmax.reduce(blocks, axis=3), axis=1)
        return reduced
    seen = np.isfinite(blocks)
    counted = seen.sum(axis=(1, 3))
    summed = np.where(seen, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        mean: Values = (summed / counted).astype(np.float32)
    return mean
