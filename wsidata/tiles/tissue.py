"""The share of rectangles of a slide that is tissue, as exact areas, and random points in tissue."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsidata.slides.tissue.mask import TissueMask

Numbers = NDArray[np.float64]

DECIMALS = 9
"""Shares are rounded to this, so that a rectangle wholly in tissue has exactly 1."""


def tissue_shares(mask: TissueMask, left: Numbers, top: Numbers, right: Numbers, bottom: Numbers) -> Numbers:
    """Share of the area of each rectangle that is tissue, 0 to 1; what lies beyond the slide is none.

    The area above and left of a point, over a mask of zeros and ones, is linear within each pixel along both axes. So
    interpolation of the mask's cumulative sums gives the area of rectangles exactly, wherever they begin and end.

    Args:
        mask: The tissue. Its last row and column reach to the edge of the slide.
        left: (n,) left edges in pixels of level 0.
        top: Upper edges.
        right: Right edges, each beyond its left one.
        bottom: Lower edges.
    """
    x_borders, y_borders = (
        _borders(mask.pixels.shape[1], mask.downsample_x, mask.width_lv0),
        _borders(mask.pixels.shape[0], mask.downsample_y, mask.height_lv0),
    )
    areas = np.zeros((len(y_borders), len(x_borders)))
    areas[1:, 1:] = (mask.pixels * np.diff(x_borders) * np.diff(y_borders)[:, None]).cumsum(axis=0).cumsum(axis=1)
    at_left, at_right = _places(left, x_borders), _places(right, x_borders)
    at_top, at_bottom = _places(top, y_borders), _places(bottom, y_borders)
    found = _area(areas, at_right, at_bottom) - _area(areas, at_left, at_bottom)
    found += _area(areas, at_left, at_top) - _area(areas, at_right, at_top)
    shares: Numbers = np.round(found / ((right - left) * (bottom - top)), DECIMALS).clip(0, 1)
    return shares


Place = tuple[NDArray[np.int64], Numbers]
"""Pixels, and how far inside them, 0 to 1."""


def _borders(count: int, downsample: float, side_lv0: int) -> Numbers:
    """Borders of the pixels of a mask along one axis, in pixels of level 0."""
    return np.append(np.arange(count) * downsample, side_lv0)


def _places(edges: Numbers, borders: Numbers) -> Place:
    where = np.interp(edges, borders, np.arange(len(borders)))
    pixel = np.minimum(where.astype(np.int64), len(borders) - 2)
    return pixel, where - pixel


def _area(areas: Numbers, x: Place, y: Place) -> Numbers:
    (column, right), (row, down) = x, y
    upper = areas[row, column] * (1 - right) + areas[row, column + 1] * right
    lower = areas[row + 1, column] * (1 - right) + areas[row + 1, column + 1] * right
    found: Numbers = upper * (1 - down) + lower * down
    return found


@dataclass(frozen=True)
class PackedTissue:
    """A tissue mask in a few KB of plain values, from which places are drawn.

    Attributes:
        pixels: The booleans of the mask, a bit each, rows padded to bytes, compressed, as text.
        rows: Rows of the mask.
        columns: Its columns.
        downsample: Level-0 pixels per pixel, (x, y).
        size_lv0: (width, height) of level 0.
    """

    pixels: str
    rows: int
    columns: int
    downsample: tuple[float, float]
    size_lv0: tuple[int, int]

    @classmethod
    def of(cls, mask: TissueMask) -> Self:
        """From a mask."""
        text = base64.b85encode(zlib.compress(np.packbits(mask.pixels, axis=1).tobytes())).decode()
        size, downsample = (mask.width_lv0, mask.height_lv0), (mask.downsample_x, mask.downsample_y)
        return cls(text, mask.pixels.shape[0], mask.pixels.shape[1], downsample, size)

    def mask(self) -> TissueMask:
        """The mask."""
        bits = np.frombuffer(zlib.decompress(base64.b85decode(self.pixels)), np.uint8).reshape(self.rows, -1)
        pixels = np.unpackbits(bits, axis=1, count=self.columns).view(np.bool_)
        return TissueMask(pixels, *self.downsample, *self.size_lv0)


class TissuePlaces:
    """Draws points of a slide, uniformly over its tissue.

    Args:
        mask: The tissue, not empty.
    """

    def __init__(self, mask: TissueMask) -> None:
        self._pixels = np.packbits(mask.pixels, axis=1)
        height, self._width = mask.pixels.shape
        self._x = _borders(self._width, mask.downsample_x, mask.width_lv0)
        self._y = _borders(height, mask.downsample_y, mask.height_lv0)
        self._widths = np.diff(self._x)
        self._rows = ((mask.pixels * self._widths).sum(axis=1) * np.diff(self._y)).cumsum()

    @property
    def area_lv0(self) -> float:
        """Area of the tissue in pixels of level 0."""
        return float(self._rows[-1])

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """A point (x, y) in pixels of level 0."""
        row = int(np.searchsorted(self._rows, rng.random() * self._rows[-1], side="right"))
        row = min(row, len(self._rows) - 1)
        along = (self._row(row) * self._widths).cumsum()
        column = min(int(np.searchsorted(along, rng.random() * along[-1], side="right")), self._width - 1)
        x, y = rng.random(2)
        return (
            float(self._x[column] + x * (self._x[column + 1] - self._x[column])),
            float(self._y[row] + y * (self._y[row + 1] - self._y[row])),
        )

    def share(self, left: float, top: float, right: float, bottom: float) -> float:
        """Share of the area of a rectangle (level-0 pixels) that is tissue; see `tissue_shares`."""
        first, last = self._reach(self._y, top, bottom)
        rows = np.unpackbits(self._pixels[first:last], axis=1, count=self._width)
        area = self._overlap(self._y[first : last + 1], top, bottom) @ rows @ self._overlap(self._x, left, right)
        return round(float(area) / ((right - left) * (bottom - top)), DECIMALS)

    def _row(self, number: int) -> NDArray[np.uint8]:
        return np.unpackbits(self._pixels[number], count=self._width)

    @staticmethod
    def _reach(borders: Numbers, low: float, high: float) -> tuple[int, int]:
        first = int(np.searchsorted(borders, low, side="right")) - 1
        return max(0, first), int(np.searchsorted(borders, high, side="left"))

    @staticmethod
    def _overlap(borders: Numbers, low: float, high: float) -> Numbers:
        overlap: Numbers = (np.minimum(borders[1:], high) - np.maximum(borders[:-1], low)).clip(0)
        return overlap


# A row without tissue has the sum of the row before it, and "right" passes over it, so `draw` never meets one.
