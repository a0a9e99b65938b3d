"""Heat maps are scored against outlines in the published layout of Camelyon16."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import torch
from lightning import Trainer

from slidestream.__main__ import main
from slidestream.heatmaps.lesions import SlideOutlines, read_groups, read_outlines, score_slide, write_lesion_scores
from streammodels import StreamingResNet
from streammodels.explain.placement import PlacedMap
from wsidata.annotations import AnnotationError, Annotations, Outline
from wsidata.synthetic import tumor_outlines, write_slide


def box(left: float, top: float, right: float, bottom: float, name: str = "Tumor") -> Outline:
    return Outline(((np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64),),), name)


def placed(values: np.ndarray, cell_px: float, mpp: tuple[float, float] | None = (0.5, 0.5)) -> PlacedMap:
    rows, columns = values.shape
    size = round(columns * cell_px), round(rows * cell_px)
    return PlacedMap(values.astype(np.float32), size, mpp, "class activation map", "logit")


def test_hot_places_are_compared_with_the_lesions_of_their_slide(tmp_path: Path) -> None:
    """A slide of 4 x 3 mm, with lesions of 600 and 400 um, and of 100 um, which is isolated tumor cells."""
    outlines = Annotations((box(1000, 800, 2200, 2000), box(5000, 4000, 5800, 4800), box(7000, 1000, 7200, 1200)))
    values = np.full((60, 80), -1.0)  # cells of 50 um, two by two of one value
    values[14:16, 20:22], values[24:26, 60:62], values[10:12, 70:72] = 5, 4, 9  # lesion; nothing; isolated
    values[8:10, 12:14] = 3  # the first lesion once more, 500 um away
    values[50:, :10] = np.nan
    found = score_slide(placed(values, 100), (200, 200), SlideOutlines(outlines, ("Tumor",)))
    assert found.hits.lesions[:2] == (5, -1), "the second only by what is everywhere"
    assert found.hits.false_positives[0] == 4
    assert found.isolated == 1
    place = list(zip(found.detections.x, found.detections.y, found.detections.scores, strict=True))
    assert place[:4] == [(7100, 1100, 9), (2100, 1500, 5), (6100, 2500, 4), (1300, 900, 3)], "middles of the four cells"
    apart = np.hypot(np.subtract.outer(found.detections.x, found.detections.x),
                     np.subtract.outer(found.detections.y, found.detections.y))  # fmt: skip
    assert apart[~np.eye(len(apart), dtype=bool)].min() >= 200 / 0.5 - 200, "of the middles"
    share = shapely.area(outlines.area()) / (100 * 100)
    assert found.outlined.sum() == pytest.approx(share, rel=1e-12)
    assert (found.heat[50:, :10] < -1).all()

    normal = score_slide(placed(np.where(np.isnan(values), 0, values), 100), (200, 200), SlideOutlines(None))
    scores = write_lesion_scores({"a": found, "b": normal}, tmp_path, threshold=4.5)
    assert scores.slides[["slide", "lesions", "isolated", "hit"]].to_numpy().tolist() == [
        ["a", 2, 1, 2],
        ["b", 0, 0, 0],
    ]
    assert scores.froc.table["sensitivity"].tolist()[:3] == [0, 0, 0.5], "two false positives score more: 9 and 5 on b"
    dice = 2 * (4 + 4) / (8 + share)
    assert scores.slides["dice"].tolist() == pytest.approx([dice, 0]), "all of eight cells lie in outlines"
    assert {path.name for path in scores.files} == {path.name for path in tmp_path.iterdir()}
    assert "FROC score" in str(scores)
    with pytest.raises(ValueError, match="pass --mpp-override"):
        score_slide(placed(values, 100, None), (200, 200), SlideOutlines(None))
    with pytest.raises(AnnotationError, match="beside the grid"):
        score_slide(placed(values[:10, :10], 10), (20, 20), SlideOutlines(outlines, ("Tumor",)))


def test_patients_of_slides_come_from_a_table(tmp_path: Path) -> None:
    table, slides = tmp_path / "split.csv", [Path("a/s1.tif"), Path("s2.svs")]
    table.write_text("image_id,group\ns2,p2\ns1.tif,p1\ns3,p3\n")
    assert read_groups(table, slides) == ["p1", "p2"]
    with pytest.raises(ValueError, match=r"names no patient of 's4.tif' in its column group"):
        read_groups(table, [*slides, Path("s4.tif")])
    table.write_text("image,patient\ns1,p1\n")
    with pytest.raises(ValueError, match=r"has the columns 'image', 'patient'; --groups needs image"):
        read_groups(table, slides)


def test_slides_without_annotations_are_errors_unless_they_are_normal(tmp_path: Path) -> None:
    Annotations((box(0, 0, 9, 9), box(0, 0, 5, 5, "necrosis"))).write(tmp_path / "tumor_001.xml")
    slides = [Path("images/tumor_001.tif"), Path("images/normal_001.tif")]
    with pytest.raises(ValueError, match=r"has no annotations of 'normal_001.tif'.*--unannotated normal"):
        read_outlines(slides, tmp_path)
    with pytest.raises(ValueError, match=r"has no annotations of 'normal_001.tif'"):
        read_outlines(slides, tmp_path, unannotated=["normal_002"])
    for known in ("normal", ["normal_001"], ["normal_001.tif"]):
        tumor, normal = read_outlines(slides, tmp_path, unannotated=known)  # type: ignore[arg-type]
        assert (tumor.classes, normal.annotations, normal.rings) == (("Tumor", "necrosis"), None, [])
    (tumor, _) = read_outlines(slides, tmp_path, ["Tumor"], "normal")
    assert tumor.classes == ("Tumor",)
    with pytest.raises(ValueError, match=r"no file in .* has outlines of the class 'tumour'.*'Tumor', 'necrosis'"):
        read_outlines(slides, tmp_path, ["tumour"], "normal")
    assert read_outlines(slides[:1], tmp_path / "tumor_001.xml")[0].rings
    with pytest.raises(FileNotFoundError, match="is no folder of annotations"):
        read_outlines(slides, tmp_path / "tumor_001.xml")


@pytest.mark.slow
def test_command_scores_the_maps_that_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "c16"
    for name, is_tumor, seed in (("test_001", False, 0), ("test_002", True, 1), ("tumor_001", True, 2)):
        write_slide(folder / "images" / f"{name}.tif", width=300, height=240, tumor=is_tumor, seed=seed, mpp=None)
        if is_tumor:
            (folder / "annotations").mkdir(exist_ok=True)
            tumor_outlines(300, 240, seed=seed).write(folder / "annotations" / f"{name}.xml")
    torch.manual_seed(0)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(StreamingResNet("resnet9", num_classes=2, weights=None, tile_size=64))
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    slides, out = sorted((folder / "images").iterdir()), tmp_path / "out"
    asked = ["heatmap", tmp_path / "best.ckpt", *slides, "--out", out, "--annotations", folder / "annotations",
             "--mpp", "8", "--mpp-override", "4"]  # fmt: skip
    assert main([*map(str, asked), "--class", "1"]) == 2
    assert "no annotations of 'test_001.tif'" in capsys.readouterr().err
    assert main([*map(str, asked), "--class", "1", "--unannotated", "normal", "--threshold", "0"]) == 0
    assert "FROC score" in capsys.readouterr().out
    table = pd.read_csv(out / "lesions.csv")
    assert table["slide"].tolist() == ["test_001", "test_002", "tumor_001"]
    assert (table["lesions"] > 0).tolist() == [False, True, True]
    found = pd.read_csv(out / "detections.csv")
    for row in table.to_dict("records"):
        heat = tifffile.imread(out / f"{row['slide']}_1_cam.tif", key=0).astype(np.float64)
        first = found[found["slide"] == row["slide"]].iloc[0]
        assert first["score"] == pytest.approx(heat.max(), rel=1e-6)
        if row["lesions"]:
            with tifffile.TiffFile(folder / "images" / f"{row['slide']}.tif") as tiff:
                height, width = tiff.pages[0].shape[:2]
            area = Annotations.read(folder / "annotations" / f"{row['slide']}.xml").area()
            y, x = np.nonzero(heat == heat.max())
            cell = np.array([width / heat.shape[1], height / heat.shape[0]])
            boxes = shapely.box(x * cell[0], y * cell[1], (x + 1) * cell[0], (y + 1) * cell[1])
            share = shapely.area(shapely.intersection(boxes, area)).mean() / cell.prod()
            assert row["pointing_game"] == pytest.approx(share, abs=1e-9)
        else:
            assert math.isnan(row["pointing_game"])
    assert main([*map(str, asked), "--unannotated", "normal", "--overwrite"]) == 0
    assert "maps are not scored: that needs --class" in capsys.readouterr().err
    assert main([*map(str, asked), "--unannotated", "normal", "--class", "1"]) == 2
    assert "would be replaced" in capsys.readouterr().err
