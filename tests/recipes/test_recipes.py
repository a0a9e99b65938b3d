"""Recipes run end to end on small synthetic slides."""

import importlib
from pathlib import Path

import pandas as pd
import pytest

from wsidata.synthetic.photos import write_photo_folders
from wsidata.synthetic.slides import write_camelyon16

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures")]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("camelyon16")
    return write_camelyon16(folder, normal=4, tumor=4, test=2, size_px=(256, 256), tile=64, annotations=True)


def test_camelyon16(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("camelyon16").main(
        slides, tmp_path, mpp=2.0, image_size=64, network="resnet9", weights=None, memory="100MB", epochs=2,
        unfreeze_at=1, num_workers=0,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "report.html" in printed
    assert "FROC score none (undefined: no slide has lesions): 0 lesions on 2 slides; pointing game " in printed
    assert pd.read_csv(tmp_path / "heatmaps" / "lesions.csv")["isolated"].gt(0).tolist() == [False, True], (
        "all are too small"
    )
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert predictions["split"].tolist() == ["test"] * 2
    assert (predictions.filter(like="probability_").sum(axis=1) - 1).abs().max() < 1e-5


def test_mushrooms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_photo_folders(tmp_path / "photos", classes=3, per_class=8, side_px=64)
    importlib.import_module("mushrooms").main(
        photos, out=tmp_path / "out", image_size=32, weights=None, epochs=1, num_workers=0
    )
    assert "report.html" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "out" / "predictions.csv")["split"]) == {"val"}


def test_own_module(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = slides / "evaluation" / "reference.csv"
    importlib.import_module("own_module").main(table, slides / "images", mpp=8.0, epochs=1, num_workers=0)
    assert list(tmp_path.rglob("*.ckpt"))


def test_publish_splits(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("datasets", reason="publishing needs slidestream[hub]")
    table, out = slides / "evaluation" / "reference.csv", tmp_path / "out"
    importlib.import_module("publish_splits").main(
        table, slides / "images", mpp=2.0, image_size=64, folder=out, opaque_ids=True, license="cc0-1.0"
    )
    printed = capsys.readouterr().out
    assert "validation batches are the same to the last bit: True" in printed
    assert "license: cc0-1.0" in (out / "README.md").read_text()
