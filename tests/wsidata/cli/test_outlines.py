"""Outlines of tissue, pieces and annotations are drawn where they are, and written for QuPath."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from wsidata.__main__ import main
from wsidata.annotations import Annotations, Outline, OutlineClass
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.synthetic import write_pixels
from wsidata.synthetic.slides import write_slide


@pytest.mark.slow
def test_outlines_of_tissue_pieces_and_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_slide(tmp_path / "a.tif", width=611, height=403, seed=3, mpp=2.0)
    square = np.array([[50.0, 40], [350, 40], [350, 240], [50, 240]])
    points = Outline(((square[:1],),), "$Tumor$", kind="points")
    stored = Annotations((Outline(((square,),), "$Tumor$"), points), (OutlineClass("$Tumor$", (255, 0, 255)),))
    (tmp_path / "annotations").mkdir()
    stored.write(tmp_path / "annotations" / "a.geojson")
    out = tmp_path / "out"
    command = ["outlines", str(path), "-o", str(out), "--quiet"]
    asked = ["--tissue", "--pack", "--mpp", "4", "--annotations", str(tmp_path / "annotations")]
    assert main([*command, *asked]) == 0
    with Slide(path) as slide:
        mask, packing = slide.tissue_mask(), TissueCrop("pack").plan(slide, {"mpp": 4.0})

    found: dict[str, list[shapely.Geometry]] = {}
    for one in json.loads((out / "a.geojson").read_text())["features"]:
        found.setdefault(one["properties"]["classification"]["name"], []).append(
            shapely.geometry.shape(one["geometry"])
        )
    assert {name: len(one) for name, one in found.items()} == {
        "Tissue": len(found["Tissue"]), "Piece": len(packing.pieces), "$Tumor$": 2,
    }  # fmt: skip
    tissue = shapely.union_all(found["Tissue"])
    row, column = (np.indices(mask.pixels.shape) + 0.5) * [[[mask.downsample_y]], [[mask.downsample_x]]]
    np.testing.assert_array_equal(shapely.contains_xy(tissue, column, row), mask.pixels)
    left, top, width, height = mask.bounding_box or (0, 0, 0, 0)
    assert tissue.bounds == pytest.approx((left, top, left + width, top + height), abs=1)
    corners = np.array([shapely.get_coordinates(one)[2] - 1e-6 for one in found["Piece"]])
    x, y = packing.to_canvas(corners[:, 0], corners[:, 1])
    assert x.tolist() == pytest.approx([one.canvas_x + one.width for one in packing.pieces], abs=1e-5)
    assert y.tolist() == pytest.approx([one.canvas_y + one.height for one in packing.pieces], abs=1e-5)

    assert main([*command, "--annotations", str(tmp_path / "annotations"), "--overwrite"]) == 0
    with Image.open(out / "a.png") as file:
        picture = np.asarray(file.convert("RGB")).astype(int)
    row, column = np.nonzero((abs(picture - [255, 0, 255]) < 8).all(axis=2) & (np.arange(len(picture)) < 700)[:, None])
    assert np.ptp(column) / np.ptp(row) == pytest.approx(300 / 200, abs=0.02)

    for wrong, said in (
        (command, "nothing to outline was named"),
        ([*command, "--pack"], "--pack needs the resolution"),
        ([*command, "--tissue"], "exists. Pass --overwrite"),
        (["outlines", "b/a.svs", *command[1:], "--tissue"], "several slides are named 'a'"),
        ([*command, "--annotations", "nowhere"], "there is no such folder"),
    ):
        assert main(wrong) == 2
        assert said in capsys.readouterr().err
    write_slide(tmp_path / "b.tif", width=64, height=64, mpp=None)
    (tmp_path / "c.tif").write_bytes(b"nothing")
    others = ["outlines", str(tmp_path / "b.tif"), str(tmp_path / "c.tif"), "-o", str(out), "--quiet", *asked]
    assert main(others) == 1
    said = capsys.readouterr().err
    assert "b.tif: " in said
    assert "--mpp-override" in said
    assert "c.tif: " in said
    assert not (out / "b.png").exists()


def test_artifacts_are_left_out_of_the_tissue_and_outlined(tmp_path: Path) -> None:
    pixels = np.full((400, 400, 3), 244, dtype=np.uint8)
    pixels[50:350, 50:350] = (220, 130, 190)
    pixels[180:260] = (30, 130, 80)  # green ink
    path = write_pixels(tmp_path / "a.tif", pixels, mpp=4.0)
    assert main(["outlines", str(path), "-o", str(tmp_path / "out"), "--tissue", "--exclude", "pen"]) == 0
    found: dict[str, list[shapely.Geometry]] = {}
    for one in json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]:
        found.setdefault(one["properties"]["classification"]["name"], []).append(
            shapely.geometry.shape(one["geometry"])
        )
    tissue, pen = (shapely.union_all(found[name]) for name in ("Tissue", "Pen"))
    assert len(found["Tissue"]) == 2
    assert tissue.intersection(pen).area == 0
    assert pen.covers(shapely.box(0, 184, 400, 256))
    assert tissue.area == pytest.approx(300 * 220, rel=0.1)
