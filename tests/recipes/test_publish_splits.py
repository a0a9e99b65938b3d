"""The recipe end to end: on synthetic slides, synthetic photos, and the real photos where they are at hand."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from places import PHOTOS

from wsidata.hub.manifest import Preprocessing
from wsidata.synthetic.photos import write_photo_folders

pytest.importorskip("datasets", reason="publishing needs slidestream[hub]")

SAME = ("statistics are the same: True", "validation batches are the same to the last bit: True")


@pytest.fixture
def recipe() -> ModuleType:
    return importlib.import_module("publish_splits")


@pytest.mark.slow
def test_slides_are_exported_and_load_back_the_same(
    recipe: ModuleType, camelyon: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.main(["--slides", str(camelyon), "--level", "1", "--image-size", "64", "--folder", str(tmp_path / "out"),
                 "--opaque-ids", "--license", "cc0-1.0"])  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.startswith(f"In '{tmp_path / 'out'}': 16 images")
    assert "loaded back: 10 train, 2 val, 4 test" in printed
    assert all(line in printed for line in SAME)
    assert "license: cc0-1.0" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_photos_are_exported_and_load_back_the_same(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photo_folders(tmp_path / "photos")
    recipe.main(["--photos", str(tmp_path / "photos"), "--folder", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert all(line in printed for line in SAME)
    assert Preprocessing.load(tmp_path / "out").encoding.format == "original"


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")
def test_real_photos_are_exported_and_load_back_the_same(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.main(["--photos", str(PHOTOS), "--labels", str(PHOTOS / "raw_img_labels.csv"),
                 "--folder", str(tmp_path / "out"), "--val-fraction", "0.25"])  # fmt: skip
    printed = capsys.readouterr().out
    assert "244 images" in printed
    assert "183 train, 61 val" in printed
    assert all(line in printed for line in SAME)
