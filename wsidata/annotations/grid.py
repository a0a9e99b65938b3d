"""A grid of pixels over a slide."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol


class _HasResolutions(Protocol):
    def size_at(self, **resolution: Any) -> tuple[int, int]: ...

    def downsample_at(self, **resolution: Any) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Grid:
    """Pixels over a slide, or over a part of it.

    Pixel (row, column) covers level 0 from (x_lv0 + column * downsample_x, y_lv0 + row * downsample_y) to the same of
    the next.

    Attributes:
        width: Columns.
        height: Rows.
        downsample_x: Level-0 pixels per pixel along x.
        downsample_y: The same along y.
        x_lv0: Left edge in level-0 pixels.
        y_lv0: Upper edge in level-0 pixels.
    """

    width: int
    height: int
    downsample_x: float = 1.0
    downsample_y: float = 1.0
    x_lv0: float = 0.0
    y_lv0: float = 0.0

    def __post_init__(self) -> None:
        steps = (self.downsample_x, self.downsample_y)
        if self.width < 1 or self.height < 1 or not all(isfinite(step) and step > 0 for step in steps):
            raise ValueError(f"{self} needs at least one pixel, and finite downsamples above 0.")
        if not (isfinite(self.x_lv0) and isfinite(self.y_lv0)):
            raise ValueError(f"{self} needs a finite place.")

    @classmethod
    def of(cls, slide: _HasResolutions, **resolution: Any) -> Grid:
        """The grid of `slide.image(**resolution)`."""
        return cls(*slide.size_at(**resolution), *slide.downsample_at(**resolution))
