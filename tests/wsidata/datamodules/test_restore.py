"""New images are read as those of a checkpoint's run, or not at all."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from mean_color import Mean, trainer

from wsidata import ChannelStats, ImageFolderDataModule, TissueCrop, WSIDataModule, channel_stats
from wsidata.datamodules.checks import SlideCheckError
from wsidata.datamodules.geometry import GeometryError, GeometryWarning
from wsidata.splits.leaks import LeakWarning
from wsidata.tables.text_table import TableError
from wsidata.transforms import Compose, CropOrPad, MacenkoNormalize


def bright(pixels):
    return pixels.mean(2) > 200


def slides(folder, **options):
    options = {"test_prefix": "test_", "num_workers": 0, "leaks": "off", "level": 1, "image_size": 64} | options
    return WSIDataModule(folder / "evaluation" / "reference.csv", folder / "images", **options)


def saved(dm):
    """What a checkpoint holds of a data module."""
    return {type(dm).__name__: dm.state_dict(), "datamodule_hyper_parameters": dict(dm.hparams)}


@pytest.fixture(scope="module")
def plain(camelyon, tmp_path_factory):
    """A checkpoint that Lightning wrote."""
    out = tmp_path_factory.mktemp("plain")
    run = trainer(out, max_epochs=1, limit_train_batches=0, limit_val_batches=0)
    run.fit(Mean(), datamodule=slides(camelyon))
    run.save_checkpoint(out / "a.ckpt")
    return out / "a.ckpt"


@pytest.fixture(scope="module")
def new(camelyon, tmp_path_factory):
    """Two of the slides, in folders, beside other files."""
    folder = tmp_path_factory.mktemp("new")
    (folder / "monday" / "deep").mkdir(parents=True)
    shutil.copy(camelyon / "images" / "tumor_001.tif", folder / "monday" / "deep" / "a.tif")
    shutil.copy(camelyon / "images" / "normal_001.tif", folder / "b.tif")
    (folder / "notes.txt").write_text("of the scanner")
    (folder / ".hidden.tif").write_bytes(b"")
    return folder


def batches(dm):
    dm.setup("predict")
    return torch.cat(list(dm.predict_dataloader()))


OPTIONS = [
    {"mpp": 0.5, "level": None, "crop": TissueCrop("tissue", margin_px=7), "dtype": "float"},
    {"crop": "pack", "apply_icc": True, "image_size": (48, 80)},
    {"eval_transform": Compose([CropOrPad(40, fill=9), MacenkoNormalize(on_blank="keep")]), "image_size": None},
    {"channels": [2, 0], "image_size": 32},
    {"remember_paths": False, "max_side": 90, "level": None},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_folder_of_new_slides_is_read_as_the_training_slides_were(camelyon, new, options):
    trained = slides(camelyon, **options)
    checkpoint = saved(trained)
    dm = WSIDataModule.from_checkpoint(checkpoint, new, num_workers=0)
    assert dm.geometry() == {**trained.geometry(), "mpp_override": None}
    assert dm.class_names == ("normal", "tumor")
    assert dm.tables["predict"]["image_id"].tolist() == ["b", "monday/deep/a"]
    dataset = trained.make_dataset("train")
    dataset.transform = trained._eval_transform
    names = trained.tables["train"]["image_id"].tolist()
    expected = [dataset.image(names.index(name)) for name in ("normal_001", "tumor_001") if name in names]
    got = [image for image, name in zip(batches(dm), ("normal_001", "tumor_001"), strict=True) if name in names]
    assert expected
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_photos_are_normalized_with_the_statistics_of_training(toadstools, new):
    options = {"label_column": "label", "image_size": 32, "num_workers": 0, "leaks": "off", "normalize": "stats"}
    trained = ImageFolderDataModule(toadstools / "labels.csv", **options)
    trained.setup("fit")
    trained.train_dataloader()  # computes them
    checkpoint = saved(trained)
    files = sorted(toadstools.rglob("*.jpg"))[:3]
    dm = ImageFolderDataModule.from_checkpoint(checkpoint, files, num_workers=0)
    dataset = trained.make_dataset("predict")
    trained.normalize_dataset(dataset)
    rows = trained.tables["predict"]["path"].tolist()
    assert torch.equal(batches(dm), torch.stack([dataset[rows.index(str(file))] for file in files]))
    with pytest.raises(GeometryError, match=r"trained on photos, and .*b.tif' is a slide \(\d levels\)"):
        batches(ImageFolderDataModule.from_checkpoint(checkpoint, new, num_workers=0))


def test_new_labels_are_read_with_the_classes_of_training_and_all_rows_are_test_rows(camelyon, plain):
    table = pd.DataFrame({"image": ["tumor_001", "test_001"], "class": ["tumor", "tumor"]})
    with pytest.warns(LeakWarning, match=r"1 test images were in the checkpoint's training set \['tumor_001'\]"):
        dm = WSIDataModule.from_checkpoint(plain, table, camelyon / "images", label_column="class")
    assert dm.class_names == ("normal", "tumor")
    assert dm.tables["test"]["label"].tolist() == [1, 1]


def test_other_images_and_other_readings_are_refused(camelyon, new, plain, toadstools):
    with pytest.raises(GeometryError, match=r"trained on slides.*Use WSIDataModule\.from_checkpoint"):
        ImageFolderDataModule.from_checkpoint(plain, toadstools)
    picture = toadstools / "photos" / "img_1.jpg"
    with pytest.raises(GeometryError, match=r"trained on slides, and .*img_1.jpg' is a plain picture"):
        batches(WSIDataModule.from_checkpoint(saved(slides(camelyon, level=0)), [picture], num_workers=0))
    with pytest.raises(GeometryError, match=r"level=1, and here they are read with mpp=1"):
        WSIDataModule.from_checkpoint(plain, new, mpp=1)
    assert WSIDataModule.from_checkpoint(plain, new, mpp=1, allow_changed=["resolution"]).resolution == {"mpp": 1}
    with pytest.raises(GeometryError, match="Pass eval_transform="):
        WSIDataModule.from_checkpoint(saved(slides(camelyon, eval_transform=np.fliplr)), new)
    with pytest.raises(GeometryError, match="Pass crop="):
        WSIDataModule.from_checkpoint(saved(slides(camelyon, crop=TissueCrop("pack", method=bright))), new)
    corrected = saved(slides(camelyon, level=None, mpp=1, mpp_override=0.5))
    with pytest.warns(GeometryWarning, match=r"mpp_override=0\.5"):
        WSIDataModule.from_checkpoint(corrected, new)
    assert WSIDataModule.from_checkpoint(corrected, new, mpp_override=0.5).resolution == {"mpp": 1}


def test_statistics_of_another_plane_or_other_channels_are_refused(camelyon, tmp_path):
    paths = [camelyon / "images" / "normal_001.tif", camelyon / "images" / "tumor_001.tif"]
    channel_stats(paths, level=2).save(tmp_path / "plain.json")
    channel_stats(paths, level=2, channels=[2, 1, 0]).save(tmp_path / "turned.json")
    turned = ChannelStats.load(tmp_path / "turned.json")
    assert (turned.reading, turned.mean) == (
        {"channels": [2, 1, 0]},
        ChannelStats.load(tmp_path / "plain.json").mean[::-1],
    )

    def check(stats, **options):
        stats = tmp_path / stats if isinstance(stats, str) else stats
        slides(camelyon, level=2, stats=stats, **options).check()

    check("plain.json")
    check("turned.json", channels=[2, 1, 0])
    check(replace(turned, reading=None), channels=[2, 0, 1])  # of an earlier version
    check("turned.json", allow_changed=["channels"])
    for options, said in (
        ({"stats": "turned.json"}, r"channels=\[2, 1, 0\], and here .* channels=None: other pixels"),
        ({"stats": "plain.json", "channels": [2, 1, 0]}, r"channels=None, and here .* channels=\[2, 1, 0\]"),
        ({"stats": "plain.json", "series": 0}, r"series=None, and here .* series=0"),
    ):
        with pytest.raises(SlideCheckError, match=said):
            check(**options)


def test_checkpoints_that_do_not_say_how_images_were_read_are_refused(plain, new, tmp_path):
    content = torch.load(plain, weights_only=True)
    with pytest.raises(ValueError, match="holds nothing of a data module"):
        WSIDataModule.from_checkpoint({"state_dict": content["state_dict"]}, new)
    del content["WSIDataModule"]["geometry"]
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(GeometryError, match=r"old.ckpt' was written by an earlier version.*mpp="):
        WSIDataModule.from_checkpoint(tmp_path / "old.ckpt", new)
    (tmp_path / "cut.ckpt").write_bytes(plain.read_bytes()[:1000])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    for name in ("cut.ckpt", "empty.ckpt", "absent.ckpt"):
        with pytest.raises(ValueError, match=f"{name}' cannot be used: it .*copied whole"):
            WSIDataModule.from_checkpoint(tmp_path / name, new)


def test_two_slides_of_one_name_are_refused(new, tmp_path):
    shutil.copytree(new, tmp_path / "new")
    shutil.copy(new / "b.tif", tmp_path / "new" / "b.png")
    with pytest.raises(TableError, match=r"'b'.*already named in b.png(.|\n)*pass the files that are meant by name"):
        _ = WSIDataModule(tmp_path / "new", label_column=None, level=0).labels
