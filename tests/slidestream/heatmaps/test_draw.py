"""Heat maps of many images are written, and what is wrong with one is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import torch
from lightning import Trainer

from slidestream.__main__ import main
from slidestream.heatmaps.draw import HeatmapOptions, draw_heatmaps, find_class
from slidestream.heatmaps.names import safe_name, unique_names
from slidestream.trained import load_trained
from streammodels import StreamingResNet
from wsidata import WSIDataModule
from wsidata.synthetic.slides import write_camelyon16, write_slide


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one step on slides read at 2 um/px."""
    folder = write_camelyon16(tmp_path_factory.mktemp("c16"), normal=3, tumor=3, test=0, size_px=(128, 128), tile=64)
    torch.manual_seed(0)
    slides = WSIDataModule(
        folder / "evaluation" / "reference.csv", folder / "images", label_column="type", num_workers=0, leaks="off",
        mpp=2.0, class_names={"normal": "none", "tumor": "a/b: <c>"},
    )  # fmt: skip
    trainer = Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu", num_sanity_val_steps=0,
        default_root_dir=folder, limit_val_batches=0, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(StreamingResNet("resnet9", tile_size=64, num_classes=2, weights=None), slides)
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "Präparat [1].tif"
    return write_slide(path, width=800, height=600, tumor=True, mpp=0.5, tile=64)


def _command(*arguments: Any) -> int:
    return main(["heatmap", *map(str, arguments)])


@pytest.mark.slow
def test_command_writes_all_files_and_names_what_cannot_be_read(
    checkpoint: Path, slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.tif").write_bytes(slide.read_bytes()[:2000])
    images = [tmp_path / "broken.tif", tmp_path / "missing.svs", slide]
    asked = ["--class", "1", "--regions", "2", "--geojson", "--saliency", "--stride", "4"]
    assert _command(checkpoint, *images, "--out", tmp_path / "out", *asked) == 1
    printed = capsys.readouterr()
    assert "broken.tif: '" in printed.err
    assert "is cut off or damaged" in printed.err
    assert "missing.svs: there is no such file" in printed.err
    stem = "Präparat _1_a_b_ _c"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [f"{stem}_cam{end}" for end in (".png", ".tif", "_colors.tif", ".geojson", "_regions.png")]
        + [f"{stem}_saliency{end}" for end in (".png", ".tif", "_colors.tif", ".geojson")]
    )
    content = json.loads((tmp_path / "out" / f"{stem}_cam.geojson").read_text(encoding="utf-8"))
    assert {one["properties"]["classification"]["name"] for one in content["features"]} >= {"a/b <c>"}
    assert _command(checkpoint, slide, "--out", tmp_path / "out", "--class", "1") == 2
    assert "would be replaced. Pass --overwrite" in capsys.readouterr().err
    assert _command(checkpoint, slide, "--out", tmp_path / "out", "--class", "1", "--overwrite", "--quiet") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_pyramid_holds_the_map_of_the_prediction(checkpoint: Path, slide: Path, tmp_path: Path) -> None:
    """Against the whole image in memory, and the network without streaming."""
    from wsidata import Slide

    trained = load_trained(checkpoint)
    (drawn,) = draw_heatmaps(trained, [slide], tmp_path)
    plain = StreamingResNet("resnet9", num_classes=2, weights=None, streaming=False)
    plain.load_state_dict(trained.model.state_dict())
    with Slide(slide) as opened:
        image = torch.from_numpy(opened.numpy(mpp=2.0)).permute(2, 0, 1)[None]
    with torch.no_grad():
        probability = plain.eval()(image).softmax(dim=1)[0]
        expected = plain.class_activation_map(image)
    assert drawn.class_name == trained.class_names[int(probability.argmax())]
    assert drawn.score == pytest.approx(float(probability.max()), rel=1e-5)
    written = tifffile.imread(next(path for path in drawn.files if path.name.endswith("cam.tif")), key=0)
    shown = set(np.unique(written.round(4)).tolist())
    assert shown <= set(np.unique(expected.values.numpy().round(4)).tolist()) | {
        value + step for value in np.unique(expected.values.numpy().round(4)).tolist() for step in (-1e-4, 1e-4)
    }
    assert written.min() == pytest.approx(float(expected.values.min()), rel=1e-4)


@pytest.mark.slow
def test_pictures_alone_are_named_as_requested_and_kept(checkpoint: Path, slide: Path, tmp_path: Path) -> None:
    trained, options = load_trained(checkpoint), HeatmapOptions(picture_only=True, existing="skip")
    (tmp_path / "there.png").write_text("old")
    draw_heatmaps(trained, [slide, slide], tmp_path, options, names=["folder/a.b", "there"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder_a.b.png", "there.png"]
    assert (tmp_path / "there.png").read_text() == "old"
    picture = pyvips.Image.new_from_file(str(tmp_path / "folder_a.b.png"))
    assert picture.width > 1000


@pytest.mark.slow
def test_predict_draws_what_it_predicted(
    checkpoint: Path, slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.tif").write_bytes(slide.read_bytes()[:2000])
    asked = ["--out", tmp_path / "out" / "p.csv", "--heatmaps", "--workers", 0]
    assert main(["predict", *map(str, [checkpoint, slide, tmp_path / "broken.tif", *asked])]) == 1
    (picture,) = (tmp_path / "out" / "heatmaps").iterdir()
    assert picture.suffix == ".png"
    assert "1 heat maps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--class", "tumour"], "class 'tumour' is none of none, a/b: <c>"),
        (["--mpp", "1"], "--allow-changed resolution"),
        (["--quantile", "98"], "between 0 and 1"),
        (["--allow-changed", "colours"], "colours"),
        (["--device", "nowhere"], "--device nowhere cannot be used"),
    ],
)
def test_errors_of_settings_end_the_command_before_anything_is_written(
    checkpoint: Path, slide: Path, tmp_path: Path, asked: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(checkpoint, slide, "--out", tmp_path / "out", *asked) == 2
    message = capsys.readouterr().err.strip()
    assert words in message
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_folder_that_is_a_file_is_an_error(checkpoint: Path, slide: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("text")
    with pytest.raises(NotADirectoryError, match="Name a folder"):
        draw_heatmaps(load_trained(checkpoint), [slide], tmp_path / "out")


def test_map_of_nan_is_an_error_of_its_image(checkpoint: Path, slide: Path, tmp_path: Path) -> None:
    trained = load_trained(checkpoint)
    with torch.no_grad():
        trained.model.get_parameter("fc.weight").fill_(float("nan"))
    (drawn,) = draw_heatmaps(trained, [slide], tmp_path)
    assert "NaN" in drawn.error
    assert not list(tmp_path.iterdir())


def test_checkpoint_that_remembers_nothing_needs_a_resolution(checkpoint: Path, slide: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="Pass the resolution of its training"):
        draw_heatmaps(replace(load_trained(checkpoint), memory=None), [slide], tmp_path)


def test_probability_needs_logits_everywhere(checkpoint: Path, slide: Path, tmp_path: Path) -> None:
    trained = load_trained(checkpoint, pooling="max")
    with pytest.raises(ValueError, match="Leave probability out"):
        draw_heatmaps(trained, [slide], tmp_path, HeatmapOptions(probability=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a/b\\c:d*e?", "a_b_c_d_e"), ("..", "_"), ("", "_"), ("Präparat 7", "Präparat 7"), ("ä" * 200, "ä" * 40)],
)
def test_names_are_safe(text: str, expected: str) -> None:
    assert safe_name(text) == expected


def test_images_of_one_name_get_numbers() -> None:
    assert unique_names(["a/x.tif", "b/X.svs", "b/y.svs", "c/x.tif"]) == ["x", "X-2", "y", "x-3"]


@pytest.mark.parametrize(("requested", "expected"), [(None, None), ("tumor", 1), ("0", 0)])
def test_class_is_found_by_name_or_number(requested: str | None, expected: int | None) -> None:
    assert find_class(requested, ["normal", "tumor"]) == expected
