"""Image classification datasets that this package did not publish."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from wsidata import HubDataModule
from wsidata.hub.client import HubError
from wsidata.tables.parts import SplitError


def encoded(number, suffix="png"):
    """A small image, different for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    out = io.BytesIO()
    Picture.fromarray(pixels).save(out, suffix)
    return out.getvalue(), pixels


def parquet(folder, counts, *, first=0, label=None, **columns):
    """A dataset of Parquet files, as `push_to_hub` writes them, and its pixels by id."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    names = ["dog", "cat"]
    features = Features({"img": Image(), "label": label or ClassLabel(names=names), "site": Value("string")})
    (folder / "data").mkdir(parents=True)
    pixels = {}
    for split, count in counts.items():
        rows = []
        for number in range(count):
            content, pixels[f"{split}-{number:07d}"] = encoded(first := first + 1)
            value = number % 2 if label is None else names[number % 2]
            rows.append(
                {"img": {"bytes": content, "path": f"{number}.png"}, "label": value, "site": f"{split}{number // 2}"}
            )
        Dataset.from_list(rows, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return pixels


def module(source, **options):
    return HubDataModule(source, num_workers=0, **{"image_size": 16, "leaks": "error"} | options)


@pytest.mark.slow
def test_splits_classes_and_pixels_are_the_data_sets(hub, tmp_path):
    pixels = parquet(tmp_path / "set", {"train": 6, "validation": 4, "test": 2})
    commit = hub.put("somebody/animals", tmp_path / "set")
    address = {"endpoint": hub.url, "cache_dir": tmp_path / "cache", "token": False}
    dm = module("somebody/animals", resize_px=None, image_size=None, batch_size=2, **address)
    dm.setup()
    assert (dm.class_names, dm.commit) == (("dog", "cat"), commit)
    assert {part: len(table) for part, table in dm.tables.items()} == {"train": 6, "val": 4, "test": 2, "predict": 2}
    images, labels = next(iter(dm.val_dataloader()))
    assert labels.tolist() == [0, 1]
    for image, name in zip(images, dm.tables["val"]["image_id"], strict=False):
        assert torch.equal(image, torch.from_numpy(pixels[name]).permute(2, 0, 1))
    assert dm.stats.image_count == 6
    hub.clear()
    module("somebody/animals", **address).setup()
    assert not [line for line in hub.log() if "/resolve/" in line["path"]]


def test_validation_rows_are_drawn_where_there_are_none(tmp_path):
    parquet(tmp_path / "set", {"train": 12, "test": 2})
    options = {"cache_dir": tmp_path / "cache", "val_fraction": 0.5}
    first = module(tmp_path / "set", **options)
    assert len(first.tables["val"]) == 6
    assert sorted(first.tables["val"]["label"]) == [0, 0, 0, 1, 1, 1]
    assert module(tmp_path / "set", **options).split_digest == first.split_digest
    assert module(tmp_path / "set", **options | {"seed": 1}).split_digest != first.split_digest
    grouped = module(tmp_path / "set", group_column="site", **options)
    assert grouped.labels.frame.groupby("group")["split"].nunique().max() == 1


def test_labels_that_are_text_are_classes_in_order(tmp_path):
    from datasets import Value

    parquet(tmp_path / "set", {"train": 4, "validation": 2}, label=Value("string"))
    dm = module(tmp_path / "set", cache_dir=tmp_path / "cache")
    assert dm.class_names == ("cat", "dog")
    assert dm.tables["train"]["label"].tolist() == [1, 0, 1, 0]


def test_image_folders_are_read_where_they_lie(tmp_path):
    for number, (split, name) in enumerate((split, name) for split in ("train", "val") for name in ("a", "b")):
        for copy in range(2):
            path = tmp_path / "set" / split / name / f"{copy}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(10 * number + copy, "jpeg")[0])
    dm = module(tmp_path / "set", cache_dir=tmp_path / "cache")
    dm.setup()
    assert dm.class_names == ("a", "b")
    assert all((tmp_path / "set") in Path(path).parents for path in dm.labels.frame["path"])
    assert not list((tmp_path / "cache").rglob("*.jpg"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "picture"}, r"needs exactly one column of images; its columns are img \(Image\)"),
        ({"group_column": "patient"}, "has no column 'patient'"),
        ({"config": "other"}, r"not a dataset that `datasets` can load.*pass config="),
        ({"lazy": True}, "holds photos, for which there is no lazy="),
    ],
)
def test_missing_columns_are_named(tmp_path, options, message):
    parquet(tmp_path / "set", {"train": 4, "test": 2})
    with pytest.raises(HubError, match=message):
        module(tmp_path / "set", cache_dir=tmp_path / "cache", **options).setup()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and "lazy" not in options]


def test_splits_of_other_names_are_refused(tmp_path):
    parquet(tmp_path / "set", {"train": 4, "unsupervised": 2})
    with pytest.raises(SplitError, match="has a split 'unsupervised'"):
        module(tmp_path / "set", cache_dir=tmp_path / "cache").setup()


@pytest.mark.slow
def test_full_disk_leaves_nothing_that_looks_complete(hub, tmp_path):
    parquet(tmp_path / "set", {"train": 4, "validation": 2})
    code = """
import resource, sys
from wsidata import HubDataModule
if sys.argv[3] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # an image has more
dm = HubDataModule(sys.argv[1], cache_dir=sys.argv[2], num_workers=0, image_size=16)
print(len(dm.labels.frame))
"""
    full = hub.python(code, tmp_path / "set", tmp_path / "cache", "full")
    assert "HubError: images could not be unpacked" in full.stderr
    assert "no space is left on the disk" in full.stderr
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert hub.python(code, tmp_path / "set", tmp_path / "cache", "free").stdout == "6\n"


def test_rows_without_label_are_for_prediction(tmp_path):
    parquet(tmp_path / "set", {"train": 4, "validation": 2, "test": 2})
    table = tmp_path / "set" / "data" / "test-00000-of-00001.parquet"
    from datasets import Dataset

    secret = Dataset.from_parquet(str(table), cache_dir=str(tmp_path / "arrow"))
    secret = secret.map(lambda row: {"label": -1})
    secret.to_parquet(table)
    dm = module(tmp_path / "set", cache_dir=tmp_path / "cache")
    frame = dm.labels.frame
    assert frame.loc[frame["image_id"].str.startswith("test"), ["label", "split"]].to_numpy().tolist() == [[-1, ""]] * 2


def test_numbers_of_no_class_are_named(tmp_path):
    parquet(tmp_path / "set", {"train": 4, "validation": 2})
    table = tmp_path / "set" / "data" / "validation-00000-of-00001.parquet"
    import pyarrow.parquet as pq

    content = pq.read_table(table)
    labels = content.column_names.index("label")
    pq.write_table(content.set_column(labels, content.schema.field(labels), [[0, 2]]), table)
    with pytest.raises(HubError, match="validation 1: label 2 is none of the 2 classes 'dog', 'cat'"):
        module(tmp_path / "set", cache_dir=tmp_path / "cache").setup()
