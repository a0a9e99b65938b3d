"""What a file says about itself, before anybody decides which of it to believe."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyvips

from wsidata.errors import SpacingConflictWarning

Loaders = Mapping[str, Callable[[], pyvips.Image]]
"""For each associated picture, what decodes it to RGB."""


class AssociatedImages(Mapping[str, pyvips.Image]):
    """Names of the pictures, and the pictures, each decoded when it is looked up.

    Args:
        loaders: What decodes each.
        path: The slide, for errors.
    """

    def __init__(self, loaders: Loaders, path: Path) -> None:
        self._loaders, self._path = loaders, path

    def __getitem__(self, name: str) -> pyvips.Image:
        if name not in self._loaders:
            listing = ", ".join(f"'{one}'" for one in self._loaders) or "none"
            raise KeyError(f"slide '{self._path.name}' has no associated image '{name}' (it has: {listing}).")
        return self._loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def __contains__(self, name: object) -> bool:  # Mapping's own would decode the picture
        return name in self._loaders

    def __repr__(self) -> str:
        return f"AssociatedImages({', '.join(self._loaders) or 'none'})"


PLAUSIBLE_MPP_UM = (0.01, 40.0)
"""Spacings outside are print densities or mistakes: 72 dpi is 352.8 um/px, 600 dpi is 42.3 um/px."""

MAX_ANISOTROPY = 1.1


MAX_DISAGREEMENT = 0.05


@dataclass(frozen=True)
class StatedSpacing:
    """A spacing of level 0 as one source states it.

    Attributes:
        source: Where it was read, such as "Aperio description (MPP)".
        mpp: um per pixel, (x, y), as stated; plausible or not.
    """

    source: str
    mpp: tuple[float, float]

    @property
    def is_plausible(self) -> bool:
        """Finite, of a microscope's size, and (nearly) the same along both axes."""
        low, high = PLAUSIBLE_MPP_UM
        x, y = self.mpp
        in_range = all(math.isfinite(value) and low <= value <= high for value in self.mpp)
        return in_range and max(x, y) / min(x, y) <= MAX_ANISOTROPY


@dataclass(frozen=True)
class SlideMetadata:
    """Metadata of one file.

    Attributes:
        spacings: Every spacing stated, most trustworthy first.
        magnification: Objective power of level 0, or None.
        checked: The places a spacing was looked for, for error messages.
        properties: Everything else, as text.
        icc_profile: The colour profile embedded in level 0, or None.
    """

    spacings: tuple[StatedSpacing, ...] = ()
    magnification: float | None = None
    checked: tuple[str, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)
    icc_profile: bytes | None = field(default=None, repr=False)


def checked_override(value: float | tuple[float, float] | None) -> tuple[float, float] | None:
    """A spacing to believe instead of the files', as (x, y) in um per pixel.

    Raises:
        ValueError: if it is none.
    """
    if value is None:
        return None
    x, y = value if isinstance(value, (tuple, list)) else (value, value)
    if not all(math.isfinite(one) and one > 0 for one in (x, y)):
        raise ValueError(f"mpp_override={value} must be a finite number of um per pixel above 0, or a pair (x, y).")
    return float(x), float(y)


def choose_spacing(
    facts: Sequence[StatedSpacing], override: tuple[float, float] | None, name: str
) -> tuple[tuple[float, float] | None, str | None]:
    """The spacing to believe and where it comes from.

    The user's own value wins, then the first plausible one. Whoever loses while saying something else by more than
    5 % is named in a `SpacingConflictWarning`.

    Args:
        facts: Spacings stated by the file, most trustworthy first.
        override: The user's spacing in um per pixel, (x, y), or None.
        name: The slide's file name, for the warning.

    Returns:
        (mpp, source), or (None, None) if nobody says anything plausible.
    """
    believable = [fact for fact in facts if fact.is_plausible]
    if override is not None:
        believable.insert(0, StatedSpacing("mpp_override", override))
    if not believable:
        return None, None
    chosen = believable[0]
    for other in believable[1:]:
        if any(abs(a / b - 1) > MAX_DISAGREEMENT for a, b in zip(chosen.mpp, other.mpp, strict=True)):
            warnings.warn(
                f"slide '{name}': {chosen.source} says {_text(chosen.mpp)} um/px, {other.source} says "
                f"{_text(other.mpp)}. {chosen.source} is used; pass mpp_override=... to decide otherwise.",
                SpacingConflictWarning,
                stacklevel=5,  # whoever opened the slide
            )
    return chosen.mpp, chosen.source


def _text(mpp: tuple[float, float]) -> str:
    return f"{mpp[0]:.4g}" if math.isclose(mpp[0], mpp[1], rel_tol=1e-3) else f"{mpp[0]:.4g} x {mpp[1]:.4g}"


def positive_number(text: object) -> float | None:
    """What a file states, as a finite number above 0, or None."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
