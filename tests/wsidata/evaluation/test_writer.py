"""Predictions are written as they come, once an image, and are those that the Trainer returns."""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import LightningModule, Trainer

from wsidata import ImageFolderDataModule, WSIDataModule
from wsidata.evaluation import PredictionFileError, PredictionWriter, read_predictions
from wsidata.synthetic.photos import write_photos


class Net(LightningModule):
    """A convolution, whose rounding depends on the batch."""

    def __init__(self, outputs=3, stop_at=None, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 5, 2), torch.nn.AdaptiveAvgPool2d(1))
        self.head = torch.nn.Linear(16, outputs)
        self.stop_at = stop_at
        self.seen = 0

    def logits(self, images):
        return self.head(self.layers(images.float() / 255).flatten(1))

    def predict_step(self, batch, _):
        self.seen += len(batch)
        if self.stop_at is not None and self.seen > self.stop_at:
            raise KeyError("stopped")
        return self.logits(batch).softmax(1)


def predict(dm, writer=None, model=None, **options):
    quiet = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        return Trainer(callbacks=writer, **quiet, **options).predict(model or Net(), datamodule=dm)


def photos(folder, **options):
    options = {"image_size": 32, "batch_size": 5, "num_workers": 0, "leaks": "off", "label_column": "label"} | options
    return ImageFolderDataModule(folder / "labels.csv", predict_on="all", **options)


@pytest.fixture(scope="module")
def whole(toadstools, tmp_path_factory):
    """An uninterrupted run: what the Trainer returned, and the file."""
    path = tmp_path_factory.mktemp("whole") / "predictions.csv"
    return torch.cat(predict(photos(toadstools), PredictionWriter(path))), path


def probabilities(table):
    return table.filter(regex="^probability_").to_numpy(np.float32)


def test_the_file_holds_what_the_trainer_returns_to_the_bit(toadstools, whole):
    returned, path = whole
    dm = photos(toadstools)
    assert torch.equal(torch.cat(predict(dm)), returned)
    table = read_predictions(path)
    assert table.columns.tolist() == [
        *("image", "path", "split", "label", "predicted"),
        *(f"probability_{name}" for name in dm.class_names), "error",
    ]  # fmt: skip
    assert np.array_equal(probabilities(table), returned.numpy())
    rows = dm.tables["predict"]
    assert table["image"].tolist() == rows["image_id"].tolist()
    assert table["path"].tolist() == rows["path"].tolist()
    assert table["label"].tolist() == rows["label_name"].tolist()
    assert table["split"].tolist() == rows["split"].tolist()
    assert table["predicted"].tolist() == [dm.class_names[best] for best in returned.argmax(1)]
    assert not table["error"].any()


@pytest.mark.parametrize("cut", [0, 7, 100])
def test_an_interrupted_run_is_resumed_to_the_same_file(toadstools, whole, tmp_path, cut):
    path = tmp_path / "predictions.csv"
    with pytest.raises(KeyError, match="stopped"):
        predict(photos(toadstools), PredictionWriter(path), Net(stop_at=17))
    assert len(read_predictions(path)) == 15
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)  # as kill -9 leaves it
    model = Net()
    predict(photos(toadstools), PredictionWriter(path), model)
    assert model.seen == {0: 9, 7: 14, 100: 14}[cut]
    assert path.read_bytes() == whole[1].read_bytes()
    assert predict(photos(toadstools), PredictionWriter(path), model) in (None, [])  # nothing is left
    assert path.read_bytes() == whole[1].read_bytes()


def test_predictions_of_another_network_or_of_images_read_otherwise_are_not_mixed_in(toadstools, whole, tmp_path):
    path = tmp_path / "predictions.csv"
    for name in (path, path.with_name("predictions.csv.json")):
        shutil.copy(whole[1].with_name(name.name), name)
    with pytest.raises(PredictionFileError, match=r"predicted by another network.*another file, or pass overwrite="):
        predict(photos(toadstools), PredictionWriter(path), Net(seed=1))
    with pytest.raises(PredictionFileError, match="images read otherwise"):
        predict(photos(toadstools, image_size=40), PredictionWriter(path))
    with pytest.raises(PredictionFileError, match="has other columns"):
        predict(photos(toadstools, label_column=None, class_names=["a", "b", "c"]), PredictionWriter(path))
    assert path.read_bytes() == whole[1].read_bytes()
    predict(photos(toadstools), PredictionWriter(path, overwrite=True), Net(seed=1))
    assert not np.array_equal(probabilities(read_predictions(path)), whole[0].numpy())


def test_a_file_of_something_else_is_never_written_to(toadstools, tmp_path):
    path = tmp_path / "results.csv"
    for content in ("", "image,path\na,b\n", "my,own\n1,2\n"):
        path.write_text(content)
        with pytest.raises(PredictionFileError, match=r"exists, and is no table of predictions.*Name another file"):
            predict(photos(toadstools), PredictionWriter(path))
        assert path.read_text() == content
    with pytest.raises(PredictionFileError, match="is a folder"):
        predict(photos(toadstools), PredictionWriter(tmp_path))


def test_a_full_disk_keeps_what_was_predicted(toadstools, whole, tmp_path, monkeypatch):
    path, left, write = tmp_path / "predictions.csv", [1500], os.write

    def limited(descriptor, content):
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        left[0] -= (written := write(descriptor, content[: left[0]]))
        return written

    monkeypatch.setattr("wsidata.evaluation.prediction_file.os.write", limited)
    with pytest.raises(OSError, match=r"No space left .*Make room there, and start"):
        predict(photos(toadstools), PredictionWriter(path))
    monkeypatch.undo()
    assert 0 < len(read_predictions(path)) < 24
    predict(photos(toadstools), PredictionWriter(path))
    assert path.read_bytes() == whole[1].read_bytes()
    with pytest.raises(OSError, match="No space left on device"):
        predict(photos(toadstools), PredictionWriter("/dev/full"))


@pytest.mark.filterwarnings("ignore::wsidata.splits.unreadable.SkipWarning")
def test_images_that_cannot_be_decoded_are_named_and_the_others_predicted_as_if_they_could(tmp_path):
    folder = write_photos(tmp_path / "photos", classes=3, per_class=4, side_px=64, seed=1)
    options = {"batch_size": 4, "on_error": "skip", "label_column": None, "dtype": "uint8"}
    names = {"class_names": ["a", "b", "c"]}
    before = predict(photos(folder, **options, **names))
    paths = photos(folder, **options).tables["predict"]["path"].tolist()
    for number in (1, 4, 5, 6, 7):  # one of the first batch, all of the second
        content = bytearray(Path(paths[number]).read_bytes())
        middle = len(content) // 2
        content[middle : middle + 200] = b"\xff\xd9" * 100  # ends early: seen only when it is decoded
        Path(paths[number]).write_bytes(content)
    Path(paths[11]).write_bytes(b"")  # seen before
    writer = PredictionWriter(tmp_path / "out" / "predictions.csv")
    after = predict(photos(folder, **options, **names), writer)
    bad = {1, 4, 5, 6, 7, 11}
    assert writer.unreadable.keys() == {paths[number] for number in bad}
    table = read_predictions(writer.path)
    assert table["path"].tolist() == paths
    assert not {"split", "label"} & {*table.columns}
    assert set(np.flatnonzero(table["error"] != "")) == bad
    assert table["predicted"][sorted(bad)].tolist() == [""] * 6
    good = [0, 2, 3, 8, 9, 10]
    assert np.isnan(probabilities(table)[sorted(bad)]).all()
    expected = torch.cat(before).numpy()
    assert np.array_equal(probabilities(table)[good[:3]], expected[good[:3]])
    np.testing.assert_allclose(probabilities(table)[good], expected[good], atol=1e-6)
    assert [len(batch) for batch in after] == [4, 3]
    assert after[0].isnan().any(1).tolist() == [False, True, False, False]


class Numbers(Net):
    """Numbers of any size, one of them none."""

    def predict_step(self, batch, index):
        values = 100 * self.logits(batch)
        if index == 0:
            values[1, 0] = torch.nan
        return values


class Labels(Net):
    """Several labels an image."""

    def predict_step(self, batch, _):
        return self.logits(batch).mul(50).sigmoid()


def test_numbers_and_several_labels(toadstools, tmp_path):
    table = pd.read_csv(toadstools / "labels.csv", dtype=str)
    table["x"], table["y"] = range(len(table)), 1
    image = next(name for name in table.columns if name in ("image", "file", "name"))
    options = {"image_dir": toadstools / "photos", "image_column": image, "predict_on": "all", "image_size": 32}
    options |= {"num_workers": 0, "leaks": "off", "unlisted": "off"}
    dm = ImageFolderDataModule(table, label_column=["x", "y"], target="regression", **options)
    returned = torch.cat(predict(dm, PredictionWriter(tmp_path / "numbers.csv"), Numbers(2)))
    numbers = read_predictions(tmp_path / "numbers.csv")
    assert "predicted" not in numbers
    keep = [True, False] + [True] * 22
    assert np.array_equal(numbers[["value_x", "value_y"]].to_numpy(np.float32)[keep], returned.numpy()[keep])
    assert numbers["error"][1].startswith("the prediction is not a number")
    assert numbers["value_x"].isna()[1]
    table["x"] = [number % 2 for number in range(len(table))]
    dm = ImageFolderDataModule(table, label_column=["x", "y"], target="multilabel", **options)
    returned = torch.cat(predict(dm, PredictionWriter(tmp_path / "labels.csv"), Labels(2)))
    labels = read_predictions(tmp_path / "labels.csv")
    assert labels["predicted"].tolist() == [";".join(np.array(["x", "y"])[row >= 0.5]) for row in returned.numpy()]


class Logits(Net):
    """Forgets the softmax."""

    def predict_step(self, batch, _):
        return self.logits(batch)


def test_what_are_no_predictions_is_refused(toadstools, tmp_path):
    path = tmp_path / "predictions.csv"
    with pytest.raises(ValueError, match=r"no probabilities of .*Return them after softmax"):
        predict(photos(toadstools), PredictionWriter(path), Logits())
    with pytest.raises(ValueError, match=r"returned torch.float32 \(5, 2\).*here \(5, 3\)"):
        predict(photos(toadstools), PredictionWriter(path, overwrite=True), Net(2))
    with pytest.raises(ValueError, match=r"knows no class names.*class_names=\["):
        predict(photos(toadstools, label_column=None), PredictionWriter(path, overwrite=True))
    loader = torch.utils.data.DataLoader(torch.zeros(2, 3, 8, 8))
    with pytest.raises(TypeError, match=r"there is none. Call trainer.predict\(model, datamodule=...\)"):
        Trainer(callbacks=PredictionWriter(path), accelerator="cpu", logger=False).predict(Net(), loader)


def test_files_of_several_processes_are_merged_in_the_order_of_the_table(toadstools, whole, tmp_path):
    """As a killed run of three processes leaves them."""
    path = tmp_path / "predictions.csv"
    settings = json.loads(whole[1].with_name("predictions.csv.json").read_text())
    path.with_name("predictions.csv.json").write_text(json.dumps(settings))
    header, *lines = whole[1].read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines[0:10:3]]))
    path.with_name("predictions.csv.part1").write_text("".join(lines[1:10:3]) + lines[10][:30])
    path.with_name("predictions.csv.part2").write_text("".join(lines[2:10:3]))
    model = Net()
    predict(photos(toadstools), PredictionWriter(path), model)
    assert model.seen == 14
    assert path.read_bytes() == whole[1].read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["predictions.csv", "predictions.csv.json"]


class Means(LightningModule):
    """Reads lazy images itself."""

    def predict_step(self, batch, _):
        means = torch.stack([torch.as_tensor(one.rows(0, one.shape[-2])).float().mean((1, 2)) for one in batch])
        return means[:, :2].softmax(1)


@pytest.mark.filterwarnings("ignore::wsidata.splits.unreadable.SkipWarning")
def test_lazy_slides_that_cannot_be_decoded_are_named_and_predicting_goes_on(camelyon, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("tumor_001", "normal_001", "test_001"):
        shutil.copy(camelyon / "images" / f"{name}.tif", folder)
    path = folder / "test_001.tif"
    content = path.read_bytes()
    at = content.index(b"\xff\xd8\xff")
    path.write_bytes(content[: at + 1000] + b"\xff\xd9" * 100 + content[at + 1200 :])
    options = {"label_column": None, "level": 0, "num_workers": 0, "lazy": True, "class_names": ["a", "b"]}
    dm = WSIDataModule(folder, leaks="off", on_error="skip", **options)
    writer = PredictionWriter(tmp_path / "predictions.csv")
    with pytest.raises(OSError, match="could not be decoded") as caught:
        predict(dm, writer, Means())
    assert writer.goes_on_after(caught.value)
    assert not writer.goes_on_after(OSError())
    predict(dm, writer, Means())
    table = read_predictions(writer.path)
    assert (table["error"] != "").tolist() == [False, True, False]
    assert [*writer.unreadable] == [str(path)]
