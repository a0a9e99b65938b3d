"""The photo recipe end to end on small synthetic photos."""

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from places import PHOTOS

from wsidata import ImageFolderDataModule
from wsidata.synthetic.photos import write_photo_folders, write_photos

SMALL = ["--model", "resnet9", "--image-size", "32", "--epochs", "2", "--num-workers", "0", "--accelerator", "cpu"]
FILES = ("best.ckpt", "metrics.csv", "scores.csv", "per_class.csv", "predictions.csv", "split.csv", "duplicates.csv")
PICTURES = ("confusion.png", "mistakes.png", "batch.png")


@pytest.fixture
def recipe() -> ModuleType:
    return importlib.import_module("mushrooms")


@pytest.fixture(scope="module")
def toadstools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("toadstools"), classes=3, per_class=8, side_px=48)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return write_photo_folders(tmp_path / "folders", classes=3, per_class=8, side_px=48)


def _table(folder: Path) -> list[str]:
    return [
        "--data",
        str(folder / "photos"),
        "--labels",
        str(folder / "labels.csv"),
        "--names",
        str(folder / "names.csv"),
    ]


@pytest.mark.slow
def test_every_listed_file_is_written(
    recipe: ModuleType, toadstools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.main([*_table(toadstools), "--out", str(tmp_path), "--test-fraction", "0.25", "--one-cycle", *SMALL])
    printed = capsys.readouterr().out
    assert all((tmp_path / name).stat().st_size > 0 for name in (*FILES, "stats.json"))
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in PICTURES)
    assert all(name in printed for name in (*FILES, *PICTURES, "stats.json", "RANDOM weights", "per image"))
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert {name for name in metrics if name.startswith("val_")} == {"val_loss", "val_accuracy", "val_auroc"}
    predictions, split = pd.read_csv(tmp_path / "predictions.csv"), pd.read_csv(tmp_path / "split.csv")
    assert predictions.set_index("image")["split"].to_dict() == split.set_index("image_id")["split"].to_dict()
    assert split["split"].value_counts().to_dict() == {"train": 12, "val": 6, "test": 6}
    np.testing.assert_allclose(predictions.filter(like="probability_").sum(axis=1), 1, atol=1e-5)
    assert set(predictions["label"]) == {"scarlet", "amber", "olive"}
    validated = predictions.query("split == 'val'")
    reached = (
        validated["label"] == validated["predicted"]
    ).mean()  # the checkpoint is one of the epochs that were logged
    assert any(abs(metrics["val_accuracy"].dropna() - reached) < 1e-6)
    assert pd.read_csv(tmp_path / "per_class.csv")["photos"].tolist() == [2, 2, 2]  # of the test photos


@pytest.mark.slow
def test_folds_validate_every_photo_once_and_report_their_spread(
    recipe: ModuleType, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.main(["--data", str(folders), "--out", str(tmp_path / "out"), "--k-fold", "2", *SMALL])
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert sorted(predictions["image"]) == sorted(
        path.relative_to(folders).with_suffix("").as_posix() for path in folders.rglob("*.jpg")
    )
    assert set(predictions["split"]) == {"val"}
    folds = pd.read_csv(tmp_path / "out" / "folds.csv")
    validated = folds[folds["split"] == "val"]["accuracy"]
    assert f"{validated.mean():.3f} ± {validated.std():.3f}" in capsys.readouterr().out
    assert validated.mean() == pytest.approx((predictions["label"] == predictions["predicted"]).mean())  # equal folds


@pytest.mark.slow
def test_whole_photos_are_streamed_at_full_resolution(recipe: ModuleType, folders: Path, tmp_path: Path) -> None:
    recipe.main(["--data", str(folders), "--out", str(tmp_path / "out"), "--stream", *SMALL, "--epochs", "1"])
    content = torch.load(tmp_path / "out" / "best.ckpt", weights_only=True)
    assert content["hyper_parameters"]["streaming"]
    assert content["datamodule_hyper_parameters"]["resize_px"] is None
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 24


@pytest.mark.slow
def test_published_photos_are_trained_on(recipe: ModuleType, folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="publishing needs slidestream[hub]")
    from wsidata import export

    photos = ImageFolderDataModule(folders, image_size=32, val_fraction=0.25, num_workers=0)
    export(photos, tmp_path / "published")
    recipe.main(["--hub", str(tmp_path / "published"), "--out", str(tmp_path / "out"), *SMALL])
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert predictions["split"].value_counts().to_dict() == photos.labels.frame["split"].value_counts().to_dict()


@pytest.mark.slow
def test_the_learning_rate_finder_sets_the_learning_rate(recipe: ModuleType, folders: Path, tmp_path: Path) -> None:
    options = recipe.parse_arguments(["--data", str(folders), *SMALL])
    photos = recipe.make_photos(options)
    photos.setup()
    model = recipe.make_model(options, photos)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe.find_learning_rate(model, photos, options, tmp_path)
    assert model.learning_rate != options.learning_rate
    assert model.configure_optimizers().param_groups[0]["lr"] == model.learning_rate
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (tmp_path / "learning_rate.png").read_bytes()[:4] == b"\x89PNG"


def _add_duplicates(folder: Path) -> None:
    """One file twice, and one saved again at half the size, mirrored."""
    shutil.copy(folder / "amber" / "001.jpg", folder / "amber" / "copy.jpg")
    photo = cv2.imread(str(folder / "olive" / "002.jpg"))
    half = cv2.resize(photo[:, ::-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "scarlet" / "again.png"), half)


@pytest.mark.slow
def test_duplicates_are_found_named_and_kept_together(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_photo_folders(tmp_path / "folders", classes=3, per_class=8, side_px=96)
    _add_duplicates(folder)
    for seed in range(8):
        options = recipe.parse_arguments(["--data", str(folder), "--seed", str(seed)])
        groups = recipe.check_duplicates(options, tmp_path)
        split = recipe.make_photos(options, None, groups).labels.frame.set_index("image_id")["split"]
        assert split["amber/001"] == split["amber/copy"]
        assert split["olive/002"] == split["scarlet/again"]
        assert len(split) == 26
    printed = capsys.readouterr().out
    assert "amber/001 and amber/copy: the same file" in printed
    assert "olive/002 and scarlet/again: look alike" in printed
    assert "but olive and scarlet" in printed
    assert len(pd.read_csv(tmp_path / "duplicates.csv")) == 2


def test_a_split_that_was_given_is_not_changed_for_duplicates(recipe: ModuleType, tmp_path: Path) -> None:
    folder = write_photo_folders(tmp_path / "folders", classes=2, parts={"train": 3, "val": 2}, side_px=48)
    shutil.copy(folder / "train" / "amber" / "001.jpg", folder / "val" / "amber" / "copy.jpg")
    options = recipe.parse_arguments(["--data", str(folder)])
    assert recipe.check_duplicates(options, tmp_path) is None
    assert len(pd.read_csv(tmp_path / "duplicates.csv")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hub", "a/b", "--data", "c"], "leave out --data"),
        (["--hub", "a/b", "--k-fold", "3"], "--k-fold would replace"),
        (["--hub", "a/b", "--test-fraction", "0.2"], "would be no part"),
        (["--labels", "a.csv"], "--labels needs --data"),
        (["--data", "a", "--names", "b.csv"], "--names needs --labels"),
        (["--k-fold", "1"], "at least 2"),
        (["--data", "a", "--model", "resnet9", "--weights", "DEFAULT"], "no pretrained weights"),
    ],
)
def test_options_that_do_not_go_together_are_an_error(
    recipe: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        recipe.parse_arguments(arguments)
    assert message in capsys.readouterr().err


def test_real_photos_have_other_defaults_than_the_demo(recipe: ModuleType) -> None:
    demo, real = recipe.parse_arguments([]), recipe.parse_arguments(["--data", "somewhere"])
    assert (demo.model, demo.weights) == ("resnet9", "none")
    assert (real.model, real.weights, real.batch_size) == ("resnet18", "DEFAULT", 32)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")
def test_real_photos_hold_no_duplicates_and_every_class_is_in_both_parts(recipe: ModuleType, tmp_path: Path) -> None:
    labels = PHOTOS / "raw_img_labels.csv"
    options = recipe.parse_arguments(["--data", str(PHOTOS), "--labels", str(labels)])
    assert recipe.check_duplicates(options, tmp_path) is None
    photos = recipe.make_photos(options)
    assert [len(photos.tables[part]) for part in ("train", "val")] == [183, 61]
    assert photos.tables["train"]["label"].nunique() == photos.tables["val"]["label"].nunique() == 31
