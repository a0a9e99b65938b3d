import pytest

from wsidata.tables.label_table import read_table
from wsidata.tables.text_table import TableError


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_folder_is_the_label(tmp_path):
    root = make(tmp_path, "tumor/b.svs", "normal/a.tif", "normal/deep/c.jpg", "normal/.DS_Store", "README.md")
    labels = read_table(root)
    assert labels.frame["image_id"].tolist() == ["normal/a", "normal/deep/c", "tumor/b"]
    assert labels.frame["label_name"].tolist() == ["normal", "normal", "tumor"]
    assert set(labels.frame["split"]) == {""}


def test_first_folders_may_be_parts(tmp_path):
    root = make(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "Validation/a/3.jpg", "test/b/4.jpg")
    frame = read_table(root).frame.set_index("image_id")
    assert frame["split"].to_dict() == {
        "train/a/1": "train",
        "train/b/2": "train",
        "Validation/a/3": "val",
        "test/b/4": "test",
    }
    assert frame["label_name"].tolist() == ["a", "b", "a", "b"] or set(frame["label_name"]) == {"a", "b"}


def test_slides_that_are_folders_count_once(tmp_path):
    root = make(tmp_path, "a/s.mrxs", "a/s/Data0001.dat", "b/t.ome.zarr/0/c/0/0")
    assert read_table(root).frame["image_id"].tolist() == ["a/s", "b/t"]


def test_everything_that_would_be_lost_is_reported_at_once(tmp_path):
    root = make(tmp_path, "a/1.jpg", "a/2.vsi", "stray.jpg", "train/a/3.jpg")
    (root / "empty").mkdir()
    with pytest.raises(TableError) as error:
        read_table(root)
    for said in ("stray.jpg: lies in no class folder", "train: is a split"):
        assert said in str(error.value)
    root = make(tmp_path / "second", "a/1.jpg", "a/2.vsi")
    (root / "empty").mkdir()
    with pytest.raises(TableError, match=r"(?s)2 problems.*empty: holds no image.*a/2.vsi: no image file by its name"):
        read_table(root)


def test_image_dir_beside_class_folders_is_refused(tmp_path):
    make(tmp_path, "a/1.jpg")
    with pytest.raises(TableError, match="leave out image_dir"):
        read_table(tmp_path, tmp_path.parent)
