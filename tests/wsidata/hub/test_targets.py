"""Masks, several labels, numbers and tables without labels are published and loaded like classes."""

import numpy as np
import pandas as pd
import pytest
import pyvips
import torch
from lightning import seed_everything

from wsidata import Camelyon16DataModule, HubDataModule, Slide, WSIDataModule, export
from wsidata.hub.client import HubWarning
from wsidata.synthetic.slides import write_camelyon16


@pytest.fixture(scope="module")
def table(camelyon, tmp_path_factory):
    """A row per slide with every kind of target, and the folder of the masks."""
    frame = pd.read_csv(camelyon / "evaluation" / "reference.csv", dtype=str)
    folder = tmp_path_factory.mktemp("masks")
    for name in frame["image"]:
        with Slide(camelyon / "images" / f"{name}.tif") as slide:
            dark = (slide.numpy(level=0)[:, :, 0] < 200).astype(np.uint8) * 255
        pyvips.Image.new_from_array(dark).write_to_file(str(folder / f"{name}.png"))
    rows = range(len(frame))
    frame = frame.assign(
        found=["a;b", "none", "b", "a"] * 4, age=[f"{i}.5" for i in rows], patient=[f"p{i}" for i in rows]
    )
    return frame.assign(mask=frame["image"]), folder


def epoch(dm):
    """All batches of the labeled parts, and of prediction."""
    seed_everything(3, verbose=False)
    dm.setup("fit")
    labeled = [batch for part in ("train", "val", "test") if len(dm.tables[part]) and part in dm.datasets
                and dm.labels.class_names for batch in getattr(dm, f"{part}_dataloader")()]  # fmt: skip
    return [tensor for batch in labeled for tensor in batch] + list(dm.predict_dataloader())


MASKS = {"label_column": "mask", "target": "mask", "class_names": ["light", "dark"], "mask_values": [0, 255]}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["files", "parquet"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(MASKS | {"crop": "pack", "image_size": 400}, id="masks, packed and padded"),
        pytest.param({"label_column": "found", "target": "multilabel", "group_column": "patient"}, id="several labels"),
        pytest.param({"label_column": "age", "target": "regression"}, id="numbers"),
        pytest.param({"label_column": None, "test_prefix": None}, id="no labels"),
    ],
)
def test_targets_are_the_published_ones(camelyon, table, tmp_path, options, layout):
    frame, masks = table
    common = {"level": 1, "image_size": 64, "num_workers": 0, "batch_size": 2, "leaks": "off", "test_prefix": "test_"}
    folder = {"mask_dir": masks} if "mask_values" in options else {}
    dm = WSIDataModule(frame, camelyon / "images", **{**common, **options, **folder})
    export(dm, tmp_path / "out", quiet=True, say=lambda _: None, stats=False, layout=layout)
    again = HubDataModule(tmp_path / "out", num_workers=0, leaks="off", cache_dir=tmp_path / "cache")
    ours, theirs = epoch(dm), epoch(again)
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(first, second) for first, second in zip(ours, theirs, strict=True))
    assert (again.class_names, again.labels.target) == (dm.class_names, dm.labels.target)
    assert again.split_digest == dm.split_digest
    if "mask_values" in options:
        assert set(torch.cat([mask.flatten() for mask in theirs if mask.ndim == 3]).unique().tolist()) == {-100, 0, 1}
        lazily = HubDataModule(tmp_path / "out", num_workers=0, lazy=True, leaks="off", cache_dir=tmp_path / "cache")
        with pytest.warns(HubWarning, match="decoded whole"):
            by_rows = epoch(lazily)
        by_rows = [torch.stack([one.rows(0, 400) for one in batch]) for batch in by_rows]
        assert all(torch.equal(first, second) for first, second in zip(by_rows, theirs, strict=True))


@pytest.mark.slow
def test_masks_drawn_from_annotations_are_published(tmp_path):
    sizes = {"normal": 2, "tumor": 2, "test": 0, "size_px": (150, 120), "tile": 64}
    folder = write_camelyon16(tmp_path / "c16", **sizes, seed=4, annotations=True)
    common = {"level": 0, "num_workers": 0, "leaks": "off", "image_size": 128, "val_ids": ["normal_002", "tumor_002"]}
    dm = Camelyon16DataModule(folder, target="mask", **common)
    dm.setup("fit")
    export(dm, tmp_path / "out", quiet=True, say=lambda _: None, stats=False)
    again = HubDataModule(tmp_path / "out", num_workers=0, leaks="off", cache_dir=tmp_path / "cache")
    ours, theirs = epoch(dm), epoch(again)
    assert all(torch.equal(first, second) for first, second in zip(ours, theirs, strict=True))
    assert sum(int((mask == 1).sum()) for mask in theirs if mask.ndim == 3) > 0
