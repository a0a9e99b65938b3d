"""Pyramid levels, and the choice of the level to decode and the factor to resample it by.

Pure geometry, no files. A level, a resolution (um/px, mpp), a magnification, a downsample factor or a longest side is
requested (see `Resolution`); each `plan_*` function returns a `Resampling`: the level to decode and the number of its
pixels per output pixel, per axis, as true (not rounded) factors.

Conventions
    * x runs to the right (columns, width), y downwards (rows, height); pairs are (x, y).
    * A downsample is the number of level-0 pixels per pixel. It is measured per axis, and is rarely a whole number:
      4443 / 2221 = 2.0005.
    * The output has round(level side / factor) pixels, at least 1; its mpp is exactly the requested one, so its last
      column and row may lie up to half an output pixel inside or outside the edge of the level.
    * A level is used as it is where the output has as many pixels as the level, whose own size was rounded; level 0,
      whose grid is exact, only where its last pixel would move by `SAME_GRID_PX` or less.
    * `levels` are those of one slide, in any order; `name` is its file name, for errors. An mpp or downsample is one
      number for both axes, or (x, y).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real

from wsidata.errors import ResolutionUnavailableError, SpacingUnknownError, UnknownLevelError

TOLERANCE = 0.05
"""A level up to this fraction coarser than requested still counts as fine enough.

"40x" scanners write 0.2431, 0.2500 or 0.2527 um/px; without a tolerance mpp=0.25 would be an error for the last. The
output still has exactly the requested mpp, so the cost is at most 5 % of interpolation.
"""

SAME_GRID_PX = 0.02
"""Level 0 is used as it is where the requested resolution moves its last pixel by no more than this."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Attributes:
        index: 0 is the finest. Not a TIFF page number.
        width: Columns, in pixels of this level.
        height: Rows, in pixels of this level.
        downsample_x: Level-0 pixels per pixel of this level, along x; 1.0 for level 0.
        downsample_y: The same along y.
        mpp: um per pixel of this level, (x, y), or None where that of the slide is unknown.
    """

    index: int
    width: int
    height: int
    downsample_x: float
    downsample_y: float
    mpp: tuple[float, float] | None = None

    @property
    def downsample(self) -> float:
        """Level-0 pixels per pixel of this level, mean of both axes."""
        return (self.downsample_x + self.downsample_y) / 2

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of this level."""
        return self.width, self.height


@dataclass(frozen=True)
class Resampling:
    """The level to decode, and the factors to resample it by.

    Attributes:
        level: Index of the level to decode.
        factor_x: Pixels of that level per output pixel along x. Above 1 shrinks.
        factor_y: The same along y.
        width: Columns of the output.
        height: Rows of the output.
    """

    level: int
    factor_x: float
    factor_y: float
    width: int
    height: int

    @property
    def is_identity(self) -> bool:
        """Whether the level is used as it is."""
        return self.factor_x == 1.0 and self.factor_y == 1.0


def with_spacing(levels: Sequence[Level], mpp: tuple[float, float] | None) -> tuple[Level, ...]:
    """The same levels with their mpp, computed from that of level 0; None if unknown."""
    return tuple(
        replace(level, mpp=None if mpp is None else (mpp[0] * level.downsample_x, mpp[1] * level.downsample_y))
        for level in levels
    )


def check_level(levels: Sequence[Level], level: int, name: str = "slide") -> Level:
    """The level with an index. Negative ones do not count from the end.

    Raises:
        UnknownLevelError: listing the levels there are.
        ValueError: if it is no whole number.
    """
    if not _is(level, Integral):
        raise ValueError(f"level={level!r} must be a whole number: 0 is the finest level.")
    if 0 <= level < len(levels):
        return levels[level]
    listing = ", ".join(f"{one.index}: {one.width}x{one.height}" for one in levels)
    has = "only level 0" if len(levels) == 1 else f"levels 0..{len(levels) - 1}"
    raise UnknownLevelError(
        f"slide '{name}' has {has}; level {level} does not exist (width x height of each: {listing}). "
        "Choose one of these, or ask for a resolution with mpp=, downsample= or max_side=."
    )


def coarsest_level_for(
    levels: Sequence[Level], downsample_x: float, downsample_y: float, *, tolerance: float = TOLERANCE
) -> Level | None:
    """The coarsest level that still holds the requested detail; None if even the finest is too coarse."""
    limit_x, limit_y = downsample_x * (1 + tolerance), downsample_y * (1 + tolerance)
    fine_enough = [level for level in levels if level.downsample_x <= limit_x and level.downsample_y <= limit_y]
    return max(fine_enough, key=lambda level: level.downsample, default=None)


def plan_level(levels: Sequence[Level], level: int, name: str = "slide") -> Resampling:
    """Reading a level as it is.

    Raises:
        UnknownLevelError: if the slide has no such level.
    """
    found = check_level(levels, level, name)
    return Resampling(found.index, 1.0, 1.0, found.width, found.height)


def plan_downsample(
    levels: Sequence[Level],
    downsample: float | tuple[float, float],
    *,
    tolerance: float = TOLERANCE,
    name: str = "slide",
    requested: str | None = None,
) -> Resampling:
    """Resampling to a number of level-0 pixels per output pixel. Errors name what was `requested`.

    Raises:
        ResolutionUnavailableError: if level 0 is coarser than requested.
    """
    down_x, down_y = _pair(downsample, "downsample")
    level = coarsest_level_for(levels, down_x, down_y, tolerance=tolerance)
    if level is None:
        base = _finest(levels).mpp
        spacing = "" if base is None else f" ({base[0]:.4g} x {base[1]:.4g} um/px)"
        raise ResolutionUnavailableError(
            f"slide '{name}' cannot give {requested or f'downsample={downsample}'}: that is finer than its level 0"
            f"{spacing}, and enlarging would only invent detail. Ask for level=0 or something coarser."
        )
    return _resample(level, down_x / level.downsample_x, down_y / level.downsample_y)


def plan_mpp(
    levels: Sequence[Level],
    mpp: float | tuple[float, float],
    *,
    tolerance: float = TOLERANCE,
    name: str = "slide",
    checked: str = "",
) -> Resampling:
    """Resampling to exactly this mpp. Errors name the places that were `checked` for that of the slide.

    Raises:
        SpacingUnknownError: if the levels have no mpp.
        ResolutionUnavailableError: if level 0 is coarser than requested.
    """
    mpp_x, mpp_y = _pair(mpp, "mpp")
    base = _finest(levels).mpp
    if base is None:
        where = f" (checked: {checked})" if checked else ""
        raise SpacingUnknownError(
            f"slide '{name}' has no pixel spacing{where}. Pass mpp_override=..., or choose the level with level= "
            "instead of mpp=."
        )
    downsample = mpp_x / base[0], mpp_y / base[1]
    return plan_downsample(levels, downsample, tolerance=tolerance, name=name, requested=f"mpp={mpp}")


def plan_magnification(
    levels: Sequence[Level],
    magnification: float,
    base_magnification: float | None,
    *,
    tolerance: float = TOLERANCE,
    name: str = "slide",
) -> Resampling:
    """Resampling to an objective power, from that of level 0 by the metadata.

    Raises:
        SpacingUnknownError: if the power of level 0 is unknown. It is not guessed from the mpp: 0.25 um/px is called
            40x by one maker and 20x (with another camera) by the next.
        ResolutionUnavailableError: if level 0 has less than the requested power.
    """
    power = _positive(magnification, "magnification")
    if base_magnification is None:
        raise SpacingUnknownError(
            f"slide '{name}' does not say its objective power. Ask by spacing instead: mpp= is what scanners agree on "
            "(about 10 / magnification, so mpp=1.0 for 10x)."
        )
    requested = f"magnification={magnification}"
    return plan_downsample(levels, base_magnification / power, tolerance=tolerance, name=name, requested=requested)


def plan_max_side(levels: Sequence[Level], max_side: int) -> Resampling:
    """Resampling to a longer side of exactly `max_side` pixels; a smaller slide is left as it is.

    The other side is rounded, so the factors of the two axes may differ by half an output pixel overall.

    Raises:
        ValueError: if `max_side` is below 1.
    """
    if not (_is(max_side, Real) and 1 <= max_side < math.inf):
        raise ValueError(f"max_side={max_side!r} must be at least 1 pixel.")
    base = _finest(levels)
    scale = min(1.0, max_side / max(base.size))
    width, height = (max(1, round(side * scale)) for side in base.size)
    level = coarsest_level_for(levels, 1 / scale, 1 / scale, tolerance=0.0) or base
    return Resampling(level.index, level.width / width, level.height / height, width, height)


def _resample(level: Level, factor_x: float, factor_y: float) -> Resampling:
    width, factor_x = _axis(level.width, level.downsample_x, factor_x)
    height, factor_y = _axis(level.height, level.downsample_y, factor_y)
    return Resampling(level.index, factor_x, factor_y, width, height)


def _axis(side: int, downsample: float, factor: float) -> tuple[int, float]:
    """Output pixels along one axis, and the factor, which becomes 1 where there is nothing to interpolate."""
    count = max(1, round(side / factor))
    # The size of a shrunk level was rounded, so its downsample is itself known to half a pixel from edge to edge only.
    fits = count == side if downsample > 1 else abs(factor - 1) * side <= SAME_GRID_PX
    return (side, 1.0) if fits else (count, factor)


def _finest(levels: Sequence[Level]) -> Level:
    return min(levels, key=lambda level: level.downsample)


def _pair(value: float | tuple[float, float], what: str) -> tuple[float, float]:
    x, y = value if isinstance(value, tuple) else (value, value)
    return _positive(x, what), _positive(y, what)


def _is(value: object, kind: type) -> bool:  # arguments can be anything, whatever their types say
    return isinstance(value, kind)


def _positive(value: float, what: str) -> float:
    if not (_is(value, Real) and math.isfinite(value) and value > 0):
        raise ValueError(f"{what}={value!r} must be a finite number above 0.")
    return float(value)
