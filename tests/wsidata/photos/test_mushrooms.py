"""Counts, split, pixels and statistics of real photos, compared with pandas, NumPy and Pillow."""

import csv
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from places import PHOTOS

from wsidata import ImageFolderDataModule

TABLE = PHOTOS / "raw_img_labels.csv"
pytestmark = pytest.mark.skipif(not TABLE.exists(), reason="the mushroom photos are not here")


def module(**options):
    options = {"table": TABLE, "label_column": "label", "num_workers": 0, "leaks": "off"} | options
    return ImageFolderDataModule(**options)


@pytest.fixture(scope="module")
def truth():
    """Label of each photo, read without any of this package."""
    with TABLE.open(newline="") as file:
        return {row["image"].strip(): int(row["label"]) for row in csv.DictReader(file)}


def counts(table):
    return Counter(int(name) for name in table["label_name"])


def test_photos_and_classes_are_those_of_the_table(truth):
    labels = module().labels
    assert dict(zip(labels.frame["image_id"], labels.frame["label"], strict=True)) == truth
    assert len(truth) == 244
    assert labels.class_names == tuple(str(number) for number in range(31))
    files = {path.stem: str(path) for path in PHOTOS.iterdir() if path.suffix.lower() == ".jpg"}
    assert dict(zip(labels.frame["image_id"], labels.frame["path"], strict=True)) == files
    assert sum(path.endswith(".JPG") for path in labels.frame["path"]) == 22


@pytest.mark.parametrize(("val", "test", "sizes"), [(0.25, 0.0, (183, 61, 0)), (0.15, 0.15, (170, 37, 37))])
def test_every_class_is_split_in_proportion(truth, val, test, sizes):
    dm = module(val_fraction=val, test_fraction=test)
    whole = Counter(truth.values())
    assert tuple(len(dm.tables[part]) for part in ("train", "val", "test")) == sizes
    names = [name for part in ("train", "val", "test") for name in dm.tables[part]["image_id"]]
    assert sorted(names) == sorted(truth)
    for part, fraction in (("train", 1 - val - test), ("val", val), ("test", test)):
        found = counts(dm.tables[part])
        if fraction:
            assert min(found[label] for label in whole) >= 1
            assert max(abs(found[label] - fraction * whole[label]) for label in whole) < 2


@pytest.mark.slow
def test_folds_are_stratified_and_cover_everything(truth):
    folds = [module(k_fold=(i, 4)).tables["val"] for i in range(4)]
    assert sorted(name for fold in folds for name in fold["image_id"]) == sorted(truth)
    whole = Counter(truth.values())
    for fold in folds:
        assert max(abs(counts(fold)[label] - whole[label] / 4) for label in whole) < 1


def test_five_folds_name_the_classes_of_four():
    with pytest.raises(ValueError, match=r"class '12', '7' has only 4 images"):
        _ = module(k_fold=(0, 5)).tables


@pytest.mark.slow
@pytest.mark.parametrize("apply_icc", [False, True])
def test_statistics_are_those_of_all_pixels_of_the_training_photos(apply_icc):
    dm = module(apply_icc=apply_icc, val_fraction=0.25)
    pixel_count, sums, squares = 0, np.zeros(3), np.zeros(3)
    for path in dm.tables["train"]["path"]:
        with Image.open(path) as photo:
            pixels = np.asarray(ImageOps.exif_transpose(photo).convert("RGB"), dtype=np.float64) / 255
        pixel_count += pixels.shape[0] * pixels.shape[1]
        sums += pixels.sum((0, 1))
        squares += (pixels**2).sum((0, 1))
    mean = sums / pixel_count
    std = np.sqrt(squares / pixel_count - mean**2)
    tolerance = 0.005 if apply_icc else 1e-6  # Pillow leaves colors as they are stored
    assert dm.stats.count_px == pixel_count
    np.testing.assert_allclose(dm.stats.mean, mean, atol=tolerance, rtol=0)
    np.testing.assert_allclose(dm.stats.std, std, atol=tolerance, rtol=0)


@pytest.mark.slow
def test_batches_show_what_pillow_shows():
    dm = module(image_size=224, eval_transform=None, apply_icc=False, predict_on="val", val_fraction=0.25)
    dm.setup("predict")
    images = torch.cat(list(dm.predict_dataloader())).float()
    assert images.shape == (61, 3, 224, 224)
    differences = []
    for image, path in zip(images, dm.tables["predict"]["path"], strict=True):
        with Image.open(path) as opened:
            photo = ImageOps.exif_transpose(opened).convert("RGB")
        factor = 256 / min(photo.size)
        size = [max(256, round(side * factor)) for side in photo.size]
        left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
        expected = photo.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
        differences.append(np.abs(np.asarray(expected, dtype=np.float32) - image.permute(1, 2, 0).numpy()).mean())
    assert np.median(differences) < 1
    assert max(differences) < 3
