"""`slidestream predict` gives what `Trainer.predict` gives, and says in a line what it cannot do."""

import pickle
import shutil
import warnings

import numpy as np
import pytest
import torch
from lightning import Trainer

from slidestream.__main__ import main
from slidestream.trained import load_trained
from streammodels import StreamingResNet
from wsidata import ImageFolderDataModule, TileDataModule, WSIDataModule
from wsidata.evaluation import read_predictions


def save(dm, path, outputs, seed=0):
    """A checkpoint of an untrained network, as a Trainer writes them."""
    torch.manual_seed(seed)
    model = StreamingResNet("resnet9", 64, num_classes=outputs, weights=None).eval()
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.strategy._lightning_module = model
    dm.trainer = model.trainer = trainer
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.5.0",
        type(dm).__name__: dm.state_dict(),
        "datamodule_hyper_parameters": dict(dm.hparams),
    }
    model.on_save_checkpoint(content)
    torch.save(content, path)
    dm.trainer = None
    return path


def slides(folder, **options):
    options = {"label_column": "class", "test_prefix": "test_", "num_workers": 0, "leaks": "off"} | options
    return WSIDataModule(folder / "evaluation" / "reference.csv", folder / "images", **options)


@pytest.fixture(scope="module")
def checkpoints(camelyon, toadstools, tmp_path_factory):
    """Networks of cropped slides, of whole slides, and of photos."""
    out = tmp_path_factory.mktemp("checkpoints")
    save(slides(camelyon, level=1, image_size=64), out / "cropped.ckpt", 2)
    save(slides(camelyon, mpp=2.0, crop="tissue", lazy=True), out / "whole.ckpt", 2)
    photos = ImageFolderDataModule(
        toadstools / "labels.csv", label_column="label", image_size=32, num_workers=0, leaks="off", dtype="float"
    )
    save(photos, out / "photos.ckpt", 3)
    return out


@pytest.fixture(scope="session")
def toadstools(tmp_path_factory):
    from wsidata.synthetic.photos import write_photos

    return write_photos(tmp_path_factory.mktemp("toadstools"), classes=3, per_class=4, side_px=48, seed=1)


def command(*arguments):
    return main(["predict", *map(str, arguments), "--workers", "0", "--accelerator", "cpu"])


def expected(checkpoint, dm):
    """What the Trainer predicts of all images, read as in training, eagerly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
        return torch.cat(trainer.predict(load_trained(checkpoint).model, datamodule=dm)).numpy()


def probabilities(path):
    return read_predictions(path).filter(regex="^probability_").to_numpy(np.float32)


@pytest.mark.filterwarnings("default:.*in the checkpoint's training set")
def test_predictions_are_those_of_the_trainer_to_the_bit(checkpoints, camelyon, toadstools, tmp_path, capsys):
    images, out = camelyon / "images", tmp_path / "out.csv"
    for name, options in (
        ("cropped", {"level": 1, "image_size": 64, "batch_size": 3}),
        ("whole", {"mpp": 2.0, "crop": "tissue", "lazy": True}),
    ):
        size = str(options.get("batch_size", 1))
        assert command(checkpoints / f"{name}.ckpt", images, "-o", out, "--overwrite", "--batch-size", size) == 0
        table = read_predictions(out)
        assert table.columns.tolist() == [
            *("image", "path", "predicted", "probability_normal", "probability_tumor", "error")
        ]
        assert len(table) == 16
        same = WSIDataModule(images, label_column=None, num_workers=0, leaks="off", **options)
        assert np.array_equal(probabilities(out), expected(checkpoints / f"{name}.ckpt", same))
    assert "16 of 16 images predicted" in capsys.readouterr().out
    photos = ImageFolderDataModule(
        toadstools / "labels.csv", label_column=None, image_size=32, num_workers=0, leaks="off", dtype="float"
    )
    assert command(checkpoints / "photos.ckpt", toadstools / "labels.csv", "-o", out, "--overwrite") == 0
    assert np.array_equal(probabilities(out), expected(checkpoints / "photos.ckpt", photos))
    said = capsys.readouterr()
    assert "balanced accuracy" in said.out  # the table has the labels
    assert "test images were in the checkpoint's training set" in said.err


@pytest.mark.filterwarnings("default:there will be no scores")
def test_labels_that_cannot_be_read_cost_only_the_scores(checkpoints, camelyon, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("image;class\ntumor_001;tumor\nnormal_001;\n")
    arguments = (checkpoints / "cropped.ckpt", tmp_path / "new.csv", "--image-dir", camelyon / "images")
    assert command(*arguments, "-o", tmp_path / "out.csv") == 0
    said = capsys.readouterr()
    assert "no scores, as the labels" in said.err
    assert "column 'class' is empty" in said.err
    assert "accuracy" not in said.out
    assert command(*arguments, "-o", tmp_path / "out.csv", "--label-column", "class") == 2


@pytest.fixture
def folds(camelyon, tmp_path):
    """A run of two folds."""
    for fold in range(2):
        checkpoints = tmp_path / "run" / f"fold_{fold}" / "checkpoints"
        checkpoints.mkdir(parents=True)
        save(slides(camelyon, level=1, image_size=64, k_fold=(fold, 2)), checkpoints / "best.ckpt", 2, seed=fold)
        (checkpoints.parent / "run.json").write_text('{"finished": "2026-01-01"}')
    return tmp_path / "run"


def test_the_networks_of_all_folds_predict_the_mean(folds, camelyon, tmp_path, capsys):
    new = tmp_path / "new"
    new.mkdir()
    for name in ("tumor_001", "normal_001", "test_001"):
        shutil.copy(camelyon / "images" / f"{name}.tif", new)
    (new / "cut.tif").write_bytes(b"II*\0")
    out = tmp_path / "out.csv"
    assert command(folds, new, "-o", out, "--batch-size", "3") == 1
    table = read_predictions(out)
    dm = WSIDataModule(new, label_column=None, num_workers=0, leaks="off", level=1, image_size=64, batch_size=3,
                       on_error="skip")  # fmt: skip
    one, other = (expected(folds / f"fold_{fold}" / "checkpoints" / "best.ckpt", dm) for fold in range(2))
    assert abs(one - other).max() > 1e-3  # or the mean says nothing
    mean = (one.astype(float) + other.astype(float)) / 2
    known = table[table["error"] == ""]
    assert np.abs(known.filter(regex="^probability_").to_numpy(float) - mean).max() < 1e-7
    assert known["predicted"].tolist() == [("normal", "tumor")[best] for best in mean.argmax(axis=1)]
    broken = table.set_index("image").loc["cut"]
    assert broken["predicted"] == ""
    assert "UnreadableImageError" in broken["error"]
    assert "3 of 4 images predicted" in capsys.readouterr().out
    shutil.copy(camelyon / "images" / "test_002.tif", new)
    before = out.read_text().splitlines()
    assert command(folds, new, "-o", out, "--batch-size", "3") == 1  # goes on
    assert set(before) < set(out.read_text().splitlines())


def test_networks_of_tiles_predict_the_mean_of_folds(camelyon, tmp_path):
    run, new, out = tmp_path / "run", tmp_path / "new", tmp_path / "out.csv"
    for fold in range(2):
        checkpoints = run / f"fold_{fold}" / "checkpoints"
        checkpoints.mkdir(parents=True)
        dm = TileDataModule(
            camelyon / "evaluation" / "reference.csv", camelyon / "images", level=2, tile_size=32, min_tissue=0.1,
            batch_size=8, num_workers=0, leaks="off", test_prefix="test_", k_fold=(fold, 2),
        )  # fmt: skip
        save(dm, checkpoints / "best.ckpt", 2, seed=fold)
        (checkpoints.parent / "run.json").write_text('{"finished": "2026-01-01"}')
    new.mkdir()
    for name in ("tumor_001", "test_001"):
        shutil.copy(camelyon / "images" / f"{name}.tif", new)
    (new / "cut.tif").write_bytes(b"II*\0")
    assert command(run, new, "-o", out) == 1
    one, other = (read_predictions(tmp_path / "out.csv.folds" / f"fold_{fold}.csv") for fold in range(2))
    tiles = read_predictions(tmp_path / "out.csv.folds" / "fold_0.tiles.csv")
    table, both = read_predictions(out), ["probability_normal", "probability_tumor"]
    assert table["image"].tolist() == ["test_001", "tumor_001", "cut"]
    assert table["tiles"].tolist() == one["tiles"].tolist()
    counts = tiles[tiles["error"] == ""]["image"].value_counts()
    assert dict(counts) == {"test_001": int(table["tiles"][0]), "tumor_001": int(table["tiles"][1])}
    assert np.allclose(tiles.groupby("image")[both].mean().loc[["test_001", "tumor_001"]], one[both][:2], atol=1e-6)
    assert np.allclose(table[both][:2], (one[both][:2] + other[both][:2]) / 2, atol=1e-7)
    assert "UnreadableImageError" in table["error"][2]


def test_folds_that_do_not_belong_together_are_refused(folds, checkpoints, camelyon, tmp_path, capsys):
    arguments = (folds, camelyon / "images", "-o", tmp_path / "out.csv")
    (tmp_path / "out.csv").write_text("my,own\n")
    assert command(*arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "out.csv").unlink()
    assert command(*arguments, "--heatmaps") == 2
    assert "of one network" in capsys.readouterr().err
    second = folds / "fold_1" / "checkpoints" / "best.ckpt"
    shutil.copy(checkpoints / "whole.ckpt", second)
    assert command(*arguments) == 2
    assert "in its geometry" in capsys.readouterr().err
    shutil.copy(folds / "fold_0" / "checkpoints" / "best.ckpt", second)
    assert command(*arguments) == 2
    assert "is of fold 0" in capsys.readouterr().err
    shutil.rmtree(folds / "fold_1")
    assert command(*arguments) == 2
    assert "not trained to its end" in capsys.readouterr().err


def test_what_cannot_be_read_is_in_a_column_and_in_the_exit_status(checkpoints, camelyon, tmp_path, capsys):
    folder = tmp_path / "new" / "deep"
    folder.mkdir(parents=True)
    shutil.copy(camelyon / "images" / "tumor_001.tif", folder)
    (folder / "cut.tif").write_bytes((folder / "tumor_001.tif").read_bytes()[:3000])
    content = bytearray((folder / "tumor_001.tif").read_bytes())
    middle = content.index(b"\xff\xd8\xff") + 1000
    content[middle : middle + 200] = b"\xff\xd9" * 100
    (tmp_path / "new" / "damaged.tif").write_bytes(content)
    assert command(checkpoints / "whole.ckpt", tmp_path / "new", "-o", tmp_path / "out.csv", "--mpp", "0.5",
                   "--allow-changed", "resolution") == 1  # fmt: skip
    table = read_predictions(tmp_path / "out.csv").set_index("image")
    assert "UnreadableImageError" in table["error"]["deep/cut"]
    assert "could not be decoded" in table["error"]["damaged"]
    assert table["predicted"]["deep/tumor_001"] in ("normal", "tumor")
    printed = capsys.readouterr().out
    assert "1 of 3 images predicted" in printed
    assert "2 could not be" in printed


def test_errors_are_one_line_that_speaks_of_flags(checkpoints, camelyon, toadstools, tmp_path, capsys):
    images, whole = camelyon / "images", checkpoints / "whole.ckpt"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.tif").write_bytes(b"II*\0")
    (tmp_path / "mine.csv").write_text("my,own\n")
    (tmp_path / "cut.ckpt").write_bytes(whole.read_bytes()[:5000])
    content = torch.load(whole, weights_only=True)
    torch.save({**content, "state_dict": {**content["state_dict"], "x": torch.zeros(1)}}, tmp_path / "other.ckpt")
    del content["hyper_parameters"]
    torch.save(content, tmp_path / "nameless.ckpt")
    (tmp_path / "pickled.ckpt").write_bytes(pickle.dumps({"state_dict": torch.nn.Linear(1, 1)}, protocol=4))
    for arguments, message in (
        ((tmp_path / "cut.ckpt", images), "cut off"),
        ((tmp_path / "other.ckpt", images), 'Unexpected key(s) in state_dict: "x"'),
        ((tmp_path / "nameless.ckpt", images), "has no hyper_parameters"),
        ((tmp_path / "pickled.ckpt", images), "is not unpickled"),
        ((whole, tmp_path / "absent"), "does not exist"),
        ((whole, tmp_path / "empty"), "holds no slides"),
        ((whole, tmp_path / "bad"), "none of the 1 images can be read"),
        ((whole, images, "-o", tmp_path / "mine.csv"), "pass --overwrite to replace it"),
        ((whole, images, "-o", "/dev/full"), "No space left on device"),
        ((whole, images, "--mpp", "4"), "--allow-changed resolution"),
        ((whole, images, "--label-column", "class"), "--case-column are for tables"),
        ((whole, toadstools / "labels.csv", images), "is named alone"),
        ((checkpoints / "photos.ckpt", images), "--allow-changed kind"),
    ):
        out = () if "-o" in arguments else ("-o", tmp_path / "out.csv")
        assert command(*arguments, *out) == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert "\n" not in said
    assert (tmp_path / "mine.csv").read_text() == "my,own\n"
