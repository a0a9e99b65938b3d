"""Predictions of single tiles: a row each, and the mean of the tiles of each slide."""

import warnings

import pandas as pd
import pytest
import torch
from lightning import LightningModule, Trainer

from wsidata import TileDataModule, WSIDataModule
from wsidata.datamodules.geometry import GeometryError
from wsidata.evaluation import PredictionFileError, PredictionWriter, read_predictions
from wsidata.evaluation.spread.shared import SharedWriter


class Net(LightningModule):
    """A linear classifier of the mean color that may stop."""

    def __init__(self, stop_after=None):
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(3, 2)
        self.batches_left = stop_after

    def predict_step(self, batch, _):
        if self.batches_left == 0:
            raise KeyError("stopped")
        self.batches_left = self.batches_left and self.batches_left - 1
        return (6 * self.head(batch[0].float().mean((2, 3)) / 255)).softmax(1)


def predict(dm, writer, model=None):
    quiet = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        return Trainer(callbacks=writer, **quiet).predict(model or Net(), datamodule=dm)


def module(camelyon, **options):
    how = {"level": 0, "tile_size": 64, "test_prefix": "test_", "leaks": "off", "num_workers": 0, "batch_size": 7}
    return TileDataModule(camelyon / "evaluation" / "reference.csv", camelyon / "images", **(how | options))


def test_each_tile_has_a_row_and_each_slide_the_mean_of_its_tiles(camelyon, tmp_path):
    dm = module(camelyon)
    path, by_tile = tmp_path / "predictions.csv", tmp_path / "predictions.tiles.csv"
    returned = torch.cat(predict(dm, PredictionWriter(path)))
    tiles, expected = read_predictions(by_tile), dm.tile_table("predict")
    names = ["image", "x_lv0", "y_lv0", "label", "split"]
    assert tiles[names[:4]].to_numpy().tolist() == expected[
        ["image_id", "x_lv0", "y_lv0", "label_name"]
    ].to_numpy().tolist()  # fmt: skip
    columns = ["probability_normal", "probability_tumor"]
    assert tiles[columns].to_numpy() == pytest.approx(returned.numpy(), abs=1e-7)
    slides = read_predictions(path).set_index("image")
    for name, rows in expected.groupby("image_id"):
        mean = returned[rows.index.tolist()].double().mean(0)
        row = slides.loc[name]
        assert row[columns].tolist() == pytest.approx(mean.tolist(), abs=1e-7)
        assert (row["tiles"], row["predicted"], row["error"]) == (len(rows), dm.class_names[int(mean.argmax())], "")
    assert slides["label"].tolist() == dm.tables["test"]["label_name"].tolist()
    assert slides["path"].tolist() == dm.tables["test"]["path"].tolist()
    again = tmp_path / "again" / "predictions.csv"
    with pytest.raises(KeyError, match="stopped"):
        predict(module(camelyon), PredictionWriter(again), Net(stop_after=2))
    assert not again.exists()
    predict(module(camelyon), PredictionWriter(again))  # goes on where it stopped
    assert again.read_bytes() == path.read_bytes()
    assert (again.parent / by_tile.name).read_bytes() == by_tile.read_bytes()
    with pytest.raises(PredictionFileError, match="is of images read otherwise"):
        predict(module(camelyon, stride=32), PredictionWriter(path))
    by_tile.unlink()
    with pytest.raises(PredictionFileError, match="was not made of tiles"):
        predict(module(camelyon), PredictionWriter(path))
    with pytest.raises(ValueError, match="by one job"):
        predict(module(camelyon), SharedWriter(tmp_path / "shared.csv"))


def test_a_slide_with_a_tile_that_cannot_be_read_has_no_prediction(camelyon, tmp_path):
    source = camelyon / "images" / "test_001.tif"
    (tmp_path / "images").mkdir()
    for name in ("good.tif", "bad.tif"):
        (tmp_path / "images" / name).write_bytes(source.read_bytes())
    table = pd.DataFrame({"image": ["good", "bad"]})
    dm = TileDataModule(
        table, tmp_path / "images", label_column=None, class_names=["a", "b"], level=0, tile_size=64, leaks="off",
        num_workers=0, on_error="skip", batch_size=4,
    )  # fmt: skip
    dm.setup("predict")
    damaged = bytearray(source.read_bytes())
    spread = range(len(damaged) // 4, len(damaged) // 2)
    damaged[spread.start : spread.stop] = bytes(len(spread))
    (tmp_path / "images" / "bad.tif").write_bytes(damaged)
    writer = PredictionWriter(tmp_path / "out.csv")
    predict(dm, writer)
    good, bad = read_predictions(tmp_path / "out.csv").to_dict("records")
    assert (good["error"], bad["predicted"]) == ("", "")
    assert good["predicted"] in ("a", "b")
    assert " tiles cannot be predicted, the first since: " in bad["error"]
    assert pd.isna(bad["probability_a"])
    assert writer.unreadable == {bad["path"]: bad["error"]}


def test_a_model_of_tiles_is_shown_tiles_again(camelyon):
    dm = module(camelyon, stride=48, min_tissue=0.5)
    content = {"dm": dm.state_dict(), "datamodule_hyper_parameters": dict(dm.hparams)}
    with pytest.raises(GeometryError, match=r"trained on tiles.*TileDataModule\.from_checkpoint"):
        WSIDataModule.from_checkpoint(content, camelyon / "images")
    again = TileDataModule.from_checkpoint(content, camelyon / "images")
    assert again.grid == dm.grid
    with pytest.raises(
        GeometryError, match=r"stride=\[48, 48\], min_tissue=0.5, and here .* stride=\[32, 32\], min_t.*=0.1:"
    ):
        TileDataModule.from_checkpoint(content, camelyon / "images", stride=32, min_tissue=0.1)
    other = TileDataModule.from_checkpoint(content, camelyon / "images", stride=32, allow_changed=["stride"])
    assert other.grid.step == (32, 32)
