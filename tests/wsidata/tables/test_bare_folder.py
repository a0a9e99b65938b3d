"""A folder without a table holds each slide once, whatever files it is made of."""

import struct

import pytest

from wsidata.tables.bare_folder import dicom_series, list_images
from wsidata.tables.class_folders import PassedOverWarning
from wsidata.tables.find_slides import ImageFolder
from wsidata.tables.label_table import read_table
from wsidata.tables.text_table import TableError


def element(group, number, kind, value):
    long = kind in ("SQ", "OB")
    length = 0xFFFFFFFF if kind == "SQ" else len(value)
    return (
        struct.pack("<HH2s", group, number, kind.encode())
        + struct.pack("<HI" if long else "<H", *[0] * long, length)
        + value
    )


def dicom(series, referenced=b"9.9"):
    """The beginning of a DICOM file that also names another series, in a sequence of undefined length."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    reference = element(0x8, 0x1115, "SQ", item + element(0x20, 0xE, "UI", referenced) + end)
    return bytes(128) + b"DICM" + element(0x2, 0x2, "UI", b"1.2\0") + reference + element(0x20, 0xE, "UI", series)


@pytest.fixture
def folder(tmp_path):
    files = {
        "a.tif": b"", "deep/er/b.SVS": b"", "deep/a.tif": b"", "list.csv": b"", "notes.docx": b"", ".x.tif": b"",
        "m.mrxs": b"", "m/Slidedat.ini": b"", "m/0.jpg": b"", "z.ome.zarr/0/zarr.json": b"", "z.ome.zarr/c.tif": b"",
        "d/1.dcm": dicom(b"1.1\0"), "d/2.dcm": dicom(b"1.1\0"), "d/3.dcm": dicom(b"1.3\0"), "e/1.dcm": dicom(b"1.1\0"),
        "v/s.vms": b"[Virtual Microscope Specimen]\nImageFile = s.jpg\nMapFile=s_map2.jpg\n", "v/s.jpg": b"",
        "v/s_map2.jpg": b"", "v/other.jpg": b"",
    }  # fmt: skip
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def test_slides_are_listed_once_and_their_parts_are_none(folder):
    expected = [
        *("a.tif", "d/1.dcm", "d/3.dcm", "deep/a.tif", "deep/er/b.SVS", "e/1.dcm", "m.mrxs"),
        *("v/other.jpg", "v/s.vms", "z.ome.zarr"),
    ]
    assert list_images(folder, ImageFolder.is_image_name, "slide") == expected
    table = read_table(folder, label_column=None)
    assert table.frame["image_id"].tolist() == [ImageFolder(folder).image_id(folder / name) for name in expected]


def test_files_of_unknown_kind_are_named(folder):
    (folder / "deep" / "x.isyntax").write_bytes(b"")
    with pytest.warns(PassedOverWarning, match=r"1 files .* are no slides by their names.*'deep/x\.isyntax'"):
        list_images(folder, ImageFolder.is_image_name, "slide")


def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(TableError, match=r"holds no slides, at any depth; it has 1 other files: 'a\.txt'"):
        read_table(tmp_path, label_column=None)


def test_series_of_what_is_no_dicom_file_is_unknown(tmp_path):
    for content in (b"", bytes(200), dicom(b"1.1\0")[:150], dicom(b"1.1\0")[:-1]):
        (tmp_path / "a.dcm").write_bytes(content)
        assert dicom_series(tmp_path / "a.dcm") in (None, "1.1")
