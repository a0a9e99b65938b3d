import json
from dataclasses import replace

import pytest

from wsidata.hub.manifest import (
    HUB_SPLITS,
    PREPROCESSING_FILE,
    TABLE_SPLITS,
    Encoding,
    ExportFormatError,
    Preprocessing,
    TableFile,
    Transforms,
)
from wsidata.stats.result import ChannelStats

STATS = ChannelStats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 100, 2, "pooled", False, 255, {"mpp": 2.0}, "pack")


def preprocessing():
    return Preprocessing(
        kind="slides",
        layout="files",
        encoding=Encoding("jpeg", 90),
        target="class",
        class_names=("normal", "tumor"),
        tables=(
            TableFile("train", "train/metadata.parquet", 7, "aa"),
            TableFile("test", "test/metadata.parquet", 3, "bb"),
        ),
        transforms={"train": Transforms(True, "RandomD4()", None), "eval": Transforms(False, "mine", "CropOrPad(8)")},
        arguments={"image_size": [8, 8], "dtype": "uint8", "lazy": False, "k_fold": None},
        crop={"kind": "pack", "margin_px": 16},
        split_digest="cc",
        opaque_ids=False,
        stats=STATS,
        versions={"slidestream": "0.1.0"},
        image_count=10,
        image_bytes=1000,
    )


def test_what_is_saved_is_read_back_equal(tmp_path):
    preprocessing().save(tmp_path)
    assert Preprocessing.load(tmp_path) == preprocessing()
    assert [path.name for path in tmp_path.iterdir()] == [PREPROCESSING_FILE]
    without = replace(preprocessing(), stats=None, crop=None)
    assert Preprocessing.from_json(without.to_json()) == without


def test_tuples_in_arguments_do_not_change_the_digest():
    tupled = replace(preprocessing(), arguments={**preprocessing().arguments, "image_size": (8, 8)})
    assert tupled.digest == preprocessing().digest
    assert Preprocessing.from_json(tupled.to_json()).digest == tupled.digest


def test_tables_of_a_split_and_names_of_splits():
    assert [table.path for table in preprocessing().tables_of("train")] == ["train/metadata.parquet"]
    assert preprocessing().tables_of("validation") == ()
    assert preprocessing().splits == ("train", "test")
    assert {TABLE_SPLITS[HUB_SPLITS[part]] for part in HUB_SPLITS} == set(HUB_SPLITS)


@pytest.mark.parametrize(("encoding", "lossless"), [("png", True), ("tiff", True), ("jpeg", False)])
def test_lossless_encodings(encoding, lossless):
    assert Encoding(encoding).lossless is lossless


def changed(**changes):
    return json.dumps({**json.loads(preprocessing().to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a preprocessing.json of slidestream"),
        ("[1]", "is not a preprocessing.json of slidestream"),
        (changed(format_version=2), "is of format 2, and this version of slidestream reads 1"),
        (changed(split_digest="dd"), "was changed since it was written"),
        (changed(tables=[{"path": "x"}]), "is damaged"),
        (changed(surprise=1), "is damaged"),
    ],
)
def test_other_newer_changed_and_damaged_files_are_refused(text, message):
    with pytest.raises(ExportFormatError, match=message):
        Preprocessing.from_json(text)


def test_changed_statistics_are_refused():
    stats = {**json.loads(STATS.to_json()), "mean": [0.0, 0.2, 0.3]}
    with pytest.raises(ExportFormatError, match="statistics were changed"):
        Preprocessing.from_json(changed(stats=stats))


def test_unfinished_folder_says_what_to_do(tmp_path):
    with pytest.raises(ExportFormatError, match=r"not a finished export.*run it again"):
        Preprocessing.load(tmp_path)
