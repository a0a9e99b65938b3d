"""The examples of the README and of the first page of the documentation, run on synthetic data."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from places import ROOT

import wsidata
from wsidata.synthetic import write_camelyon16, write_photo_folders

PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SMALLER = {
    r"image_size=\d+": "image_size=64", r"max_epochs=\d+": "max_epochs=1", r"tile_size=\d+": "tile_size=64",
    r"num_workers=\d+": "num_workers=0", r"num_classes=2": "num_classes=2, weights=None", r"8192, 8192": "128, 96",
    r"strip_rows=\d+": "strip_rows=32", r"resnet34": "resnet18",
    r"Trainer\(": "Trainer(accelerator='cpu', logger=False, enable_checkpointing=False, enable_model_summary=False, "
    "num_sanity_val_steps=0, ",
}  # fmt: skip
"""What is changed in the examples, so that they take seconds and download nothing."""


def run_examples(document: str, known: dict[str, Any]) -> dict[str, Any]:
    """Run the Python of a document, in the working folder; returns the variables."""
    names = {"__name__": "__main__", **known}
    for block in PYTHON_BLOCK.findall((ROOT / document).read_text()):
        for pattern, smaller in SMALLER.items():
            block = re.sub(pattern, smaller, block)
        exec(compile(block, document, "exec"), names)
    return names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the examples read: labels.csv and slides, photos.csv and photos."""
    monkeypatch.chdir(tmp_path)
    write_camelyon16(tmp_path, normal=5, tumor=5, test=4, size_px=(256, 256), tile=64)
    table = pd.read_csv(tmp_path / "evaluation" / "reference.csv")
    table.assign(**{"class": table["type"]}).to_csv("labels.csv", index=False)
    (tmp_path / "images").rename("slides")
    write_photo_folders(tmp_path / "photos")
    photos = [path.relative_to("photos") for path in sorted(Path("photos").rglob("*.jpg"))]
    pd.DataFrame({"image": photos, "label": [path.parent.name for path in photos]}).to_csv("photos.csv", index=False)
    return tmp_path


def published_to_a_folder(dm: Any, repository: str, **how: Any) -> None:
    """`publish`, to a folder of that name instead of the Hub; loading prefers folders."""
    wsidata.export(dm, repository, quiet=True, **how)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*in eval mode")
def test_readme_trains_tests_and_publishes(folder: Path) -> None:
    pytest.importorskip("datasets", reason="publishing needs slidestream[hub]")
    classes = {name: getattr(wsidata, name) for name in ("ImageFolderDataModule", "HubDataModule")}
    found = run_examples("README.md", {**classes, "publish": published_to_a_folder})
    slides, photos, again = (found[name] for name in ("slides", "photos", "the_same"))
    assert {part: len(slides.tables[part]) for part in ("train", "val", "test")} == {"train": 8, "val": 2, "test": 4}
    assert found["trainer"].callback_metrics["test_loss"].isfinite()
    assert all(name.startswith("test_") for name in slides.tables["test"]["image_id"])
    assert len(photos.tables["val"])
    assert [len(again.tables[part]) for part in ("train", "val", "test")] == [8, 2, 4]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*in eval mode")
def test_getting_started_trains_tests_and_streams(folder: Path) -> None:
    found = run_examples("docs/getting-started.md", {})
    assert found["trainer"].callback_metrics["test_loss"].isfinite()
    assert len(found["slides"].tables["test"]) == 4
    assert all(weight.grad is not None for weight in found["trunk"].parameters())
