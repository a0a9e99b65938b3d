import pytest

from wsidata.tables.find_slides import ImageFolder, ImageLookupError, split_suffix

FOLDER = ImageFolder


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.svs", ("a", ".svs")),
        ("a.OME.TIFF", ("a", ".OME.TIFF")),
        ("TCGA-01.8DE5.svs", ("TCGA-01.8DE5", ".svs")),
        ("TCGA-01.8DE5", ("TCGA-01.8DE5", "")),
        (".tif", (".tif", "")),
    ],
)
def test_only_slide_suffixes_are_split_off(name, parts):
    assert split_suffix(name) == parts


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("normal_001.tif", "normal_001.tif"),
        ("normal_001", "normal_001.tif"),
        ("photo", "photo.JPG"),
        ("photo.jpg", "photo.JPG"),
        ("PHOTO", "photo.JPG"),
        ("sub/x.y", "sub/x.y.svs"),
        ("o", "o.ome.tif"),
        ("o.ome", "o.ome.tif"),
    ],
)
def test_names_are_found_with_and_without_suffix_in_any_case(folder, tmp_path, name, found):
    images = folder("normal_001.tif", "normal_001.xml", "photo.JPG", "sub/x.y.svs", "o.ome.tif")
    assert images.find(name) == tmp_path / found


def test_exact_name_wins_over_other_case(folder, tmp_path):
    assert folder("a.tif", "A.tif").find("A.tif") == tmp_path / "A.tif"


def test_two_fitting_files_are_refused(folder):
    with pytest.raises(ImageLookupError, match=r"'a' fits 2 files.*a.svs, a.tif.*full file name"):
        folder("a.tif", "a.svs").find("a")


def test_missing_file_says_what_is_near(folder):
    images = folder("normal_001.svs", "other.tif")
    with pytest.raises(ImageLookupError, match=r"did you mean normal_001.svs\?"):
        images.find("normal_001.tif")
    with pytest.raises(ImageLookupError, match="2 other files there"):
        images.find("zzz")
    with pytest.raises(ImageLookupError, match="absent or has no files of its own"):
        images.find("nowhere/zzz")


def test_id_is_the_path_below_the_folder(folder, tmp_path):
    images = folder("sub/a.ome.tif")
    assert images.image_id(images.find("sub/a")) == "sub/a"
    assert images.image_id(images.find(str(tmp_path / "sub/a.ome.tif"))) == "sub/a"


def test_companion_folder_of_a_slide_is_no_candidate(folder, tmp_path):
    images = folder("s.mrxs", "s/Slidedat.ini")
    assert images.find("s") == tmp_path / "s.mrxs"
