"""Slide metadata as stated in the file, the choice of a spacing among them, and associated images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyvips

from wsidata.errors import SpacingConflictWarning
from wsidata.formats.codecs.orientation import turned_pair
from wsidata.remote.address import SlidePath

PLAUSIBLE_MPP_UM = (0.01, 40.0)
"""Spacings outside are print densities or mistakes: 72 dpi is 352.8 um/px, 600 dpi is 42.3 um/px."""

MAX_ANISOTROPY = 1.1
"""Largest plausible ratio between the spacings along the two axes."""

MAX_DISAGREEMENT = 0.05
"""Relative difference between two stated spacings beyond which a warning is given."""

Loaders = Mapping[str, Callable[[], pyvips.Image]]
"""For each associated image, a function that decodes it to RGB."""


@dataclass(frozen=True)
class StatedSpacing:
    """Resolution of level 0 (um/px, mpp) as stated by one source.

    Attributes:
        source: Where it was read, such as "Aperio description (MPP)".
        mpp: um per pixel, (x, y), as stated; plausible or not.
    """

    source: str
    mpp: tuple[float, float]

    @property
    def is_plausible(self) -> bool:
        """Whether it is finite, in the range of microscopes, and (nearly) the same along both axes."""
        low, high = PLAUSIBLE_MPP_UM
        x, y = self.mpp
        in_range = all(math.isfinite(value) and low <= value <= high for value in self.mpp)
        return in_range and max(x, y) / min(x, y) <= MAX_ANISOTROPY


@dataclass(frozen=True)
class SlideMetadata:
    """Metadata of one file.

    Attributes:
        spacings: All stated spacings, most trustworthy first.
        magnification: Objective power of level 0, or None.
        checked: The places where a spacing was looked for, for error messages.
        properties: Everything else, as text.
        icc_profile: The color profile embedded in level 0, or None.
    """

    spacings: tuple[StatedSpacing, ...] = ()
    magnification: float | None = None
    checked: tuple[str, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)
    icc_profile: bytes | None = field(default=None, repr=False)

    def turned(self, orientation: int) -> SlideMetadata:
        """The metadata of the upright image, from those of the stored one."""
        spacings = tuple(replace(one, mpp=turned_pair(one.mpp, orientation)) for one in self.spacings)
        return replace(self, spacings=spacings)


class AssociatedImages(Mapping[str, pyvips.Image]):
    """Associated images of a slide by name, each decoded when it is looked up."""

    def __init__(self, loaders: Loaders, path: SlidePath) -> None:
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

    def __contains__(self, name: object) -> bool:  # Mapping's own would decode the image
        return name in self._loaders

    def __repr__(self) -> str:
        return f"AssociatedImages({', '.join(self._loaders) or 'none'})"


def checked_override(value: float | tuple[float, float] | None) -> tuple[float, float] | None:
    """The caller's `mpp_override` as (x, y) in um per pixel.

    Raises:
        ValueError: if it is not a spacing.
    """
    if value is None:
        return None
    x, y = value if isinstance(value, (tuple, list)) else (value, value)
    if not all(math.isfinite(one) and one > 0 for one in (x, y)):
        raise ValueError(f"mpp_override={value} must be a finite number of um per pixel above 0, or a pair (x, y).")
    return float(x), float(y)


def choose_spacing(
    stated: Sequence[StatedSpacing], override: tuple[float, float] | None, name: str
) -> tuple[tuple[float, float] | None, str | None]:
    """The spacing to use and its source.

    The caller's override comes first, then the first plausible spacing. Each of the others that differs by more than
    5 % is named in a `SpacingConflictWarning`.

    Returns:
        (mpp, source), um per pixel as (x, y), or (None, None) if no source states a plausible one.
    """
    plausible = _plausible(stated, override)
    if not plausible:
        return None, None
    for conflict in spacing_conflicts(stated, override, name):
        warnings.warn(conflict, SpacingConflictWarning, stacklevel=5)  # the caller that opened the slide
    return plausible[0].mpp, plausible[0].source


def spacing_conflicts(
    stated: Sequence[StatedSpacing], override: tuple[float, float] | None, name: str
) -> tuple[str, ...]:
    """What `choose_spacing` warns of."""
    plausible = _plausible(stated, override)
    return tuple(
        f"slide '{name}': {plausible[0].source} says {_text(plausible[0].mpp)} um/px, {other.source} says "
        f"{_text(other.mpp)}. {plausible[0].source} is used; pass mpp_override=... to decide otherwise."
        for other in plausible[1:]
        if any(abs(a / b - 1) > MAX_DISAGREEMENT for a, b in zip(plausible[0].mpp, other.mpp, strict=True))
    )


def _plausible(stated: Sequence[StatedSpacing], override: tuple[float, float] | None) -> list[StatedSpacing]:
    """Spacings that may be used, the best first."""
    overriding = [] if override is None else [StatedSpacing("mpp_override", override)]
    return [*overriding, *(spacing for spacing in stated if spacing.is_plausible)]


def _text(mpp: tuple[float, float]) -> str:
    return f"{mpp[0]:.4g}" if math.isclose(mpp[0], mpp[1], rel_tol=1e-3) else f"{mpp[0]:.4g} x {mpp[1]:.4g}"


def positive_number(text: object) -> float | None:
    """A metadata value as a finite number above 0, or None. Scanners in some countries write a decimal comma."""
    digits = str(text)
    if digits.count(",") == 1 and "." not in digits:
        digits = digits.replace(",", ".")
    try:
        value = float(digits)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
