import json
from dataclasses import replace

import pandas as pd
import pytest

from wsidata import WSIDataModule
from wsidata.datamodules.checkpoint import (
    check_remembered_classes,
    check_remembered_split,
    remember,
    remembered_stats,
    warn_of_trained,
)
from wsidata.splits.leaks import LeakWarning
from wsidata.splits.unreadable import skipped_rows
from wsidata.stats.result import ChannelStats
from wsidata.tables.parts import SplitError

TABLE = pd.DataFrame(
    {"image_id": list("abcd"), "split": ["train", "train", "val", "test"], "label_name": "x", "path": list("abcd")}
)
NONE = skipped_rows(TABLE, {})
STATS = ChannelStats((0.5,), (0.1,), 10, 2, "pooled", tissue_only=False, max_value=255)


def test_memory_is_plain_and_accepts_what_it_remembers():
    memory = json.loads(json.dumps(remember(TABLE, NONE, ["x", "y"], STATS)))
    check_remembered_classes(memory, ["x", "y"])
    check_remembered_split(memory, TABLE.sample(frac=1, random_state=0), NONE)
    assert remembered_stats(memory, None) == STATS
    assert remembered_stats(memory, STATS) == STATS
    assert remembered_stats(memory, replace(STATS, reading={"z": 1})) == STATS  # it does not say


def test_other_classes_splits_and_statistics_are_refused():
    memory = remember(TABLE, NONE, ["x", "y"], STATS)
    with pytest.raises(SplitError, match=r"classes are \['x', 'y'\] and the table's \['y', 'x'\]"):
        check_remembered_classes(memory, ["y", "x"])
    with pytest.raises(SplitError, match="1 images moved"):
        check_remembered_split(memory, TABLE.assign(split=["train", "val", "val", "test"]), NONE)
    with pytest.raises(SplitError, match="other channel statistics"):
        remembered_stats(memory, replace(STATS, mean=(0.6,)))
    assert remembered_stats(remember(TABLE, NONE, ["x"], None), STATS) is None


def test_what_was_left_out_of_training_is_remembered_and_not_of_testing():
    without_a = skipped_rows(TABLE, {"a": "bad", "d": "bad"})
    memory = remember(TABLE, without_a, ["x"], None)
    check_remembered_split(memory, TABLE, skipped_rows(TABLE, {"a": "bad"}))
    with pytest.raises(SplitError, match=r"0 of them cannot be read any more \[\], 1 that it had to leave out"):
        check_remembered_split(memory, TABLE, NONE)
    del memory["skipped"]  # checkpoints of before
    check_remembered_split(memory, TABLE, NONE)


def test_slides_trained_on_are_not_tested_on():
    memory = remember(TABLE, NONE, ["x"], None)
    check_remembered_split(memory, TABLE, NONE, evaluated="test")
    with pytest.raises(SplitError, match="were in the checkpoint's training set"):
        check_remembered_split(memory, TABLE.assign(split=["test", "train", "val", "test"]), NONE, evaluated="test")


def test_ids_as_digests_are_recognized_and_not_readable():
    table = TABLE.assign(image_id=["patient_1", "patient_2", "patient_3", "patient_4"])
    skipped = skipped_rows(table, {"patient_3": "bad"})
    stats = replace(STATS, skipped=(("patient_3", "bad"),))
    memory = json.loads(json.dumps(remember(table, skipped, ["x"], stats, names=False)))
    assert "patient" not in json.dumps(memory)
    check_remembered_split(memory, table, skipped)
    check_remembered_split(memory, table, skipped, evaluated="test")
    with pytest.raises(SplitError, match=r"1 images moved \[.*patient_2 \(train -> val\)"):
        check_remembered_split(memory, table.assign(split=["train", "val", "val", "test"]), skipped)
    with pytest.raises(SplitError, match=r"1 that it had to leave out can be read now \['patient_3'\]"):
        check_remembered_split(memory, table, skipped_rows(table, {}))
    with pytest.raises(SplitError, match=r"were in the checkpoint's training set \['patient_1'\]"):
        check_remembered_split(memory, table.assign(split=["test", "train", "val", "test"]), skipped, evaluated="test")
    with pytest.raises(SplitError, match="1 are gone"):
        check_remembered_split(memory, table.iloc[1:], skipped)


def test_patients_are_known_again_and_not_named():
    table = TABLE.assign(group=["patient_1", "patient_2", "patient_3", "patient_3"])
    memory = json.loads(json.dumps(remember(table, skipped_rows(TABLE, {"b": "bad"}), ["x"], None)))
    assert "patient" not in json.dumps(memory)
    new = table.assign(image_id=list("efgh"), split="test")
    words = r"1 test groups are called as those that the checkpoint was trained on \['patient_1'\].*with other images"
    with pytest.warns(LeakWarning, match=words):  # patient 2 could not be read
        check_remembered_split(memory, new, NONE, "test")
    with pytest.warns(LeakWarning, match=words):
        warn_of_trained(memory, new)
    with pytest.warns(LeakWarning, match=r"1 test images were in the checkpoint's training set \['a'\]") as said:
        warn_of_trained(memory, table[:1].assign(split="test"))
    assert len(said) == 1
    del memory["groups"]  # checkpoints of before
    check_remembered_split(memory, new, NONE, "test")
    assert "groups" not in remember(TABLE.assign(group=""), NONE, ["x"], None)


def test_checkpoints_without_paths_hold_neither_paths_nor_ids(camelyon):
    def module(**options):
        return WSIDataModule(
            camelyon / "evaluation" / "reference.csv", camelyon / "images", level=1, image_size=64, num_workers=0,
            test_ids=[f"test_00{number}" for number in range(1, 5)], **options,
        )  # fmt: skip

    def told(dm):
        return json.dumps([dict(dm.hparams), dict(dm.hparams_initial), dm.state_dict()], default=str)

    secrets = (str(camelyon), "test_001", "tumor_001")
    assert all(secret in told(module()) for secret in secrets)
    private = module(remember_paths=False)
    assert not any(secret in told(private) for secret in secrets)
    assert "test_001" in list(private.tables["test"]["image_id"])
    module().load_state_dict(private.state_dict())
    module(remember_paths=False).load_state_dict(module().state_dict())
    assert private.hparams["remember_paths"] is False
