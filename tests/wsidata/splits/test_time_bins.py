"""Intervals of time hold about as many events each, and survived ones are counted as the rule says."""

import numpy as np
import pandas as pd
import pytest

from wsidata.splits.time_bins import check_time_bins, find_time_bins, intervals_survived, time_strata, with_intervals
from wsidata.tables.parts import SplitError


def rows(times, events):
    return pd.DataFrame({"target": list(zip(map(float, times), map(float, events), strict=True))})


def test_bins_are_quantiles_of_the_times_of_events():
    times, events = np.arange(1, 41), np.arange(40) % 2
    assert find_time_bins(rows(times, events), 4) == (10.0, 20.0, 30.0, 40.0)  # events at 2, 4, ... 40
    assert find_time_bins(rows(times * 100, 0 * events), [5, 10]) == (5.0, 10.0)
    for given, message in [
        (1, "at least 2"), ([3.0, 3.0], "increasing"), ([0.0, 1.0], "more than 0"), ([4.0], "two ends"),
        ([1.0, np.inf], "increasing"),
    ]:  # fmt: skip
        with pytest.raises(SplitError, match=message):
            find_time_bins(rows(times, events), given)
    with pytest.raises(SplitError, match=r"too few different times for 4 intervals.*smaller time_bins="):
        find_time_bins(rows([3, 3, 3, 5, 9], [1, 1, 1, 1, 0]), 4)
    with pytest.raises(SplitError, match=r"no training image has an event.*ends of intervals"):
        find_time_bins(rows([3, 4], [0, 0]), 2)


def test_an_interval_after_the_last_time_is_refused():
    frame = rows([3, 9, 12], [1, 0, 1])
    check_time_bins(frame, (5.0, 11.0, 40.0))
    check_time_bins(frame[:0], (5.0, 11.0))
    for bins in ((5.0, 12.0, 40.0), (100.0, 200.0)):
        with pytest.raises(SplitError, match=rf"beyond a time of 12, .* begins at {max(12, bins[0]):g}\. .*below 12,"):
            check_time_bins(frame, bins)


def test_intervals_survived_for_certain():
    bins = (10.0, 20.0, 40.0)
    died = {0.0: 0, 10.0: 0, 10.1: 1, 20.0: 1, 39.0: 2, 90.0: 2}
    left = {0.0: 0, 4.9: 0, 5.0: 1, 14.0: 1, 15.0: 2, 29.0: 2, 30.0: 3, 90.0: 3}
    assert intervals_survived(np.array([*died]), np.ones(6, bool), bins).tolist() == [*died.values()]
    assert intervals_survived(np.array([*left]), np.zeros(8, bool), bins).tolist() == [*left.values()]
    assert with_intervals(rows([15, 15], [1, 0]), bins)["target"].tolist() == [(15.0, 1.0, 1.0), (15.0, 0.0, 2.0)]


def test_strata_are_event_and_quantile_of_time():
    frame = rows([1, 9, 2, 8, 3, 7], [1, 1, 0, 0, 1, 1])
    found = time_strata(frame, 2)
    assert found[:4] == ["event, time 1 of 2", "event, time 2 of 2", "censored, time 1 of 2", "censored, time 2 of 2"]
    assert found[4:] == ["event, time 1 of 2", "event, time 2 of 2"]
