import os

import pandas as pd
import pytest

from wsidata.splits.make import make_splits
from wsidata.splits.split_file import (
    apply_splits,
    check_no_leak,
    check_same_split,
    load_splits,
    save_splits,
    save_splits_beside,
    split_digest,
    split_parts,
)
from wsidata.tables.parts import SplitError


@pytest.fixture
def split():
    names = [f"{i:03d}" for i in range(20)]
    return make_splits(pd.DataFrame({"image_id": names, "label_name": ["a", "b"] * 10, "group": ""}), test_prefix="00")


def test_saved_split_comes_back_with_leading_zeros(split, tmp_path):
    digest = save_splits(split, tmp_path / "new" / "split.csv")
    lines = (tmp_path / "new" / "split.csv").read_text().splitlines()
    assert lines[:2] == ["image_id,label_name,split,split_digest", f"000,a,test,sha256:{digest[:16]}"]
    loaded = load_splits(tmp_path / "new" / "split.csv", expected_digest=digest)
    assert split_digest(loaded) == digest
    again = apply_splits(split.drop(columns="split").iloc[::-1], loaded)
    assert again["split"].sort_index().tolist() == split["split"].tolist()


def test_digest_is_of_who_is_where_and_not_of_order(split):
    assert split_digest(split.sample(frac=1, random_state=1)) == split_digest(split)
    moved = split.assign(split=["train", *split["split"].tolist()[1:]])
    assert split_digest(moved) != split_digest(split)


def test_changed_file_is_noticed(split, tmp_path):
    digest = save_splits(split, tmp_path / "split.csv")
    text = (tmp_path / "split.csv").read_text().replace("000,a,test", "000,a,train")
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(SplitError, match="it was changed"):
        load_splits(tmp_path / "split.csv", expected_digest=digest)
    with pytest.raises(SplitError, match=r"was changed since it was saved.*delete that column"):
        load_splits(tmp_path / "split.csv")
    lines = text.splitlines()
    (tmp_path / "split.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    assert load_splits(tmp_path / "split.csv")["split"][0] == "train"


def test_lost_row_is_noticed(split, tmp_path):
    save_splits(split, tmp_path / "split.csv")
    lines = (tmp_path / "split.csv").read_text().splitlines()
    (tmp_path / "split.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(SplitError, match="was changed since it was saved"):
        load_splits(tmp_path / "split.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,part\n1,train\n", r"no column \['split'\]"),
        ("image_id,split\n1,dev\n", "unknown splits .'dev'"),
        ("image_id,split\n1,train\n1,val\n", "repeated ids .'1'"),
    ],
)
def test_damaged_split_files_are_refused(tmp_path, text, message):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(SplitError, match=message):
        load_splits(tmp_path / "split.csv")
    with pytest.raises(SplitError, match="does not exist"):
        load_splits(tmp_path / "absent.csv")


def test_split_of_other_slides_is_refused(split):
    other = split.assign(image_id=["new", *split["image_id"].tolist()[1:]])
    with pytest.raises(
        SplitError, match=r"1 in the table are not in it \['new'\], 1 in it are not in the table \['000'\]"
    ):
        apply_splits(other, split)


def test_resuming_names_moved_gone_and_new_slides():
    saved = {"train": ["a", "b"], "val": ["c"], "test": []}
    check_same_split(saved, saved)
    with pytest.raises(
        SplitError, match=r"1 images moved \['b \(train -> val\)'\], 1 are gone \['c'\], 1 are new \['d'\]"
    ):
        check_same_split(saved, {"train": ["a"], "val": ["b"], "test": ["d"]})


def test_evaluation_on_training_slides_is_refused(split):
    saved = split_parts(split)
    check_no_leak(saved, saved["test"], "test")
    with pytest.raises(SplitError, match="1 test images were in the checkpoint's training set"):
        check_no_leak(saved, [*saved["test"], saved["train"][0]], "test")


def saved_frame():
    return pd.DataFrame({"image_id": ["a", "b", "c", "d"], "split": ["train", "train", "val", "test"]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.replace("val", "validation"), r"unknown splits \['validation'\]"),
        (lambda frame: frame.assign(split=frame["split"].str.title()), "unknown splits"),
        (lambda frame: frame.assign(split=frame["split"].where(frame.index > 0)), r"unknown splits \[''\]"),
        (lambda frame: pd.concat([frame, frame.head(1).assign(split="test")]), r"repeated ids \['a'\]"),
        (lambda frame: frame.assign(split_digest="sha256:0000000000000000"), "was changed since it was saved"),
        (lambda frame: frame.drop(columns="split"), r"the split has no column \['split'\]"),
    ],
)
def test_a_split_in_memory_is_checked_like_a_file(change, words):
    assert load_splits(saved_frame())["split"].tolist() == ["train", "train", "val", "test"]
    with pytest.raises(SplitError, match=words):
        load_splits(change(saved_frame()))


def test_a_split_beside_a_run_never_replaces_another_one(tmp_path):
    frame = saved_frame()
    other = frame.assign(split=["val", "train", "train", "test"])
    assert save_splits_beside(frame, tmp_path).name == "split.csv"
    second = save_splits_beside(other, tmp_path)
    assert second.name == f"split_{split_digest(other)[:8]}.csv"
    assert save_splits_beside(frame, tmp_path).name == "split.csv"
    assert save_splits_beside(other, tmp_path) == second
    assert split_digest(load_splits(tmp_path / "split.csv")) == split_digest(frame)
    assert split_digest(load_splits(second)) == split_digest(other)
    (tmp_path / "split.csv").write_text("image_id,split\na,somewhere\n")
    assert save_splits_beside(frame, tmp_path).name == f"split_{split_digest(frame)[:8]}.csv"
    assert (tmp_path / "split.csv").read_text().endswith("somewhere\n")
    with pytest.raises(SplitError, match=rf"split_{split_digest(frame)[:8]}\.csv"):
        check_same_split(split_parts(frame), split_parts(other))


def test_an_equal_split_is_not_rewritten(split, tmp_path):
    file = save_splits_beside(split, tmp_path)
    own = pd.DataFrame({"split": split["split"], "image_id": split["image_id"], "center": "3"}).iloc[::-1]
    for kept in (file.read_text(), own.to_csv(index=False)):
        file.write_text(kept)
        os.utime(file, ns=(1, 1))
        assert save_splits_beside(split, tmp_path) == file
        assert (file.stat().st_mtime_ns, file.read_text()) == (1, kept)
    save_splits(split, tmp_path / "again.csv")
    os.utime(tmp_path / "again.csv", ns=(1, 1))
    save_splits(split, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").stat().st_mtime_ns == 1


def test_a_split_that_leaves_out_other_rows_does_not_replace_one_that_does_not(split, tmp_path):
    file = save_splits_beside(split, tmp_path)
    before = file.read_text()
    skipping = split.assign(skipped=["cut off", *[""] * 19])
    other = save_splits_beside(skipping, tmp_path)
    assert (other.name, file.read_text()) == (f"split_{split_digest(split)[:8]}.csv", before)
    assert load_splits(other)["skipped"][0] == "cut off"
