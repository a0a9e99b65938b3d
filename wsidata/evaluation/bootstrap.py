"""Bootstrap resamples as counts of how often each image was drawn, and percentile intervals over them.

Images, or whole patients (groups) with all their images, are drawn with replacement, as many as there are. With strata,
as many of each stratum are drawn as there are. A resample is a column of counts, so that a score of all of them takes a
few matrix products (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]

_NUMBERS_AT_ONCE = 2_000_000  # 16 MB
_FEWEST_DEFINED = 0.9


@dataclass(frozen=True)
class Interval:
    """A score with its percentile interval; nan where undefined.

    Attributes:
        value: The score of the images themselves.
        low: Lower end of the interval.
        high: Upper end.
        note: Why there is no score, or no interval; else empty.
    """

    value: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class Units:
    """What is drawn.

    Attributes:
        unit: (images,) number of the unit, an image or a group, that each image belongs to.
        stratum: (units,) number of the stratum of each unit.
    """

    unit: NDArray[np.int64]
    stratum: NDArray[np.int64]


def units_of(groups: NDArray[np.object_] | None, strata: NDArray[np.int64] | None, images: int) -> Units:
    """What is drawn: images, or groups; and from which strata.

    Groups whose images are of several strata are drawn without strata.
    """
    if groups is None:
        unit = np.arange(images)
        return Units(unit, np.zeros(images, np.int64) if strata is None else strata)
    unit = np.unique(groups.astype(str), return_inverse=True)[1].reshape(-1)
    count = int(unit.max(initial=-1)) + 1
    if strata is not None:
        stratum = np.zeros(count, np.int64)
        stratum[unit] = strata
        if (stratum[unit] == strata).all():
            return Units(unit, stratum)
    return Units(unit, np.zeros(count, np.int64))


def resample(units: Units, resamples: int, seed: int) -> Iterator[Counts]:
    """Counts of resamples, (images, some of the resamples) at a time.

    Args:
        units: See `units_of`.
        resamples: How many in all.
        seed: Same counts for the same seed.
    """
    random = np.random.default_rng(seed)
    images, count = len(units.unit), len(units.stratum)
    members = [np.flatnonzero(units.stratum == one) for one in np.unique(units.stratum)]
    step = max(1, min(resamples, _NUMBERS_AT_ONCE // max(images, 1)))
    for start in range(0, resamples, step):
        columns = min(step, resamples - start)
        counts = np.zeros((count, columns))
        for inside in members:
            drawn = random.integers(0, len(inside), (len(inside), columns))
            flat = np.bincount((drawn * columns + np.arange(columns)).ravel(), minlength=len(inside) * columns)
            counts[inside] = flat.reshape(len(inside), columns)
        yield counts if count == images else counts[units.unit]


def interval(value: float, drawn: NDArray[np.float64], level: float, undefined: str) -> Interval:
    """The percentile interval of a score over resamples.

    Resamples in which the score is undefined (nan) are left out. If they are more than one in ten, if all resamples
    give the same score (as where nothing is wrong), or if the score itself is outside (a biased score of few images),
    there is no interval, and the note says so.

    Args:
        value: The score itself.
        drawn: (resamples,) the score of each resample.
        level: Share of resamples in the interval, such as 0.95.
        undefined: Why the score is undefined, where it is.
    """
    nan = float("nan")
    if np.isnan(value):
        return Interval(nan, nan, nan, f"undefined: {undefined}")
    defined = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        return Interval(value, nan, nan, "no interval: no resamples")
    if len(defined) < _FEWEST_DEFINED * len(drawn):
        share = 1 - len(defined) / len(drawn)
        return Interval(value, nan, nan, f"no interval: undefined in {share:.0%} of the resamples ({undefined})")
    low, high = (float(end) for end in np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]))
    rounding = 1e-9 * max(1.0, abs(value))
    if high - low <= rounding:
        return Interval(value, nan, nan, "no interval: all resamples give the same score")
    if not low - rounding <= value <= high + rounding:
        bias = float(defined.mean()) - value
        return Interval(value, nan, nan, f"no interval: biased with so few images (resamples are off by {bias:+.3f})")
    return Interval(value, low, high)


def exact_proportion(found: Interval, images: int, level: float) -> Interval:
    """The interval of Clopper and Pearson (Biometrika 26, 1934), for a share of 0 or 1, of which resamples say nothing.

    Args:
        found: A share, as `interval` gives it.
        images: How many independent images, or groups, it is a share of.
        level: As for `interval`.
    """
    if not (np.isnan(found.low) and images > 0 and found.value in (0.0, 1.0)):
        return found
    end = ((1 - level) / 2) ** (1 / images)
    low, high = (end, 1.0) if found.value == 1 else (0.0, 1 - end)
    return Interval(found.value, low, high, "interval of Clopper and Pearson: resamples are all alike")
