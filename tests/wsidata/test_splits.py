import random
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.splits import SplitError, make_splits


def table(counts, **columns):
    labels = [name for name, count in counts.items() for _ in range(count)]
    return pd.DataFrame({"image_id": [f"{i:03d}" for i in range(len(labels))], "label_name": labels, **columns})


COUNTS = st.dictionaries(st.sampled_from("abcde"), st.integers(2, 40), min_size=1, max_size=5)
FRACTIONS = st.floats(0.05, 0.5)


@settings(deadline=None, max_examples=60)
@given(COUNTS, FRACTIONS, st.integers(0, 2**32 - 1))
def test_every_class_is_divided_in_proportion_to_within_one(counts, fraction, seed):
    total, classes = sum(counts.values()), len(counts)
    wanted = max(int(total * fraction + 0.5), classes)
    if total - wanted < classes:
        return
    result = make_splits(table(counts), val_fraction=fraction, seed=seed)
    assert set(result["split"]) <= {"train", "val"}
    drawn = result[result["split"] == "val"]["label_name"].value_counts()
    assert drawn.sum() == wanted
    for name, count in counts.items():
        assert abs(drawn.get(name, 0) - count * wanted / total) < 1


@settings(deadline=None, max_examples=40)
@given(COUNTS, st.randoms(use_true_random=False), st.booleans())
def test_row_order_does_not_matter(counts, shuffler, grouped):
    counts = {name: count + 6 for name, count in counts.items()}
    slides = table(counts)
    slides["patient"] = [f"p{i // 2}" for i in range(len(slides))]
    order = list(range(len(slides)))
    shuffler.shuffle(order)
    options = {"test_fraction": 0.2, "group_column": "patient" if grouped else None}
    straight = make_splits(slides, **options).set_index("image_id")["split"]
    shuffled = make_splits(slides.iloc[order], **options)
    assert shuffled["image_id"].tolist() == [slides["image_id"][i] for i in order]
    assert shuffled.set_index("image_id")["split"].to_dict() == straight.to_dict()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab")), min_size=20, max_size=120),
    FRACTIONS,
    st.integers(0, 99),
)
def test_no_group_is_divided(rows, fraction, seed):
    slides = pd.DataFrame(
        {"image_id": range(len(rows)), "patient": [p for p, _ in rows], "label_name": [c for _, c in rows]}
    )
    try:
        result = make_splits(slides, val_fraction=fraction, seed=seed, group_column="patient")
    except SplitError:
        return
    assert result.groupby("patient")["split"].nunique().max() == 1
    for part in ("train", "val"):
        assert set(result[result["split"] == part]["label_name"]) == set(slides["label_name"])


def test_grouped_split_is_near_the_fraction():
    slides = table({"a": 60, "b": 30}, patient=[f"p{i // 3}" for i in range(90)])
    result = make_splits(slides, val_fraction=0.3, group_column="patient")
    drawn = result[result["split"] == "val"]["label_name"].value_counts()
    assert drawn["a"] == pytest.approx(18, abs=3)
    assert drawn["b"] == pytest.approx(9, abs=3)


def test_rare_class_in_two_groups_is_on_both_sides_and_nothing_warns():
    slides = table({"a": 40, "b": 2}, patient=[f"p{i}" for i in range(42)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = make_splits(slides, group_column="patient")
    assert (result["split"] == "val").sum() == pytest.approx(8, abs=2)
    assert result[result["label_name"] == "b"]["split"].nunique() == 2


def test_global_generators_are_neither_read_nor_changed():
    slides = table({"a": 30, "b": 30})
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first, states = make_splits(slides), (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    pd.testing.assert_frame_equal(make_splits(slides), first)


def test_other_seed_is_another_split():
    slides = table({"a": 30, "b": 30})
    assert make_splits(slides, seed=1)["split"].tolist() != make_splits(slides, seed=2)["split"].tolist()


def test_camelyon_numbers():
    names = (
        [f"normal_{i:03d}" for i in range(160)]
        + [f"tumor_{i:03d}" for i in range(110)]
        + [f"test_{i:03d}" for i in range(129)]
    )
    labels = ["normal"] * 160 + ["tumor"] * 110 + ["normal", "tumor", "normal"] * 43
    result = make_splits(pd.DataFrame({"image_id": names, "label_name": labels}), test_prefix="test_")
    assert result["split"].value_counts().to_dict() == {"train": 216, "test": 129, "val": 54}
    assert result[result["split"] == "val"]["label_name"].value_counts().to_dict() == {"normal": 32, "tumor": 22}
    assert result[result["split"] == "test"]["image_id"].str.startswith("test_").all()


def test_predefined_rows_stay_and_val_is_drawn_from_the_rest():
    slides = table({"a": 10, "b": 10})
    slides["set"] = ["Test" if i % 5 == 0 else ("training" if i % 2 else "") for i in range(20)]
    result = make_splits(slides, split_column="set", val_fraction=0.25)
    assert (result["split"] == "test").tolist() == [i % 5 == 0 for i in range(20)]
    assert (result["split"] == "val").sum() == 4


def test_fully_predefined_split_is_taken_as_it_is():
    slides = table({"a": 3}, set=["train", "Validation", "test"])
    assert make_splits(slides, split_column="set")["split"].tolist() == ["train", "val", "test"]


def test_test_ids_and_prefix_work_on_names_in_folders():
    slides = pd.DataFrame({"image_id": [f"c0/{n}" for n in ("test_1", "a", "b", "c", "d")], "label_name": ["x"] * 5})
    assert make_splits(slides, test_prefix="test_")["split"].tolist()[0] == "test"
    assert make_splits(slides, test_ids=["c0/b"])["split"].tolist()[2] == "test"


def test_zero_fraction_draws_nothing():
    assert set(make_splits(table({"a": 1, "b": 1}), val_fraction=0.0)["split"]) == {"train"}


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ({"a": 9, "lonely": 1}, {}, r"class 'lonely' has only one slide.*stratify=False"),
        ({"a": 2, "b": 2}, {"val_fraction": 0.7}, "4 slides of 2 classes cannot give 3 to val.*Lower val_fraction"),
        ({"a": 9}, {"val_fraction": 1.0}, "must be in"),
        ({"a": 9}, {"val_fraction": 0.5, "test_fraction": 0.5}, "leave rows to train on"),
        ({"a": 9}, {"test_ids": ["nope"]}, "test_ids 'nope' are not in the table. Ids look like '000'"),
        ({"a": 9}, {"test_prefix": "test_"}, "no id begins with test_prefix='test_'"),
        ({"a": 9}, {"split_column": "set"}, r"no column \['set'\]; its columns are"),
    ],
)
def test_impossible_splits_name_cause_and_remedy(counts, options, message):
    with pytest.raises(SplitError, match=message):
        make_splits(table(counts), **options)


def test_class_in_one_patient_is_refused():
    slides = table({"a": 8, "b": 2}, patient=[f"p{i}" for i in range(8)] + ["q", "q"])
    with pytest.raises(SplitError, match="class 'b' has only one group"):
        make_splits(slides, group_column="patient")


def test_one_member_is_enough_without_stratification():
    assert set(make_splits(table({"a": 9, "b": 1}), stratify=False)["split"]) == {"train", "val"}


def test_group_in_two_predefined_splits_is_refused():
    slides = table({"a": 4}, set=["train", "val", "test", "train"], patient=["p", "q", "p", "r"])
    with pytest.raises(SplitError, match="group 'p' is in more than one predefined split"):
        make_splits(slides, split_column="set", group_column="patient")


def test_patient_of_a_predefined_test_row_cannot_be_trained_on():
    slides = table({"a": 6}, set=["test", "", "", "", "", ""], patient=["p", "p", "q", "r", "s", "t"])
    with pytest.raises(SplitError, match="group 'p'"):
        make_splits(slides, split_column="set", group_column="patient")


def test_contradictions_are_refused():
    slides = table({"a": 3}, set=["train", "val", ""])
    with pytest.raises(SplitError, match="leaves 1 rows empty"):
        make_splits(slides, split_column="set")
    with pytest.raises(SplitError, match="test_ids puts '000' in test, but the split column says train"):
        make_splits(slides, split_column="set", test_ids=["000"])
    with pytest.raises(SplitError, match="says 'traim'"):
        make_splits(table({"a": 1}, set=["traim"]), split_column="set")
    with pytest.raises(SplitError, match="ids are not unique: '1'"):
        make_splits(pd.DataFrame({"image_id": ["1", "1"], "label_name": "a"}))
