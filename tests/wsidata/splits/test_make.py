import random
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.splits.make import make_splits
from wsidata.tables.parts import SplitError, SplitWarning


def table(counts, **columns):
    labels = [name for name, count in counts.items() for _ in range(count)]
    return pd.DataFrame({"image_id": [f"{i:03d}" for i in range(len(labels))], "label_name": labels, **columns})


COUNTS = st.dictionaries(st.sampled_from("abcde"), st.integers(2, 40), min_size=1, max_size=5)
FRACTIONS = st.floats(0.05, 0.5)


@pytest.mark.slow
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
    shares = {name: count * wanted / total for name, count in counts.items()}
    lifted = sum(share < 1 for share in shares.values())  # a class whose share is below one gets one, from the others
    assert all(1 <= drawn[name] < share + 1 for name, share in shares.items())
    assert all(drawn[name] > share - 1 - lifted for name, share in shares.items())


@pytest.mark.slow
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


@pytest.mark.slow
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
        ({"a": 9, "lonely": 1}, {}, r"class 'lonely' has only one image.*stratify=False"),
        ({"a": 2, "b": 2}, {"val_fraction": 0.7}, "val: 4 images of 2 classes cannot give 3 and.*Change val_fraction"),
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
    with pytest.warns(SplitWarning, match="has no image of class 'b'"):
        result = make_splits(table({"a": 9, "b": 1}), stratify=False)
    assert set(result["split"]) == {"train", "val"}


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
    with pytest.raises(SplitError, match="test_ids puts '000' in test, but another argument says train"):
        make_splits(slides, split_column="set", test_ids=["000"])
    with pytest.raises(SplitError, match="says 'traim'"):
        make_splits(table({"a": 1}, set=["traim"]), split_column="set")
    with pytest.raises(SplitError, match="ids are not unique: '1'"):
        make_splits(pd.DataFrame({"image_id": ["1", "1"], "label_name": "a"}))


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(5, 30), min_size=1), st.integers(2, 5), st.integers(0, 99))
def test_folds_partition_the_slides_evenly_within_every_class(counts, folds, seed):
    slides = table(counts)
    parts = [make_splits(slides, k_fold=(i, folds), seed=seed) for i in range(folds)]
    in_val = pd.DataFrame({i: part["split"] == "val" for i, part in enumerate(parts)})
    assert (in_val.sum(axis=1) == 1).all()
    assert np.ptp(in_val.sum()) <= 1
    assert all(np.ptp(in_val[slides["label_name"] == name].sum()) <= 1 for name in counts)


def test_grouped_folds_divide_no_patient_and_have_every_class():
    slides = table({"a": 60, "b": 24}, patient=[f"p{i // 2}" for i in range(84)])
    parts = [make_splits(slides, k_fold=(i, 5), group_column="patient", test_fraction=0.2) for i in range(5)]
    assert len({tuple(part["split"] == "test") for part in parts}) == 1
    validated = sum((part["split"] == "val").astype(int) for part in parts)
    assert (validated == (parts[0]["split"] != "test")).all()
    for part in parts:
        assert part.groupby("patient")["split"].nunique().max() == 1
        share = part[part["split"] == "val"]["label_name"].value_counts()
        assert share["a"] == pytest.approx(9.6, abs=3)
        assert share["b"] == pytest.approx(3.8, abs=2)


def test_repeats_draw_validation_anew_and_keep_the_test_rows():
    slides = table({"a": 30, "b": 30})
    for options in ({}, {"k_fold": (0, 5)}):
        parts = [make_splits(slides, repeat=r, test_fraction=0.2, **options)["split"] for r in range(3)]
        assert all((part == "test").equals(parts[0] == "test") for part in parts)
        assert len({tuple(part) for part in parts}) == 3


def test_tiny_class_gets_a_validation_slide():
    result = make_splits(table({"a": 200, "tiny": 2}), val_fraction=0.1)
    assert sorted(result[result["label_name"] == "tiny"]["split"]) == ["train", "val"]


@pytest.mark.filterwarnings("ignore:.* has no image of class")
def test_small_classes_can_stay_in_train_and_it_is_said():
    slides = table({"a": 20, "b": 20, "lonely": 1, "few": 4})
    with (
        pytest.warns(SplitWarning, match="val has no image of class 'lonely'"),
        pytest.warns(SplitWarning, match=r"class 'lonely' is too small to be both in train and in val; .* in train"),
    ):
        result = make_splits(slides, small_classes="train")
    assert result.groupby("label_name")["split"].agg(set)["lonely"] == {"train"}
    assert result.groupby("label_name")["split"].agg(set)["few"] == {"train", "val"}
    with pytest.warns(SplitWarning, match="class 'few', 'lonely' is too small to be in each of 5 folds"):
        folds = [make_splits(slides, small_classes="train", k_fold=(i, 5)) for i in range(5)]
    assert all(set(fold.loc[slides["label_name"].isin(["few", "lonely"]), "split"]) == {"train"} for fold in folds)
    with pytest.raises(SplitError, match=r"class 'few', 'lonely' has only 4 images, which cannot be in each of 5"):
        make_splits(slides, k_fold=(0, 5))


@pytest.mark.filterwarnings("ignore:.* has no image of class")
def test_patient_of_a_small_class_stays_in_train_with_every_slide():
    slides = table({"a": 20, "rare": 2}, patient=[*(f"p{i // 2}" for i in range(20)), "p0", "p0"])
    with pytest.warns(SplitWarning, match="class 'rare' is too small"):
        result = make_splits(slides, group_column="patient", small_classes="train", val_fraction=0.4)
    assert set(result[result["patient"] == "p0"]["split"]) == {"train"}
    assert (result["split"] == "val").sum() == 8


def test_predefined_validation_list_leaves_the_rest_for_training():
    slides = table({"a": 6, "b": 6})
    result = make_splits(slides, val_ids=["001", "007"], test_prefix=("000", "006"))
    assert result.set_index("image_id")["split"].to_dict() == dict.fromkeys(slides["image_id"], "train") | {
        "001": "val",
        "007": "val",
        "000": "test",
        "006": "test",
    }
    with pytest.warns(SplitWarning, match="no image of class 'a'"):
        assert (make_splits(slides, val_prefix="00", test_fraction=0.5)["split"] == "test").sum() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k_fold": (5, 5)}, r"k_fold=\(5, 5\) must be \(i, k\)"),
        ({"k_fold": (0, 30), "stratify": False}, "20 images cannot be divided into 30 folds"),
        ({"k_fold": (0, 2), "val_ids": ["001"]}, "k_fold= draws the validation rows"),
        ({"val_ids": ["001"], "test_ids": ["001"]}, "val_ids puts '001' in val, but another argument says test"),
        ({"repeat": -1}, "repeat=-1"),
        ({"small_classes": "drop"}, "small_classes='drop'"),
    ],
)
def test_impossible_folds_and_lists_are_refused(options, message):
    with pytest.raises(SplitError, match=message):
        make_splits(table({"a": 10, "b": 10}), **options)


def test_predefined_part_without_a_class_is_said():
    with pytest.warns(SplitWarning, match=r"^val has no image of class 'b'"):
        make_splits(table({"a": 6, "b": 6}), val_ids=["001"])


def test_a_split_is_for_ever():
    """The draw rests on SHA-256 alone; this one must never change."""
    result = make_splits(table({"a": 10, "b": 5}), seed=42, val_fraction=0.4)
    assert "".join(result["split"].str[0]) == "vvtttttvtvvtttv"
    grouped = make_splits(table({"a": 10, "b": 6}, patient=[f"p{i // 2}" for i in range(16)]), group_column="patient")
    assert "".join(grouped["split"].str[0]) == "vvttttttttttttvv"


@pytest.mark.slow
def test_a_large_group_is_not_drawn_where_small_ones_would_do():
    slides = pd.DataFrame({"image_id": [f"s{i}" for i in range(60)], "label_name": ["a", "b"] * 30})
    slides["patient"] = ["big"] * 50 + [f"q{i}" for i in range(10)]
    for seed in range(40):
        shares = (make_splits(slides, group_column="patient", seed=seed)["split"] == "val").mean()
        assert shares <= 0.2


@pytest.mark.parametrize("column", ["label_name", "patient", "image_id"])
def test_rows_without_a_patient_or_a_label_are_refused(column):
    slides = table({"a": 8, "b": 8}).assign(patient=[f"p{i}" for i in range(16)])
    slides.loc[[0, 3], column] = None
    with pytest.raises(SplitError, match=rf"column '{column}' is empty in 2 of 16 rows"):
        make_splits(slides, group_column="patient")


@pytest.mark.parametrize("fold", [3, (0.5, 5), (0, 1), (5, 5), ("0", "5"), (0, 1, 2)])
def test_folds_that_do_not_exist_are_refused(fold):
    with pytest.raises(SplitError, match=r"k_fold=.* must be \(i, k\)"):
        make_splits(table({"a": 10, "b": 10}), k_fold=fold)


@pytest.mark.filterwarnings("ignore:.* has no image of class")
def test_test_rows_are_drawn_from_those_that_are_in_no_part_yet():
    slides = table({"a": 20, "b": 20})
    slides["set"] = ["train" if i < 20 else "" for i in range(40)]
    result = make_splits(slides, split_column="set", test_fraction=0.5, val_fraction=0.1)
    assert set(result["split"][:20]) <= {"train", "val"}
    assert (result["split"] == "test").sum() == 10
    assert (result["split"] == "val").sum() == 4  # a tenth of all 40
