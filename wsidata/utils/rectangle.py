"""TODOC wsidata/utils/rectangle.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

ReadRectangle = Callable[[int, int, int, int], NDArray[Any]]
"""From (x, y, width, height) in pixels, a rectangle inside an image, to its pixels: (height, width, bands)."""


@dataclass(frozen=True)
class Window:
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

    def inside(self, width: int, height: int) -> Window | None:
        """The part of it that lies inside an image of this size; None where none does."""
        return self.inside_of(Window(0, 0, width, height))

    def inside_of(self, other: Window) -> Window | None:
        """The part of it that lies inside another window; None where none does."""
        left, right = max(self.x, other.x), min(self.x + self.width, other.x + other.width)
        top, bottom = max(self.y, other.y), min(self.y + self.height, other.y + other.height)
        return Window(left, top, right - left, bottom - top) if left < right and top < bottom else None

    def grown(self, rim: int) -> Window:
        """With so many pixels more on each side."""
        return Window(self.x - rim, self.y - rim, self.width + 2 * rim, self.height + 2 * rim)

    def moved(self, x: int, y: int) -> Window:
        """Shifted to the right and down."""
        return Window(self.x + x, self.y + y, self.width, self.height)

    def within(self, other: Window) -> tuple[slice, slice]:
        """Rows and columns of an array of `other` that this window is."""
        top, left = self.y - other.y, self.x - other.x
        return slice(top, top + self.height), slice(left, left + self.width)
