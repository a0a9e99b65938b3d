"""The recipe end to end: on a tiny synthetic tree, and on slides cut from real ones where available."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from places import DATA, SLIDES

FILES = ("best.ckpt", "metrics.csv", "scores.csv", "split.csv", "predictions.csv")
PICTURES = ("roc.png", "confusion.png", "batch.png")
SMALL = ["--image-size", "64", "--tile-size", "32", "--epochs", "2", "--num-workers", "0", "--weights", "none"]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("CAMELYON16_STARTED", "now")
    return importlib.import_module("camelyon16")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from wsidata.synthetic.slides import write_camelyon16

    folder = tmp_path_factory.mktemp("camelyon16")
    return write_camelyon16(folder, normal=4, tumor=4, test=4, size_px=(256, 256), tile=64)


def _check_outputs(out: Path) -> pd.DataFrame:
    for name in FILES:
        assert (out / name).stat().st_size > 0
    for name in PICTURES:
        assert (out / name).read_bytes()[:4] == b"\x89PNG"
    predictions = pd.read_csv(out / "predictions.csv")
    chances = predictions.filter(like="probability_").to_numpy()
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    best = [predictions.filter(like="probability_").columns[i] for i in chances.argmax(axis=1)]
    assert list("probability_" + predictions["predicted"]) == best
    return predictions


@pytest.mark.slow
def test_staged_training_writes_every_listed_file(
    recipe: ModuleType, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.main(["--data", str(tree), "--out", str(tmp_path), "--mpp", "2", "--unfreeze-at", "1", *SMALL])
    predictions = _check_outputs(tmp_path)
    split = pd.read_csv(tmp_path / "split.csv", dtype=str)
    assert split["split"].value_counts().to_dict() == {"train": 6, "test": 4, "val": 2}
    held_out = split[split["split"] != "train"].set_index("image_id")["split"]
    assert predictions.set_index("image")["split"].to_dict() == held_out.to_dict()
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert set(metrics["epoch"]) == {0, 1}
    assert {"train_loss", "val_loss", "val_accuracy", "val_auroc"} <= set(metrics)
    printed = capsys.readouterr().out
    assert "RANDOM weights" in printed
    assert all(name in printed for name in (*FILES, *PICTURES))


@pytest.mark.slow
def test_unfreezing_trains_the_trunk_and_not_before(
    recipe: ModuleType, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []

    class Recorded(recipe.StreamingResNet):
        def on_fit_start(self) -> None:
            weights.append(self.layer4[1].conv2.weight.detach().clone())

        def on_fit_end(self) -> None:
            weights.append(self.layer4[1].conv2.weight.detach().clone())

    monkeypatch.setattr(recipe, "StreamingResNet", Recorded)
    recipe.main(["--data", str(tree), "--out", str(tmp_path), "--mpp", "2", "--unfreeze-at", "1", *SMALL])
    before, frozen_end, unfrozen_start, end = weights
    assert torch.equal(before, frozen_end)
    assert torch.equal(frozen_end, unfrozen_start)
    assert not torch.equal(unfrozen_start, end)


def _reference(folder: Path, text: str, place: str = "evaluation/reference.csv") -> Path:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


@pytest.mark.parametrize("place", ["evaluation/reference.csv", "reference.csv"])
@pytest.mark.parametrize("column", ["class", "type"])
def test_table_is_found_with_either_label_column(recipe: ModuleType, tmp_path: Path, place: str, column: str) -> None:
    table = recipe.read_reference(
        _reference(tmp_path, f"image,{column}\nnormal_001.tif,normal\ntest_001,tumor\n", place)
    )
    assert table.to_dict("list") == {"image": ["normal_001", "test_001"], "class": ["normal", "tumor"]}


def test_published_corrections_are_applied_and_printed(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["normal_085", "normal_086", "tumor_111", "test_049", "test_114"]
    rows = "".join(f"{name}.tif,{'normal' if 'normal' in name else 'tumor'}\n" for name in names)
    table = recipe.read_reference(_reference(tmp_path, f"image,class\n{rows}"))
    assert list(table["image"]) == ["normal_085", "tumor_111", "test_114"]
    printed = capsys.readouterr().out
    assert "normal_086" in printed
    assert "test_049" in printed


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The published table, with an empty file for each slide: tables and splits are made without opening any."""
    reference = DATA / "tables" / "camelyon16_reference.csv"
    if not reference.exists():
        pytest.skip("the published table is not here")
    folder = _reference(tmp_path / "published", reference.read_text())
    (folder / "images").mkdir()
    for name in pd.read_csv(reference)["image"]:
        (folder / "images" / name).touch()
    return folder


def test_published_table_is_tumor_against_none_split_as_in_the_tutorial(
    recipe: ModuleType, published: Path, tmp_path: Path
) -> None:
    slides = recipe.read_slides(recipe.parse_arguments(["--data", str(published)]), tmp_path)
    table = pd.read_csv(published / "evaluation" / "reference.csv")  # read without the code under test
    is_tumor = dict(zip(table["image"].str.removesuffix(".tif"), table["class"] != "negative", strict=True))
    assert slides.class_names == ("normal", "tumor")
    assert {part: len(slides.tables[part]) for part in ("train", "val", "test")} == {
        "train": 216,
        "val": 54,
        "test": 129,
    }
    for part, tumors in (("train", 89), ("val", 22), ("test", 49)):
        rows = slides.tables[part]
        assert [bool(label) for label in rows["label"]] == [is_tumor[name] for name in rows["image_id"]]
        assert int(rows["label"].sum()) == tumors
    assert set(slides.tables["test"]["image_id"]) == {name for name in is_tumor if name.startswith("test_")}


def test_extent_is_offered_as_three_classes(recipe: ModuleType, published: Path, tmp_path: Path) -> None:
    slides = recipe.read_slides(recipe.parse_arguments(["--data", str(published), "--classes", "extent"]), tmp_path)
    assert slides.class_names == ("negative", "micro", "macro")
    assert slides.labels.frame["label_name"].value_counts().to_dict() == {"negative": 239, "micro": 80, "macro": 80}
    assert sum(len(slides.tables[part]) for part in ("train", "val")) == 270


@pytest.mark.parametrize("classes", ["tumor", "extent"])
def test_labels_that_are_no_class_are_named(recipe: ModuleType, tree: Path, tmp_path: Path, classes: str) -> None:
    from wsidata.tables.text_table import TableError

    text = (tree / "evaluation" / "reference.csv").read_text().replace("macro", "ITC")
    folder = _reference(tmp_path, text)
    (folder / "images").symlink_to(tree / "images")
    slides = recipe.read_slides(recipe.parse_arguments(["--data", str(folder), "--classes", classes]), tmp_path)
    with pytest.raises(TableError, match=r"unknown label 'itc' in column 'class' \(known: negative, "):
        _ = slides.labels


def test_missing_table_is_an_error_that_names_both_places(recipe: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"evaluation/reference\.csv and .*reference\.csv"):
        recipe.read_reference(tmp_path)


def test_missing_label_column_is_an_error_that_names_the_columns(recipe: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="it has image, grade"):
        recipe.read_reference(_reference(tmp_path, "image,grade\na,1\n"))


def test_unfreezing_after_the_last_epoch_is_an_error(recipe: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        recipe.parse_arguments(["--epochs", "5", "--unfreeze-at", "5"])
    assert "--unfreeze-at 5 must lie between 0 and --epochs 5" in capsys.readouterr().err


def test_real_slides_have_other_defaults_than_the_demo(recipe: ModuleType) -> None:
    demo, real = recipe.parse_arguments([]), recipe.parse_arguments(["--data", "somewhere"])
    assert (demo.weights, demo.train_streaming_layers) == ("none", True)
    assert (real.weights, real.train_streaming_layers) == ("DEFAULT", False)


@pytest.mark.slow
@pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides are not here")
@pytest.mark.filterwarnings("ignore:no leakage between splits")  # one of the slides is plain white
def test_slides_cut_from_real_ones(recipe: ModuleType, tmp_path: Path) -> None:
    from wsidata import Slide
    from wsidata.synthetic.slides import write_pixels

    rows, side = [], 700
    with Slide(SLIDES / "CMU-1-Small-Region.svs") as slide:
        corners = [(x, y) for x in (0, 740, 1480) for y in (0, 740, 1480, 2200)]
        for number, (x, y) in enumerate(corners):
            label = ("normal", "tumor")[number % 2]
            name = f"test_{number:03d}" if number >= 8 else f"{label}_{number:03d}"
            pixels = slide.read_region(x, y, side, side)
            if label == "tumor":
                pixels = 255 - pixels  # the region holds no tumor; inverted colors stand for it
            write_pixels(tmp_path / "images" / f"{name}.tif", pixels, mpp=0.499)
            rows.append(f"{name},{label}\n")
    _reference(tmp_path, "image,type\n" + "".join(rows))
    out = tmp_path / "out"
    options = ["--data", str(tmp_path), "--out", str(out), "--mpp", "4", "--train-streaming-layers", *SMALL]
    recipe.main([*options, "--learning-rate", "1e-3", "--epochs", "3"])
    predictions = _check_outputs(out)
    assert len(predictions) == 4 + 2


def test_unavailable_weights_are_an_error_with_the_alternatives(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    options = recipe.parse_arguments(["--data", "somewhere"])
    with pytest.raises(SystemExit, match=r"could not be downloaded .* --weights PATH or --weights none"):
        recipe.make_model(options, 2)


def _no_network(*_: object, **__: object) -> None:
    raise OSError("no network")
