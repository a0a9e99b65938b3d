import pandas as pd
import pytest

from wsidata.tables.find_slides import ImageFolder
from wsidata.tables.label_table import COLUMNS, read_table
from wsidata.tables.text_table import TableError

FOLDER = ImageFolder


@pytest.fixture
def images(tmp_path):
    for name in ("007.tif", "008.TIF", "sub/009.svs"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    return tmp_path / "images"


def csv(images, text):
    path = images.parent / "reference.csv"
    path.write_text(text)
    return path


def test_table_becomes_a_tidy_frame(images):
    path = csv(images, "image,type,patient,set\n007,tumor,p1,train\n008.tif, normal,p2,\nsub/009,tumor,p1,test\n")
    table = read_table(path, images, label_column="type", group_column="patient", split_column="set")
    assert tuple(table.frame.columns) == COLUMNS
    assert table.class_names == ("normal", "tumor")
    assert table.frame["image_id"].tolist() == ["007", "008", "sub/009"]
    assert table.frame["path"].tolist() == [str(images / name) for name in ("007.tif", "008.TIF", "sub/009.svs")]
    assert table.frame["label"].tolist() == [1, 0, 1]
    assert table.frame["group"].tolist() == ["p1", "p2", "p1"]
    assert table.frame["split"].tolist() == ["train", "", "test"]


def test_all_problems_are_reported_at_once_with_file_line_and_remedy(images):
    path = csv(images, "image,class\n007,tumor\n007.tif,normal\n010,normal\n,normal\n008,\nsub/009,tumour\n")
    with pytest.raises(TableError) as error:
        read_table(path, images, class_names=["normal", "tumor"])
    assert str(error.value).splitlines() == [
        "'reference.csv' has 5 problems:",
        "  - line 3: slide '007' (007.tif) was already named in line 2",
        f"  - line 4: no file '010' in '{images}' (2 other files there)",
        "  - line 5: column 'image' is empty",
        "  - line 6: column 'class' is empty",
        "  - line 7: unknown label 'tumour' in column 'class' (known: normal, tumor)",
        "Correct the table, or remove these rows, or check image_dir, image_column and class_names.",
    ]


def test_absent_column_says_which_exist(images):
    path = csv(images, "Image,type\n007,tumor\n")
    with pytest.raises(
        TableError, match=r"no column \['image', 'class'\].*\['Image', 'type'\].*Did you mean \['Image'\]"
    ):
        read_table(path, images)


def test_missing_image_folder_is_named(images):
    with pytest.raises(TableError, match=r"image folder '.*nowhere' does not exist"):
        read_table(csv(images, "image,class\n007,tumor\n"), images / "nowhere")


def test_numeric_ids_of_a_frame_are_explained(images):
    frame = pd.DataFrame({"image": [7], "class": ["tumor"]})
    with pytest.raises(TableError, match="leading zeros are lost: read it as text"):
        read_table(frame, images)


def test_frame_is_not_changed(images):
    frame = pd.DataFrame({"image": ["007"], "class": ["tumor"]})
    before = frame.copy()
    read_table(frame, images)
    pd.testing.assert_frame_equal(frame, before)


def test_images_lie_beside_the_table_by_default(images):
    path = images / "labels.csv"
    path.write_text("image,class\n007,a\n")
    assert read_table(path).frame["path"].tolist() == [str(images / "007.tif")]


def test_table_without_labels_has_label_minus_one(images):
    table = read_table(csv(images, "image\n007\n008\n"), images, label_column=None)
    assert table.frame["label"].tolist() == [-1, -1]
    assert table.class_names == ()


def test_labels_can_be_merged(images):
    path = csv(images, "image,class\n007,itc\n008,negative\nsub/009,macro\n")
    table = read_table(path, images, class_names={"negative": "normal", "itc": "tumor", "macro": "tumor"})
    assert table.frame["label_name"].tolist() == ["tumor", "normal", "tumor"]
    assert table.frame["label"].tolist() == [1, 0, 1]


def test_one_slide_under_two_names_is_found_whatever_leads_to_it(tmp_path):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "a.tif").touch()
    (images / "b.tif").symlink_to(images / "a.tif")
    (tmp_path / "link").symlink_to(images)
    for second in ("sub/../a", str(images / "a.tif"), str(tmp_path / "link" / "a.tif"), "b"):
        table = pd.DataFrame({"image": ["a", second], "class": ["x", "y"]})
        for folder in (images, tmp_path / "link", images / "sub" / ".."):
            with pytest.raises(TableError, match=r"row 1: slide '.*' \([ab]\.tif\) was already named in row 0"):
                read_table(table, folder)


def test_ids_do_not_depend_on_how_a_folder_is_named(tmp_path):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "sub" / "a.tif").touch()
    (tmp_path / "link").symlink_to(images)
    table = pd.DataFrame({"image": [str(images / "sub" / "a.tif")], "class": ["x"]})
    for folder in (images, tmp_path / "link", images / "sub" / ".."):
        assert read_table(table, folder).frame["image_id"].tolist() == ["sub/a"]


def test_accents_of_one_letter_or_two_are_the_same(folder):
    """macOS decomposes, and so do tables made there."""
    images = folder("a.svs", "b.svs", "c.svs")
    composed, decomposed = "B\u00e9nin", "Be\u0301nin"
    frame = pd.DataFrame({"image": list("abc"), f"{decomposed} ": [composed, decomposed, "x"], "p": [decomposed] * 3})
    labels = read_table(frame, images.root, label_column=composed, group_column="p", class_names=[decomposed, "x"])
    assert labels.class_names == (composed, "x")
    assert labels.frame["label"].tolist() == [0, 0, 1]
    assert set(labels.frame["group"]) == {composed}


def test_a_slide_is_found_by_its_name_in_either_unicode_form(folder):
    images = folder("Pra\u0308parat.svs")
    for name in ("Pr\u00e4parat", "Pr\u00e4parat.svs", "Pra\u0308parat"):
        assert images.find(name).name == "Pra\u0308parat.svs"
