"""Rectangles of pixels, and what reads them from an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]
"""(height, width, bands)."""

ReadRectangle = Callable[[int, int, int, int], NDArray[Any]]
"""From (x, y, width, height) in pixels, a rectangle inside an image, to its pixels: (height, width, bands)."""


@dataclass(frozen=True)
class Rectangle:
    """A rectangle of pixels.

    Attributes:
        x: First column; may be negative.
        y: First row; may be negative.
        width: Columns, at least 1.
        height: Rows, at least 1.
    """

    x: int
    y: int
    width: int
    height: int

    def inside(self, width: int, height: int) -> Rectangle | None:
        """The part inside an image of this size; None where there is none."""
        return self.intersection(Rectangle(0, 0, width, height))

    def intersection(self, other: Rectangle) -> Rectangle | None:
        """The part inside another rectangle; None where there is none."""
        left, right = max(self.x, other.x), min(self.x + self.width, other.x + other.width)
        top, bottom = max(self.y, other.y), min(self.y + self.height, other.y + other.height)
        return Rectangle(left, top, right - left, bottom - top) if left < right and top < bottom else None

    def grown(self, rim: int) -> Rectangle:
        """Extended by `rim` pixels on each side."""
        return Rectangle(self.x - rim, self.y - rim, self.width + 2 * rim, self.height + 2 * rim)

    def moved(self, x: int, y: int) -> Rectangle:
        """Shifted by x columns to the right and y rows down."""
        return Rectangle(self.x + x, self.y + y, self.width, self.height)

    def strips(self, rows: int) -> Iterator[Rectangle]:
        """Its strips of `rows` rows, and of fewer at the end, from the top down."""
        for top in range(self.y, self.y + self.height, rows):
            yield Rectangle(self.x, top, self.width, min(rows, self.y + self.height - top))

    def within(self, other: Rectangle) -> tuple[slice, slice]:
        """Its rows and columns in an array of the pixels of `other`."""
        top, left = self.y - other.y, self.x - other.x
        return slice(top, top + self.height), slice(left, left + self.width)


Put = Callable[[Rectangle, Pixels], None]
"""Takes the pixels of a part of an image, which nobody changes later; called by several threads at a time."""

ReadParts = Callable[[Rectangle, Put], None]
"""Reads a rectangle inside an image part by part, in any order, and passes each on."""


@dataclass(frozen=True)
class PartReader:
    """Reads rectangles of an image part by part, and says what its pixels are.

    Attributes:
        parts: Reads a rectangle part by part.
        bands: Samples of a pixel.
        dtype: Type of a sample.
    """

    parts: ReadParts
    bands: int
    dtype: np.dtype[Any]

    def __call__(self, region: Rectangle) -> Pixels:
        """The pixels of a rectangle: (height, width, bands), memory of its own."""
        out = np.empty((region.height, region.width, self.bands), dtype=self.dtype)

        def put(part: Rectangle, pixels: Pixels) -> None:
            out[part.within(region)] = pixels

        self.parts(region, put)
        return out
