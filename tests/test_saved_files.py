"""Files written by release 0.1 before its modules moved: checkpoints, published sets, splits, statistics, records."""

from __future__ import annotations

import gzip
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import pyvips
import torch
from places import ROOT

from streammodels import StreamingResNet
from wsidata import ChannelStats, HubDataModule, ImageFolderDataModule, WSIDataModule, load_splits
from wsidata.datamodules.geometry import GeometryWarning
from wsidata.synthetic import write_camelyon16, write_photos
from wsidata.transforms import Record, Sample

SAVED = ROOT / "tests" / "saved"
EXPECTED: dict[str, Any] = json.loads((SAVED / "expected.json").read_text())


def unpacked(name: str, folder: Path) -> Path:
    """A checkpoint, as Lightning wrote it."""
    path = folder / name.removesuffix(".gz")
    path.write_bytes(gzip.decompress((SAVED / name).read_bytes()))
    return path


def pattern(name_index: int, like: torch.Tensor) -> torch.Tensor:
    """What the weights were set to, so that the files compress well."""
    return ((((torch.arange(like.numel()) * 7 + name_index) % 13) - 6) / 64).reshape(like.shape)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The slides of the checkpoint and of the published sets, and their table."""
    folder = tmp_path_factory.mktemp("slides")
    write_camelyon16(folder, normal=4, tumor=4, test=2, size_px=(400, 360), tile=64, seed=1)
    table = pd.read_csv(SAVED / "split.csv").rename(columns={"image_id": "image", "label_name": "class"})
    table[["image", "class"]].to_csv(folder / "table.csv", index=False)
    return {"table": folder / "table.csv", "image_dir": folder / "images"}


def test_model_of_an_old_checkpoint_predicts_the_same(tmp_path: Path) -> None:
    model = StreamingResNet.load_from_checkpoint(unpacked("slides.ckpt.gz", tmp_path), map_location="cpu")
    assert (model.hparams["model_name"], model.hparams["pooling"], model.hparams["task"]) == (
        "resnet9",
        "attention",
        "multiclass",
    )
    for index, (name, value) in enumerate(sorted(model.state_dict().items())):
        if value.is_floating_point() and not name.endswith("running_var"):
            torch.testing.assert_close(value, pattern(index, value), rtol=0, atol=0)
    image = torch.arange(3 * 70 * 50).reshape(1, 3, 70, 50).mul(37).remainder(256).to(torch.uint8)
    output = model.double().eval()(image)
    torch.testing.assert_close(output, torch.tensor(EXPECTED["output"], dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_data_module_of_an_old_checkpoint_has_its_split_and_statistics(slides: dict[str, Any], tmp_path: Path) -> None:
    path = unpacked("slides.ckpt.gz", tmp_path)
    with pytest.warns(
        GeometryWarning, match=r"does not remember how images were read.*: kind='slides', level=1"
    ) as said:
        dm = WSIDataModule.load_from_checkpoint(path, **slides)
    assert len(said) == 1
    dm.setup()
    assert {part: list(dm.tables[part]["image_id"]) for part in EXPECTED["split"]} == EXPECTED["split"]
    stats = ChannelStats.load(SAVED / "stats.json")
    assert (dm.stats.mean, dm.stats.std) == (stats.mean, stats.std)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::wsidata.datamodules.geometry.GeometryWarning")
def test_validation_of_an_old_checkpoint_runs(slides: dict[str, Any], tmp_path: Path) -> None:
    path = unpacked("slides.ckpt.gz", tmp_path)
    model = StreamingResNet.load_from_checkpoint(path, map_location="cpu")
    dm = WSIDataModule.load_from_checkpoint(path, **slides)
    trainer = lightning.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    (scores,) = trainer.validate(model, dm, ckpt_path=path, verbose=False, weights_only=False)
    assert np.isfinite(scores["val_loss"])


@pytest.mark.filterwarnings("ignore::wsidata.datamodules.geometry.GeometryWarning")
def test_photo_model_and_data_of_an_old_checkpoint(tmp_path: Path) -> None:
    path = unpacked("photos.ckpt.gz", tmp_path)
    write_photos(tmp_path / "photos", classes=3, per_class=6, side_px=48, seed=3)
    model = StreamingResNet.load_from_checkpoint(path, map_location="cpu")
    assert model.hparams["streaming"] is False
    dm = ImageFolderDataModule.load_from_checkpoint(
        path, table=tmp_path / "photos" / "labels.csv", image_dir=tmp_path / "photos" / "photos"
    )
    dm.setup()
    state = torch.load(path, weights_only=False)["ImageFolderDataModule"]
    assert {part: sorted(dm.tables[part]["image_id"]) for part in state["split"]} == state["split"]
    assert list(dm.class_names) == state["class_names"]


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("datasets"), reason="needs slidestream[hub]")
@pytest.mark.parametrize("published", ["published", "published_parquet"])
def test_published_set_of_before_loads(published: str, slides: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(SAVED / published, tmp_path / published)
    dm = HubDataModule(tmp_path / published, batch_size=1, num_workers=0)
    dm.setup()
    source = WSIDataModule(
        **slides, image_column="image", label_column="class", level=1, image_size=32, test_prefix="test_", seed=7
    )
    source.setup()
    stats = ChannelStats.load(SAVED / "stats.json")
    assert (dm.stats.mean, dm.stats.std) == (stats.mean, stats.std)
    for ours, theirs in zip(dm.test_dataloader(), source.test_dataloader(), strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
        difference = ours[0].float() - theirs[0].float()  # the slides are JPEG: another decoder may round otherwise
        assert difference.abs().max() <= 2
    for part, ids in EXPECTED["split"].items():
        assert len(dm.tables[part]) == len(ids)


def test_old_split_file_is_read() -> None:
    split = load_splits(SAVED / "split.csv")
    found = {part: list(rows["image_id"]) for part, rows in split.groupby("split")}
    assert found == EXPECTED["split"]


@pytest.mark.parametrize("old", EXPECTED["records"], ids=["pixels", "affine", "crop"])
def test_old_record_replays(old: dict[str, Any]) -> None:
    pixels = ((np.arange(120 * 90 * 3, dtype=np.uint32) * 37) % 251).astype(np.uint8).reshape(90, 120, 3)
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    record = Record.from_json(old["record"])
    assert record.to_json() == old["record"]
    replayed = record.replay(Sample(image)).image.numpy()
    assert list(replayed.shape) == old["shape"]
    assert replayed.mean() == pytest.approx(old["mean"], abs=0.05)  # libvips rounds differently from release to release
