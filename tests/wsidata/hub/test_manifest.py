import json
from contextlib import suppress
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
from wsidata.utils.files import json_sha256

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
        (changed(format_version=3), "is of format 3, and this version of slidestream reads 1 and 2"),
        (changed(split_digest="dd"), "was changed since it was written"),
        (changed(tables=[{"path": "x"}]), "is damaged"),
        (changed(surprise=1), "is damaged"),
    ],
)
def test_other_newer_changed_and_damaged_files_are_refused(text, message):
    with pytest.raises(ExportFormatError, match=message):
        Preprocessing.from_json(text)


ODD = [None, 3, -1, 2**80, 1e308 * 10, "x", True, [], {}, [[]], [None], {"a": {}}, "\ud800"]


def sealed(content):
    """JSON with a right digest, as anyone can write it."""
    try:
        return json.dumps({"format_version": 1, **content, "digest": json_sha256(content)})
    except UnicodeEncodeError:
        return json.dumps({"format_version": 1, **content, "digest": "x"})


@pytest.mark.parametrize("name", [*json.loads(preprocessing().to_json()), "tables.0.path", "encoding.quality"])
def test_odd_values_are_refused_or_kept(name):
    content = json.loads(preprocessing().to_json())
    for odd in [*ODD, "absent"]:
        changed = json.loads(json.dumps(content))
        *above, last = name.split(".")
        inner = changed
        for key in above:
            inner = inner[int(key) if key.isdigit() else key]
        if odd == "absent":
            del inner[last]
        else:
            inner[last] = odd
        for text in (json.dumps(changed), sealed({k: v for k, v in changed.items() if k not in ("digest",)})):
            with suppress(ExportFormatError):
                assert Preprocessing.from_json(text).digest
        if name in ("kind", "tables", "crop") and odd == "absent":
            with pytest.raises(ExportFormatError, match=r"'folder/preprocessing.json' is .*(again|Install)"):
                Preprocessing.from_json(text, "folder/preprocessing.json")


@pytest.mark.parametrize(
    "text",
    [
        "", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, '[["format_version", 1], ["digest", 2]]',
        '{"format_version": NaN, "digest": 1}', '{"format_version": {"a": [1]}, "digest": 1}',
    ],
)  # fmt: skip
def test_texts_of_other_kinds_are_refused(tmp_path, text):
    (tmp_path / PREPROCESSING_FILE).write_text(text)
    with pytest.raises(ExportFormatError, match=r"preprocessing.json' is .*(Download or export|Install)"):
        Preprocessing.load(tmp_path)
    (tmp_path / PREPROCESSING_FILE).write_bytes(b"\xff\xfe\0")
    with pytest.raises(ExportFormatError, match=r"is not a preprocessing.json"):
        Preprocessing.load(tmp_path)


def test_deeply_nested_arguments_are_refused():
    for depth in (100, 400, 900):
        nested = 1
        for _ in range(depth):
            nested = [nested]
        content = json.loads(preprocessing().to_json()) | {"arguments": {"image_size": nested}}
        with pytest.raises(ExportFormatError):
            Preprocessing.from_json(json.dumps(content))


def test_changed_statistics_are_refused():
    stats = {**json.loads(STATS.to_json()), "mean": [0.0, 0.2, 0.3]}
    with pytest.raises(ExportFormatError, match="statistics were changed"):
        Preprocessing.from_json(changed(stats=stats))


def test_unfinished_folder_says_what_to_do(tmp_path):
    with pytest.raises(ExportFormatError, match=r"not a finished export.*run it again"):
        Preprocessing.load(tmp_path)
