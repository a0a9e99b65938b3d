"""Outlined regions become slides of their own, with their pixels, their outlines, and the group of their slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from wsidata import WSIDataModule
from wsidata.__main__ import main
from wsidata.annotations import AnnotationError, Annotations, Outline
from wsidata.slides.exchange.region_files import write_regions
from wsidata.synthetic.slides import write_slide
from wsidata.tables.text_table import TableError


def box(left: float, top: float, right: float, bottom: float, name: str, removes: str = "") -> Outline:
    ring = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    return Outline(((ring,),), name, f"{name} here", removes=removes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of 300 x 200 px, each with a core of 80 x 60 px, in which 40 x 30 px are tumor; and one without."""
    folder = tmp_path_factory.mktemp("cores")
    (folder / "annotations").mkdir()
    for number, name in enumerate("abc"):
        write_slide(folder / f"{name}.tif", width=300, height=200, seed=number, tile=64, compression="deflate", mpp=1.0)
    for name, x in (("a", 20), ("b", 200)):
        cores = [box(x + 0.5, 30, x + 79.5, 90, "core"), box(x + 10, 40, x + 50, 70, "tumor")]
        cores += [box(x + 20, 50, x + 30, 60, "Exclusion", "all"), box(250 - x, 150.2, 400, 199, "core")]
        Annotations(tuple(cores)).write(folder / "annotations" / f"{name}.xml")
    table = pd.DataFrame({"image": ["a.tif", "b.tif", "c.tif"], "patient": ["07", "07", "08"], "grade": [1, 2, 3]})
    table.to_csv(folder / "slides.csv", index=False)
    return folder


@pytest.mark.slow
def test_regions_are_slides_of_their_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["regions", str(folder / "slides.csv"), "--annotations", str(folder / "annotations"), "-o", str(tmp_path)]
    command += ["--outline-class", "core", "--group-column", "patient", "--quiet"]
    assert main(command) == 2
    assert "has no annotations of 'c.tif'" in (said := capsys.readouterr().err)
    assert "--unannotated" in said
    assert main([*command, "--unannotated", "skip"]) == 0
    assert "4 regions of 2 slides" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "regions.csv", dtype=str)
    assert table["image"].tolist() == ["a_1.ome.tif", "a_2.ome.tif", "b_1.ome.tif", "b_2.ome.tif"]
    assert table.columns.tolist()[-3:] == ["patient", "grade", "group"]
    assert table["group"].tolist() == ["07"] * 4
    assert table["slide"].tolist() == ["a", "a", "b", "b"]
    assert table["grade"].tolist() == ["1", "1", "2", "2"]
    rectangle = [f"{name}_lv0" for name in ("x", "y", "width", "height")]
    assert table[rectangle].astype(int).to_numpy().tolist() == [
        [20, 30, 80, 60], [230, 150, 70, 49], [200, 30, 80, 60], [50, 150, 250, 49],
    ]  # fmt: skip
    for row in table.to_dict("records"):
        x, y, width, height = (int(row[name]) for name in rectangle)
        whole = tifffile.imread(folder / f"{row['slide']}.tif", key=0)
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "images" / row["image"], key=0), whole[y : y + height, x : x + width]
        )

    module = WSIDataModule(
        table.iloc[[0, 2]].assign(split=["train", "test"], group=["a", "b"]), tmp_path / "images", target="mask",
        label_column="image", mask_dir=tmp_path / "annotations", class_names=["core", "tumor"], mpp=1.0, num_workers=0,
        split_column="split", group_column="group", leaks="off", val_fraction=0.0,
    )  # fmt: skip
    module.setup("test")
    _, mask = module.datasets["test"][0]
    expected = np.zeros((60, 80), np.int64)
    expected[10:40, 10:50], expected[20:30, 20:30] = 1, 0
    np.testing.assert_array_equal(mask.numpy(), expected)
    assert main([*command, "--unannotated", "skip"]) == 2
    assert "exists. Pass --overwrite" in capsys.readouterr().err


def test_nothing_is_written_where_regions_are_wrong(folder: Path, tmp_path: Path) -> None:
    given = folder / "slides.csv", tmp_path / "out", folder / "annotations"
    with pytest.raises(ValueError, match="no outlines of the class 'cores' for these slides"):
        write_regions(*given, classes=["cores"], unannotated="skip")
    taken = pd.read_csv(folder / "slides.csv").assign(group="x", slide="y")
    with pytest.raises(TableError, match=r"has the columns \['group', 'slide'\], which those of regions would replace"):
        write_regions(taken, *given[1:], image_dir=folder, unannotated="skip")
    (tmp_path / "annotations").mkdir()
    Annotations((box(1000, 1000, 1200, 1200, "core"),)).write(tmp_path / "annotations" / "b.geojson")
    with pytest.raises(AnnotationError, match=r"outline feature 1 'core here' lies beside the slide of 300 x 200 px"):
        write_regions(given[0], given[1], tmp_path / "annotations", unannotated="skip")
    assert not (tmp_path / "out").exists()
