"""Slides that cannot be read: left out only if asked, never in silence, and never at the cost of others."""

import shutil
import warnings

import pandas as pd
import pytest
import pyvips
import tifffile
import torch
from lightning import LightningModule, Trainer

from wsidata import WSIDataModule
from wsidata.datamodules.checks import SlideCheckError
from wsidata.datasets.slides import SampleError
from wsidata.slides.masks import MaskError
from wsidata.slides.slide import Slide
from wsidata.splits.unreadable import SkipWarning, check_skipped, describe_skipped, skipped_rows
from wsidata.tables.parts import SplitError


@pytest.fixture
def damaged(camelyon, tmp_path):
    """A copy in which two slides of different parts are cut off."""
    shutil.copytree(camelyon, tmp_path / "c")
    for name in ("normal_002", "test_003"):
        path = tmp_path / "c" / "images" / f"{name}.tif"
        path.write_bytes(path.read_bytes()[:5000])
    return tmp_path / "c"


def module(folder, **options):
    options = {"test_prefix": "test_", "level": 1, "image_size": 64, "num_workers": 0, "leaks": "off"} | options
    table = options.pop("table", folder / "evaluation" / "reference.csv")
    return WSIDataModule(table, image_dir=folder / "images", **options)


def ids(dm, part):
    return dm.tables[part]["image_id"].tolist()


class Noting(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, _):
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder):
    return Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


def test_unreadable_slides_are_an_error_that_says_how_to_go_on_without_them(damaged):
    with pytest.raises(SlideCheckError, match=r"2 problems:.*(?s:.)*on_error='skip'"):
        module(damaged).setup("fit")


def test_skipped_slides_are_named_counted_and_in_no_part(damaged, camelyon):
    dm, whole = module(damaged, on_error="skip"), module(camelyon)
    with pytest.warns(SkipWarning) as caught:
        dm.setup("fit")
    message = str(caught[0].message)
    part = whole.labels.frame.set_index("image_id")["split"]["normal_002"]
    assert "2 of 16 images cannot be read and are left out (on_error='skip')" in message
    assert f"1 of {len(whole.tables[part])} {part} (1 normal)" in message
    assert f"{part} 'normal_002': " in message
    assert "normal_002.tif: UnreadableImageError" in message
    assert dm.skipped["image_id"].tolist() == ["normal_002", "test_003"]
    assert dm.skipped["split"].tolist() == [part, "test"]
    assert dm.skipped["reason"].str.contains("UnreadableImageError").all()
    assert len(dm.datasets[part]) == len(whole.tables[part]) - 1


def test_split_of_the_others_is_as_it_was_drawn(damaged, camelyon):
    dm = module(damaged, on_error="skip")
    with pytest.warns(SkipWarning):
        tables = dm.tables
    parts = {part: ids(dm, part) for part in tables}
    whole = module(camelyon)
    gone = {"normal_002", "test_003"}
    assert parts == {part: [name for name in ids(whole, part) if name not in gone] for part in whole.tables}
    assert dm.split_digest == whole.split_digest


def test_nothing_is_skipped_where_all_can_be_read(camelyon):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SkipWarning)
        dm = module(camelyon, on_error="skip")
        dm.setup("fit")
    assert dm.skipped.empty
    assert {part: ids(dm, part) for part in dm.tables} == {
        part: ids(module(camelyon), part) for part in ("train", "val", "test", "predict")
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::wsidata.splits.unreadable.SkipWarning")
def test_samples_and_predictions_follow_the_rows_that_are_left(damaged, camelyon):
    dm, whole = module(damaged, on_error="skip", predict_on="all"), module(camelyon, predict_on="all")
    for one in (dm, whole):
        one.setup("predict")
    expected = {name: whole.datasets["predict"].image(row) for row, name in enumerate(ids(whole, "predict"))}
    images = torch.cat(list(dm.predict_dataloader()))
    assert len(images) == 14
    for name, image in zip(ids(dm, "predict"), images, strict=True):
        assert torch.equal(image, expected[name])


@pytest.mark.filterwarnings("ignore::wsidata.splits.unreadable.SkipWarning")
def test_saved_split_says_what_was_left_out_and_can_be_used_again(damaged, tmp_path):
    dm = module(damaged, on_error="skip")
    dm.save_split(tmp_path / "split.csv")
    saved = pd.read_csv(tmp_path / "split.csv", dtype=str, keep_default_na=False)
    assert len(saved) == 16
    assert saved.loc[saved["skipped"] != "", "image_id"].tolist() == ["normal_002", "test_003"]
    again = module(damaged, split=tmp_path / "split.csv", test_prefix=None, on_error="skip")
    assert again.split_digest == dm.split_digest
    assert ids(again, "train") == ids(dm, "train")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::wsidata.splits.unreadable.SkipWarning")
@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`:UserWarning")
def test_run_is_not_resumed_on_other_slides(damaged, camelyon, tmp_path):
    run = trainer(tmp_path)
    run.fit(Noting(), datamodule=module(damaged, on_error="skip"))
    run.save_checkpoint(tmp_path / "c.ckpt")
    torch.load(tmp_path / "c.ckpt", weights_only=True)
    again = trainer(tmp_path)
    again.fit(Noting(), datamodule=module(damaged, on_error="skip"), ckpt_path=tmp_path / "c.ckpt")
    shutil.copy(camelyon / "images" / "test_003.tif", damaged / "images" / "test_003.tif")  # not trained on
    trainer(tmp_path).fit(Noting(), datamodule=module(damaged, on_error="skip"), ckpt_path=tmp_path / "c.ckpt")
    shutil.copy(camelyon / "images" / "normal_002.tif", damaged / "images" / "normal_002.tif")
    with pytest.raises(SplitError, match=r"trained on other images: 0 .*1 that it had to leave out.*'normal_002'"):
        trainer(tmp_path).fit(Noting(), datamodule=module(damaged, on_error="skip"), ckpt_path=tmp_path / "c.ckpt")


def test_a_part_or_a_class_is_never_lost(camelyon, tmp_path):
    shutil.copytree(camelyon, tmp_path / "c")
    frame = module(camelyon).labels.frame
    lost = frame[(frame["split"] == "val") & (frame["label_name"] == "tumor")]
    table = frame[["image_id", "label_name"]].rename(columns={"image_id": "image", "label_name": "class"})
    for path in lost["path"]:
        (tmp_path / "c" / "images" / path.split("/")[-1]).write_bytes(b"")
    with pytest.raises(SplitError, match=r"leave out every val row of 'tumor':\n.*is empty.*\n.*so that the split"):
        _ = module(tmp_path / "c", table=table, on_error="skip").tables


def test_what_is_lost_is_counted_by_part_and_class():
    table = pd.DataFrame({"image_id": list("abcd"), "split": ["train", "train", "val", ""], "path": list("abcd")})
    table = table.assign(label_name=["x", "x", "x", ""], label=[0, 0, 0, -1])
    check_skipped(table, skipped_rows(table, {}))
    some = skipped_rows(table, {"a": "bad", "d": "worse"})
    check_skipped(table, some)
    assert "left out (on_error='skip'): 1 of 2 train (1 x); 1 of 1 unlabeled." in describe_skipped(table, some)
    with pytest.raises(SplitError, match="leave out every val row:"):
        check_skipped(table, skipped_rows(table, {"c": "bad"}))
    with pytest.raises(SplitError, match="leave out every row:"):
        check_skipped(table, skipped_rows(table, dict.fromkeys("abcd", "bad")))


def test_targets_that_are_no_class_are_no_class_to_lose():
    table = pd.DataFrame({"image_id": ["a", "b"], "split": "train", "label_name": ["1.5", "2.5"], "label": -1})
    table["path"] = table["image_id"]
    some = skipped_rows(table, {"a": "bad"})
    check_skipped(table, some)
    assert "1 of 2 train. The split" in describe_skipped(table, some)


def test_wishes_no_slide_can_fulfil_are_an_error_all_the_same(camelyon):
    with pytest.raises(SplitError, match=r"leave out every row:(?s:.)*UnknownLevelError"):
        module(camelyon, level=9, on_error="skip").setup("fit")
    with pytest.raises(ValueError, match="on_error='ignore' is not one of raise, skip"):
        module(camelyon, on_error="ignore")


@pytest.mark.slow
def test_masks_that_do_not_fit_are_skipped_with_their_slides(camelyon, tmp_path):
    rows = module(camelyon).labels.frame
    for name, path in zip(rows["image_id"], rows["path"], strict=True):
        with Slide(path) as slide:
            height = 10 if name == "normal_001" else slide.height
            pyvips.Image.black(slide.width, height).write_to_file(str(tmp_path / f"{name}.png"))
    frame = pd.DataFrame({"image": rows["image_id"], "mask": rows["image_id"] + ".png"})
    options = {"table": frame, "label_column": "mask", "target": "mask", "mask_dir": tmp_path, "stratify": False}
    options |= {"class_names": ["glass", "tumor"]}
    with pytest.raises(MaskError, match=r"1 problem(?s:.)*normal_001.png.*another shape(?s:.)*on_error='skip'"):
        module(camelyon, **options).setup("fit")
    dm = module(camelyon, on_error="skip", **options)
    with pytest.warns(SkipWarning, match="another shape"):
        dm.setup("fit")
    assert dm.skipped["image_id"].tolist() == ["normal_001"]


@pytest.mark.filterwarnings("ignore::wsidata.splits.unreadable.SkipWarning")
def test_processes_that_skip_other_slides_are_refused(damaged, tmp_path):
    dm = module(damaged, on_error="skip")
    run = trainer(tmp_path)
    dm.trainer = run
    run.strategy.broadcast = lambda ours, src=0: []
    with pytest.raises(SplitError, match=r"process 0 leaves out \[\], process 0 \['normal_002', 'test_003'\]"):
        dm.setup("fit")


def test_damage_that_only_decoding_shows_ends_the_run_with_name_and_remedy(camelyon, tmp_path):
    shutil.copytree(camelyon, tmp_path / "c")
    path = tmp_path / "c" / "images" / "normal_002.tif"
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[1]
        offset, count = page.dataoffsets[0], page.databytecounts[0]
    data = bytearray(path.read_bytes())
    rest = count // 3  # the last third of a tile is end marks, so that it begins and ends as it should
    data[offset + count - 2 * (rest // 2) : offset + count] = b"\xff\xd9" * (rest // 2)
    path.write_bytes(data)
    dm = module(tmp_path / "c", on_error="skip", predict_on="all", image_size=256)  # a crop may lack the tile
    dm.setup("predict")
    assert dm.skipped.empty
    row = ids(dm, "predict").index("normal_002")
    with pytest.raises(SampleError, match=r"slide 'normal_002' .*Unreadable.*Copy the file again from its source"):
        dm.datasets["predict"].image(row)
