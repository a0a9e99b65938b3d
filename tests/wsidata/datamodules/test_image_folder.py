import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import seed_everything
from mean_color import Mean, equal, trainer
from places import PHOTOS

from wsidata import ImageFolderDataModule
from wsidata.photos.read import read_photo
from wsidata.splits.leaks import LeakError
from wsidata.splits.unreadable import SkipWarning
from wsidata.synthetic.photos import write_photo_folders
from wsidata.tables.parts import SplitError
from wsidata.tables.text_table import TableError
from wsidata.transforms.base import TransformError
from wsidata.transforms.geometry.crop import CropOrPad


def module(folder, **options):
    options = {"table": folder / "labels.csv", "label_column": "label", "image_size": 32, "num_workers": 0} | options
    return ImageFolderDataModule(**{"batch_size": 6, "leaks": "off"} | options)


def seen(folder, out, **options):
    seed_everything(3, workers=True)
    model = Mean()
    trainer(out).fit(model, datamodule=module(folder, **options))
    return model.seen


def test_table_is_split_and_named_before_setup(toadstools):
    dm = module(toadstools, label_names=toadstools / "names.csv", val_fraction=0.25)
    assert {name: len(table) for name, table in dm.tables.items()} == {"train": 18, "val": 6, "test": 0, "predict": 24}
    assert dm.class_names == ("scarlet", "amber", "olive")
    assert dm.tables["val"]["label_name"].value_counts().to_dict() == {"scarlet": 2, "amber": 2, "olive": 2}
    assert dm.class_weights.tolist() == [1.0, 1.0, 1.0]


def test_batches_of_every_loader(toadstools):
    dm = module(toadstools, test_fraction=0.25, val_fraction=0.25, dtype="float")
    dm.setup("fit")
    for loader in (dm.train_dataloader(), dm.val_dataloader(), dm.test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (6, 3, 32, 32)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.shape == (6,)
    images = torch.cat(list(dm.predict_dataloader()))
    dataset = dm.make_dataset("predict")
    assert torch.equal(images, torch.stack([dataset[i] for i in range(len(dm.tables["predict"]))]))


def test_folders_of_parts_are_the_split(toadstool_folders):
    dm = ImageFolderDataModule(toadstool_folders, image_size=32, num_workers=0, leaks="off")
    assert {name: len(dm.tables[name]) for name in ("train", "val", "test")} == {"train": 12, "val": 6, "test": 6}
    assert all(dm.tables["test"]["image_id"].str.startswith("test/"))
    assert dm.class_names == ("amber", "olive", "scarlet")
    dm.setup("fit")
    images, labels = next(iter(dm.train_dataloader()))
    assert images.shape == (12, 3, 32, 32)
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4


def test_validation_photos_are_drawn_from_train_where_there_is_no_such_folder(toadstool_folders, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(toadstool_folders / part, tmp_path / part)
    dm = ImageFolderDataModule(tmp_path, val_fraction=0.25)
    assert {name: len(dm.tables[name]) for name in ("train", "val", "test")} == {"train": 9, "val": 3, "test": 6}
    assert all(dm.tables["val"]["image_id"].str.startswith("train/"))


def test_class_folders_without_parts_are_split(toadstool_folders):
    dm = ImageFolderDataModule(toadstool_folders / "train", image_size=32, val_fraction=0.25, label_names={
        "amber": "A. caesarea", "olive": "A. phalloides", "scarlet": "A. muscaria"})  # fmt: skip
    assert dm.tables["val"]["label_name"].tolist() == ["A. caesarea", "A. phalloides", "A. muscaria"]


@pytest.mark.parametrize(
    ("fractions", "counts"),
    [({"val_fraction": 0.25}, [3, 1, 0]), ({"val_fraction": 0.15, "test_fraction": 0.15}, [2, 1, 1])],
)
def test_classes_of_four_are_in_every_part(toadstool_folders, fractions, counts):
    dm = ImageFolderDataModule(toadstool_folders / "train", **fractions)
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        assert dm.tables[part]["label"].value_counts().reindex(range(3), fill_value=0).tolist() == [count] * 3


@pytest.mark.filterwarnings("ignore:.* has no image of class")  # it stays in train
def test_class_that_cannot_be_split_is_named(toadstool_folders, tmp_path):
    shutil.copytree(toadstool_folders / "train", tmp_path / "c")
    for number in (2, 3, 4):
        (tmp_path / "c" / "olive" / f"{number:03d}.jpg").unlink()
    with pytest.raises(SplitError, match=r"class 'olive' has only one .*small_classes='train'"):
        _ = ImageFolderDataModule(tmp_path / "c").tables
    dm = ImageFolderDataModule(tmp_path / "c", small_classes="train")
    with pytest.warns(UserWarning, match="'olive' is too small"):
        _ = dm.tables
    assert "olive" not in set(dm.tables["val"]["label_name"])


def test_folds_cover_every_photo_once(toadstools):
    names = [name for i in range(4) for name in module(toadstools, k_fold=(i, 4)).tables["val"]["image_id"]]
    assert sorted(names) == sorted(module(toadstools).labels.frame["image_id"])


@pytest.mark.filterwarnings("ignore:.* has no image of class")  # four trees, two test photos
def test_groups_are_not_divided_and_test_photos_may_be_named_loosely(toadstools):
    frame = pd.read_csv(toadstools / "labels.csv", dtype=str)
    frame["tree"] = [str(i // 6) for i in range(24)]
    dm = module(toadstools, table=frame, image_dir=toadstools, group_column="tree", val_fraction=0.25)
    assert dm.labels.frame.groupby("group")["split"].nunique().max() == 1
    dm = module(toadstools, test_ids=["IMG_0.jpg", "photos/img_1"], val_ids=["img_2"])
    assert dm.tables["test"]["image_id"].tolist() == ["photos/img_0", "photos/img_1"]
    assert dm.tables["val"]["image_id"].tolist() == ["photos/img_2"]


def test_several_labels_and_numbers(toadstools):
    frame = pd.read_csv(toadstools / "labels.csv", dtype=str)
    frame["marks"] = ["spots; ring" if label == "0" else "none" for label in frame["label"]]
    frame["height"] = [str(i / 4) for i in range(24)]
    labels = module(toadstools, table=frame, image_dir=toadstools, label_column="marks", target="multilabel")
    numbers = module(toadstools, table=frame, image_dir=toadstools, label_column=["height"], target="regression")
    for dm, names in ((labels, ("ring", "spots")), (numbers, ("height",))):
        dm.setup("fit")
        assert dm.class_names == names
        assert next(iter(dm.train_dataloader()))[1].shape == (6, len(names))
    named = module(toadstools, table=frame, image_dir=toadstools, label_column="marks", target="multilabel",
                   label_names={"ring": "Ring", "spots": "Flecken"})  # fmt: skip
    assert named.class_names == ("Ring", "Flecken")


@pytest.mark.parametrize("normalize", ["stats", "imagenet"])
def test_normalised_batches(toadstools, normalize):
    plain, dm = module(toadstools, dtype="float"), module(toadstools, normalize=normalize)
    for one in (plain, dm):
        one.setup("fit")
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if normalize == "imagenet" else (
        dm.stats.mean, dm.stats.std)  # fmt: skip
    expected = next(iter(plain.val_dataloader()))[0] - torch.tensor(mean)[:, None, None]
    expected /= torch.tensor(std)[:, None, None]
    torch.testing.assert_close(next(iter(dm.val_dataloader()))[0], expected, atol=1e-5, rtol=0)
    if normalize == "stats":
        assert dm.stats.image_count == len(dm.tables["train"])


def test_statistics_are_of_photos_as_they_are_read(toadstools, tmp_path):
    for options in ({"resize_px": 40}, {"resize_px": 40, "cache": tmp_path}, {"resize_px": None}):
        dm = module(toadstools, **options)
        pixels = [read_photo(path, short_side_px=options["resize_px"]) for path in dm.tables["train"]["path"]]
        colours = np.concatenate([one.reshape(-1, 3) for one in pixels]) / 255
        np.testing.assert_allclose(dm.stats.mean, colours.mean(0), rtol=1e-9)
        np.testing.assert_allclose(dm.stats.std, colours.std(0), rtol=1e-9)
    assert len(list(tmp_path.rglob("*.npz"))) == len(dm.tables["train"])


@pytest.mark.filterwarnings("ignore:.* has no image of class")  # two test photos
def test_checkpoints_statistics_normalize_where_there_is_nothing_to_train_on(toadstools, tmp_path):
    dm = module(toadstools, normalize="stats", test_ids=["img_0", "img_1"])
    run = trainer(tmp_path, max_epochs=1)
    run.fit(Mean(), datamodule=dm)
    run.save_checkpoint(tmp_path / "c.ckpt")
    rows = pd.DataFrame({"image": ["img_0", "img_1"]})
    later = module(toadstools, table=rows, image_dir=toadstools, label_column=None, normalize="stats", unlisted="off")
    found = torch.cat(trainer(tmp_path).predict(Mean(), later, ckpt_path=tmp_path / "c.ckpt"))
    expected = torch.cat(trainer(tmp_path).predict(Mean(), dm, ckpt_path=tmp_path / "c.ckpt"))
    torch.testing.assert_close(found, expected)
    fresh = module(toadstools, table=rows, image_dir=toadstools, label_column=None, normalize="stats", unlisted="off")
    with pytest.raises(SplitError, match="no training photos to take channel statistics of"):
        trainer(tmp_path).predict(Mean(), fresh)


@pytest.mark.slow
def test_training_is_the_same_with_workers_and_for_equal_seeds(toadstools, tmp_path):
    alone = seen(toadstools, tmp_path / "a", cache="memory")
    assert equal(alone, seen(toadstools, tmp_path / "b", num_workers=2, cache=tmp_path / "kept"))
    first, second = (torch.cat([images for e, images, _ in alone if e == epoch]) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert list((tmp_path / "kept").rglob("*.npz"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* has no image of class")  # two test photos
def test_fit_test_and_predict_and_resume(toadstools, tmp_path):
    seed_everything(3, workers=True)
    whole = Mean()
    trainer(tmp_path / "whole", max_epochs=3).fit(whole, datamodule=module(toadstools))
    seed_everything(3, workers=True)
    first = trainer(tmp_path / "part", max_epochs=1)
    first.fit(Mean(), datamodule=module(toadstools))
    first.save_checkpoint(tmp_path / "one.ckpt")
    seed_everything(3, workers=True)
    rest = Mean()
    trainer(tmp_path / "rest", max_epochs=3).fit(rest, datamodule=module(toadstools), ckpt_path=tmp_path / "one.ckpt")
    assert equal(rest.seen, [step for step in whole.seen if step[0] > 0])
    assert (tmp_path / "part" / "split.csv").exists()
    with pytest.raises(SplitError, match="trained on another split"):
        trainer(tmp_path).fit(Mean(), datamodule=module(toadstools, seed=1), ckpt_path=tmp_path / "one.ckpt")
    tested = trainer(tmp_path).test(Mean(), module(toadstools, test_ids=["img_0"]), verbose=False)
    assert tested[0]["val_mean"] > 0
    predicted = torch.cat(trainer(tmp_path).predict(Mean(), module(toadstools, predict_on="all")))
    assert predicted.shape == (24, 3)


def test_checkpoint_holds_plain_values_and_makes_the_same_module(toadstools, tmp_path):
    frame = pd.read_csv(toadstools / "labels.csv", dtype=str)
    names = {0: "scarlet", 1: "amber", 2: "olive"}
    for options in ({"table": frame, "image_dir": toadstools}, {"label_names": names, "cache": tmp_path / "kept"}):
        dm = module(toadstools, **options)
        run = trainer(tmp_path, max_epochs=1)
        run.fit(Mean(), datamodule=dm)
        run.save_checkpoint(tmp_path / "c.ckpt")
        checkpoint = torch.load(tmp_path / "c.ckpt", weights_only=True)
        assert checkpoint["ImageFolderDataModule"]["digest"] == dm.split_digest
    loaded = ImageFolderDataModule.load_from_checkpoint(tmp_path / "c.ckpt")
    assert loaded.split_digest == dm.split_digest
    assert loaded.class_names == dm.class_names == ("scarlet", "amber", "olive")


def test_module_and_split_survive_pickling_and_saving(toadstools, tmp_path):
    dm = module(toadstools)
    dm.setup("fit")
    again = pickle.loads(pickle.dumps(dm))
    assert torch.equal(next(iter(again.val_dataloader()))[0], next(iter(dm.val_dataloader()))[0])
    dm.save_split(tmp_path / "split.csv")
    assert module(toadstools, split=tmp_path / "split.csv", seed=9).split_digest == dm.split_digest
    dm.stats.save(tmp_path / "stats.json")
    assert module(toadstools, stats=tmp_path / "stats.json").stats == dm.stats


@pytest.fixture
def damaged(toadstools, tmp_path):
    shutil.copytree(toadstools, tmp_path / "c")
    photos = tmp_path / "c" / "photos"
    (photos / "img_0.jpg").write_bytes(b"")
    (photos / "img_1.jpg").write_bytes((photos / "img_1.jpg").read_bytes()[:1000])
    return tmp_path / "c"


def test_damaged_photos_are_all_named_before_training(damaged, tmp_path):
    model = Mean()
    with pytest.raises(TableError, match=r"(?s)2 problems.*img_0.jpg: is empty.*img_1.jpg: was cut off"):
        trainer(tmp_path).fit(model, datamodule=module(damaged))
    assert model.seen == []


def test_damaged_photos_can_be_left_out_with_a_warning(damaged, toadstools, tmp_path):
    dm = module(damaged, on_error="skip")
    with pytest.warns(SkipWarning, match=r"(?s)2 of 24 images cannot be read.*img_0.jpg: is empty"):
        dm.setup("fit")
    assert dm.skipped["image_id"].tolist() == ["photos/img_0", "photos/img_1"]
    assert sum(len(dm.tables[part]) for part in ("train", "val", "test")) == 22
    assert sum(len(labels) for _, labels in dm.train_dataloader()) == len(dm.tables["train"])


@pytest.mark.filterwarnings("ignore:.* has no image of class")  # one test photo
def test_copies_on_both_sides_are_found(toadstools, tmp_path):
    shutil.copytree(toadstools, tmp_path / "c")
    photos, table = tmp_path / "c" / "photos", tmp_path / "c" / "labels.csv"
    shutil.copy(photos / "img_0.jpg", photos / "copy.jpg")
    with table.open("a") as file:
        file.write("copy,0\n")
    dm = module(tmp_path / "c", leaks="error", test_ids=["copy"], val_fraction=0.0)
    with pytest.raises(LeakError, match=r"same file .*train \('photos/img_0'\) and test \('photos/copy'\)"):
        dm.setup("fit")
    assert len(dm.check_leaks().leaks) >= 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resize_px": 20}, ValueError, r"resize_px=20 makes photos smaller than image_size=\(32, 32\)"),
        ({"resize_px": 0}, ValueError, "resize_px=0 is neither a number of pixels"),
        ({"resize_px": "half"}, ValueError, "resize_px='half' is neither"),
        ({"image_size": None}, TableError, r"photos differ in size \('photos/img_\d+' is .*image_size="),
        ({"dtype": "uint8", "normalize": "stats"}, ValueError, "normalize='stats' gives floats"),
        ({"normalize": "mean"}, ValueError, "normalize='mean' is not one of stats, imagenet, None"),
        ({"dtype": "int"}, ValueError, "dtype='int' is not one of uint8, float, None"),
        (
            {"target": "mask"},
            ValueError,
            "target='mask' is not one of class, ordinal, multilabel, regression, survival",
        ),
        ({"unlisted": "maybe"}, ValueError, "unlisted='maybe' is not one of"),
        ({"on_error": "maybe"}, ValueError, "on_error='maybe' is not one of"),
        ({"label_names": {"0": "a"}, "class_names": ["0"]}, ValueError, "label_names= names the labels of classes"),
        ({"label_names": {"0": "a", "1": "b"}}, TableError, r"line 4: unknown label '2'"),
        ({"label_column": "type"}, TableError, r"no column \['type'\]"),
        ({"test_ids": ["img_99"]}, SplitError, "test_ids 'img_99' are not in the table"),
        ({"cache": 0}, ValueError, "cache=0 is neither"),
        ({"train_transform": lambda image: image, "num_workers": 1}, TransformError, "cannot be sent to worker"),
    ],
)
def test_bad_arguments_are_refused_before_training_starts(toadstools, tmp_path, options, error, message):
    model = Mean()
    with pytest.raises(error, match=message):
        trainer(tmp_path).fit(model, datamodule=module(toadstools, **options))
    assert model.seen == []


def test_photos_keep_their_sizes_one_at_a_time(toadstools):
    dm = module(toadstools, image_size=None, batch_size=1)
    dm.setup("fit")
    assert dm.resize_px is None
    assert len({tuple(image.shape) for image, _ in dm.train_dataloader()}) > 1


def test_transform_of_ones_own_sets_the_size(toadstools):
    dm = module(toadstools, image_size=None, resize_px=48, train_transform=CropOrPad(24), eval_transform=CropOrPad(40))
    dm.setup("fit")
    assert next(iter(dm.train_dataloader()))[0].shape == (6, 3, 24, 24)
    assert next(iter(dm.val_dataloader()))[0].shape[-1] == 40


def test_show_batch_says_what_is_shown(toadstools, tmp_path):
    figure = module(toadstools, label_names=toadstools / "names.csv").show_batch(max_images=3, path=tmp_path / "b.png")
    assert figure.get_suptitle() == "train: 3 of 19 photos, resize_px=37, 32 x 32 px, uint8"
    assert [axis.get_title().splitlines()[1] for axis in figure.axes] == ["scarlet", "amber", "olive"]
    assert (tmp_path / "b.png").exists()


def test_two_modules_share_their_base():
    """What both data modules do is written once: neither overrides what the other needs, too."""
    from wsidata.datamodules.base import SplitDataModule
    from wsidata.datamodules.wsi import WSIDataModule

    hooks = {"setup", "state_dict", "load_state_dict", "train_dataloader", "val_dataloader", "tables", "show_batch"}
    for kind in (ImageFolderDataModule, WSIDataModule):
        assert issubclass(kind, SplitDataModule)
        assert not hooks & set(vars(kind))


@pytest.mark.slow
def test_command_line_builds_it(toadstools, tmp_path):
    pytest.importorskip("docstring_parser", reason="the command line needs jsonargparse[signatures]")
    pytest.importorskip("typeshed_client", reason="the command line needs jsonargparse[signatures]")
    from lightning.pytorch.cli import LightningCLI

    arguments = {
        "data.table": toadstools / "labels.csv",
        "data.label_column": "label",
        "data.label_names": toadstools / "names.csv",
        "data.image_size": 32,
        "data.resize_px": 40,
        "data.normalize": "stats",
        "data.cache": "memory",
        "data.num_workers": 0,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.default_root_dir": tmp_path,
    }
    cli = LightningCLI(
        Mean, ImageFolderDataModule, args=["fit", *(f"--{key}={value}" for key, value in arguments.items())]
    )
    assert cli.datamodule.class_names == ("scarlet", "amber", "olive")
    assert cli.datamodule.resize_px == 40
    assert len(cli.model.seen) == 1
    assert (tmp_path / "lightning_logs" / "version_0" / "split.csv").exists()


def test_duplicates_are_kept_on_one_side_of_the_split(toadstools, tmp_path):
    folder = tmp_path / "copies"
    shutil.copytree(toadstools, folder)
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    names = [*table["image"]]
    copies = table.assign(image=[f"copy_{name}" for name in names])
    for name in names:
        source = next(path for path in folder.rglob("*") if path.stem == name)
        shutil.copy(source, source.with_name(f"copy_{source.name}"))
    both = pd.concat([table, copies])
    dm = module(folder, table=both, image_dir=folder, group_duplicates=True, val_fraction=0.25)
    frame = dm.labels.frame
    split = dict(zip(frame["path"].map(lambda path: Path(path).stem), frame["split"], strict=True))
    assert all(split[name] == split[f"copy_{name}"] for name in names)
    assert len(dm.duplicates) >= len(names)


def test_duplicates_in_two_splits_that_were_given_are_refused(tmp_path):
    folder = write_photo_folders(tmp_path / "folders", classes=2, parts={"train": 3, "val": 2}, side_px=48)
    shutil.copy(folder / "train" / "amber" / "001.jpg", folder / "val" / "amber" / "copy.jpg")
    dm = ImageFolderDataModule(folder, image_size=32, num_workers=0, group_duplicates=True)
    with pytest.raises(SplitError, match="group_duplicates"):
        _ = dm.labels


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")
def test_real_photos_hold_no_duplicates_and_every_class_is_in_both_parts():
    dm = ImageFolderDataModule(
        PHOTOS / "raw_img_labels.csv", PHOTOS, label_column="label", image_size=64, num_workers=0, val_fraction=0.25,
        small_classes="train", group_duplicates=True,
    )  # fmt: skip
    assert [len(dm.tables[part]) for part in ("train", "val")] == [183, 61]
    assert dm.tables["train"]["label"].nunique() == dm.tables["val"]["label"].nunique() == 31
    assert dm.duplicates.empty
