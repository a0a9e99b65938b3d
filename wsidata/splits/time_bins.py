"""Intervals of follow-up time, drawn from training rows, and how many of them each patient survived.

Interval k reaches from `time_bins[k - 1]`, or 0, which it does not hold, to `time_bins[k]`, which it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.tables.parts import SplitError

TimeBins = tuple[float, ...]


def find_time_bins(rows: pd.DataFrame, requested: int | Sequence[float]) -> TimeBins:
    """Ends of the intervals, in the table's unit of time.

    Args:
        rows: Training rows of `LabelTable.frame` with targets (time, event, ...).
        requested: Number of intervals, of which each holds about as many of the events; or their ends themselves.

    Raises:
        SplitError: if there are too few events for so many intervals, or the ends do not increase.
    """
    if not isinstance(requested, int):
        bins = tuple(float(end) for end in requested)
        if len(bins) < 2 or not np.isfinite(bins).all() or bins[0] <= 0 or (np.diff(bins) <= 0).any():
            raise SplitError(
                f"time_bins={list(bins)} must be at least two ends of intervals, more than 0 and increasing."
            )
        return bins
    if requested < 2:
        raise SplitError(f"time_bins={requested} must be at least 2, or the ends of the intervals.")
    times = np.array([target[0] for target in rows["target"] if target[1]])
    if not len(times):
        raise SplitError(
            "no training image has an event, so no intervals can be drawn. Pass time_bins= as the ends of intervals."
        )
    shares = np.arange(1, requested + 1) / requested
    bins = tuple(float(end) for end in np.unique(np.quantile(times, shares, method="inverted_cdf")) if end > 0)
    if len(bins) < requested:
        raise SplitError(
            f"the {len(times)} events of the training images have too few different times for {requested} intervals. "
            f"Pass a smaller time_bins=, or the ends of the intervals."
        )
    return bins


def check_time_bins(rows: pd.DataFrame, bins: Sequence[float]) -> None:
    """Check that each interval begins before the last time of the rows, so that something can be learned of it.

    Args:
        rows: Training rows.
        bins: Ends of the intervals.

    Raises:
        SplitError: naming the last time.
    """
    last = max((target[0] for target in rows["target"]), default=np.inf)
    empty = [end for end in bins[:-1] if end >= last]
    if empty:
        raise SplitError(
            f"no training image is followed beyond a time of {last:g}, and time_bins={[float(end) for end in bins]} "
            f"have an interval that begins at {empty[0]:g}. Pass ends of which all but the last are below {last:g}, in "
            "the unit of the table."
        )


def intervals_survived(
    times: NDArray[np.float64], events: NDArray[np.bool_], bins: Sequence[float]
) -> NDArray[np.int64]:
    """(N,) how many intervals were survived for certain, before an event or the end of follow-up.

    With an event it is also the number of the interval of the event; events after the last interval count as in it. A
    patient who left in the second half of an interval counts as having survived it (Gensheimer and Narasimhan, A
    scalable discrete-time survival model for neural networks, PeerJ 7:e6257, 2019).
    """
    ends = np.asarray(bins, np.float64)
    middles = (np.r_[0.0, ends[:-1]] + ends) / 2
    with_event = np.minimum(np.searchsorted(ends, times, side="left"), len(ends) - 1)
    return np.asarray(np.where(events, with_event, np.searchsorted(middles, times, side="right")), np.int64)


def with_intervals(frame: pd.DataFrame, bins: Sequence[float]) -> pd.DataFrame:
    """The rows with targets (time, event, intervals survived)."""
    pairs = np.array(frame["target"].tolist(), np.float64).reshape(-1, 2)
    survived = intervals_survived(pairs[:, 0], pairs[:, 1] > 0, bins)
    targets = [(float(time), float(event), float(count)) for (time, event), count in zip(pairs, survived, strict=True)]
    return frame.assign(target=pd.Series(targets, index=frame.index, dtype=object))


def time_strata(frame: pd.DataFrame, bins: int) -> list[str]:
    """Event or not, and which of `bins` quantiles of its times, of each row; for a stratified split."""
    pairs = pd.DataFrame(frame["target"].tolist(), columns=["time", "event"], index=frame.index)
    order = pairs.groupby("event")["time"].rank(method="first") - 1
    count = pairs.groupby("event")["time"].transform("size")
    names = {0.0: "censored", 1.0: "event"}
    which = (order * bins // count).astype(int)
    return [f"{names[event]}, time {number + 1} of {bins}" for event, number in zip(pairs["event"], which, strict=True)]
