"""The quality of slides as a table, a report and a command."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile

from wsidata.__main__ import main
from wsidata.quality import quality_table, table, write_quality_report
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.synthetic import paint_slide, write_pixels

SIDE = 640


@pytest.fixture(scope="module")
def painted():
    return paint_slide(SIDE, SIDE, mpp=1.0, pieces=1, seed=3)


@pytest.fixture(scope="module")
def folder(painted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    painted.write(folder / "clean.tif")
    inked = painted.pixels.astype(np.float64)
    inked[:, 280:360] *= (0.12, 0.55, 0.32)
    write_pixels(folder / "inked<b>.tif", inked.astype(np.uint8), mpp=1.0)
    write_pixels(folder / "unknown.tif", painted.pixels[:64, :64], mpp=None)
    (folder / "cut.tif").write_bytes((folder / "clean.tif").read_bytes()[:9000])
    pd.DataFrame({"image": ["clean", "inked<b>", "unknown", "cut"]}).to_csv(folder / "slides.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def measured(folder):
    return quality_table({path.stem: str(path) for path in sorted(folder.glob("*.tif"))}, out=folder / "qc.csv")


def test_numbers_are_those_of_the_painting_and_the_worst_come_first(painted, measured):
    assert measured["image"].tolist() == ["cut", "unknown", "inked<b>", "clean"]
    assert measured["error"].str.contains("UnreadableImageError").tolist() == [True, False, False, False]
    assert "mpp_override" in measured["error"][1]
    inked, clean = measured.iloc[2], measured.iloc[3]
    area = painted.masks["tissue"].mean()
    assert clean["tissue_mm2"] == pytest.approx(area * SIDE**2 / 1e6, rel=0.1)
    assert clean["tissue_share"] == pytest.approx(area, rel=0.1)
    assert clean[["lost_share", "pen_share", "fold_share", "blurred_share", "bubble_share"]].max() < 0.05
    np.testing.assert_allclose(clean[["glass_red", "glass_green", "glass_blue"]].astype(float), [244, 243, 246], atol=2)
    assert clean["hematoxylin_red"] > clean["eosin_red"]
    assert inked["pen_share"] == pytest.approx(80 / SIDE, abs=0.06)  # masks are wider by two pixels of 8 um
    assert inked["lost_share"] > 0.15
    assert np.isnan(inked["hematoxylin_red"])  # ink is no stain


def test_a_later_run_measures_only_what_has_changed_or_failed(folder, measured, monkeypatch):
    opened = []
    monkeypatch.setattr(table, "measure_quality", lambda slide: opened.append(slide.path.stem) or 1 / 0)
    images = {path.stem: str(path) for path in sorted(folder.glob("*.tif"))}
    again = quality_table(images, out=folder / "qc.csv")
    assert opened == ["unknown"]  # and cut.tif cannot be opened
    pd.testing.assert_frame_equal(again.iloc[2:], measured.iloc[2:], check_dtype=False)
    (folder / "other.csv").write_text("image,class\na,b\n")
    with pytest.raises(FileExistsError, match="no table of quality"):
        quality_table(images, out=folder / "other.csv")
    assert (folder / "other.csv").read_text() == "image,class\na,b\n"


@pytest.mark.filterwarnings("ignore:.*mpp_override says")
def test_rows_of_other_settings_are_measured_again(folder, measured, monkeypatch, tmp_path):
    only, out = {"clean": str(folder / "clean.tif")}, tmp_path / "qc.csv"
    kept = measured[measured["image"] == "clean"]

    def area(options=AS_STORED):
        return quality_table(only, out=out, options=options)["tissue_mm2"][0]

    kept.to_csv(out, index=False)
    coarser = area(SlideOptions(2.0))
    assert coarser == pytest.approx(4 * kept["tissue_mm2"].iloc[0], rel=0.1)
    assert "mpp_override=(2.0, 2.0)" in pd.read_csv(out)["settings"][0]
    with monkeypatch.context() as patch:
        patch.setattr(table, "measure_quality", None)
        assert area(SlideOptions((2.0, 2.0))) == coarser
    assert area() == kept["tissue_mm2"].iloc[0]

    def refuse(slide):
        raise ValueError("measured")

    monkeypatch.setattr(table, "measure_quality", refuse)
    assert area() > 0
    monkeypatch.setattr(table, "METHOD", 0)  # another version
    assert np.isnan(area())
    kept.drop(columns="settings").to_csv(out, index=False)  # of an earlier version, which did not say
    assert np.isnan(area())


def test_report_is_one_file_that_escapes_names(measured, tmp_path):
    text = write_quality_report(measured, tmp_path / "qc.html").read_text()
    assert text.count("data:image/jpeg;base64,") == 2
    assert "inked&lt;b&gt;" in text
    assert "<b>.tif" not in text
    assert "<script" not in text
    assert text.index("inked&lt;b&gt;") < text.index("<strong>clean")
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(FileExistsError):
        write_quality_report(measured, tmp_path / "mine.html")


def test_command_names_slides_it_cannot_read_and_goes_on(folder, tmp_path, capsys):
    there = ["qc", str(folder / "slides.csv"), "--quiet"]
    assert main(there) == 2
    assert "Pass --output" in capsys.readouterr().err
    code = main([*there, "-o", str(tmp_path / "q.csv"), "--report", str(tmp_path / "q.html"), "--json"])
    said = capsys.readouterr()
    assert code == 1
    assert "cut.tif: UnreadableImageError" in said.err
    assert "Pass --mpp-override" in said.err
    rows = json.loads(said.out)
    assert [row["image"] for row in rows] == pd.read_csv(tmp_path / "q.csv")["image"].tolist()
    assert rows[0]["tissue_mm2"] is None
    assert (tmp_path / "q.html").exists()
    assert main([*there[:1], str(folder / "slides.csv"), "-o", str(folder / "clean.tif")]) == 2
    assert "is read here" in capsys.readouterr().err


def test_fluorescence_is_named_and_one_image_of_several_is_measured(painted, tmp_path, capsys):
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as tiff:
        for pixels in (255 - painted.pixels, painted.pixels):
            spacing = {f"PhysicalSize{axis}": 1.0 for axis in "XY"}
            tiff.write(pixels, photometric="rgb", tile=(256, 256), metadata={"axes": "YXS", **spacing})
    tifffile.imwrite(tmp_path / "three.ome.tif", np.zeros((3, 64, 64), np.uint8), metadata={"axes": "CYX"})
    said, pages = {}, {}
    for series in ("0", "1"):
        out, page = tmp_path / f"{series}.csv", tmp_path / f"{series}.html"
        command = ["qc", str(tmp_path), "-o", str(out), "--report", str(page), "--quiet", "--series", series]
        assert main(command) == 1
        said[series], pages[series] = pd.read_csv(out).set_index("image")["error"], page.read_text()
    assert "is nearly black, and no glass is in view" in said["0"]["two"]
    assert "leave fluorescence slides out of the table" in said["0"]["three"]
    assert said["1"].isna().tolist() == [False, True]
    assert [pages[series].count("data:image/jpeg;base64,") for series in "01"] == [0, 1]
    assert main([*command, "--channels", "0"]) == 2
    assert "fluorescence slides out of the table" in capsys.readouterr().err
