"""The recipe on slides that were published."""

import importlib
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from wsidata import WSIDataModule, export

pytest.importorskip("datasets", reason="publishing needs slidestream[hub]")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("CAMELYON16_STARTED", "now")
    return importlib.import_module("camelyon16")


@pytest.mark.slow
def test_training_from_an_export(recipe: ModuleType, camelyon: Path, tmp_path: Path) -> None:
    table = camelyon / "evaluation" / "reference.csv"
    slides = WSIDataModule(table, camelyon / "images", test_prefix="test_", level=1, image_size=64, batch_size=2)
    export(slides, tmp_path / "export", quiet=True)
    small = [
        "--tile-size",
        "32",
        "--epochs",
        "1",
        "--num-workers",
        "0",
        "--weights",
        "none",
        "--out",
        str(tmp_path / "out"),
    ]
    recipe.main(["--hub", str(tmp_path / "export"), *small])
    split = pd.read_csv(tmp_path / "out" / "split.csv", dtype=str).set_index("image_id")["split"]
    assert split.to_dict() == slides.labels.frame.set_index("image_id")["split"].to_dict()
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert set(predictions["image"]) == {name for name, part in split.items() if part != "train"}


def test_arguments_that_were_published_are_not_given_again(
    recipe: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        recipe.main(["--hub", "owner/slides", "--mpp", "2", "--image-size", "64"])
    assert "--hub trains on what was published, which --mpp, --image-size would not change" in capsys.readouterr().err
