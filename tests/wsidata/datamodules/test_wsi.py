import json
import shutil

import albumentationsxl as A
import numpy as np
import pandas as pd
import pytest
import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from mean_color import Mean, equal, trainer
from preloaded import run_group

from wsidata import WSIDataModule
from wsidata.datamodules.checks import SlideCheckError
from wsidata.tables.parts import SplitError, SplitWarning
from wsidata.tables.text_table import TableError
from wsidata.transforms.base import TransformError


def module(folder, **options):
    options = {"image_dir": folder / "images", "test_prefix": "test_", "level": 1, "image_size": 64} | options
    return WSIDataModule(options.pop("table", folder / "evaluation" / "reference.csv"), **{"num_workers": 0} | options)


def seen(folder, out, **options):
    seed_everything(3, workers=True)
    model = Mean()
    trainer(out).fit(model, datamodule=module(folder, **options))
    return model.seen


def test_camelyon_is_split_and_counted_before_setup(camelyon):
    dm = module(camelyon)
    assert {name: len(table) for name, table in dm.tables.items()} == {"train": 10, "val": 2, "test": 4, "predict": 4}
    assert dm.class_names == ("normal", "tumor")
    assert dm.num_classes == 2
    assert dm.class_weights.tolist() == [1.0, 1.0]
    assert set(dm.tables["test"]["image_id"].str[:5]) == {"test_"}
    assert sorted(dm.tables["val"]["label_name"]) == ["normal", "tumor"]


@pytest.mark.slow
def test_batches_of_every_loader(camelyon):
    dm = module(camelyon, batch_size=2)
    dm.setup("fit")
    for loader in (dm.train_dataloader(), dm.val_dataloader(), dm.test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (2, 3, 64, 64)
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.shape == (2,)
    images = torch.cat(list(dm.predict_dataloader()))
    dataset = dm.make_dataset("predict")
    assert torch.equal(images, torch.stack([dataset[i] for i in range(len(dm.tables["predict"]))]))


@pytest.mark.slow
def test_setup_twice_keeps_the_datasets(camelyon):
    dm = module(camelyon)
    dm.setup("fit")
    datasets = dict(dm.datasets)
    dm.setup("test")
    assert dm.datasets == datasets


def test_loader_before_setup_says_what_to_do(camelyon):
    with pytest.raises(RuntimeError, match=r"Call setup\('fit'\) first"):
        module(camelyon).train_dataloader()


@pytest.mark.slow
def test_published_pipeline_as_train_transform(camelyon):
    pipeline = A.Compose([A.CropOrPad(64, 64), A.Flip(p=0.5), A.ToDtype("float", scale=True), A.ToTensor()])
    dm = module(camelyon, train_transform=pipeline, dtype="float", batch_size=3)
    dm.setup("fit")
    for loader in (dm.train_dataloader(), dm.val_dataloader()):
        images, _ = next(iter(loader))
        assert images.dtype == torch.float32
        assert 0 <= images.min() < images.max() <= 1
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_training_is_the_same_with_workers_and_for_equal_seeds(camelyon, tmp_path):
    alone = seen(camelyon, tmp_path / "a", batch_size=4)
    assert equal(alone, seen(camelyon, tmp_path / "b", batch_size=4, num_workers=2))
    assert [epoch for epoch, _, _ in alone] == [0, 0, 0, 1, 1, 1]
    first, second = (torch.cat([images for e, images, _ in alone if e == epoch]) for epoch in (0, 1))
    assert not torch.equal(first.sum((1, 2, 3)).sort()[0], torch.zeros(10))
    assert not torch.equal(first, second)


@pytest.mark.slow
def test_resumed_run_sees_what_the_whole_run_saw(camelyon, tmp_path):
    seed_everything(3, workers=True)
    whole = Mean()
    trainer(tmp_path / "whole", max_epochs=3).fit(whole, datamodule=module(camelyon))
    seed_everything(3, workers=True)
    first = trainer(tmp_path / "part", max_epochs=1)
    first.fit(Mean(), datamodule=module(camelyon))
    first.save_checkpoint(tmp_path / "one.ckpt")
    seed_everything(3, workers=True)
    rest = Mean()
    trainer(tmp_path / "rest", max_epochs=3).fit(rest, datamodule=module(camelyon), ckpt_path=tmp_path / "one.ckpt")
    assert equal(rest.seen, [step for step in whole.seen if step[0] > 0])


@pytest.mark.slow
def test_split_is_saved_beside_the_run_and_can_be_reused(camelyon, tmp_path):
    dm = module(camelyon, seed=5)
    trainer(tmp_path, max_epochs=1).fit(Mean(), datamodule=dm)
    again = module(camelyon, split=tmp_path / "split.csv", test_prefix=None, seed=6)
    assert again.split_digest == dm.split_digest != module(camelyon, seed=6).split_digest
    assert again.tables["train"]["image_id"].tolist() == dm.tables["train"]["image_id"].tolist()


@pytest.mark.slow
def test_checkpoint_holds_the_split_and_plain_hyperparameters(camelyon, tmp_path):
    frame = pd.read_csv(camelyon / "evaluation" / "reference.csv", dtype=str)
    for table in (frame, camelyon / "evaluation" / "reference.csv"):
        dm = module(camelyon, table=table)
        run = trainer(tmp_path, max_epochs=1)
        run.fit(Mean(), datamodule=dm)
        run.save_checkpoint(tmp_path / "c.ckpt")
        checkpoint = torch.load(tmp_path / "c.ckpt", weights_only=True)
        assert checkpoint["WSIDataModule"]["digest"] == dm.split_digest
        assert checkpoint["datamodule_hyper_parameters"]["level"] == 1
    loaded = WSIDataModule.load_from_checkpoint(tmp_path / "c.ckpt", num_workers=0)
    assert loaded.split_digest == dm.split_digest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:test has no image of class")  # the normal slides are the test split
def test_other_split_is_neither_resumed_nor_tested(camelyon, tmp_path):
    run = trainer(tmp_path, max_epochs=1)
    run.fit(Mean(), datamodule=module(camelyon))
    run.save_checkpoint(tmp_path / "c.ckpt")
    with pytest.raises(SplitError, match=r"trained on another split: .* images moved.*split.csv"):
        trainer(tmp_path).fit(Mean(), datamodule=module(camelyon, seed=1), ckpt_path=tmp_path / "c.ckpt")
    with pytest.raises(SplitError, match="were in the checkpoint's training set"):
        trainer(tmp_path).test(Mean(), module(camelyon, test_prefix="normal_"), ckpt_path=tmp_path / "c.ckpt")
    trainer(tmp_path).test(Mean(), module(camelyon, seed=1), ckpt_path=tmp_path / "c.ckpt", verbose=False)
    swapped = module(camelyon, class_names=["tumor", "normal"])
    with pytest.raises(SplitError, match=r"checkpoint's classes are \['normal', 'tumor'\]"):
        trainer(tmp_path).fit(Mean(), datamodule=swapped, ckpt_path=tmp_path / "c.ckpt")


@pytest.mark.slow
def test_predictions_come_in_the_tables_order(camelyon, tmp_path):
    dm = module(camelyon, predict_on="all", batch_size=3)
    predictions = torch.cat(trainer(tmp_path).predict(Mean(), datamodule=dm))
    dataset = dm.make_dataset("predict")
    assert len(predictions) == len(dm.tables["predict"]) == 16
    assert torch.equal(predictions, torch.stack([dataset[i].float().mean((1, 2)) for i in range(16)]))


def test_table_without_labels_can_be_predicted_on_only(camelyon, tmp_path):
    table = pd.DataFrame({"image": ["test_001", "test_002"]})
    dm = module(camelyon, table=table, label_column=None, test_prefix=None)
    assert len(trainer(tmp_path).predict(Mean(), datamodule=dm)) == 2
    with pytest.raises(SplitError, match=r"train split has no rows.*can only be predicted on"):
        trainer(tmp_path).fit(Mean(), datamodule=dm)


@pytest.mark.slow
def test_no_validation_rows_is_no_validation(camelyon, tmp_path):
    dm = module(camelyon, val_fraction=0.0)
    model = Mean()
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=dm)
    assert len(model.seen) == 12


@pytest.mark.parametrize(("stage", "part"), [("test", "test"), ("validate", "val")])
def test_evaluating_a_split_without_rows_is_refused_before_any_slide_is_opened(camelyon, tmp_path, stage, part):
    dm = module(camelyon, test_prefix=None, test_ids=[], val_fraction=0.0, level=9)
    with pytest.raises(SplitError, match=f"the {part} split has no rows"):
        getattr(trainer(tmp_path), stage)(Mean(), datamodule=dm, verbose=False)


@pytest.mark.parametrize("name", ["test_001", "Test-7", "slides/test_4"])
def test_slides_named_test_that_are_trained_on_are_warned_of(camelyon, tmp_path, name):
    for folder in ("a", "slides"):
        (tmp_path / folder).mkdir()
    names = [*(f"a/s{number}" for number in range(5)), name]
    for number, one in enumerate(names):
        (tmp_path / f"{one}.tif").write_bytes(bytes([number]))
    table = pd.DataFrame({"image": names, "class": "x"})
    dm = WSIDataModule(table, tmp_path, level=0)
    prefix = name.split("/")[-1][:5]
    with pytest.warns(SplitWarning, match=rf"1 images named like test images.*'{name}'.*='{prefix}'") as said:
        _ = dm.tables
    assert len(dm.tables["test"]) == 0
    assert len(said) == 1
    for rule in ({"test_ids": []}, {"test_prefix": prefix}, {"split": dm.labels.frame[["image_id", "split"]]}):
        _ = WSIDataModule(table, tmp_path, level=0, **rule).tables


def test_leading_zeros_survive(camelyon, tmp_path):
    for number, name in enumerate(("007", "008", "010", "011")):
        shutil.copy(camelyon / "images" / f"normal_00{number + 1}.tif", tmp_path / f"{name}.tif")
    (tmp_path / "t.csv").write_text("image;class\n007;0\n008;0\n010;1\n011;1\n")
    dm = module(tmp_path, table=tmp_path / "t.csv", image_dir=tmp_path, test_prefix=None, val_fraction=0.5)
    assert dm.labels.frame["image_id"].tolist() == ["007", "008", "010", "011"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"level": 9}, SlideCheckError, r"normal_001.tif: UnknownLevelError"),
        ({"level": None, "max_side": None}, ValueError, "exactly one of level="),
        ({"mpp": 1.0}, ValueError, "got level=1, mpp=1.0"),
        ({"image_size": None, "batch_size": 2}, SlideCheckError, r"batch_size=2 needs images of one size.*image_size="),
        ({"class_names": ["normal"]}, TableError, r"reference.csv.*\n.*unknown label 'tumor'"),
        ({"label_column": "type"}, TableError, r"no column \['type'\]; its columns are \['image', 'class'\]"),
        ({"image_dir": "/nowhere"}, TableError, "image folder '/nowhere' does not exist"),
        ({"test_prefix": "holdout_"}, SplitError, "no id begins with test_prefix='holdout_'"),
        ({"test_ids": ["test_9.tif"]}, SplitError, "test_ids 'test_9' are not in the table"),
        ({"train_transform": A.RandomRotate90()}, TransformError, "Use wsidata.transforms.RandomRotate90"),
        ({"train_transform": lambda image: image, "num_workers": 1}, TransformError, "cannot be sent to worker"),
        ({"dtype": "int"}, ValueError, "dtype='int' is not one of uint8, float"),
        ({"batch_size": 0}, ValueError, "batch_size=0 must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_training_starts(camelyon, tmp_path, options, error, message):
    model = Mean()
    with pytest.raises(error, match=message):
        trainer(tmp_path).fit(model, datamodule=module(camelyon, **options))
    assert model.seen == []


def test_bad_slides_are_refused_before_training_starts(camelyon, tmp_path):
    shutil.copytree(camelyon, tmp_path / "c")
    cut = tmp_path / "c" / "images" / "test_002.tif"
    cut.write_bytes(cut.read_bytes()[:5000])
    with pytest.raises(SlideCheckError, match=r"1 problem:\n.*test_002.tif: UnreadableImageError"):
        trainer(tmp_path).fit(Mean(), datamodule=module(tmp_path / "c"))
    cut.unlink()
    with pytest.raises(TableError, match=r"line \d+: no file 'test_002' in"):
        trainer(tmp_path).fit(Mean(), datamodule=module(tmp_path / "c"))


def test_class_without_training_slide_has_no_weight(camelyon):
    with pytest.raises(SplitError, match=r"class \['other'\] has no training image"):
        _ = module(camelyon, class_names=["normal", "tumor", "other"]).class_weights


def test_saved_split_that_divides_a_patient_is_refused(camelyon):
    frame = pd.read_csv(camelyon / "evaluation" / "reference.csv", dtype=str).assign(patient="p1")
    split = module(camelyon).labels.frame[["image_id", "split"]]
    dm = module(camelyon, table=frame, split=split, group_column="patient")
    with pytest.raises(SplitError, match="group 'p1' is in more than one"):
        _ = dm.tables


def test_show_batch_draws_each_class_and_changes_no_random_state(camelyon, tmp_path):
    dm = module(camelyon)
    state = torch.get_rng_state()
    figure = dm.show_batch(max_images=4, path=tmp_path / "new" / "batch.png")
    assert torch.equal(torch.get_rng_state(), state)
    titles = [axis.get_title().splitlines()[1] for axis in figure.axes]
    assert titles == ["normal", "tumor", "normal", "tumor"]
    assert figure.get_suptitle() == "train: 4 of 10 slides, level=1, 64 x 64 px, uint8"
    assert (tmp_path / "new" / "batch.png").exists()


SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import torch
from lightning import LightningModule, Trainer, seed_everything
from wsidata import WSIDataModule

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)
        self.seen, self.validated = [], []
    def note(self, images, to):
        for image in images:
            to.append([self.current_epoch, hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()])
    def validation_step(self, batch, _):
        self.note(batch[0], self.validated)
    def training_step(self, batch, _):
        images, labels = batch
        self.note(images, self.seen)
        return torch.nn.functional.cross_entropy(self.head(images.float().mean((2, 3)) / 255), labels)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    folder, out, devices = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    seed_everything(3, workers=True)
    dm = WSIDataModule(folder / "evaluation" / "reference.csv", folder / "images", test_prefix="test_", level=1,
                       image_size=64, num_workers=0, batch_size=2, val_fraction=0.25, leaks="off")
    trainer = Trainer(accelerator="cpu", strategy="ddp" if devices > 1 else "auto", devices=devices, max_epochs=2,
                      num_sanity_val_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, default_root_dir=out)
    model = Model()
    trainer.fit(model, datamodule=dm)
    trainer.validate(model, datamodule=dm, verbose=False)
    content = {"seen": model.seen, "validated": model.validated}
    (out / f"rank{trainer.global_rank}.json").write_text(json.dumps(content))
"""


@pytest.mark.slow
def test_two_processes_see_together_what_one_sees(camelyon, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    found = []
    for devices in (1, 2):
        out = tmp_path / str(devices)
        out.mkdir()
        said = run_group(devices, tmp_path / "script.py", camelyon, out, devices)[0].stderr
        assert (out / "split.csv").exists()
        found.append([json.loads(path.read_text()) for path in sorted(out.glob("rank*.json"))])
    (alone,), ranks = found
    trained = [{tuple(sample) for sample in rank["seen"]} for rank in ranks]
    whole = {tuple(sample) for sample in alone["seen"]}
    assert [len(rank["seen"]) for rank in ranks] == [10, 10]  # 9 slides an epoch: one is drawn again, turned anew
    assert not trained[0] & trained[1]
    assert whole <= trained[0] | trained[1]
    validated = [[tuple(sample) for sample in rank["validated"]] for rank in ranks]
    assert {*validated[0], *validated[1]} == {tuple(sample) for sample in alone["validated"]}
    assert [len(samples) for samples in validated] == [6, 6]  # 3 slides, 3 times: one counts twice, which is said
    assert "3 val images do not divide over 2 processes: 1 of them count twice" in said


@pytest.mark.slow
def test_command_line_builds_it(camelyon, tmp_path):
    pytest.importorskip("docstring_parser", reason="the command line needs jsonargparse[signatures]")
    pytest.importorskip("typeshed_client", reason="the command line needs jsonargparse[signatures]")
    from lightning.pytorch.cli import LightningCLI

    arguments = {
        "data.table": camelyon / "evaluation" / "reference.csv",
        "data.image_dir": camelyon / "images",
        "data.test_prefix": "test_",
        "data.max_side": 100,
        "data.image_size": 32,
        "data.class_names": "[tumor, normal]",
        "data.num_workers": 0,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.default_root_dir": tmp_path,
    }
    cli = LightningCLI(Mean, WSIDataModule, args=["fit", *(f"--{key}={value}" for key, value in arguments.items())])
    assert cli.datamodule.class_names == ("tumor", "normal")
    assert len(cli.model.seen) == 10
    assert (tmp_path / "lightning_logs" / "version_0" / "split.csv").exists()


@pytest.mark.slow
def test_arguments_that_are_no_python_numbers_are_kept_as_such(camelyon, tmp_path):
    names = pd.Series(["normal", "tumor"]).unique()
    dm = module(camelyon, seed=np.int64(3), val_fraction=np.float64(0.25), class_names=names, level=np.int64(1))
    assert dm.class_names == ("normal", "tumor")
    run = trainer(tmp_path, max_epochs=1)
    run.fit(Mean(), datamodule=dm)
    saved = torch.load(run.checkpoint_callback.best_model_path, weights_only=True)["datamodule_hyper_parameters"]
    assert (saved["seed"], saved["val_fraction"], saved["class_names"], saved["level"]) == (3, 0.25, list(names), 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"predict_on": "vall"}, "predict_on='vall' is not one of train, val, test, all"),
        ({"level": 1.0}, r"level=1\.0 must be a whole number"),
        ({"level": True}, "level=True must be a whole number"),
        ({"k_fold": 3}, r"k_fold=3 must be \(i, k\)"),
    ],
)
def test_senseless_arguments_are_named(camelyon, options, words):
    with pytest.raises(ValueError, match=words):
        _ = module(camelyon, **options).tables


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("limits", [{}, {"limit_train_batches": 3, "limit_val_batches": 0}])
def test_a_resumed_run_goes_on_as_the_uninterrupted_one_wherever_it_stopped(camelyon, tmp_path, limits, workers):
    def run(folder, checkpoint=None):
        seed_everything(3, workers=True)
        model = Mean()
        saving = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        ends = ModelCheckpoint(tmp_path / folder, every_n_epochs=1, save_top_k=-1, filename="end{epoch}")
        options = {"batch_size": 2, "image_size": 64, "num_workers": workers}
        if folder.startswith("step"):  # on another node, with copies on its disk
            options["stage_dir"] = tmp_path / folder / "local"
        dm = module(camelyon, test_prefix="test_", level=1, leaks="off", **options)
        trainer(tmp_path / folder, max_epochs=3, callbacks=[saving, ends], **limits).fit(
            model, datamodule=dm, ckpt_path=checkpoint
        )
        return model.seen

    whole, batches = run("whole"), limits.get("limit_train_batches", 5)
    assert [epoch for epoch, _, _ in whole] == [epoch for epoch in range(3) for _ in range(batches)]
    for at in (2, batches, batches + 2, 2 * batches):
        assert equal(run(f"step{at}", tmp_path / "whole" / f"step={at}.ckpt"), whole[at:])
    for epoch in (0, 1):
        rest = run(f"epoch{epoch}", tmp_path / "whole" / f"endepoch={epoch}.ckpt")
        assert equal(rest, whole[(epoch + 1) * batches :])
