"""The data module of tiles, compared with whole slides and with counting pixels."""

import pickle

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import tifffile
import torch
from lightning import seed_everything
from mean_color import Mean, trainer

from wsidata import Slide, TileDataModule, TissueFiles, TissueWithout
from wsidata.datamodules.checks import SlideCheckError
from wsidata.datamodules.geometry import GeometryError
from wsidata.hub.export.plan import plan_export
from wsidata.hub.export.writer import ExportError
from wsidata.slides import find_tissue, otsu_density
from wsidata.synthetic.slides import write_camelyon16
from wsidata.synthetic.tissue import tumor_mask

GROUPS = {"_0": "tumor", "_1": "tumor", "Tumor": "tumor"}


def module(folder, **options):
    options = {"level": 0, "tile_size": 64, "test_prefix": "test_", "leaks": "off", "num_workers": 0} | options
    return TileDataModule(options.pop("table", folder / "evaluation" / "reference.csv"), folder / "images", **options)


@pytest.fixture(scope="module")
def outlined(tmp_path_factory):
    """Two slides with tumor, which is outlined, and two without."""
    folder = tmp_path_factory.mktemp("outlined")
    return write_camelyon16(folder, normal=2, tumor=2, test=0, size_px=(640, 600), tile=64, annotations=True)


def outlined_module(folder, **options):
    table = pd.read_csv(folder / "evaluation" / "reference.csv").assign(split=["train", "val"] * 2)
    labels = {"annotation_dir": folder / "annotations", "outline_classes": GROUPS, "unannotated": ["normal"]}
    how = {"test_prefix": None, "split_column": "split", "label_column": "type", "min_tissue": 0.5, "stride": 32}
    return module(folder, table=table, **(how | labels | options))


@pytest.mark.slow
def test_tiles_of_every_loader_are_regions_of_their_slides(camelyon, tmp_path):
    table = pd.read_csv(camelyon / "evaluation" / "reference.csv").iloc[[0, 1, 6, 7, 12, 13]]
    how = {"mpp": 0.7, "level": None, "stride": (64, 48), "border": "pad", "min_tissue": 0.3}
    dm = module(camelyon, table=table, batch_size=3, val_fraction=0.5, **how)
    dm.setup("fit")
    table = dm.tile_table("test")
    places = torch.cat([batch[1] for batch in dm.predict_dataloader()])
    tiles = torch.cat([batch[0] for batch in dm.predict_dataloader()])
    labels = torch.cat([batch[1] for batch in dm.test_dataloader()])
    assert len(tiles) == len(table) == len(dm.datasets["test"]) > 5
    assert dm.tables["predict"]["image_id"].iloc[places[:, 0].numpy()].tolist() == table["image_id"].tolist()
    assert places[:, 1:].tolist() == table[["x_lv0", "y_lv0"]].to_numpy().tolist()
    assert labels.tolist() == table["label"].tolist()
    assert table["tissue"].min() >= 0.3
    for tile, (path, x, y) in zip(
        tiles[::3], table[["path", "x_lv0", "y_lv0"]].iloc[::3].itertuples(index=False), strict=True
    ):
        with Slide(path) as slide:
            assert np.array_equal(tile.permute(1, 2, 0).numpy(), slide.read_region(x, y, 64, 64, mpp=0.7))
    counts = np.bincount(dm.tile_table("train")["label"])
    assert dm.class_weights.tolist() == pytest.approx((counts.sum() / (2 * counts)).tolist())
    pixels = np.concatenate([image.numpy().reshape(3, -1) for image in untransformed(dm)], axis=1).astype(np.int64)
    mean, square = pixels.sum(axis=1) / pixels.shape[1], (pixels**2).sum(axis=1) / pixels.shape[1]
    assert dm.stats.mean == pytest.approx(mean / 255, abs=1e-12)
    assert dm.stats.std == pytest.approx(np.sqrt(square - mean**2) / 255, abs=1e-9)
    figure = dm.show_batch("test", max_images=4, path=tmp_path / "tiles.png")
    assert "of " + str(len(table)) + " tiles" in figure.get_suptitle()


def untransformed(dm):
    """The training tiles as they are read, without augmentation."""
    dataset = dm.make_dataset("train")
    dataset.transform = dm.make_dataset("val").transform
    return [dataset.image(row) for row in range(len(dataset))]


@pytest.mark.slow
def test_random_places_are_new_each_epoch_and_the_same_in_any_process(camelyon):
    random = {"train_tiles": "random", "tiles_per_epoch": 30, "min_tissue": 0.6, "downsample": 1.3, "level": None}
    dm = module(camelyon, **random, balance="classes")
    dm.setup("fit")
    dataset = dm.datasets["train"]
    torch.manual_seed(5)
    dataset.begin_epoch()
    first = [dataset[row] for row in range(30)]
    twin = pickle.loads(pickle.dumps(dataset))  # as workers get it, each of which reads some of the rows
    for row in (29, 3, 17, 4):
        assert torch.equal(twin[row][0], first[row][0])
        assert twin[row][1] == first[row][1]
        tile, tissue = dataset.tile(row), dataset._tissue(dataset.slide_of(row))
        edges = (tile.x, tile.y, tile.x + 64, tile.y + 64)
        assert tissue.share(*(1.3 * edge for edge in edges)) >= 0.6
        with Slide(dataset.paths[row]) as slide:
            assert (tile.x, tile.y) >= (0, 0)
            assert tile.inside(*slide.size_at(downsample=1.3)) == tile
    places = [dataset.tile(row) for row in range(30)]
    assert len(set(places)) == 30
    dataset.begin_epoch()
    assert [dataset.tile(row) for row in range(30)] != places
    dataset.random_tiles = 2000
    assert np.mean([dataset.label(row) for row in range(2000)]) == pytest.approx(0.5, abs=0.05)
    by_slide = module(camelyon, **random, balance="slides")
    by_slide.setup("fit")
    dataset = by_slide.datasets["train"]
    dataset.random_tiles = 4000
    counts = np.bincount([dataset.slide_of(row) for row in range(4000)])
    assert counts.min() > 0.8 * 4000 / len(counts)
    assert counts.max() < 1.2 * 4000 / len(counts)


@pytest.mark.slow
def test_annotations_label_tiles_by_their_exact_share(outlined):
    dm = outlined_module(outlined, annotation_share=(0.1, 0.4))
    dm.setup("fit")
    assert (dm.class_names, dm.target) == (("background", "tumor"), "class")
    seeds = [np.random.default_rng([0, number]) for number in range(4)]
    found = {-100: 0, 0: 0, 1: 0}
    for part in ("train", "val"):
        for row in dm.tile_table(part).itertuples():
            share = 0.0
            if row.image_id.startswith("tumor"):
                share = tumor_of(row.image_id, seeds)[row.y_lv0 : row.y_lv0 + 64, row.x_lv0 : row.x_lv0 + 64].mean()
            expected = 1 if share >= 0.4 else 0 if share <= 0.1 else -100
            assert row.label == expected
            found[expected] += 1
    assert min(found.values()) > 5
    labeled = dm.tile_table("val", labeled=True)["label"].tolist()
    assert torch.cat([batch[1] for batch in dm.val_dataloader()]).tolist() == labeled
    assert -100 not in labeled
    assert sum(len(dm.datasets[part]) for part in ("train", "val")) == found[0] + found[1]


_masks = {}


def tumor_of(image_id, seeds):
    """Where the slide has tumor, (height, width), drawn as `write_camelyon16` does."""
    if image_id not in _masks:
        rng = np.random.default_rng([0, 2 + int(image_id[-1]) - 1])
        rng.integers(2)
        width, height = (int(side * rng.uniform(0.92, 1.0)) for side in (640, 600))
        _masks[image_id] = tumor_mask(width, height, seed=int(rng.integers(2**31)))
    return _masks[image_id]


@pytest.mark.slow
def test_classes_of_annotations_are_drawn_equally_often(outlined):
    random = {"train_tiles": "random", "tiles_per_epoch": 200, "balance": "annotations"}
    dm = outlined_module(outlined, **random, annotation_share=(0.2, 0.7))
    dm.setup("fit")
    dataset = dm.datasets["train"]
    dataset.begin_epoch()
    labels = [dataset.label(row) for row in range(200)]
    assert 0.35 < np.mean(labels) < 0.65
    for row in range(0, 200, 7):
        tile, share = dataset.tile(row), 0.0
        if dataset.image_ids[row].startswith("tumor"):
            share = tumor_of(dataset.image_ids[row], None)[tile.y : tile.y + 64, tile.x : tile.x + 64].mean()
        assert labels[row] == int(share >= 0.7)
        assert share <= 0.2 or share >= 0.7
    images, targets = next(iter(dm.train_dataloader()))
    assert (images.shape, targets.dtype) == ((1, 3, 64, 64), torch.int64)


@pytest.mark.slow
def test_bags_are_the_tiles_of_a_slide(camelyon):
    dm = module(camelyon, bags=True, max_tiles=5, batch_size=2)
    dm.setup("fit")
    bags, labels = next(iter(dm.train_dataloader()))
    assert [bag.shape for bag in bags] == [(5, 3, 64, 64)] * 2
    assert labels.shape == (2,)
    bags, places = next(iter(dm.predict_dataloader()))
    table = dm.tile_table("predict").groupby("image_id", sort=False)
    whole = next(iter(table))[1]
    kept = whole.iloc[np.linspace(0, len(whole) - 1, 5).round()]
    assert places[0].tolist() == kept[["x_lv0", "y_lv0"]].to_numpy().tolist()
    with Slide(kept["path"].iloc[0]) as slide:
        for image, (x, y) in zip(bags[0], places[0].tolist(), strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), slide.read_region(x, y, 64, 64))
    dataset = dm.datasets["train"]
    before = dataset.chosen(0).tolist()
    dataset.begin_epoch()
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(dataset[0][0], again[0][0])
    assert dataset.chosen(0).tolist() != before


def test_the_way_to_find_tissue_is_that_of_the_checkpoint(camelyon):
    def content(method):
        dm = module(camelyon, tissue_method=method)
        return {"TileDataModule": dm.state_dict(), "datamodule_hyper_parameters": dict(dm.hparams)}

    slides, method = camelyon / "images", TissueWithout(("pen", "fold"), otsu_density)
    assert TileDataModule.from_checkpoint(content(find_tissue), slides).tissue_method is find_tissue
    trained = content(method)
    assert TileDataModule.from_checkpoint(trained, slides).tissue_method == method
    with pytest.raises(GeometryError, match="tissue_method"):
        TileDataModule.from_checkpoint(trained, slides, tissue_method=find_tissue)
    meant = {"tissue_method": find_tissue, "allow_changed": ["tissue_method"]}
    assert TileDataModule.from_checkpoint(trained, slides, **meant).tissue_method is find_tissue
    with pytest.raises(GeometryError, match="Pass tissue_method="):
        TileDataModule.from_checkpoint(content(TissueFiles(slides)), slides)
    with pytest.raises(GeometryError, match="tissue_method"):
        module(camelyon).load_state_dict(trained["TileDataModule"])


@pytest.mark.slow
def test_checkpoints_keep_what_tiles_need(camelyon, tmp_path):
    seed_everything(1)
    dm = module(camelyon, batch_size=64, min_tissue=0.9)
    assert "tile_size" not in dm.hparams_initial  # loggers refuse it beside a model's own tile_size
    run = trainer(tmp_path, max_epochs=1)
    run.fit(Mean(), datamodule=dm)
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = TileDataModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert (again.grid, again.split_digest) == (dm.grid, dm.split_digest)
    new = TileDataModule.from_checkpoint(tmp_path / "a.ckpt", camelyon / "images", min_tissue=0.9, num_workers=0)
    new.setup("predict")
    assert (new.grid, len(new.datasets["predict"])) == (
        dm.grid,
        sum(len(dm.tile_table(p)) for p in ("train", "val", "test")),
    )
    other = module(camelyon, tile_size=32)
    with pytest.raises(GeometryError, match=r"image_size=\[64, 64\].*image_size=\[32, 32\]"):
        trainer(tmp_path).validate(Mean(), datamodule=other, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    with pytest.raises(ExportError, match="tiles are not exported"):
        plan_export(dm)


@pytest.mark.slow
def test_slides_without_tiles_or_annotations_are_named(camelyon, outlined):
    with pytest.raises(SlideCheckError, match=r"has 14 problems:(.|\n)*no tile of 64 x 64 px has"):
        module(camelyon, tile_size=64, downsample=5, level=None, min_tissue=1.0).setup("fit")
    with pytest.raises(SlideCheckError, match=r"no annotation file of 'normal_001' \(normal\)(.|\n)*unannotated="):
        outlined_module(outlined, unannotated=[]).setup("fit")
    with pytest.raises(SlideCheckError, match="outlines of the class"):
        outlined_module(outlined, outline_classes={"Stroma": "stroma"}).setup("fit")
    skipping = outlined_module(outlined, unannotated=[], on_error="skip")
    assert set(skipping.find_unreadable()) == {"normal_001", "normal_002"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": None}, r"needs tile_size="),
        ({"crop": "tissue"}, r"crop= is for whole slides"),
        ({"lazy": True}, r"lazy= is for whole slides"),
        ({"train_tiles": "random"}, r"needs tiles_per_epoch="),
        ({"tiles_per_epoch": 10}, r"are for train_tiles='random'"),
        ({"train_tiles": "random", "tiles_per_epoch": 9, "balance": "annotations"}, r"needs annotation_dir="),
        ({"train_tiles": "random", "tiles_per_epoch": 9, "bags": True}, r"for single tiles"),
        ({"annotation_dir": "a"}, r"needs outline_classes="),
        ({"outline_classes": ["T"]}, r"needs annotation_dir="),
        ({"annotation_dir": "a", "outline_classes": ["T"], "annotation_share": (0.6, 0.5)}, r"annotation_share="),
        ({"max_tiles": 3}, r"with bags=True"),
        ({"channels": [0]}, r"cannot be found by color"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(camelyon, options, message):
    with pytest.raises(ValueError, match=message):
        module(camelyon, **options)


def test_a_parquet_of_tiles_says_how_they_are_read_in_the_names_of_others(outlined, tmp_path):
    """Places and sizes give the tile to OpenSlide-like readers; what a slide does not state is empty."""
    table = pd.DataFrame({"image": ["normal_001", "tumor_001"], "class": ["a", "b"]})
    dm = module(outlined, table=table, mpp=1.0, level=None, stride=32, label_column=None, test_prefix=None)
    dm.setup("predict")
    dm.save_tiles(tmp_path / "new" / "tiles.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "new" / "tiles.parquet").to_pylist()
    expected = dm.tile_table("predict")
    assert [(one["name"], one["path"], one["x"], one["y"], one["tissue"]) for one in rows] == list(
        expected[["image_id", "path", "x_lv0", "y_lv0", "tissue"]].itertuples(index=False, name=None)
    )
    for row in rows[:: len(rows) // 5]:
        with Slide(row["path"]) as slide, tifffile.TiffFile(row["path"]) as file:
            assert (row["level0_height"], row["level0_width"]) == file.pages[0].shape[:2]
            assert (row["mpp_x"], row["mpp_y"]) == pytest.approx((1.0, 1.0))
            assert row["downsample_x"] == pytest.approx(1.0 / slide.mpp[0])
            assert row["base_width"] == row["base_height"] == row["patch_size_level0"] == round(64 / slide.mpp[0])
            assert row["level0_magnification"] is row["target_magnification"] is slide.magnification is None
    read = {name: rows[0][name] for name in ("patch_size", "width", "height", "stride_width", "overlap")}
    assert read == {"patch_size": 64, "width": 64, "height": 64, "stride_width": 32, "overlap": 32}
    assert {one["patch_level"] for one in rows if one["downsample_x"] == 2.0} <= {1, None}
    other = module(outlined, table=table, level=1, tile_size=(32, 48), label_column=None, test_prefix=None)
    other.setup("predict")
    other.save_tiles(tmp_path / "other.parquet", "predict")
    found = pyarrow.parquet.read_table(tmp_path / "other.parquet")
    assert [str(found.schema.field(name).type) for name in ("x", "patch_size", "mpp_x")] == ["int64", "int64", "double"]
    first = found.to_pylist()[0]
    assert [first[name] for name in ("patch_size", "overlap", "width", "height", "patch_level")] == [
        None, None, 48, 32, 1,
    ]  # fmt: skip
    other.save_tiles(tmp_path / "none.parquet", "test")
    assert pyarrow.parquet.read_table(tmp_path / "none.parquet").num_rows == 0
