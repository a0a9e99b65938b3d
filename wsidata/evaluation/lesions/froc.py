"""Free-response operating characteristic of detected lesions, by the rules of Camelyon16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.evaluation.bootstrap import Counts, interval, resample, units_of
from wsidata.evaluation.lesions.lesion_map import LesionError, LesionHits

FALSE_POSITIVES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Mean false positives a slide at which Camelyon16 reads the sensitivity."""

_NUMBERS_AT_ONCE = 2_000_000

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Froc:
    """Sensitivity for lesions against false positives a slide.

    Attributes:
        score: Mean of the sensitivities, the FROC score of Camelyon16; nan without lesions.
        table: One row for each number of false positives a slide, and one for the mean: columns `false_positives` (nan
            for the mean), `sensitivity`, `low`, `high`, `note` (why a number is missing).
        curve: One row a threshold, from the highest down: columns `threshold`, `false_positives` (a slide),
            `sensitivity`.
        slides: Number of slides.
        lesions: Number of lesions, without isolated tumor cells.
    """

    score: float
    table: pd.DataFrame
    curve: pd.DataFrame
    slides: int
    lesions: int


def lesion_froc(
    hits: Sequence[LesionHits],
    *,
    false_positives: Sequence[float] = FALSE_POSITIVES,
    groups: Sequence[str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Froc:
    """Sensitivity at given numbers of false positives a slide, with bootstrap intervals over slides.

    A threshold finds the lesions and false positives that score it or more. Between thresholds the curve is straight,
    from (0, 0) on; beyond the last it is level. As in the script of Camelyon16, with one difference: the script drops
    the lowest score, which is the 0 it gives to missed lesions. Where no lesion is missed and there are no isolated
    tumor cells, that drops a true threshold, and it counts detections of score 0 never. Here every score counts.

    Args:
        hits: Of every slide, those without tumor included; see `LesionMap.hits`, `LesionHits.without_lesions`.
        false_positives: Mean false positives a slide.
        groups: Patient of each slide: all slides of a patient are drawn together.
        resamples: Number of resamples, each with as many slides with and without lesions (with `groups`, where each
            patient has only one kind).
        level: Share of resamples that the interval holds.
        seed: Of the resamples; the same numbers give the same intervals.

    Raises:
        LesionError: if there are no slides, not one group a slide, a score is not finite, or a number makes no sense.
    """
    if not hits or (groups is not None and len(groups) != len(hits)):
        raise LesionError(f"there are {len(hits)} slides and {groups and len(groups)} groups. Pass one group a slide.")
    if not false_positives or not all(0 <= number < np.inf for number in false_positives):
        raise LesionError(f"false_positives={false_positives} must be numbers of 0 or more.")
    if not 0 < level < 1 or resamples < 0:
        raise LesionError(f"level={level} has to lie between 0 and 1, and resamples={resamples} has to be 0 or more.")
    events = _Events.of(hits)
    read = np.asarray(false_positives, np.float64)
    values = events.sensitivities(np.ones((len(hits), 1)), read)[:, 0]
    strata = (events.lesions > 0).astype(np.int64)
    units = units_of(None if groups is None else np.array(groups, dtype=object), strata, len(hits))
    drawn = [events.sensitivities(counts, read) for counts in resample(units, resamples, seed)]
    resampled = np.concatenate(drawn, axis=1) if drawn else np.zeros((len(values), 0))
    rows = []
    for number, value, numbers in zip([*read, np.nan], values, resampled, strict=True):
        found = interval(float(value), numbers, level, "no slide has lesions")
        one = {"false_positives": number, "sensitivity": found.value, "low": found.low, "high": found.high}
        rows.append({**one, "note": found.note})
    table, curve = pd.DataFrame(rows), pd.DataFrame(events.curve())
    return Froc(float(values[-1]), table, curve, len(hits), int(events.lesions.sum()))


@dataclass(frozen=True, eq=False)
class _Events:
    """Scores of found lesions and false positives of all slides, from the highest down."""

    scores: Numbers
    slide: NDArray[np.int64]
    is_lesion: NDArray[np.bool_]
    lesions: NDArray[np.int64]  # of each slide, those that were missed included

    @classmethod
    def of(cls, hits: Sequence[LesionHits]) -> _Events:
        found = [
            (score, slide, is_lesion)
            for slide, one in enumerate(hits)
            for is_lesion, scores in ((True, one.lesions), (False, one.false_positives))
            for score in scores
            if not (is_lesion and score == -np.inf)
        ]
        scores = np.array([score for score, _, _ in found], np.float64)
        if not np.isfinite(scores).all():
            raise LesionError("a score of a lesion or false positive is not finite. Find out where it comes from.")
        order = np.argsort(-scores, kind="stable")
        slide = np.array([slide for _, slide, _ in found], np.int64)[order]
        is_lesion = np.array([is_lesion for _, _, is_lesion in found], np.bool_)[order]
        return cls(scores[order], slide, is_lesion, np.array([len(one.lesions) for one in hits], np.int64))

    @property
    def _last(self) -> NDArray[np.int64]:
        """The last event of each threshold: those of one score come together."""
        return np.flatnonzero(np.append(self.scores[1:] != self.scores[:-1], True)[: len(self.scores)])

    def _points(self, counts: Counts) -> tuple[Numbers, Numbers]:
        """False positives a slide and sensitivity at each threshold, after (0, 0): (thresholds + 1, resamples)."""
        drawn = counts[self.slide]
        with np.errstate(invalid="ignore"):  # no lesions
            found = np.cumsum(drawn * self.is_lesion[:, None], axis=0)[self._last] / (self.lesions @ counts)
        false = np.cumsum(drawn * ~self.is_lesion[:, None], axis=0)[self._last] / counts.sum(axis=0)
        start = np.zeros((1, counts.shape[1]))
        return np.concatenate([start, false]), np.concatenate([start, found])

    def sensitivities(self, counts: Counts, read: Numbers) -> Numbers:
        """Sensitivity at each number of false positives, and their mean: (numbers + 1, resamples)."""
        step = max(1, _NUMBERS_AT_ONCE // max(1, len(self.scores)))
        found = []
        for first in range(0, counts.shape[1], step):
            part = counts[:, first : first + step]
            points = zip(*(axis.T for axis in self._points(part)), strict=True)
            at = np.stack([np.interp(read, false, found) for false, found in points], axis=1)
            found.append(np.where(self.lesions @ part > 0, at, np.nan))
        sensitivities = np.concatenate(found, axis=1)
        return np.concatenate([sensitivities, sensitivities.mean(axis=0, keepdims=True)])

    def curve(self) -> dict[str, Numbers]:
        false, found = self._points(np.ones((len(self.lesions), 1)))
        return {"threshold": self.scores[self._last], "false_positives": false[1:, 0], "sensitivity": found[1:, 0]}
