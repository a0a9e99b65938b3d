"""Features of tiles, from slides to files, bags, and a trained classifier of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import Trainer, seed_everything
from torch import nn

from slidestream.__main__ import main
from slidestream.features import encode_slides, make_encoder
from streammodels import MILClassifier
from wsidata import FeatureBagDataModule, Slide, TissueWithout
from wsidata.datamodules.checks import SlideCheckError
from wsidata.datamodules.geometry import GeometryError
from wsidata.tiles.features import FeatureFileError, read_features

pytest.importorskip("h5py", reason="files of features need slidestream[features]")

READ = {"level": 0, "tile_size": 64, "stride": 56, "border": "pad", "num_workers": 0}


class Moments(nn.Module):
    """Mean and standard deviation of each color; the tiles that were seen are counted."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], dim=1)


@pytest.fixture(scope="module")
def table(camelyon):
    return pd.read_csv(camelyon / "evaluation" / "reference.csv").iloc[[0, 1, 2, 6, 7, 8, 12, 13]]


@pytest.fixture(scope="module")
def encoded(camelyon, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    table.to_csv(folder / "table.csv", index=False)
    encode_slides([folder / "table.csv"], folder, Moments(), image_dir=camelyon / "images", batch_size=7, **READ)
    return folder


@pytest.mark.slow
def test_each_slide_gets_the_features_of_its_tiles(camelyon, table, encoded):
    for name in table["image"][:3]:
        found = read_features(encoded / f"{name}.h5")
        with Slide(camelyon / "images" / f"{name}.tif") as slide:
            tiles = [slide.read_region(x, y, 64, 64) for x, y in found.coords.tolist()]
            assert found.attributes["level0_width"] == slide.width
            assert found.attributes["patch_size_level0"] == 64
        pixels = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2) / 255
        expected = torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], dim=1)
        np.testing.assert_allclose(found.features, expected, atol=1e-5)
        assert found.attributes["overlap"] == 8
    assert sorted(path.stem for path in encoded.glob("*.h5")) == sorted(table["image"])


@pytest.mark.slow
def test_a_run_goes_on_where_it_ended_and_refuses_other_settings(camelyon, encoded):
    (encoded / "tumor_002.h5").unlink()
    encoder = Moments()
    how = {"image_dir": camelyon / "images", **READ}
    again = encode_slides([encoded / "table.csv"], encoded, encoder, **how)
    assert [path.name for path in again.written] == ["tumor_002.h5"]
    assert (len(again.kept), encoder.seen) == (7, len(read_features(encoded / "tumor_002.h5").features))
    with pytest.raises(FeatureFileError, match=r"\{'patch_size': 64, 'overlap': 8, 'tiles': \d+\} instead of .*=True"):
        encode_slides([encoded / "table.csv"], encoded, encoder, **{**how, "tile_size": 32, "stride": 32})
    with pytest.raises(
        FeatureFileError, match=r"'tissue_method': None\} instead of \{'tissue_method': \"TissueWithout"
    ):
        encode_slides([encoded / "table.csv"], encoded, encoder, **how, tissue_method=TissueWithout("bubble"))
    with pytest.raises(ValueError, match=r"the encoder made \(64, 64, 64\) of 64 tiles|must make features \(B, F\)"):
        encode_slides([encoded / "table.csv"], encoded / "b", nn.Flatten(0, 1), **how)
    with pytest.raises(ValueError, match=r"your own, and 'nowhere.Encoder' cannot be imported"):
        make_encoder("nowhere.Encoder")


@pytest.mark.slow
def test_features_of_other_weights_or_in_damaged_files_are_not_added_to(camelyon, tmp_path):
    slides = [camelyon / "images" / f"{name}.tif" for name in ("normal_001", "normal_002")]
    encode_slides(slides[:1], tmp_path, nn.Sequential(Moments(), nn.Linear(6, 2)), **READ)
    with pytest.raises(FeatureFileError, match=r"normal_001.h5' is there already, with \{'encoder_digest': "):
        encode_slides(slides, tmp_path, nn.Sequential(Moments(), nn.Linear(6, 2)), **READ)
    assert [path.name for path in tmp_path.iterdir()] == ["normal_001.h5"]
    with (tmp_path / "normal_001.h5").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(FeatureFileError, match=r"normal_001.h5' is no whole HDF5 file .* Remove it, or"):
        encode_slides(slides, tmp_path, Moments(), **READ)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*many workers", "ignore:The number of training", "ignore:.*deprecated")
def test_a_classifier_of_bags_trains_predicts_and_knows_its_encoder(encoded, tmp_path, capsys):
    seed_everything(0)
    data = FeatureBagDataModule(encoded / "table.csv", encoded, test_prefix="test_", max_tiles=20, batch_size=4)
    data.setup("fit")
    bags, labels = next(iter(data.train_dataloader()))
    assert {bag.shape[1] for bag in bags} == {data.feature_count} == {6}
    assert max(len(bag) for bag in bags) <= 20
    assert labels.dtype == torch.int64
    model = MILClassifier(6, num_classes=2, embedding=8)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=False, **quiet)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    expected = torch.cat(trainer.predict(model, datamodule=data))
    out = tmp_path / "predictions.csv"
    assert main(["predict", str(tmp_path / "a.ckpt"), str(encoded), "-o", str(out), "--workers", "0", "--quiet"]) == 0
    found = pd.read_csv(out).set_index("image").loc[data.tables["predict"]["image_id"]]
    full = FeatureBagDataModule(encoded / "table.csv", encoded, test_prefix="test_", batch_size=4)
    expected = torch.cat(Trainer(**quiet).predict(model, datamodule=full))
    np.testing.assert_allclose(found["probability_tumor"], expected[:, 1], atol=1e-6)
    other = encode_features_of_another(encoded, tmp_path)
    with pytest.raises(GeometryError, match="'encoder': 'another'"):
        FeatureBagDataModule.from_checkpoint(tmp_path / "a.ckpt", other)
    assert capsys.readouterr().err == ""


def encode_features_of_another(encoded, folder):
    """The same features, said to be of another encoder."""
    other = folder / "other"
    for path in encoded.glob("test_*.h5"):
        found = read_features(path)
        type(found)(found.features, found.coords, {**found.attributes, "encoder": "another"}).write(other / path.name)
    return other


def test_files_of_several_encoders_are_refused(encoded, tmp_path):
    other = encode_features_of_another(encoded, tmp_path)
    (other / "test_001.h5").write_bytes((encoded / "test_001.h5").read_bytes())
    data = FeatureBagDataModule(other, label_column=None)
    with pytest.raises(SlideCheckError, match=r"has 1 problem:(.|\n)*is of .*'another'"):
        data.setup("predict")
    with pytest.raises(ValueError, match="no images"):
        FeatureBagDataModule(other, leak_checks=["thumbnail"])
