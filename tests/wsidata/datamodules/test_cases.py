"""Cases: all slides of a patient are one sample, with one label, in tables, splits, batches and predictions."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from PIL import Image

from wsidata import FeatureBagDataModule, HubDataModule, TileDataModule, WSIDataModule, export
from wsidata.datamodules.checkpoint import check_remembered_split
from wsidata.datamodules.geometry import GeometryError
from wsidata.datasets.cases import CaseDataset
from wsidata.evaluation import PredictionWriter, read_predictions
from wsidata.evaluation.prediction_file import PredictionFileError
from wsidata.evaluation.report.blocks import Table
from wsidata.evaluation.report.contents import read_contents
from wsidata.evaluation.report.run_sections import data_section
from wsidata.splits.leaks import LeakError, LeakWarning
from wsidata.tables.label_table import by_case, read_table, slides_of
from wsidata.tables.parts import SplitError
from wsidata.tables.text_table import TableError
from wsidata.tiles.features import TileFeatures

SLIDES = [1, 3, 2, 4] * 3


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder of 30 slides of 12 cases, and their table, in which cases take turns."""
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    rows = sorted((number, case) for case, count in enumerate(SLIDES) for number in range(count))
    table = pd.DataFrame(rows, columns=["number", "case"])
    table["image"] = [f"{case:02d}_{number}.png" for number, case in rows]
    table["patient"] = [f"case {case}" for _, case in rows]
    table["class"] = ["tumor" if case % 2 else "normal" for case in table["case"]]
    table["family"] = [f"family {case // 2}" for case in table["case"]]
    for number, case, name in table[["number", "case", "image"]].to_numpy():
        Image.fromarray(rng.integers(0, 255, (20 + number, 24 + case, 3), np.uint8)).save(folder / name)
    return folder, table[["image", "patient", "class", "family"]]


def module(study, table=None, **options):
    """Batches of three cases, without a leak check."""
    folder, known = study
    given = {"level": 0, "case_column": "patient", "num_workers": 0, "batch_size": 3, "leaks": "off"} | options
    return WSIDataModule(known if table is None else table, folder, **given)


def fitted(dm):
    seed_everything(3, verbose=False)
    dm.setup("fit")
    return dm


def equal(first, second):
    """Whether two lists of (cases, labels) are the same to the last bit."""
    return len(first) == len(second) and all(
        torch.equal(label, same) and [len(one) for one in cases] == [len(one) for one in others]
        and all(torch.equal(a, b) for one, other in zip(cases, others, strict=True)
                for a, b in zip(one, other, strict=True))
        for (cases, label), (others, same) in zip(first, second, strict=True)
    )  # fmt: skip


# -- tables and splits -------------------------------------------------------------------------------------------------


def test_a_case_is_one_sample_in_the_order_of_the_table(study):
    frame = read_table(study[1], study[0], case_column="patient").frame
    samples = by_case(frame)
    assert samples["image_id"].tolist() == [f"case {case}" for case in range(12)]
    assert [len(ids) for ids in samples["image_ids"]] == SLIDES
    assert samples["image_ids"][1] == ("01_0", "01_1", "01_2")
    back = slides_of(samples)
    assert back["image_id"].tolist() == sorted(frame["image_id"])
    assert dict(back[["image_id", "path"]].to_numpy()) == dict(frame[["image_id", "path"]].to_numpy())
    assert slides_of(samples[:0]).empty
    assert by_case(frame.drop(columns="case")) is not None
    assert "path" not in samples  # what reads one file a sample must not take the first of several


def test_rows_that_contradict_their_case_are_named(study):
    table = study[1].assign(split="")
    table.loc[2, "class"] = "tumor"  # 02_0 has another one in 02_1
    table.loc[15, ["family", "split"]] = ["family 9", "test"]
    table.loc[20, "patient"] = ""
    with pytest.raises(TableError) as caught:
        read_table(table, study[0], case_column="patient", group_column="family", split_column="split")
    said = str(caught.value)
    assert "row 13: case 'case 2' has the label 'normal' here, and 'tumor' in row 2: a case is one sample" in said
    assert "has the group 'family 9' here, and 'family 2' in row 5" in said
    assert "has the split 'test' here, and '' in row" in said
    assert "row 20: column 'patient' is empty" in said
    with pytest.raises(ValueError, match="target='mask' is one mask a slide"):
        read_table(table, study[0], case_column="patient", target="mask", class_names=["a", "b"])


def test_a_case_that_is_no_name_or_almost_another_one_is_refused(study):
    table = study[1].assign(patient=[f"P {number}" for number in range(30)])
    table.loc[:7, "patient"] = ["1", "NA", "01", "x", "1.0", "NA", "p  8", "1.5"]
    with pytest.raises(TableError) as caught:
        read_table(table, study[0], case_column="patient")
    said = str(caught.value)
    assert "has 4 problems" in said
    assert "row 1: case 'NA' names nobody, and all rows that say so would be one sample" in said
    assert "row 2: case '01' differs from '1' in row 0 in form only" in said
    assert "row 4: case '1.0' differs from '1' in row 0 in form only" in said
    assert "row 8: case 'P 8' differs from 'p  8' in row 6 in form only" in said
    suffixed = study[1].assign(patient=study[1]["patient"] + ".svs")
    names = ["case 2.svs", "case 3.svs"]
    assert module(study, suffixed, test_ids=names).tables["test"]["image_id"].tolist() == names


def test_splits_and_folds_are_of_cases(study, tmp_path):
    folds = [module(study, k_fold=(fold, 3)) for fold in range(3)]
    drawn = [set(dm.tables["val"]["image_id"]) for dm in folds]
    assert set.union(*drawn) == {f"case {case}" for case in range(12)}
    assert sum(map(len, drawn)) == 12
    for dm in folds:
        assert dm.tables["val"]["label_name"].value_counts().tolist() == [2, 2]  # of cases, not slides
        assert dm.labels.frame.groupby("case")["split"].nunique().max() == 1
        assert dm.class_weights.tolist() == [1.0, 1.0]
    families = module(study, val_fraction=0.25, test_ids=["case 0", "case 1"], group_column="family")
    assert families.tables["test"]["image_id"].tolist() == ["case 0", "case 1"]
    assert families.labels.frame.groupby("group")["split"].nunique().max() == 1
    with pytest.raises(SplitError, match="12 cases cannot be divided into 13 folds of whole cases"):
        _ = module(study, k_fold=(0, 13), stratify=False).labels
    with pytest.raises(SplitError, match=r"has only 6 cases, which cannot be .*Add cases of this class"):
        _ = module(study, k_fold=(0, 7)).labels
    with pytest.raises(SplitError, match="'00_0' are not in the table"):
        _ = module(study, test_ids=["00_0"]).labels
    folds[0].save_split(tmp_path / "split.csv")
    assert pd.read_csv(tmp_path / "split.csv").columns.tolist()[:4] == ["image_id", "case", "label_name", "split"]
    again = module(study, split=tmp_path / "split.csv")
    assert again.tables["val"]["image_id"].tolist() == folds[0].tables["val"]["image_id"].tolist()
    divided = again.labels.frame[["image_id", "split"]].copy()
    divided.loc[1, "split"] = "train" if divided.loc[1, "split"] == "val" else "val"
    with pytest.raises(SplitError, match="case 'case 1' is in more than one predefined split"):
        _ = module(study, split=divided).labels


def test_targets_of_cases(study):
    table = study[1].assign(grade=study[1]["class"].map({"normal": "1", "tumor": "2"}), event="1")
    table["months"] = [str(int(name.split()[1]) + 1) for name in table["patient"]]
    ordinal = module(study, table, target="ordinal", label_column="grade").tables["train"]
    assert set(ordinal["label"]) == {0, 1}
    survival = {
        "target": "survival",
        "label_column": ["months", "event"],
        "time_unit": "months",
        "time_bins": 3,
        "val_fraction": 0.0,
    }
    dm = module(study, table, **survival)
    whole = module(study, table.drop_duplicates("patient"), **survival | {"case_column": None})
    assert dm.time_bins == whole.time_bins  # quantiles of cases, whatever the number of their slides
    assert [len(one) for one in dm.tables["train"]["target"]] == [3] * len(dm.tables["train"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_slides": 0}, "max_slides=0 is the most slides of a case"),
        ({"max_slides": 1.5}, "max_slides=1.5 is the most slides of a case"),
        ({"max_slides": 2, "case_column": None}, "with case_column="),
    ],
)
def test_senseless_arguments_are_named(study, options, words):
    with pytest.raises(ValueError, match=words):
        module(study, **options)
    with pytest.raises(ValueError, match="pass group_column= to keep patients in one split"):
        TileDataModule(study[1], study[0], level=0, tile_size=16, case_column="patient")


# -- batches -----------------------------------------------------------------------------------------------------------


def test_batches_are_lists_of_cases_and_repeat_with_the_seed(study):
    dm = fitted(module(study, test_fraction=0.25))
    loader = dm.train_dataloader()
    first, second = list(loader), list(loader)
    assert equal(first, list(fitted(module(study, test_fraction=0.25)).train_dataloader()))
    assert not equal(first, second)
    cases, labels = first[0]
    assert [len(cases), labels.shape] == [3, (3,)]
    assert dm.stats.image_count == sum(map(len, dm.tables["train"]["paths"]))
    plain = list(dm.val_dataloader())
    assert equal(plain, list(dm.val_dataloader()))
    for images, paths in zip((one for cases, _ in plain for one in cases), dm.tables["val"]["paths"], strict=True):
        for image, path in zip(images, paths, strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(path)))
    state = loader.state_dict()  # after an epoch: the next one begins anew
    again = dm.train_dataloader()
    again.load_state_dict({**state, "batches": 1})
    again.dataset.epoch_source = lambda: None
    torch.manual_seed(0)
    seed = torch.randint(2**62, ()).item()
    again.load_state_dict({"epoch_seed": seed, "batches": 1})
    torch.manual_seed(0)
    rest = list(again)
    torch.manual_seed(0)
    assert equal(rest, list(dm.train_dataloader())[1:])
    assert dm.show_batch("train", 4).get_axes()[0].get_title().count("\n") == 1


def test_at_most_so_many_slides(study):
    dm = fitted(module(study, max_slides=2, val_ids=["case 3", "case 6"]))
    train, val = dm.datasets["train"], dm.datasets["val"]
    assert isinstance(train, CaseDataset)
    assert [val.chosen(row) for row in range(2)] == [[0, 1], [4, 5]]  # the first of 4 and 2
    seen = set()
    for _ in range(20):
        train.begin_epoch()
        chosen = [train.chosen(row) for row in range(len(train))]
        assert [len(one) for one in chosen] == [min(2, len(paths)) for paths in dm.tables["train"]["paths"]]
        assert chosen == [sorted(one) for one in chosen]
        seen |= {number for one in chosen for number in one}
    assert seen == set(range(len(train.slides)))
    again = train.chosen(len(train))  # the first case, drawn a second time
    assert [number - len(train.slides) for number in again] == train.chosen(0)
    drawn = [[train.image(index)[0] for index in (0, len(train))] for _ in range(1) for _ in (train.begin_epoch(),)]
    assert drawn[0][0].shape[0] == 3
    assert fitted(module(study, sampling="balanced")).train_dataloader().sampler.balance.tolist().count(0) == 5


@pytest.mark.slow
def test_workers_and_a_stage_change_nothing(study, tmp_path):
    here = fitted(module(study, lazy=False))
    there = fitted(module(study, num_workers=1, stage_dir=tmp_path / "stage"))
    torch.manual_seed(5)
    expected = list(here.train_dataloader())
    torch.manual_seed(5)
    assert equal(expected, list(there.train_dataloader()))
    lazy = fitted(module(study, lazy=True))
    (cases, _), (same, _) = next(iter(lazy.val_dataloader())), next(iter(here.val_dataloader()))
    assert all(torch.equal(a.rows(0, a.shape[1]), b) for one, two in zip(cases, same, strict=True)
               for a, b in zip(one, two, strict=True))  # fmt: skip
    staged = {path.name for path in there.stage.folder.glob("*/*.png")}
    assert staged == {f"{name}.png" for name in slides_of(there.tables["train"])["image_id"]}


# -- leaks and unreadable slides ---------------------------------------------------------------------------------------


def test_leaks_between_cases_are_found(study, tmp_path):
    for path in study[0].iterdir():
        shutil.copy(path, tmp_path)
    shutil.copy(tmp_path / "00_0.png", tmp_path / "11_3.png")
    dm = module((tmp_path, study[1]), test_ids=["case 10", "case 11"], val_ids=["case 1", "case 2"], leaks="error")
    with pytest.raises(LeakError, match=r"same file \('?equal bytes'?\) is in train \('00_0'\) and test \('11_3'\)"):
        dm.setup("fit")


class Halves(LightningModule):
    """Predicts the share of light of a case, and the rest."""

    def predict_step(self, batch, batch_idx):
        light = torch.stack([torch.stack([image.float().mean() for image in case]).mean() for case in batch]) / 255
        return torch.stack([light, 1 - light], dim=1)


def predicted(dm, path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    writer = PredictionWriter(path)
    Trainer(default_root_dir=path.parent, callbacks=writer, **quiet).predict(Halves(), dm, return_predictions=False)
    return writer, read_predictions(path)


def test_unreadable_slides_and_predictions(study, tmp_path):
    table, folder = study[1], tmp_path / "slides"
    shutil.copytree(study[0], folder)
    for name in ("00_0", "03_0", "03_1"):
        (folder / f"{name}.png").write_bytes(b"no image")
    dm = module(
        (folder, table), on_error="skip", predict_on="all", test_ids=["case 11", "case 10"], group_column="family"
    )
    with pytest.warns(UserWarning, match="3 of 30 images cannot be read"):
        samples = dm.tables["predict"]
    assert len(samples) == 11
    assert samples.set_index("image_id")["image_ids"]["case 3"] == ("03_2", "03_3")
    dm.setup("predict")
    (folder / "05_1.png").write_bytes(b"gone since")
    writer, found = predicted(dm, tmp_path / "predictions.csv")
    assert found["image"].tolist() == [f"case {case}" for case in range(12)]
    assert (found.loc[found["error"] != "", "image"]).tolist() == ["case 0", "case 5"]
    assert "05_1.png" in found["error"][5]
    assert sorted(writer.unreadable) == [str(folder / "00_0.png"), str(folder / "05_0.png")]
    pixels = [np.asarray(Image.open(folder / f"03_{number}.png")).mean() / 255 for number in (2, 3)]
    assert found["probability_normal"][3] == pytest.approx(np.mean(pixels), rel=1e-5)
    assert found["path"][3] == str(folder / "03_2.png")
    dm.save_split(tmp_path / "split.csv")
    contents = read_contents(tmp_path)
    assert contents.groups == {f"case {case}": f"family {case // 2}" for case in range(12)}
    (of_classes,) = (block for block in data_section(contents, None, "cases").blocks if isinstance(block, Table))
    assert of_classes.rows == [["normal", "4 (50%)", "1 (50%)", "1 (50%)"], ["tumor", "4 (50%)", "1 (50%)", "1 (50%)"]]
    shutil.copy(study[0] / "03_0.png", folder)  # the case has other slides now
    with pytest.raises(PredictionFileError, match="is of other cases, or of other slides of them"), pytest.warns():
        predicted(module((folder, table), on_error="skip", predict_on="all"), tmp_path / "predictions.csv")


# -- checkpoints, published sets, features -----------------------------------------------------------------------------


def test_a_checkpoint_knows_that_its_samples_are_cases(study):
    dm = module(study, max_slides=2)
    memory = dm.state_dict()
    module(study, max_slides=2).load_state_dict(memory)
    for other in ({"case_column": None}, {"max_slides": 3}, {}):
        with pytest.raises(GeometryError, match=r"cases='at most 2 slides of a case'.*allow_changed=\['cases'\]"):
            module(study, **other).load_state_dict(memory)
        module(study, allow_changed=["cases"], split=dm.labels.frame, **other).load_state_dict(memory)
    content = {"datamodule": memory, "datamodule_hyper_parameters": dict(dm.hparams)}
    new = WSIDataModule.from_checkpoint(content, study[1], study[0], case_column="patient")
    assert [new.max_slides, len(new.tables["predict"])] == [2, 12]
    with pytest.raises(GeometryError, match="cases='one image a sample'"):
        WSIDataModule.from_checkpoint(content, study[1], study[0])
    frame = dm.labels.frame
    other = frame.assign(image_id=[f"new {name}" for name in frame["image_id"]], split="test")
    for one in (dm, module(study, remember_paths=False)):
        with pytest.warns(LeakWarning, match="test cases are called as those that the checkpoint was trained on"):
            check_remembered_split(one.state_dict(), other, dm.skipped, "test")
    check_remembered_split(memory, other.assign(case="new " + other["case"]), dm.skipped, "test")
    slides = module(study, case_column=None).state_dict()
    assert "cases" not in slides["geometry"]  # as in checkpoints of earlier versions
    with pytest.raises(GeometryError, match="cases"):
        module(study).load_state_dict(slides)


def test_published_cases_are_those_of_the_slides(study, tmp_path):
    dm = module(study, max_slides=3, test_fraction=0.25, group_column="family")
    manifest = export(dm, tmp_path / "set", opaque_ids=True, quiet=True, say=lambda _: None)
    assert '"format_version": 2' in (tmp_path / "set" / "preprocessing.json").read_text()
    assert manifest.image_count == 30
    loaded = HubDataModule(tmp_path / "set", num_workers=0, leaks="off", cache_dir=tmp_path / "cache")
    assert equal(list(fitted(loaded).train_dataloader()), list(fitted(dm).train_dataloader()))
    assert equal(list(loaded.val_dataloader()), list(dm.val_dataloader()))
    assert loaded.geometry() == dm.geometry()
    assert loaded.stats.digest == dm.stats.digest
    for part in ("train", "val", "test"):
        ours, theirs = dm.tables[part], loaded.tables[part]
        assert theirs["image_id"].str.fullmatch(r"case-\d{4}").all()  # numbers for names
        assert [len(ids) for ids in theirs["image_ids"]] == [len(ids) for ids in ours["image_ids"]]
        assert theirs["label"].tolist() == ours["label"].tolist()


def test_the_bag_of_a_case_is_that_of_all_its_slides(study, tmp_path):
    pytest.importorskip("h5py")
    rng, table = np.random.default_rng(0), study[1]
    bags = {}
    for number, name in enumerate(table["image"].str.removesuffix(".png")):
        bags[name] = rng.normal(size=(2 + number % 3, 4)).astype(np.float32)
        TileFeatures(bags[name], np.zeros((len(bags[name]), 2), np.int64), {}).write(tmp_path / f"{name}.h5")
    dm = FeatureBagDataModule(table, tmp_path, case_column="patient", batch_size=2, predict_on="all", leaks="off")
    dm.setup("fit")
    found = [bag for batch in dm.predict_dataloader() for bag in batch]
    for bag, ids in zip(found, dm.tables["predict"]["image_ids"], strict=True):
        assert np.array_equal(bag.numpy(), np.concatenate([bags[name] for name in ids]))
    assert dm.geometry()["cases"] == "all slides of a case"
    dm.max_tiles = 4
    assert [len(bag) for bag in next(iter(dm.make_dataset("val")[0][:1]))[None]] == [4]
