"""Samples read through a stage are those of the files themselves, whatever happens to the copies."""

import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from wsidata.datamodules.image_folder import ImageFolderDataModule
from wsidata.datamodules.wsi import WSIDataModule
from wsidata.datasets.epochs import SampleError
from wsidata.datasets.loader import make_loader
from wsidata.datasets.photos import PhotoDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.slides.slide import Slide
from wsidata.staging.copying import StageWarning
from wsidata.staging.stage import Stage
from wsidata.transforms.compose import Compose, default_train_transform


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path / "local", "1GB")


@pytest.fixture
def table(camelyon, tmp_path):
    """Three slides, copied so that they may be damaged."""
    paths = [shutil.copy(path, tmp_path) for path in sorted((camelyon / "images").glob("tumor_*.tif"))[:3]]
    return pd.DataFrame({"image_id": list("abc"), "path": map(str, paths), "label": 0})


def slides(table, stage=None, **options):
    transform = options.pop("transform", default_train_transform(128))
    return SlideDataset(table, {"level": 0}, transform, with_labels=False, stage=stage, **options)


def copy_in(stage, name):
    return next(stage.folder.glob(f"*/{name}"))


def spoil(path):
    """Overwrite a file's pixels with zeros, its length and times as they were."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(2_000)
        file.write(bytes(times.st_size - 10_000))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def pixels(sample):
    return sample if isinstance(sample, torch.Tensor) else sample.rows(0, sample.shape[1])


@pytest.mark.parametrize("options", [{}, {"lazy": True}, {"crop": "pack", "transform": Compose([])}])
def test_samples_are_those_of_the_files(table, stage, options):
    for row in range(3):
        expected = pixels(slides(table, **options).image(row))
        assert torch.equal(pixels(slides(table, stage, **options).image(row)), expected)
    assert len(list(stage.folder.glob("*/*.tif"))) == 3


def test_photos_are_those_of_the_files(toadstools, stage):
    paths = sorted((toadstools / "photos").iterdir())[:4]
    table = pd.DataFrame({"image_id": [path.stem for path in paths], "path": map(str, paths), "label": 0})
    staged = PhotoDataset(table, Compose([]), resize_px=32, stage=stage)
    for row, path in enumerate(paths):
        np.testing.assert_array_equal(staged.pixels(row), PhotoDataset(table, Compose([]), resize_px=32).pixels(row))
        copy_in(stage, path.name).write_bytes(b"\xff\xd8 of the same length?".ljust(path.stat().st_size))
        assert staged.image(row) is not None  # its time differs, so it is made again


@pytest.mark.parametrize("lazy", [False, True])
def test_a_copy_that_cannot_be_read_is_replaced_by_the_file_itself(table, stage, lazy):
    expected = pixels(slides(table, lazy=lazy).image(0))
    slides(table, stage, lazy=lazy).image(0)
    copy = copy_in(stage, "tumor_001.tif")
    spoil(copy)
    with pytest.warns(StageWarning, match=r"'.*local.*tumor_001.tif'?.* could not be read|rows of 'tumor_001.tif'"):
        again = pixels(slides(table, stage, lazy=lazy).image(0))
    assert torch.equal(again, expected)


def test_a_damaged_file_is_named_and_not_its_copy(table, stage):
    copy = slides(table, stage).image(0)
    assert copy is not None
    with open(table["path"][0], "r+b") as file:
        file.truncate(20_000)
    with pytest.raises(SampleError, match=r"^slide 'a' \((.*tumor_001.tif)\): \w+: '\1' is") as error:
        slides(table, stage).image(0)
    assert str(stage.folder) not in str(error.value)


def test_lazy_rows_are_read_after_their_copy_has_gone(table, stage):
    expected = pixels(slides(table, lazy=True).image(1))
    image = slides(table, stage, lazy=True).image(1)
    sent = pickle.loads(pickle.dumps(image))
    shutil.rmtree(copy_in(stage, "tumor_002.tif").parent)
    assert torch.equal(pixels(image), expected)  # by the open file
    assert torch.equal(pixels(sent), expected)  # copied again
    assert copy_in(stage, "tumor_002.tif").exists()


def test_a_lazy_image_is_not_made_of_two_files(table, stage):
    image = slides(table, stage, lazy=True).image(0)
    image.rows(0, 10)
    image.close()
    shutil.copy(table["path"][1], table["path"][0])
    with pytest.raises(OSError, match="was replaced by another file while it was read"):
        image.rows(100, 110)


def test_a_slide_keeps_its_own_path_and_its_copy(table, stage):
    with Slide(table["path"][0], stage=stage) as slide:
        assert str(slide.path) == table["path"][0]
        assert str(stage.folder) not in repr(slide)
        crowded = Stage(stage.folder.parent, slide.path.stat().st_size + 1000)
        with pytest.warns(StageWarning, match="in use"):
            assert crowded.copy_of(table["path"][1]) is None
    with crowded.copy_of(table["path"][1]):  # closed, it may leave
        assert not list(stage.folder.glob("*/tumor_001.tif"))


# -- loaders -----------------------------------------------------------------------------------------------------------


def batches(loader, seed=5):
    torch.manual_seed(seed)
    return list(loader)


def test_the_next_files_are_copied_ahead(table, stage):
    seen = []
    for _ in make_loader(slides(table, stage), shuffle=True):
        seen.append(len(list(stage.folder.glob("*/*.tif"))))
    assert seen[-1] == 3


def test_an_epoch_resumed_in_its_middle_goes_on_exactly(table, stage):
    expected = batches(make_loader(slides(table, fresh_epochs=True), shuffle=True))
    loader = make_loader(slides(table, stage, fresh_epochs=True), shuffle=True)
    torch.manual_seed(5)
    first = next(iter(loader))
    state = loader.state_dict()
    shutil.rmtree(stage.folder)  # as on another node
    after = make_loader(slides(table, Stage(stage.folder.parent), fresh_epochs=True), shuffle=True)
    after.load_state_dict(state)
    rest = batches(after)
    assert len(rest) == 2
    assert all(torch.equal(one, other) for one, other in zip([first, *rest], expected, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_share_a_stage_and_give_the_same_samples(table, tmp_path):
    table = pd.concat([table] * 3)
    expected = batches(make_loader(slides(table, fresh_epochs=True), shuffle=True))
    stage = Stage(tmp_path / "local", 3 * 40_000)  # for fewer copies than there are readers
    given = batches(make_loader(slides(table, stage, fresh_epochs=True), shuffle=True, num_workers=4))
    assert all(torch.equal(one, other) for one, other in zip(given, expected, strict=True))
    assert int((stage.folder / "lock").read_text()) <= stage.max_bytes


# -- data modules ------------------------------------------------------------------------------------------------------


def test_data_modules_read_through_their_stage(camelyon, toadstools, tmp_path):
    options = {"stage_dir": tmp_path / "local", "stage_max_bytes": "50MB", "num_workers": 0, "leaks": "off"}
    dm = WSIDataModule(
        camelyon / "evaluation" / "reference.csv", camelyon / "images", level=2, image_size=32, **options
    )
    photos = ImageFolderDataModule(
        toadstools / "labels.csv", toadstools / "photos", label_column="label", image_size=32, unlisted="off", **options
    )
    for module, count in ((dm, 1), (photos, 10)):
        module.setup("fit")
        assert module.stage.max_bytes == 50_000_000
        next(iter(module.train_dataloader()))
        assert len(list(module.stage.folder.glob("*/*"))) >= count
    assert dm.hparams["stage_dir"] == str(tmp_path / "local")
    hidden = WSIDataModule(camelyon / "evaluation" / "reference.csv", level=2, remember_paths=False, **options)
    assert "stage_dir" not in hidden.hparams


def test_a_limit_without_a_stage_is_refused(camelyon):
    with pytest.raises(ValueError, match="stage_dir="):
        WSIDataModule(camelyon / "evaluation" / "reference.csv", level=2, stage_max_bytes="1GB")
    with pytest.raises(ValueError, match="stage_max_bytes='lots'"):
        WSIDataModule(camelyon / "evaluation" / "reference.csv", level=2, stage_dir="x", stage_max_bytes="lots")
