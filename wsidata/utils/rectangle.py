"""Rectangles of pixels, and what reads them from an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

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

    def within(self, other: Rectangle) -> tuple[slice, slice]:
        """Its rows and columns in an array of the pixels of `other`."""
        top, left = self.y - other.y, self.x - other.x
        return slice(top, top + self.height), slice(left, left + self.width)
