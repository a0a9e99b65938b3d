import unicodedata

import pytest

from wsidata.tables.find_photos import NameIndex, PhotoFolder, photo_stem
from wsidata.tables.find_slides import ImageLookupError
from wsidata.utils.files import files_of

FOLDER = PhotoFolder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("img_0", "img_0.jpg"),
        ("img_0.jpg", "img_0.jpg"),
        ("img_0.JPG", "img_0.jpg"),
        ("IMG_0", "img_0.jpg"),
        ("img_1", "2019/spring/IMG_1.JPEG"),
        ("spring/img_1.jpeg", "2019/spring/IMG_1.JPEG"),
        ("2019\\spring\\img_1.jpeg", "2019/spring/IMG_1.JPEG"),
        ("./2019/spring/IMG_1", "2019/spring/IMG_1.JPEG"),
        ("a.b", "a.b.png"),
        ("two words", "two words.jpg"),
        ("late", "late .jpg"),
        ("scan.jpg", "scan.jpg.jpg"),
    ],
)
def test_names_are_found_however_they_are_written(folder, tmp_path, name, found):
    photos = folder("img_0.jpg", "2019/spring/IMG_1.JPEG", "a.b.png", "two words.jpg", "late .jpg", "scan.jpg.jpg")
    assert photos.find(name) == tmp_path / found


def test_names_may_begin_with_the_folders_own_name(folder, tmp_path):
    assert folder("img_0.jpg").find(f"{tmp_path.name}/img_0.jpg") == tmp_path / "img_0.jpg"


def test_absolute_names_are_taken_as_they_are(folder, tmp_path):
    assert folder("img_0.jpg").find(str(tmp_path / "img_0.jpg")) == tmp_path / "img_0.jpg"


@pytest.mark.parametrize("disk", ["NFC", "NFD"])
@pytest.mark.parametrize("table", ["NFC", "NFD"])
def test_accents_are_equal_however_they_are_stored(folder, tmp_path, disk, table):
    name = "Pied bleu d'été.JPG"
    stored = unicodedata.normalize(disk, name)
    photos = folder(f"sous-bois/{stored}")
    asked = unicodedata.normalize(table, name)
    for loosely in (asked, asked[:-4], asked.upper()):
        assert photos.find(loosely) == tmp_path / "sous-bois" / stored
    assert photos.image_id(photos.find(asked)) == unicodedata.normalize("NFC", f"sous-bois/{name[:-4]}")


@pytest.mark.parametrize(
    ("files", "name", "listed"),
    [
        (("a/img.jpg", "b/img.jpg"), "img", "a/img.jpg, b/img.jpg"),
        (("a/img.jpg", "b/img.jpg"), "img.jpg", "a/img.jpg, b/img.jpg"),
        (("img.jpg", "copies/img.jpg"), "img", "img.jpg"),
        (("img.jpg", "img.png"), "img", "img.jpg, img.png"),
        (("img.jpg", "IMG.jpg"), "Img.jpg", "IMG.jpg, img.jpg"),
    ],
)
def test_ambiguous_names_are_refused_and_listed(folder, files, name, listed):
    with pytest.raises(ImageLookupError, match=rf"'{name}' fits 2 files.*{listed}.*write the whole path"):
        folder(*files).find(name)


def test_whole_path_or_exact_case_decides(folder, tmp_path):
    photos = folder("img.jpg", "copies/img.jpg", "IMG.jpg")
    assert photos.find("img.jpg") == tmp_path / "img.jpg"
    assert photos.find("copies/img") == tmp_path / "copies" / "img.jpg"


def test_absent_photo_says_what_is_near(folder):
    photos = folder("boletus_1.jpg", "x.jpg")
    with pytest.raises(ImageLookupError, match=r"no file 'boletsu_1' .*did you mean boletus_1.jpg\?"):
        photos.find("boletsu_1")
    with pytest.raises(ImageLookupError, match="2 other photos there"):
        photos.find("zzzzzz")
    with pytest.raises(ImageLookupError, match="no file"):
        photos.find(".")


def test_empty_folder_is_said_to_be_empty(folder):
    with pytest.raises(ImageLookupError, match="the folder has no photos"):
        folder("notes.txt").find("img")


def test_other_files_are_no_photos_of_that_name(folder, tmp_path):
    assert folder("img.xml", "img.jpg").find("img") == tmp_path / "img.jpg"


def test_hidden_files_are_never_meant(folder, tmp_path):
    photos = folder("img.jpg", "._img.jpg", ".cache/img.jpg", "__MACOSX/img.jpg")
    assert photos.find("img") == tmp_path / "img.jpg"
    assert photos.photos == ("img.jpg",)
    assert photos.find(".cache/img.jpg") == tmp_path / ".cache" / "img.jpg"
    assert photos.image_id(tmp_path / ".cache" / "img.jpg") == ".cache/img"


def test_ids_keep_the_suffix_only_where_photos_differ_by_nothing_else(folder, tmp_path):
    photos = folder("a/1.jpg", "a/1.PNG", "a/2.jpg", "b/1.jpg")
    ids = [photos.image_id(tmp_path / name) for name in photos.photos]
    assert ids == ["a/1.PNG", "a/1.jpg", "a/2", "b/1"]
    assert photos.image_id(tmp_path.parent / "elsewhere.jpg") == f"{tmp_path.parent}/elsewhere"


def test_linked_folders_are_listed_once_and_under_their_own_path(folder, tmp_path):
    elsewhere = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.jpg").touch()
    photos = folder("real/img.jpg")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "real")
    (tmp_path / "away").symlink_to(elsewhere)
    assert photos.photos == ("away/far.jpg", "real/img.jpg")
    assert photos.find("img") == tmp_path / "real" / "img.jpg"
    assert photos.find("other/img.jpg") == tmp_path / "other" / "img.jpg"


def test_folders_that_link_to_each_other_end(folder, tmp_path):
    photos = folder("a/1.jpg", "b/2.jpg")
    for one, other in (("a", "b"), ("b", "a")):
        for number in range(12):  # 2 ** 40 paths, of up to 40 links each
            (tmp_path / one / f"to_{other}_{number}").symlink_to(tmp_path / other)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert photos.photos == ("a/1.jpg", "b/2.jpg")
    assert [file.name for file in files_of(tmp_path)] == ["1.jpg", "2.jpg"]


def test_unknown_suffixes_belong_to_the_name():
    assert [photo_stem(name) for name in ("a.jpg", "a.JPEG", "a.5", ".jpg")] == ["a", "a", "a.5", ".jpg"]


def test_index_of_absolute_paths_finds_by_their_ends():
    index = NameIndex(["/data/a/1.jpg", "/data/b/1.jpg"])
    assert list(index.fitting("b/1")) == ["/data/b/1.jpg"]
    assert len(index.fitting("1")) == 2
    assert not index.fitting("")
