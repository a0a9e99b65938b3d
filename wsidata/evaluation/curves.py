"""ROC, precision-recall, calibration and Kaplan-Meier curves with their bands, as numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from wsidata.evaluation.bootstrap import Units, resample
from wsidata.evaluation.weighted import BINS, Numbers, bin_of

_GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Curve:
    """A curve, and the band that holds the curves of most resamples at each place.

    Attributes:
        x: Places of the curve.
        y: Its heights.
        places: Places of the band.
        low: Its lower edge.
        high: Its upper edge.
    """

    x: Numbers
    y: Numbers
    places: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class Calibration:
    """Bins of equal width that have images.

    Attributes:
        confidence: Mean probability of the images of each bin.
        share: Share of them that are positive, or right.
        count: Number of images.
    """

    confidence: Numbers
    share: Numbers
    count: NDArray[np.int64]


@dataclass(frozen=True)
class SurvivalCurve:
    """Steps of a survival curve, with pointwise intervals.

    Attributes:
        time: 0, the times of events and ends of follow-up, in order.
        survival: Probability of no event until then, inclusive.
        low: Lower end of the interval.
        high: Upper end.
        censored: Times at which follow-up ended without an event.
        followed: (images,) times at which follow-up ended, with or without an event, in order.
    """

    time: Numbers
    survival: Numbers
    low: Numbers
    high: Numbers
    censored: Numbers
    followed: Numbers

    def at_risk(self, time: Numbers) -> NDArray[np.int64]:
        """How many images are still followed, without an event before, at each time."""
        return np.asarray(len(self.followed) - np.searchsorted(self.followed, time, side="left"), np.int64)


def kaplan_meier(time: Numbers, event: NDArray[np.bool_], level: float = 0.95) -> SurvivalCurve:
    """The product-limit estimate (Kaplan and Meier, JASA 53, 1958) of (images,) times and events.

    Intervals are Greenwood's, on the log-log scale (Kalbfleisch and Prentice, 2002).
    """
    places, which = np.unique(time, return_inverse=True)
    events = np.bincount(which, weights=event, minlength=len(places))
    followed = np.sort(time)
    at_risk = len(time) - np.searchsorted(followed, places, side="left")
    survival = np.cumprod(1 - events / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(np.cumsum(events / (at_risk * (at_risk - events)))) / np.log(survival)
        far = NormalDist().inv_cdf((1 + level) / 2) * error
        low, high = survival ** np.exp(-far), survival ** np.exp(far)
    low, high = (np.where(np.isfinite(far), end, survival) for end in (low, high))
    begin = np.ones(1)
    return SurvivalCurve(
        np.r_[0.0, places], np.r_[begin, survival], np.r_[begin, low], np.r_[begin, high], np.sort(time[~event]),
        followed,
    )  # fmt: skip


def roc(
    positive: NDArray[np.bool_],
    score: Numbers,
    units: Units,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Curve:
    """ROC curve (false positive rate, true positive rate) with a band at each false positive rate.

    Args:
        positive: (N,) whether an image is positive; there have to be both.
        score: (N,) such as probabilities.
        units: What is drawn; see `bootstrap.units_of`.
        resamples: Number of resamples; those without both kinds of images are left out.
        level: Share of resamples in the band, at each place of its own.
        seed: Of the resamples.
    """
    x, y, _ = roc_curve(positive, score)
    rows = []
    for found, lacking in _along(positive, score, units, resamples, seed):
        for one, other in zip(found.T, lacking.T, strict=True):
            if one[-1] > 0 and other[-1] > 0:
                rows.append(_height(np.r_[0, other / other[-1]], np.r_[0, one / one[-1]]))
    return Curve(x, y, _GRID, *_edges(rows, level))


def precision_recall(
    positive: NDArray[np.bool_],
    score: Numbers,
    units: Units,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Curve:
    """Precision at each recall, without interpolation, with a band; the arguments are those of `roc`."""
    precision, recall, _ = precision_recall_curve(positive, score)
    rows = []
    for found, lacking in _along(positive, score, units, resamples, seed):
        for one, other in zip(found.T, lacking.T, strict=True):
            if one[-1] > 0:
                first = np.searchsorted(one, np.maximum(_GRID * one[-1] - 1e-9, 1e-9))
                rows.append(one[first] / (one[first] + other[first]))
    precision, recall = precision[-2::-1], recall[-2::-1]  # without the precision of 1 that is added at recall 0
    return Curve(np.r_[0, recall], np.r_[precision[:1], precision], _GRID, *_edges(rows, level))


def calibration(confidence: Numbers, right: Numbers) -> Calibration:
    """Share of right images against mean confidence, over ten bins of equal width.

    Args:
        confidence: (N,) probabilities.
        right: (N,) 0 or 1.
    """
    bins = bin_of(confidence)
    count = np.bincount(bins, minlength=BINS)
    used = count > 0
    sums = (np.bincount(bins, weights=numbers, minlength=BINS)[used] for numbers in (confidence, right))
    means = [numbers / count[used] for numbers in sums]
    return Calibration(means[0], means[1], count[used])


def _along(
    positive: NDArray[np.bool_], score: Numbers, units: Units, resamples: int, seed: int
) -> Iterator[tuple[Numbers, Numbers]]:
    """Positives and negatives at or above each score, from the highest down: (scores, resamples) each."""
    order = np.argsort(-score, kind="stable")
    ranked, hit = score[order], positive[order][:, None]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    for counts in resample(units, resamples, seed):
        drawn = counts[order]
        yield np.cumsum(drawn * hit, axis=0)[last], np.cumsum(drawn * ~hit, axis=0)[last]


def _height(x: Numbers, y: Numbers) -> Numbers:
    """Height of a rising line at each place of the grid, on top of its vertical steps."""
    before = np.searchsorted(x, _GRID + 1e-12, side="right") - 1
    after = np.minimum(before + 1, len(x) - 1)
    width = x[after] - x[before]
    share = np.where(width > 0, (_GRID - x[before]) / np.where(width > 0, width, 1), 0)
    result: Numbers = y[before] + share.clip(0, 1) * (y[after] - y[before])
    return result


def _edges(rows: list[Numbers], level: float) -> tuple[Numbers, Numbers]:
    if not rows:
        nothing = np.full(len(_GRID), np.nan)
        return nothing, nothing
    low, high = np.quantile(np.stack(rows), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
