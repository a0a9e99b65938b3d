"""The heat-map recipe end to end: a tiny checkpoint, a synthetic slide."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from lightning import Trainer

from streammodels import StreamingResNet
from wsidata import WSIDataModule
from wsidata.synthetic.slides import write_camelyon16, write_slide
from wsidata.transforms import Blur


@pytest.fixture
def recipe() -> ModuleType:
    return importlib.import_module("heatmap")


@pytest.fixture(scope="module")
def model() -> StreamingResNet:
    torch.manual_seed(0)
    return StreamingResNet("resnet18", tile_size=64, num_classes=2, weights=None)


@pytest.fixture(scope="module")
def checkpoint(model: StreamingResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "tumor_001.tif"
    return write_slide(path, width=400, height=300, tumor=True, mpp=0.5, tile=64)


def _spacing(path: Path) -> float:
    with tifffile.TiffFile(path) as file:
        high, low = file.pages[0].tags["XResolution"].value
    return 10000 * low / high


@pytest.mark.slow
def test_files_hold_the_scores_and_the_gradient_of_the_network(
    recipe: ModuleType, model: StreamingResNet, checkpoint: Path, slide: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from wsidata import Slide

    options = ["--checkpoint", checkpoint, "--slide", slide, "--mpp", "2", "--output", tmp_path, "--saliency"]
    recipe.main([*map(str, options), "--stride", "4", "--class", "1"])
    with Slide(slide) as opened:
        image = torch.from_numpy(opened.numpy(mpp=2.0)).permute(2, 0, 1)[None]
    score = model.eval()(image)[0, 1].item()
    assert f"1 {score:.3g}" in capsys.readouterr().out
    for kind, cell in (("cam", 16), ("saliency", 4)):
        assert (tmp_path / f"tumor_001_1_{kind}.png").read_bytes()[:4] == b"\x89PNG"
        assert _spacing(tmp_path / f"tumor_001_1_{kind}.tif") == pytest.approx(2.0 * cell, rel=0.15)
    gradient = model.saliency(image, 1, stride=4, reduce="max").values[0].numpy()
    written = tifffile.imread(tmp_path / "tumor_001_1_saliency.tif", key=0)[::2]  # 75 rows are no whole blocks
    np.testing.assert_allclose(written, gradient, rtol=1e-3, atol=1e-3 * gradient.max())


@pytest.mark.slow
def test_resolution_of_a_level_is_written_too(
    recipe: ModuleType, checkpoint: Path, slide: Path, tmp_path: Path
) -> None:
    options = ["--checkpoint", checkpoint, "--slide", slide, "--level", "1", "--output", tmp_path, "--tile-size", "40"]
    recipe.main([*map(str, options)])
    (written,) = tmp_path.glob("*.tif")
    assert _spacing(written) == pytest.approx(1.0 * 16, rel=0.15)
    assert written.stem in {"tumor_001_0_cam", "tumor_001_1_cam"}


@pytest.mark.slow
def test_slide_without_resolution_is_an_error_until_it_is_given(
    recipe: ModuleType, checkpoint: Path, tmp_path: Path
) -> None:
    slide = write_slide(tmp_path / "nameless.tif", width=128, height=128, mpp=None, tile=64)
    options = ["--checkpoint", checkpoint, "--slide", slide, "--level", "0", "--output", tmp_path / "out"]
    with pytest.raises(SystemExit, match=r"'nameless.tif' has no resolution.*--mpp-override"):
        recipe.main([*map(str, options)])
    recipe.main([*map(str, options), "--mpp-override", "0.5"])
    assert _spacing(next((tmp_path / "out").glob("*.tif"))) == pytest.approx(0.5 * 16, rel=0.15)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes checkpoints of short trainings on slides read in some way."""
    folder = write_camelyon16(tmp_path_factory.mktemp("c16"), normal=3, tumor=3, test=2, size_px=(128, 128), tile=64)

    def train(**options: Any) -> Path:
        slides = WSIDataModule(
            folder / "evaluation" / "reference.csv", folder / "images", label_column="type", test_prefix="test_",
            num_workers=0, leaks="off", **options,
        )  # fmt: skip
        trainer = Trainer(
            max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu", num_sanity_val_steps=0,
            default_root_dir=folder, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(StreamingResNet("resnet9", tile_size=64, num_classes=2, weights=None), slides)
        path = tmp_path_factory.mktemp("trained") / "last.ckpt"
        trainer.save_checkpoint(path)
        return path

    return train


@pytest.mark.slow
@pytest.mark.parametrize(
    "training", [{"mpp": 2.0, "image_size": 64, "apply_icc": True}, {"level": 1, "crop": "pack", "dtype": "float"}]
)
def test_scores_are_those_of_the_prediction(
    recipe: ModuleType, trained: Callable[..., Path], slide: Path, tmp_path: Path, training: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = trained(**training)
    recipe.main(["--checkpoint", str(path), "--slide", str(slide), "--output", str(tmp_path)])
    table = pd.DataFrame({"image": [slide.name]})
    slides = WSIDataModule(table, slide.parent, label_column=None, num_workers=0, leaks="off", **training)
    image = slides.make_dataset("predict")[0]
    with torch.no_grad():
        scores = StreamingResNet.load_from_checkpoint(path).eval()(image[None])[0].tolist()
    printed = capsys.readouterr().out
    assert f"{image.shape[2]} x {image.shape[1]} pixels of" in printed
    assert f"Scores: normal {scores[0]:.3g}, tumor {scores[1]:.3g}." in printed
    assert "cropped or padded as in training" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "given", "words"),
    [
        ({"mpp": 2.0}, ["--mpp", "1"], r"mpp=2\.0, and here they are read with mpp=1\.0"),
        ({"mpp": 2.0}, ["--level", "1"], r"mpp=2\.0, and here they are read with level=1"),
        ({"level": 1, "eval_transform": Blur((1, 1))}, [], "eval_transform=.*Blur.* and here .*default"),
    ],
)
def test_other_settings_than_in_training_are_refused_unless_allowed(
    recipe: ModuleType, trained: Callable[..., Path], slide: Path, tmp_path: Path, training: dict[str, Any],
    given: list[str], words: str,
) -> None:  # fmt: skip
    options = ["--checkpoint", trained(**training), "--slide", slide, "--output", tmp_path, *given]
    with pytest.raises(SystemExit, match=rf"{words}.*--allow-changed"):
        recipe.main([*map(str, options)])
    assert not list(tmp_path.iterdir())
    recipe.main([*map(str, options), "--allow-changed", "resolution", "eval_transform"])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_whole_slide_is_drawn_where_that_is_allowed(
    recipe: ModuleType, trained: Callable[..., Path], slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained(mpp=2.0, image_size=64, crop="pack")
    options = ["--checkpoint", path, "--slide", slide, "--output", tmp_path]
    recipe.main([*map(str, options), "--allow-changed", "crop", "image_size"])
    assert "100 x 75 pixels of 2 um" in capsys.readouterr().out


def test_checkpoint_without_memory_needs_a_resolution(recipe: ModuleType, checkpoint: Path, slide: Path) -> None:
    with pytest.raises(SystemExit, match="does not remember a resolution: pass --mpp or --level"):
        recipe.main(["--checkpoint", str(checkpoint), "--slide", str(slide), "--output", "nowhere"])


@pytest.mark.slow
def test_checkpoint_of_a_fit_holds_the_names_of_the_classes(recipe: ModuleType, trained: Callable[..., Path]) -> None:
    _, names, geometry = recipe.load_model(trained(mpp=2.0, class_names={"normal": "none", "tumor": "some"}), None)
    assert names == ["none", "some"]
    assert geometry["resolution"] == {"mpp": 2.0}


@pytest.mark.parametrize(("requested", "expected"), [(None, None), ("tumor", 1), ("0", 0)])
def test_class_is_found_by_name_or_number(recipe: ModuleType, requested: str | None, expected: int | None) -> None:
    assert recipe.find_class(requested, ["normal", "tumor"]) == expected


@pytest.mark.parametrize("requested", ["Tumor", "2", "-1"])
def test_unknown_class_is_an_error_that_names_those_there_are(recipe: ModuleType, requested: str) -> None:
    with pytest.raises(SystemExit, match="is none of normal, tumor, nor a number below 2"):
        recipe.find_class(requested, ["normal", "tumor"])


def test_file_that_is_no_checkpoint_is_an_error(recipe: ModuleType, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "weights.pth")
    for name in ("weights.pth", "missing.ckpt"):
        with pytest.raises(SystemExit, match=f"{name}' could not be read as a checkpoint"):
            recipe.load_model(tmp_path / name, None)
