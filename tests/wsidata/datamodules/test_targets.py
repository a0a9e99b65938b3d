"""The data module beyond one class a slide: other targets, folds, balanced epochs, leaks, statistics."""

import dataclasses
import shutil

import albumentationsxl as A
import numpy as np
import pandas as pd
import pytest
import pyvips
import torch

from wsidata import ImageFolderDataModule, WSIDataModule
from wsidata.datamodules.checks import SlideCheckError
from wsidata.datamodules.geometry import GeometryError
from wsidata.datasets.loader import collate
from wsidata.datasets.slides import SampleError
from wsidata.slides.masks import MaskError
from wsidata.slides.slide import Slide
from wsidata.splits.leaks import LeakError, LeakWarning
from wsidata.stats.compute import channel_stats
from wsidata.synthetic.slides import write_slide
from wsidata.tables.parts import SplitError, SplitWarning
from wsidata.tables.text_table import TableError
from wsidata.transforms.compose import Compose, he_train_transform
from wsidata.transforms.geometry.affine import RandomAffine, RandomD4
from wsidata.transforms.geometry.crop import CropOrPad
from wsidata.transforms.geometry.elastic import Elastic


@pytest.fixture(scope="module")
def table(camelyon):
    frame = pd.read_csv(camelyon / "evaluation" / "reference.csv", dtype=str)
    return frame.assign(found=["a;b", "none", "b", "a"] * 4, age=[f"{i}.5" for i in range(16)])


def module(camelyon, table, **options):
    options = {"level": 1, "image_size": 64, "num_workers": 0, "leaks": "off", "batch_size": 4} | options
    dm = WSIDataModule(table, camelyon / "images", **options)
    dm.setup("fit")
    return dm


@pytest.mark.slow
def test_several_labels_and_numbers_are_float_targets(camelyon, table):
    dm = module(camelyon, table, label_column="found", target="multilabel")
    _, targets = next(iter(dm.val_dataloader()))
    expected = torch.tensor(dm.tables["val"]["target"].tolist()[:4])
    assert targets.dtype == torch.float32
    assert torch.equal(targets, expected)
    positives = torch.tensor(dm.tables["train"]["target"].tolist()).sum(0)
    assert torch.allclose(dm.class_weights, (len(dm.tables["train"]) - positives) / positives)
    dm = module(camelyon, table, label_column="age", target="regression")
    _, targets = next(iter(dm.val_dataloader()))
    assert targets.tolist() == [[float(value)] for value in dm.tables["val"]["label_name"][: len(targets)]]
    with pytest.raises(SplitError, match="kind 'regression' have no class weights"):
        _ = dm.class_weights
    with pytest.raises(SplitError, match="sampling='balanced' needs one class an image"):
        module(camelyon, table, label_column="age", target="regression", sampling="balanced").train_dataloader()


@pytest.fixture(scope="module")
def masked(camelyon, table, tmp_path_factory):
    """Masks that hold the slide's own red channel, so that where a pixel came from can be seen: 1 where it is dark."""
    folder = tmp_path_factory.mktemp("masks")
    for name in table["image"]:
        with Slide(next((camelyon / "images").glob(f"{name}*"))) as slide:
            dark = (slide.numpy(level=0)[:, :, 0] < 200).astype(np.uint8) * 255
        pyvips.Image.new_from_array(dark).write_to_file(str(folder / f"{name}_mask.png"))
    return table.assign(mask=table["image"] + "_mask"), folder


MASKS = {"label_column": "mask", "target": "mask", "class_names": ["light", "dark"], "mask_values": [0, 255]}


@pytest.mark.slow
def test_masks_follow_their_images_through_crops_turns_and_padding(camelyon, masked):
    table, folder = masked
    for options in ({"level": 0, "image_size": 600}, {"level": 0, "image_size": 600, "crop": "pack"}):
        dm = module(camelyon, table, mask_dir=folder, batch_size=2, **MASKS, **options)
        images, masks = next(iter(dm.train_dataloader()))
        assert masks.shape == (2, 600, 600)
        assert masks.dtype == torch.int64
        inside = masks >= 0
        assert 0 < float(inside.float().mean()) < 1  # 600 pixels are more than the slide has: there is padding
        assert torch.equal((images[:, 0] < 200)[inside], (masks == 1)[inside])
        assert (images[:, 0][masks == -100] == 255).all()
        loss = torch.nn.functional.cross_entropy(torch.randn(2, 2, 600, 600), masks)
        assert torch.isfinite(loss)


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True])
def test_masks_are_drawn_over_the_batch(camelyon, masked, tmp_path, lazy):
    table, folder = masked
    dm = module(camelyon, table, mask_dir=folder, lazy=lazy, **MASKS)
    figure = dm.show_batch(max_images=2, path=tmp_path / "batch.png")
    assert [len(axis.images) for axis in figure.axes] == [2, 2]


def test_masks_that_do_not_fit_are_all_named_before_training(camelyon, masked, tmp_path):
    table, folder = masked
    shutil.copytree(folder, tmp_path / "masks")
    pyvips.Image.black(100, 300).write_to_file(str(tmp_path / "masks" / "normal_001_mask.png"))
    (tmp_path / "masks" / "tumor_001_mask.png").write_bytes(b"cut off")
    with pytest.raises(MaskError, match=r"(?s)2 problems:.*normal_001_mask.png: MaskError.*shape.*tumor_001_mask.png"):
        module(camelyon, table, mask_dir=tmp_path / "masks", **MASKS)


def test_lazy_masks_are_those_that_are_read_whole(camelyon, masked):
    table, folder = masked
    dm = module(camelyon, table, mask_dir=folder, lazy=True, level=0, image_size=600, crop="pack", **MASKS)
    dataset = dm.train_dataloader().dataset
    images, masks = collate([dataset[0], dataset[1]])
    for image, mask in zip(images, masks, strict=True):
        assert mask.shape == image.shape[1:] == (600, 600)
        pixels, numbers = image.rows(0, 600), mask.rows(0, 600)
        inside = numbers >= 0
        assert 0 < float(inside.float().mean()) < 1
        assert torch.equal((pixels[0] < 200)[inside], (numbers == 1)[inside])
        assert (pixels[0][~inside] == 255).all()


@pytest.mark.slow
def test_folds_partition_the_rows_that_are_not_test(camelyon, table):
    folds = [module(camelyon, table, test_prefix="test_", k_fold=(i, 3)) for i in range(3)]
    validated = [name for dm in folds for name in dm.tables["val"]["image_id"]]
    assert sorted(validated) == sorted(name for name in table["image"] if not name.startswith("test_"))
    assert len({dm.split_digest for dm in folds}) == 3
    again = module(camelyon, table.iloc[::-1], test_prefix="test_", k_fold=(1, 3))
    assert again.split_digest == folds[1].split_digest
    assert module(camelyon, table, test_prefix="test_", k_fold=(1, 3), repeat=1).split_digest != again.split_digest


@pytest.mark.filterwarnings("ignore:val has no image of class")  # few slides
def test_balanced_epochs_draw_classes_equally_and_augment_repeats_anew(camelyon, table):
    uneven = table[~table["image"].isin([f"tumor_00{i}" for i in range(3, 7)])]
    dm = module(camelyon, uneven, val_ids=["test_001"], sampling="balanced", batch_size=1)
    with pytest.warns(SplitWarning):
        _ = module(camelyon, uneven, val_ids=["test_001"]).labels
    torch.manual_seed(0)
    samples = [(image.numpy().tobytes(), int(label)) for image, label in dm.train_dataloader()]
    counts = np.bincount([label for _, label in samples])
    assert len(samples) == len(dm.tables["train"])
    assert abs(counts[0] - counts[1]) <= 1
    tumours = [image for image, label in samples if label == 1]
    assert len(set(tumours)) > dm.tables["train"]["label"].sum()  # more pictures than slides


def test_leaks_are_an_error_or_a_warning_before_training(camelyon, table, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(camelyon / "images", folder)
    shutil.copy(folder / "normal_001.tif", folder / "test_001.tif")
    options = {"test_prefix": "test_", "level": 2, "num_workers": 0, "leak_checks": ["content"]}
    with pytest.raises(LeakError, match=r"the same file .* train .'normal_001'.* and test .'test_001'"):
        WSIDataModule(table, folder, leaks="error", val_ids=["normal_002", "tumor_002"], **options).setup("fit")
    with pytest.warns(LeakWarning, match="group_column="):
        WSIDataModule(table, folder, val_ids=["normal_002", "tumor_002"], **options).setup("fit")
    with pytest.raises(ValueError, match="leaks='loud' is not one of off, warn, error"):
        WSIDataModule(table, folder, leaks="loud", **options)


def test_site_in_two_parts_is_a_leak_if_sites_are_given(camelyon, table):
    sites = table.assign(site=["east", "west"] * 8)
    with pytest.raises(LeakError, match=r"site '(east|west)' is in train"):
        module(camelyon, sites, site_column="site", leaks="error", leak_checks=["site"])


@pytest.mark.slow
def test_statistics_go_with_the_checkpoint(camelyon, table, tmp_path):
    first = module(camelyon, table)
    assert first.state_dict()["stats"] is None  # not computed unasked
    stats = channel_stats(first.tables["train"]["path"], level=1)
    assert first.stats == stats
    second = module(camelyon, table)
    second.load_state_dict(first.state_dict())
    assert second.__dict__["stats"] == stats
    stats.save(tmp_path / "stats.json")
    module(camelyon, table, stats=tmp_path / "stats.json").load_state_dict(first.state_dict())
    other = channel_stats(first.tables["train"]["path"][:2], level=1)
    with pytest.raises(SplitError, match="trained with other channel statistics"):
        module(camelyon, table, stats=other).load_state_dict(first.state_dict())


def test_labels_that_a_part_lacks_are_warned_of(camelyon):
    table = pd.read_csv(camelyon / "evaluation" / "reference.csv", dtype=str)
    table["labels"] = ["a"] * (len(table) - 1) + ["a; rare"]
    dm = WSIDataModule(
        table, camelyon / "images", label_column="labels", target="multilabel", level=1, num_workers=0, leaks="off"
    )
    with pytest.warns(SplitWarning, match=r"(val|train) has no image of class 'rare'"):
        assert dm.class_names == ("a", "rare")


@pytest.fixture
def one_class(tmp_path):
    """Four slides of 300 x 300 px, all of class 1."""
    for i in range(4):
        write_slide(tmp_path / f"s{i}.tif", width=300, height=300, tile=64, seed=i)
        pyvips.Image.new_from_array(np.ones((300, 300), np.uint8)).pngsave(str(tmp_path / f"s{i}_m.png"))
    table = pd.DataFrame({"image": [f"s{i}" for i in range(4)], "mask": [f"s{i}_m" for i in range(4)]})

    def make(**options):
        dm = WSIDataModule(
            table, tmp_path, label_column="mask", target="mask", level=0, num_workers=0, leaks="off",
            **{"class_names": ["tumor", "stroma"]} | options,
        )  # fmt: skip
        dm.setup("fit")
        return dm

    return make


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 400},
        {"train_transform": he_train_transform(400)},
        {"train_transform": CropOrPad(400)},
        {"train_transform": A.Compose([A.CropOrPad(400, 400)])},
        {"train_transform": Compose([A.Compose([A.HorizontalFlip(p=1), A.CropOrPad(400, 400)]), RandomD4()])},
    ],
)
def test_padding_is_of_no_class_whatever_pads(one_class, options):
    mask = next(iter(one_class(**options).train_dataloader()))[1]
    assert mask.shape == (1, 400, 400)
    assert {value: int((mask == value).sum()) for value in mask.unique().tolist()} == {-100: 70_000, 1: 90_000}


@pytest.mark.parametrize("transform", [RandomAffine(degrees=30), Elastic(alpha_px=30, cell_px=128)])
def test_what_comes_from_outside_is_of_no_class(one_class, transform):
    mask = next(iter(one_class(train_transform=transform).train_dataloader()))[1]
    assert set(mask.unique().tolist()) == {-100, 1}


def test_a_value_that_was_asked_for_stands_for_padding(one_class):
    mask = next(iter(one_class(train_transform=CropOrPad(400, mask_fill=0)).train_dataloader()))[1]
    assert set(mask.unique().tolist()) == {0, 1}


def test_masks_that_become_tensors_are_refused(one_class):
    dm = one_class(train_transform=A.Compose([A.CropOrPad(400, 400), A.ToTensor()]))
    with pytest.raises(SampleError, match="leave out ToTensor"):
        next(iter(dm.train_dataloader()))


def test_merged_classes_of_masks_are_refused(one_class):
    with pytest.raises(ValueError, match="merges classes, which masks do not"):
        one_class(class_names={"bg": "bg", "tumor": "t", "stroma": "t"})


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"level": 2}, {"level": 1, "crop": "tissue"}])
def test_statistics_of_other_pixels_are_refused_given_or_remembered(camelyon, table, options):
    first = module(camelyon, table)
    _ = first.stats
    other = WSIDataModule(table, camelyon / "images", num_workers=0, leaks="off", stats=first.stats, **options)
    with pytest.raises(SlideCheckError, match=r"stats= are of slides read at {'level': 1} with crop=None.*stats= out"):
        other.setup("fit")
    again = WSIDataModule(table, camelyon / "images", num_workers=0, leaks="off", **options)
    with pytest.raises(GeometryError, match="trained on images read with"):
        again.load_state_dict(first.state_dict())
    own = dataclasses.replace(first.stats, resolution={})
    WSIDataModule(table, camelyon / "images", num_workers=0, leaks="off", stats=own, **options).setup("fit")


@pytest.mark.parametrize("kind", [WSIDataModule, ImageFolderDataModule])
def test_decimal_commas_are_read_if_asked_for(camelyon, table, kind):
    frame = table.assign(dose=[f"{row},5" for row in range(len(table))])
    options = {"label_column": "dose", "target": "regression", "leaks": "off"}
    options |= {"level": 2} if kind is WSIDataModule else {"unlisted": "off", "image_size": 64}
    with pytest.raises(TableError, match="pass decimal=','"):
        kind(frame, camelyon / "images", **options).setup("fit")
    dm = kind(frame, camelyon / "images", **options, decimal=",")
    dm.setup("fit")
    found = dm.labels.frame.sort_index()
    assert [target[0] for target in found["target"]] == [float(name.replace(",", ".")) for name in frame["dose"]]
    assert dm.hparams["decimal"] == ","
