import pytest

from wsidata.tables.class_folders import PassedOverWarning
from wsidata.tables.label_table import read_table
from wsidata.tables.parts import may_be_part
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


@pytest.mark.parametrize("name", ["README.txt", "notes.rtf", "1.xml", "1.jpg.json", "deep/2.xmp", "README"])
def test_a_document_in_a_class_folder_is_listed_and_passed_over(tmp_path, name):
    root = make(tmp_path, "a/1.jpg", "b/2.jpg", f"a/{name}")
    with pytest.warns(PassedOverWarning, match=rf"1 files in the class folders .*: 'a/{name}'"):
        labels = read_table(root)
    assert labels.frame["image_id"].tolist() == ["a/1", "b/2"]


def test_a_class_of_documents_alone_has_no_image(tmp_path):
    with pytest.raises(TableError, match="docs: holds no image"):
        read_table(make(tmp_path, "a/1.jpg", "docs/README.txt"))


@pytest.mark.parametrize(("first", "second"), [("trn", "eval"), ("train_set", "Test-Set"), ("train", "evaluation")])
def test_folders_that_may_be_splits_are_asked_about(tmp_path, first, second):
    root = make(tmp_path, f"{first}/a/1.jpg", f"{first}/b/2.jpg", f"{second}/a/3.jpg")
    with pytest.raises(TableError, match=r"looks like a split, not a class; name it train, val or test"):
        read_table(root)


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    frame = read_table(make(tmp_path, "evaluation/1.jpg", "meeting/2.jpg", "lunch/3.jpg")).frame
    assert set(frame["label_name"]) == {"evaluation", "meeting", "lunch"}
    assert not may_be_part("trainer")
    assert not may_be_part("train_station")


def test_class_folders_that_link_to_each_other_end(tmp_path):
    root = make(tmp_path, "a/1.jpg", "b/2.jpg")
    (root / "a" / "up").symlink_to(root / "a")
    assert len(read_table(root).frame) == 2
    for number in range(12):
        (root / "a" / f"to_b{number}").symlink_to(root / "b")
        (root / "b" / f"to_a{number}").symlink_to(root / "a")
    with pytest.raises(TableError, match=r"(?s)2 problems.*was already named"):
        read_table(root)
