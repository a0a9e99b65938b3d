import shutil

import pandas as pd
import pytest

from wsidata.photos.survey import PhotoSurvey
from wsidata.synthetic.photos import write_photo_folders
from wsidata.tables.parts import SplitError
from wsidata.tables.photo_table import UnlistedWarning, match_ids, read_photo_table
from wsidata.tables.text_table import TableError


@pytest.fixture
def copy(toadstools, tmp_path):
    shutil.copytree(toadstools, tmp_path / "c")
    return tmp_path / "c"


def test_table_finds_its_photos_in_sub_folders(toadstools):
    labels = read_photo_table(toadstools / "labels.csv", label_column="label", unlisted="error")
    assert len(labels.frame) == 24
    assert labels.frame["image_id"][0] == "photos/img_0"
    assert labels.class_names == ("0", "1", "2")


def test_everything_wrong_with_table_and_files_is_said_at_once(copy):
    photos = copy / "photos"
    (photos / "img_0.jpg").write_bytes(b"")
    (photos / "img_1.jpg").write_bytes((photos / "img_1.jpg").read_bytes()[:1000])
    (photos / "img_2.jpg").write_text("not found")
    (photos / "img_3.jpg").unlink()
    (photos / "more").mkdir()
    shutil.copy(photos / "img_4.jpg", photos / "more" / "img_4.jpg")
    shutil.copy(photos / "img_6.jpg", photos / "new one.jpg")
    lines = (copy / "labels.csv").read_text().splitlines()
    lines[7] = "img_6,"
    lines[8] = "img_7,9"
    (copy / "labels.csv").write_text("\n".join([*lines, "IMG_8.JPG, 1", "img_9,2"]))
    with pytest.raises(TableError) as error:
        read_photo_table(
            copy / "labels.csv", label_column="label", class_names=["0", "1", "2"], inspect=PhotoSurvey().look,
            unlisted="error",
        )  # fmt: skip
    told = str(error.value).splitlines()
    for said in (
        f"line 5: no file 'img_3' in '{copy}' or below",
        f"line 6: 'img_4' fits 2 files in '{copy}': photos/img_4.jpg, photos/more/img_4.jpg",
        "line 8: column 'label' is empty",
        "line 9: unknown label '9' in column 'label'",
        "line 26: photo 'photos/img_8' (img_8.jpg) was already named in line 10",
        "line 27: photo 'photos/img_9' (img_9.jpg) was already named in line 11",
        "img_0.jpg: is empty (0 bytes)",
        "img_1.jpg: was cut off",
        "img_2.jpg: UnreadableImageError",
        "photos/new one.jpg: is in no row",
    ):
        assert sum(said in line for line in told) == 1, said
    assert told[0] == f"'labels.csv' has {len(told) - 2} problems:"


def test_photos_that_no_row_names_are_told(copy):
    shutil.copy(copy / "photos" / "img_0.jpg", copy / "photos" / "extra.jpg")
    (copy / "photos" / "notes.txt").touch()
    with pytest.warns(UnlistedWarning, match=r"1 photos in .* are in no row of 'labels.csv': 'photos/extra.jpg'"):
        labels = read_photo_table(copy / "labels.csv", label_column="label")
    assert len(labels.frame) == 24
    assert len(read_photo_table(copy / "labels.csv", label_column="label", unlisted="off").frame) == 24


@pytest.mark.filterwarnings("error")
def test_spreadsheet_export_with_semicolons_and_mark(copy):
    text = (copy / "labels.csv").read_text().replace(",", " ; ")
    (copy / "labels.csv").write_text(text, encoding="utf-8-sig", newline="\r\n")
    assert len(read_photo_table(copy / "labels.csv", label_column="label").frame) == 24


def test_parquet_and_frame_give_the_same(toadstools, tmp_path):
    frame = pd.read_csv(toadstools / "labels.csv", dtype=str)
    frame.to_parquet(tmp_path / "labels.parquet")
    expected = read_photo_table(toadstools / "labels.csv", label_column="label").frame
    for table in (frame, tmp_path / "labels.parquet"):
        found = read_photo_table(table, toadstools, label_column="label").frame
        pd.testing.assert_frame_equal(found, expected)


def test_class_folders_with_photos_that_differ_by_suffix_only(tmp_path):
    write_photo_folders(tmp_path, classes=2, per_class=2, side_px=48)
    shutil.copy(tmp_path / "amber" / "002.jpg", tmp_path / "amber" / "001.jpeg")
    (tmp_path / "labels.csv").touch()
    labels = read_photo_table(tmp_path)
    assert labels.frame["image_id"].tolist() == [
        "amber/001.jpeg", "amber/001.jpg", "amber/002", "scarlet/001", "scarlet/002"
    ]  # fmt: skip
    assert labels.class_names == ("amber", "scarlet")


def test_odd_files_in_class_folders_are_all_named(tmp_path):
    write_photo_folders(tmp_path, classes=2, per_class=1, side_px=48)
    (tmp_path / "empty class").mkdir()
    (tmp_path / "amber" / "notes.abc").touch()
    (tmp_path / "amber" / "Thumbs.db").touch()
    (tmp_path / "stray.jpg").touch()
    (tmp_path / "amber" / "empty.jpg").touch()
    with pytest.raises(TableError) as error:
        read_photo_table(tmp_path, inspect=PhotoSurvey().look)
    told = str(error.value)
    assert "has 4 problems" in told
    assert "empty.jpg: is empty (0 bytes)" in told
    assert "empty class: holds no image" in told
    assert "amber/notes.abc: no image file by its name" in told
    assert "stray.jpg: lies in no class folder" in told


def test_folder_around_the_class_folders_is_not_taken_for_a_class(tmp_path):
    write_photo_folders(tmp_path / "data", classes=2, per_class=1, side_px=48)
    with pytest.raises(TableError, match="data: is the only folder, and holds folders and no images"):
        read_photo_table(tmp_path)


def test_folder_without_labels_is_every_photo_in_it(toadstools, tmp_path):
    labels = read_photo_table(toadstools, label_column=None)
    assert len(labels.frame) == 24
    assert set(labels.frame["label"]) == {-1}
    with pytest.raises(TableError, match="holds no photos, at any depth"):
        read_photo_table(tmp_path, label_column=None)


def test_ids_may_be_given_as_names(toadstools):
    frame = read_photo_table(toadstools / "labels.csv", label_column="label").frame
    asked = ["photos/img_0", "img_5", "IMG_5.jpg", "photos/img_7.jpg", "unknown"]
    found = ["photos/img_0", "photos/img_5", "photos/img_5", "photos/img_7", "unknown"]
    assert match_ids(asked, frame, "test_ids") == found
    assert match_ids(None, frame, "test_ids") is None
    twice = frame.assign(path=frame["path"].str.replace("img_1.", "img_0.", regex=False).str.replace("photos", "p"))
    both = pd.concat([frame, twice], ignore_index=True)
    with pytest.raises(SplitError, match=r"test_ids: 'img_0' fits .*Write the whole id"):
        match_ids(["img_0"], both, "test_ids")
