"""Camelyon16's table is read as published and corrected."""

from pathlib import Path

import pandas as pd
import pytest
from places import DATA

from wsidata import Camelyon16DataModule
from wsidata.datamodules.camelyon16 import read_reference
from wsidata.tables.text_table import TableError


def write(folder: Path, text: str, place: str = "evaluation/reference.csv") -> Path:
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_text(text)
    return folder


@pytest.mark.parametrize("place", ["evaluation/reference.csv", "reference.csv"])
@pytest.mark.parametrize("column", ["class", "type"])
def test_table_is_found_with_either_label_column(tmp_path: Path, place: str, column: str) -> None:
    table = read_reference(write(tmp_path, f"image,{column}\nnormal_001.tif, Normal\ntest_001,tumor\n", place))
    assert table.to_dict("list") == {"image": ["normal_001", "test_001"], "class": ["normal", "tumor"]}


def test_withdrawn_slides_are_left_out(tmp_path: Path) -> None:
    names = ["normal_085", "normal_086", "tumor_111", "test_049", "test_114"]
    rows = "".join(f"{name}.tif,{'normal' if 'normal' in name else 'tumor'}\n" for name in names)
    assert list(read_reference(write(tmp_path, f"image,class\n{rows}"))["image"]) == [
        "normal_085", "tumor_111", "test_114",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [("image,grade\na,1\n", "it has image, grade"), (None, r"evaluation/reference\.csv and .*reference\.csv")],
)
def test_another_table_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    folder = tmp_path if text is None else write(tmp_path, text)
    with pytest.raises(TableError, match=said):
        Camelyon16DataModule(folder, mpp=2.0)


@pytest.mark.parametrize("classes", ["tumor", "extent"])
def test_labels_that_are_no_class_are_named(tmp_path: Path, classes: str) -> None:
    folder = write(tmp_path, "image,class\ntumor_001,ITC\n")
    (folder / "images").mkdir()
    (folder / "images" / "tumor_001.tif").touch()
    with pytest.raises(TableError, match=r"unknown label 'itc' in column 'class' \(known: negative, "):
        _ = Camelyon16DataModule(folder, classes, mpp=2.0).labels


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The published table, with an empty file for each slide: tables and splits are made without opening any."""
    reference = DATA / "tables" / "camelyon16_reference.csv"
    if not reference.exists():
        pytest.skip("the published table is not here")
    folder = write(tmp_path / "published", reference.read_text())
    (folder / "images").mkdir()
    for name in pd.read_csv(reference)["image"]:
        (folder / "images" / name).touch()
    return folder


def test_published_table_is_tumor_against_none_split_as_in_the_tutorial(published: Path) -> None:
    slides = Camelyon16DataModule(published, mpp=8.0)
    table = pd.read_csv(published / "evaluation" / "reference.csv")  # read without the code under test
    is_tumor = dict(zip(table["image"].str.removesuffix(".tif"), table["class"] != "negative", strict=True))
    assert slides.class_names == ("normal", "tumor")
    assert {part: len(slides.tables[part]) for part in ("train", "val", "test")} == {
        "train": 216, "val": 54, "test": 129,
    }  # fmt: skip
    for part, tumors in (("train", 89), ("val", 22), ("test", 49)):
        rows = slides.tables[part]
        assert [bool(label) for label in rows["label"]] == [is_tumor[name] for name in rows["image_id"]]
        assert int(rows["label"].sum()) == tumors
    assert set(slides.tables["test"]["image_id"]) == {name for name in is_tumor if name.startswith("test_")}


def test_extent_is_offered_as_three_classes(published: Path) -> None:
    slides = Camelyon16DataModule(published, "extent", mpp=8.0)
    assert slides.class_names == ("negative", "micro", "macro")
    assert slides.labels.frame["label_name"].value_counts().to_dict() == {"negative": 239, "micro": 80, "macro": 80}
    assert sum(len(slides.tables[part]) for part in ("train", "val")) == 270


@pytest.mark.parametrize("remember", [True, False])
def test_its_arguments_are_plain_and_name_no_folder_unless_remembered(tmp_path: Path, remember: bool) -> None:
    folder = write(tmp_path, "image,class\ntumor_001,tumor\n")
    slides = Camelyon16DataModule(folder, mpp=2.0, remember_paths=remember)
    assert all(isinstance(value, (str, int, float, dict, tuple, type(None))) for value in slides.hparams.values())
    assert (str(folder) in str(dict(slides.hparams))) is remember
