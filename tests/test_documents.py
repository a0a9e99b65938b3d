"""The Python examples of the README and of every page of the documentation, run in order on synthetic data."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pyvips
import tifffile
import torch
from documents import PYTHON_BLOCK, run_examples
from jsonargparse import ArgumentParser
from lightning import Trainer
from places import ROOT

import wsidata
from streammodels import StreamingResNet
from wsidata.datamodules.geometry import crop_settings
from wsidata.synthetic import write_camelyon16, write_photo_folders, write_photos, write_slide

pytestmark = pytest.mark.usefixtures("blank_figures")
ON_SLIDES = ("augmentation", "heads", "how-streaming-works", "quality", "resnets", "tissue-and-lazy")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples read: labels.csv and slides, photos.csv and photos. Read only."""
    folder = tmp_path_factory.mktemp("documents")
    write_camelyon16(folder, normal=5, tumor=5, test=4, size_px=(256, 256), tile=64)
    table = pd.read_csv(folder / "evaluation" / "reference.csv")
    table.assign(**{"class": table["type"]}).to_csv(folder / "labels.csv", index=False)
    (folder / "images").rename(folder / "slides")
    write_photo_folders(folder / "photos")
    photos = [path.relative_to(folder / "photos") for path in sorted((folder / "photos").rglob("*.jpg"))]
    table = pd.DataFrame({"image": photos, "label": [path.parent.name for path in photos]})
    table.to_csv(folder / "photos.csv", index=False)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


def slides_and_images(width: int = 512, height: int = 450) -> None:
    """The files that the pages name, in the working folder."""
    for name, tumor in {"a.svs": False, "b.svs": True, "tumor_001.tif": True, "tumor_003.tif": True}.items():
        vendor: Any = "aperio" if name.endswith("svs") else "generic"
        write_slide(name, width=width, height=height, tile=64, tumor=tumor, vendor=vendor)
    pyvips.Image.black(width, height).write_to_file("tumor_001_mask.png")
    Path("slides").rename("images")
    Path("labels.csv").rename("reference.csv")
    table = pd.read_csv("reference.csv")
    table.assign(patient=table["image"].str.len() * 100 + table.index).to_csv("slides.csv", index=False)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    pyvips.Image.new_from_array(pixels).write_to_file("image.png")
    pyvips.Image.new_from_array(pixels[..., 0] // 128).write_to_file("mask.png")


def a_checkpoint() -> None:
    """A trained model."""
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(StreamingResNet("resnet9", tile_size=64, num_classes=2, weights=None))
    trainer.save_checkpoint("best.ckpt")


def remember_slides(table: str, images: str) -> None:
    """Let the checkpoint know how slides were read."""
    dm = wsidata.WSIDataModule(table, images, mpp=2.0, image_size=64)
    content = torch.load("best.ckpt", weights_only=True)
    torch.save({**content, "WSIDataModule": dm.state_dict()}, "best.ckpt")


def a_panel_of_channels() -> None:
    """An OME-TIFF of eight channels with names."""
    names = ["DAPI", "CD3", *(f"marker {number}" for number in range(3, 9))]
    base = np.random.default_rng(0).integers(0, 20_000, (8, 128, 160), dtype=np.uint16)
    with tifffile.TiffWriter("panel.ome.tif", ome=True) as writer:
        options = {"tile": (32, 32), "photometric": "minisblack"}
        writer.write(base, subifds=2, metadata={"axes": "CYX", "Channel": {"Name": names}}, **options)
        for step in (2, 4):
            writer.write(base[:, ::step, ::step], subfiletype=1, **options)


def a_stack_of_planes() -> None:
    """An OME-TIFF of eight focal planes in three levels."""
    planes = np.random.default_rng(0).integers(0, 256, (8, 128, 160, 3), dtype=np.uint8)
    with tifffile.TiffWriter("stack.ome.tif", ome=True) as writer:
        options = {"tile": (32, 32), "photometric": "rgb"}
        writer.write(planes, subifds=2, metadata={"axes": "ZYXS"}, **options)
        for step in (2, 4):
            writer.write(planes[:, ::step, ::step], subfiletype=1, **options)


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
    shutil.copytree("slides", "new_slides")
    found = run_examples("docs/getting-started.md", {})
    assert found["trainer"].callback_metrics["test_loss"].isfinite()
    assert len(found["slides"].tables["test"]) == 4
    assert all(weight.grad is not None for weight in found["trunk"].parameters())
    assert len(pd.read_csv("predictions.csv")) == 14


@pytest.mark.slow
@pytest.mark.parametrize("page", [*ON_SLIDES, "command-line", "memory-and-speed"])
def test_page_runs(page: str, folder: Path) -> None:
    slides_and_images()
    assert run_examples(f"docs/{page}.md", {})


def test_annotations_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_examples("docs/annotations.md", {})
    assert found["tumor"].area == 1088 * 944 - 240 * 240
    assert found["labels"].shape == (96, 128)
    assert found["froc"].lesions == 1
    assert found["slides"]["dice"].between(0, 1).all()


@pytest.mark.slow
def test_tiles_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_camelyon16(tmp_path, normal=3, tumor=3, test=2, size_px=(520, 500), tile=64, annotations=True)
    table = pd.read_csv("evaluation/reference.csv")
    table.assign(**{"class": table["type"]}).to_csv("labels.csv", index=False)
    Path("images").rename("slides")
    found = run_examples("docs/tiles.md", {})
    assert found["first"].shape == (256, 256, 3)
    assert found["images"].shape[1:] == (3, 64, 64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*in eval mode")
def test_cases_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_examples("docs/cases.md", {})
    assert [len(case) for case in found["images"]] == [2, 2]


@pytest.mark.slow
def test_targets_runs(folder: Path) -> None:
    table = pd.read_csv("labels.csv")[["image"]]
    followed = {"os_months": 3.0 + table.index, "died": table.index % 3 > 0, "patient": table.index}
    table.assign(**followed).to_csv("cohort.csv", index=False)
    found = run_examples("docs/targets.md", {})
    assert found["dm"].num_classes == found["cohort"].num_classes == 4
    assert found["model"].task.name == "survival"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_data_module_runs(folder: Path) -> None:
    slides_and_images()
    a_checkpoint()
    remember_slides("slides.csv", "images")
    shutil.copytree("images", "new_slides")
    run_examples("docs/data-module.md", {})
    assert len(pd.read_csv("predictions.csv")) == len(list(Path("new_slides").iterdir()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*are left out")
def test_predict_runs(folder: Path) -> None:
    a_checkpoint()
    remember_slides("labels.csv", "slides")
    shutil.copytree("slides", "new_slides")
    (folder / "new_slides" / "broken.tif").write_bytes(b"II*")
    run_examples("docs/predict.md", {})
    assert pd.read_csv("predictions.csv")["error"].notna().sum() == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*many workers", "ignore:.*named like test images", "ignore:The number of training")
def test_own_module_runs(folder: Path) -> None:
    assert run_examples("docs/own-module.md", {})["loss"].isfinite()


@pytest.mark.slow
def test_segmentation_runs(folder: Path) -> None:
    slides_and_images()
    table = pd.read_csv("reference.csv")
    table.assign(mask=table["image"].str.removesuffix(".tif") + "_mask").to_csv("masks.csv", index=False)
    Path("masks").mkdir()
    for name in table["image"].str.removesuffix(".tif"):
        with wsidata.Slide(f"images/{name}.tif") as slide:
            blank = pyvips.Image.black(slide.width, slide.height)
        blank.draw_circle(255, 120, 120, 60, fill=True).pngsave(f"masks/{name}_mask.png")
    found = run_examples("docs/segmentation.md", {})
    assert found["found"]["loss"].isfinite().all()
    assert int(found["counts"].sum()) > 0


@pytest.mark.slow
def test_reading_slides_runs(folder: Path) -> None:
    pytest.importorskip("openslide")
    slides_and_images(1024, 900)
    a_panel_of_channels()
    a_stack_of_planes()
    assert run_examples("docs/reading-slides.md", {})


@pytest.mark.slow
def test_heatmaps_runs(folder: Path) -> None:
    slides_and_images()
    a_checkpoint()
    assert run_examples("docs/heatmaps.md", {})["found"].values.shape == (1, 4, 4)
    assert Path("cam.png").stat().st_size
    assert Path("cam.tif").stat().st_size
    assert len(list(Path("heatmaps").iterdir())) == 5


def test_report_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ["a,val,x,x,0.9,0.1", "b,val,y,x,0.6,0.4", "c,val,y,y,0.2,0.8"]
    Path("predictions.csv").write_text("image,split,label,predicted,probability_x,probability_y\n" + "\n".join(rows))
    assert run_examples("docs/report.md", {})["scores"].set_index("score")["value"]["accuracy"] == pytest.approx(2 / 3)
    assert "AUROC" in Path("report.html").read_text()


@pytest.mark.slow
def test_photos_runs(folder: Path) -> None:
    write_photos("mushrooms")
    found = run_examples("docs/photos.md", {})
    assert found["photos"].class_names[0] == pd.read_csv("mushrooms/names.csv")["name"][0]
    assert Path("batch.png").stat().st_size


def test_every_page_with_python_is_run() -> None:
    tests = (Path(__file__), ROOT / "tests" / "wsidata" / "hub" / "test_page.py")
    text = "".join(path.read_text() for path in tests)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        assert not PYTHON_BLOCK.search(page.read_text()) or f'"{page.stem}"' in text or f"{page.name}" in text, page


@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore::DeprecationWarning")
@pytest.mark.usefixtures("folder")
def test_configurations_of_the_page_on_quality_are_read_and_written() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(wsidata.SplitDataModule, "data")
    found = []
    for text in re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "quality.md").read_text(), re.M | re.S):
        for content in (text, parser.dump(parser.parse_string(text))):
            found.append(parser.instantiate(parser.parse_string(content)).data)
    assert [one.tissue_method for one in found[:2]] == [wsidata.TissueWithout(("pen", "fold"))] * 2
    crop = wsidata.TissueCrop("pack", method=wsidata.TissueWithout(("pen", "blur")))
    assert [one.geometry()["crop"] for one in found[2:]] == [crop_settings(crop)] * 2
    assert len(found) == 4
