"""The resolution requested of a slide, as a level, mpp, magnification, downsample or longest side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from wsidata.formats.levels import (
    TOLERANCE,
    Level,
    Resampling,
    plan_downsample,
    plan_level,
    plan_magnification,
    plan_max_side,
    plan_mpp,
)

MEASURES = ("level", "mpp", "magnification", "downsample", "max_side")
"""The five ways to request a resolution."""


@dataclass(frozen=True, eq=False)
class Resolution(Mapping[str, Any]):
    """A requested resolution: at most one of five measures; none means level 0.

    As a mapping it holds only what was given: it equals `{"mpp": 2.0}`, becomes JSON by way of `dict`, and can be
    passed as keyword arguments (`slide.image(**resolution)`).

    Attributes:
        level: A pyramid level, untouched; 0 is the finest.
        mpp: um per output pixel, one number or (x, y).
        magnification: Objective power, where the metadata has that of level 0.
        downsample: Level-0 pixels per output pixel, one number or (x, y).
        max_side: Longer side of the output in pixels; a smaller slide is not enlarged.
        tolerance: A level this much coarser than requested (as a fraction) still counts as fine enough.

    Raises:
        TypeError: if more than one of the five is given.
    """

    level: int | None = None
    mpp: float | tuple[float, float] | None = None
    magnification: float | None = None
    downsample: float | tuple[float, float] | None = None
    max_side: int | None = None
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        given = [name for name in MEASURES if getattr(self, name) is not None]
        if len(given) > 1:
            raise TypeError(f"pass one resolution, not {len(given)}: {', '.join(given)}.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From keyword arguments.

        Raises:
            TypeError: if more than one of the five is given, or something else.
        """
        if isinstance(given, cls):
            return given
        unknown = sorted(set(given) - {*MEASURES, "tolerance"})
        if unknown:
            raise TypeError(f"{', '.join(unknown)} is no resolution. There are {', '.join(MEASURES)} and tolerance.")
        return cls(**given)

    @property
    def is_level(self) -> bool:
        """Whether a level is read as it is, without resampling."""
        return set(self) <= {"level"}

    def plan(
        self, levels: Sequence[Level], magnification: float | None, *, name: str = "slide", checked: str = ""
    ) -> Resampling:
        """The level to decode, and how to resample it.

        Args:
            levels: Levels of one slide.
            magnification: Objective power of level 0, or None if unknown.
            name: The slide's file name, for errors.
            checked: Where its mpp was looked for, for errors.

        Raises:
            UnknownLevelError: naming the levels there are.
            SpacingUnknownError: if `mpp` or `magnification` is requested of a slide that does not state its own.
            ResolutionUnavailableError: if level 0 is coarser than requested.
        """
        if self.mpp is not None:
            return plan_mpp(levels, self.mpp, tolerance=self.tolerance, name=name, checked=checked)
        if self.magnification is not None:
            return plan_magnification(levels, self.magnification, magnification, tolerance=self.tolerance, name=name)
        if self.downsample is not None:
            return plan_downsample(levels, self.downsample, tolerance=self.tolerance, name=name)
        if self.max_side is not None:
            return plan_max_side(levels, self.max_side)
        return plan_level(levels, self.level or 0, name)

    def __getitem__(self, name: str) -> Any:
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.items()) or "level=0"

    @property
    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value != getattr(Resolution, name)}
