"""Scores of many resamples at once, from how often each of them has each image.

Every function takes counts of shape (images, resamples) and returns (resamples,) or (classes, resamples) numbers, nan
where a resample has no image that the score needs. A column of ones is the score of the images themselves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsidata.evaluation.bootstrap import Counts

Numbers = NDArray[np.float64]
BINS = 10
_ROWS_AT_ONCE = 500
_CONSTANT = 1e-12  # of the variance of all images: a resample of equal numbers, up to rounding


def mean(of_images: Numbers, counts: Counts) -> Numbers:
    """Mean over the images of each resample, of (images,) numbers or of (classes, images)."""
    return _divided(of_images @ counts, counts.sum(axis=0))


def rates(hits: Numbers, among: Numbers, counts: Counts) -> Numbers:
    """Share of `hits` in `among`, both (classes, images) of 0 and 1."""
    return _divided((hits * among) @ counts, among @ counts)


def ranking(positive: NDArray[np.bool_], score: Numbers, counts: Counts) -> tuple[Numbers, Numbers]:
    """Area under the ROC curve, and average precision, of the images of each resample.

    The area is the share of pairs of a positive and a negative image in the right order, ties counted half (Mann and
    Whitney, 1947). Average precision is the sum over thresholds of precision times the gain in recall, without
    interpolation, as in scikit-learn. Images between two scores of positives are counted together.
    """
    if not positive.any():
        nothing = np.full(counts.shape[1], np.nan)
        return nothing, nothing
    order = np.argsort(score, kind="stable")
    ranked, hit = score[order], positive[order]
    first = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    has = np.add.reduceat(hit, first, dtype=np.int64) > 0
    kept = has | np.r_[True, has[:-1]]
    starts, has = first[kept], has[kept]
    total = np.add.reduceat(counts[order], starts, axis=0)
    positives_before: NDArray[np.int64] = np.cumsum(hit, dtype=np.int64) - hit
    found = np.zeros_like(total)
    found[has] = np.add.reduceat(counts[order[hit]], positives_before[starts[has]], axis=0)
    negative = total - found
    positives, negatives = found.sum(axis=0), negative.sum(axis=0)
    below = np.cumsum(negative, axis=0) - negative
    area = _divided((found * (below + negative / 2)).sum(axis=0), positives * negatives)
    above = np.cumsum(total[::-1], axis=0)[::-1]
    precision = np.cumsum(found[::-1], axis=0)[::-1] / np.maximum(above, 1)
    average = _divided((found * precision).sum(axis=0), positives)
    return area, np.where(negatives > 0, average, np.nan)


def calibration_error(confidence: Numbers, right: Numbers, counts: Counts) -> Numbers:
    """Expected calibration error of (images,) confidences and 0 or 1, over ten bins of equal width.

    The mean over the images of the difference, in their bin, between mean confidence and share of right ones (Guo et
    al., On calibration of modern neural networks, ICML 2017).
    """
    gaps = (bin_of(confidence) == np.arange(BINS)[:, None]) * (confidence - right)
    return _divided(np.abs(gaps @ counts).sum(axis=0), counts.sum(axis=0))


def bin_of(confidence: Numbers) -> NDArray[np.int64]:
    """Number of the bin of each confidence; a bin has its lower end, and the last both."""
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def r_squared(truth: Numbers, predicted: Numbers, counts: Counts) -> Numbers:
    """Coefficient of determination; nan where all true numbers are alike."""
    centered = truth - truth.mean()
    spread = _variance(centered, counts)
    result: Numbers = 1 - _divided(mean((truth - predicted) ** 2, counts), spread)
    return result


def pearson(truth: Numbers, predicted: Numbers, counts: Counts) -> Numbers:
    """Pearson's correlation; nan where all true or all predicted numbers are alike."""
    one, other = truth - truth.mean(), predicted - predicted.mean()
    both = mean(one * other, counts) - mean(one, counts) * mean(other, counts)
    return _divided(both, np.sqrt(_variance(one, counts) * _variance(other, counts))).clip(-1, 1)


def quadratic_kappa(truth: Numbers, predicted: Numbers, counts: Counts) -> Numbers:
    """Cohen's kappa with quadratic weights of (images,) class numbers; nan where all of both are one class.

    One minus the mean squared distance, divided by what it would be if both were drawn independently (Cohen, Weighted
    kappa, Psychological Bulletin 70, 1968).
    """
    by_chance = mean(truth**2, counts) + mean(predicted**2, counts) - 2 * mean(truth, counts) * mean(predicted, counts)
    by_chance = np.where(by_chance > _CONSTANT, by_chance, 0.0)  # of whole numbers
    result: Numbers = 1 - _divided(mean((truth - predicted) ** 2, counts), by_chance)
    return result


def concordance(time: Numbers, event: NDArray[np.bool_], risk: Numbers, counts: Counts) -> Numbers:
    """Harrell's concordance index (JAMA 247, 1982) of (images,) times, events and risks; nan where no pairs compare.

    Of all pairs of which one is known to have had its event before the other, or before the other left at the same
    time, the share in which that one has the higher risk; equal risks count one half.
    """
    concordant, comparable = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for start in range(0, len(time), _ROWS_AT_ONCE):
        rows = np.flatnonzero(event)[start : start + _ROWS_AT_ONCE]
        later = (time > time[rows, None]) | ((time == time[rows, None]) & ~event)
        right = later * ((risk < risk[rows, None]) + 0.5 * (risk == risk[rows, None]))
        comparable += (counts[rows] * (later.astype(float) @ counts)).sum(axis=0)
        concordant += (counts[rows] * (right @ counts)).sum(axis=0)
    return _divided(concordant, comparable)


def mean_of_defined(of_classes: Numbers) -> Numbers:
    """Mean over the classes of each resample that have a score, of (classes, resamples)."""
    defined = ~np.isnan(of_classes)
    return _divided(np.where(defined, of_classes, 0.0).sum(axis=0), defined.sum(axis=0))


def _variance(centered: Numbers, counts: Counts) -> Numbers:
    variance = mean(centered**2, counts) - mean(centered, counts) ** 2
    smallest = _CONSTANT * float((centered**2).mean())
    return np.where(variance > smallest, variance, 0.0)


def _divided(above: Numbers, below: Numbers) -> Numbers:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)
