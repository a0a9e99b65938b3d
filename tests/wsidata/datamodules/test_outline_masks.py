"""Masks drawn from annotations lie on the pixels of their slides, whichever way these are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from numpy.typing import NDArray

from wsidata import Camelyon16DataModule, WSIDataModule
from wsidata.annotations import Annotations, Outline
from wsidata.slides import outline_masks
from wsidata.slides.masks import MaskError
from wsidata.synthetic.slides import write_camelyon16
from wsidata.tables.text_table import TableError
from wsidata.transforms import Compose, CropOrPad, RandomAffine, RandomD4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes: dict[str, Any] = {"normal": 1, "tumor": 1, "test": 2, "size_px": (300, 240), "tile": 64}
    return write_camelyon16(tmp_path_factory.mktemp("c16"), **sizes, seed=4, masks=True, annotations=True)


@pytest.fixture
def drawn_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outline_masks, "_AT_ONCE_PX", 0)
    monkeypatch.setattr(outline_masks, "_TILE_PX", (64, 16))


def data(folder: Path, **options: Any) -> Camelyon16DataModule:
    options = {"target": "mask", "val_ids": ["normal_001"], "num_workers": 0, "leaks": "off", **options}
    module = Camelyon16DataModule(folder, **options)
    module.setup()
    return module


def masks(module: WSIDataModule, part: Any) -> dict[str, NDArray[np.int64]]:
    found = [module.datasets[part][row][1] for row in range(len(module.datasets[part]))]
    names = module.tables[part]["image_id"]
    return {name: (one if isinstance(one, torch.Tensor) else one.rows(0, one.shape[0])).numpy()
            for name, one in zip(names, found, strict=True)}  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_in_strips")
def test_masks_of_outlines_are_those_of_mask_files_through_every_transform(folder: Path) -> None:
    """At level 0, where the painted masks are exact; the same numbers are drawn for both."""
    turned = Compose([RandomD4(), RandomAffine(degrees=20, scale=(0.8, 1.2)), CropOrPad(200)])
    table = pd.DataFrame({"image": ["tumor_001", "test_002", "normal_001", "test_001"]})
    table["outlines"] = [*table["image"][:2], "none", "None"]
    for options in ({"crop": "pack"}, {"crop": "tissue", "train_transform": turned, "lazy": True}):
        files = table["image"].iloc[:2]
        how: dict[str, Any] = {"level": 0, "class_names": ["normal", "tumor"], "num_workers": 0, "leaks": "off",
                               "test_ids": ["test_002"], "val_fraction": 0.0, "target": "mask", **options}  # fmt: skip
        painted = WSIDataModule(table.iloc[:2], folder / "images", label_column="image", mask_dir=folder / "masks",
                                mask_values=[0, 255], **how)  # fmt: skip
        outlined = WSIDataModule(table, folder / "images", label_column="outlines", mask_dir=folder / "annotations",
                                 outline_classes={"_0": "tumor", "Tumor": "tumor"}, **how)  # fmt: skip
        for module in (painted, outlined):
            module.setup()
        for part in ("train", "test"):
            expected, found = masks(painted, part), masks(outlined, part)
            for name in set(files) & set(expected):
                assert 0 < (expected[name] == 1).sum() < expected[name].size
                np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{name} {options}")
            assert not {"normal_001", "test_001"} & {name for name, one in found.items() if (one == 1).any()}


def test_pixels_have_the_class_that_their_centers_lie_in_at_any_resolution(folder: Path) -> None:
    module = data(folder, mpp=1.7, crop="pack")
    found, dataset = masks(module, "test")["test_002"], module.datasets["test"]
    row = list(module.tables["test"]["image_id"]).index("test_002")
    packing = dataset.packing(row)
    assert packing is not None
    down, across = np.indices(found.shape) + 0.5
    x, y = packing.to_slide(across, down)  # nan outside of the pieces
    area = Annotations.read(folder / "annotations" / "test_002.xml").area()
    near = shapely.dwithin(area.boundary, shapely.points(x, y), 1e-6)
    expected = np.where(np.isnan(x), -100, shapely.contains_xy(area, x, y))
    np.testing.assert_array_equal(found[~near], expected[~near])
    assert (found == 1).any()
    assert near.mean() < 0.01


def test_outlines_of_classes_that_are_not_named_are_refused(folder: Path, tmp_path: Path) -> None:
    square = np.array([[10.0, 10], [90, 10], [90, 90], [10, 90]])
    outlines = (
        Outline(((square,),), "Tumor"),
        Outline(((square + 40,),), "necrosis"),
        Outline(((square + 9e5,),), "x"),
    )
    table = pd.DataFrame({"image": ["test_002"], "stage": ["a"]})
    how: dict[str, Any] = {"mask_dir": tmp_path, "target": "mask", "num_workers": 0, "leaks": "off", "level": 0,
                           "class_names": ["other", "tumor"], "predict_on": "all", "test_ids": ["test_002"],
                           "val_fraction": 0.0}  # fmt: skip

    def opened(count: slice, **options: Any) -> WSIDataModule:
        Annotations(outlines[count]).write(tmp_path / "test_002.tif.geojson")
        module = WSIDataModule(table, folder / "images", **{"label_column": "image", **how, **options})
        module.setup("test")
        return module

    with pytest.raises(MaskError, match=r"has outlines of the class 'Tumor', 'necrosis'.*outline_classes="):
        opened(slice(0, 2))
    found = masks(opened(slice(0, 2), outline_classes={"Tumor": "tumor", "necrosis": None}), "test")["test_002"]
    expected = np.zeros(found.shape, np.int64)
    expected[10:90, 10:90], expected[50:130, 50:130] = 1, -100
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(MaskError, match=r"lies at .* beside the grid"):
        opened(slice(2, 3), outline_classes={"x": "tumor"})
    with pytest.raises(MaskError, match=r"\['cancer'\], which are none of the classes \['other', 'tumor'\]"):
        opened(slice(0, 1), outline_classes={"Tumor": "cancer"})
    with pytest.raises(TableError, match="no file 'a'"):
        opened(slice(0, 1), label_column="stage")
    (tmp_path / "test_002.xml").write_text("")
    with pytest.raises(TableError, match=r"'test_002' fits 2 files .*: test_002.tif.geojson, test_002.xml"):
        opened(slice(0, 1))


def test_annotations_that_are_missing_or_malformed_are_errors_of_setup(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no file 'tumor_001'"):
        data(folder, level=0, mask_dir=folder / "images" / "..")
    (tmp_path / "tumor_001.xml").write_text("<ASAP_Annotations>")
    (tmp_path / "test_002.xml").write_text("<ASAP_Annotations><Annotations/></ASAP_Annotations>")
    with pytest.raises(MaskError, match=r"tumor_001.xml: AnnotationError: .*line 1"):
        data(folder, level=0, mask_dir=tmp_path)
