"""Splits of times to events are stratified by event and time, as finely as there are images for."""

import numpy as np
import pandas as pd
import pytest

from wsidata.splits.split_table import split_table
from wsidata.splits.time_bins import time_strata
from wsidata.tables.label_table import read_table
from wsidata.tables.parts import SplitError

OPTIONS = {
    "val_fraction": 0.25, "test_fraction": 0.0, "seed": 1, "k_fold": None, "repeat": 0, "small_classes": "raise",
    "test_ids": None, "test_prefix": None, "val_ids": None, "val_prefix": None, "stratify": True,
    "group_column": None, "label_column": ["time", "event"], "time_unit": "days",
}  # fmt: skip


def labels(folder, times, events, **options):
    names = [f"s{number:03d}" for number in range(len(times))]
    for name in names:
        (folder / f"{name}.tif").touch()
    frame = pd.DataFrame({"image": names, "time": times, "event": events, "patient": [name[:3] for name in names]})
    return read_table(frame, folder, label_column=["time", "event"], target="survival", **options)


def test_every_part_has_its_share_of_events_and_times(tmp_path):
    random = np.random.default_rng(0)
    table = labels(tmp_path, random.exponential(50, 96).round(2), (np.arange(96) % 3 == 0).astype(int))
    strata = pd.Series(time_strata(table.frame, 4))
    frames = [split_table(table, None, OPTIONS).frame]
    frames += [split_table(table, None, {**OPTIONS, "k_fold": (fold, 4)}).frame for fold in range(4)]
    for frame in frames:
        validated = strata[frame["split"] == "val"].value_counts()
        assert (abs(validated - strata.value_counts() / 4) <= 1).all()
        assert "stratum" not in frame
    assert sum((frame["split"] == "val").astype(int) for frame in frames[1:]).eq(1).all()
    groups = labels(tmp_path, table.frame["target"].str[0], table.frame["target"].str[1], group_column="patient")
    frame = split_table(groups, None, {**OPTIONS, "group_column": "patient"}).frame
    assert frame.groupby("group")["split"].nunique().eq(1).all()
    assert 0.2 < frame.loc[frame["split"] == "val", "target"].str[1].mean() < 0.5


def test_few_events_are_divided_by_fewer_times_and_one_is_refused(tmp_path):
    table = labels(tmp_path, [*range(1, 13)], [1] * 3 + [0] * 9)
    frame = split_table(table, None, OPTIONS).frame
    assert frame.loc[frame["split"] == "val", "target"].str[1].sum() == 1
    with pytest.raises(SplitError, match="class 'event, time 1 of 1' has only one image"):
        split_table(labels(tmp_path, [1, 2, 3, 4], [1, 0, 0, 0]), None, OPTIONS)
    for unit, said in ((None, r"needs time_unit=.*months, years\."), ("moons", r"months, years \(found 'moons'\)")):
        with pytest.raises(ValueError, match=said):
            split_table(table, None, {**OPTIONS, "time_unit": unit})
