"""Reports are written from run folders that are whole, damaged, empty or hostile."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsidata.evaluation import PredictionError, save_table, write_report
from wsidata.evaluation.report.contents import heat_map_of
from wsidata.evaluation.report.drawings import Drawing

HOSTILE = "<script>alert('x')</script>, \"é\" $x^2$ {{ 7 * 7 }}"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def predictions(folder: Path, classes: tuple[str, ...] = ("normal", "tumor"), images: int = 24) -> pd.DataFrame:
    """Predictions of validation and test images, every fourth of them wrong; the files of the first are there."""
    number = np.arange(images)
    label = number % len(classes)
    predicted = np.where(number % 4 == 0, (label + 1) % len(classes), label)
    frame = pd.DataFrame(
        {"image": [f"image {one}" for one in number], "path": [f"{folder}/{one}.png" for one in number]}
    )
    frame["split"] = np.where(number < images // 2, "val", "test")
    frame["label"], frame["predicted"] = [classes[k] for k in label], [classes[k] for k in predicted]
    confidence = 0.6 + 0.3 * np.random.default_rng(0).random(images)
    for k, name in enumerate(classes):
        frame[f"probability_{name}"] = np.where(predicted == k, confidence, (1 - confidence) / (len(classes) - 1))
    frame["error"] = ""
    return frame


def write_run(folder: Path, table: pd.DataFrame) -> Path:
    """A run folder with every file."""
    (folder / "heatmaps").mkdir(parents=True)
    save_table(table, folder / "predictions.csv")
    split = table[["image", "label", "split"]].set_axis(["image_id", "label_name", "split"], axis=1)
    train = split.assign(image_id="train " + split["image_id"], split="train")
    save_table(pd.concat([train, split]).assign(skipped="").assign(group="p1"), folder / "split.csv")
    leak = {"leak": 0, "kind": "thumbnail", "what": "0.99", "image_id": "image 3", "split": "val"}
    save_table(pd.DataFrame([leak]), folder / "leaks.csv")
    (folder / "metrics.csv").write_text(
        "epoch,step,train_loss,val_loss\n0,1,0.9,\n0,1,,0.8\n1,3,0.5,\n1,3,,inf\n2,5,,0.4\n"
    )
    facts = {"command": f"slidestream fit {HOSTILE}", "versions": {"slidestream": "0.1.0"}, "unit": "photos"}
    (folder / "run.json").write_text(json.dumps({**facts, "resolution": {"mpp": 2.0}, "seconds": 90}))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "heatmaps" / "image 0_tumor_cam.png")
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not painted, which takes most of the time."""

    def draw(_: object, alt: str, title: str, *__: object) -> Drawing:
        return Drawing("data:image/svg+xml;base64,", alt, title)

    monkeypatch.setattr("wsidata.evaluation.report.drawings.draw", draw)


class _Page(HTMLParser):
    """Text, tags and attributes of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.found: list[tuple[str, str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its report: hostile names of classes, and of an image."""
    folder = tmp_path_factory.mktemp("run")
    table = predictions(folder, ("normal", HOSTILE))
    table.loc[4, "image"] = HOSTILE
    table.loc[1, "error"] = "the file is cut off"
    Image.new("RGB", (80, 60), "red").save(folder / "0.png")
    write_run(folder / "run", table)
    write_report(folder / "run", resamples=30)
    return folder / "run"


def test_a_report_loads_nothing_and_runs_nothing(run: Path) -> None:
    page = _Page(run / "report.html")
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(page.tags)
    sources = [value for name, value in page.found if name in ("src", "href", "srcset", "style", "action")]
    assert all(value.startswith(("data:image/", "#", "width:")) for value in sources)
    assert not [name for name, _ in page.found if name.startswith("on")]
    assert "url(" not in (run / "report.html").read_text()
    assert HOSTILE in page.text


def test_a_report_can_be_read_aloud(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert '<html lang="en">' in text
    assert len(re.findall("<img ", text)) == len(re.findall('<img [^>]*alt="[^"]+"', text)) > 10
    assert text.count("<table>") == text.count("<caption>") == text.count("<thead>")
    assert text.count("<h1>") == 1


def test_every_file_of_a_run_has_its_section(run: Path) -> None:
    text = _Page(run / "report.html").text
    for title in (
        "Scores",
        "Test photos",
        "Validation photos",
        "Worst mistakes",
        "Training",
        "Leakage",
        "How it was made",
    ):
        assert title in text
    assert "the file is cut off" in text
    assert "Not scored: 1 photo without prediction." in text
    assert "the file is gone" in text
    assert "Heat map image 0_tumor_cam.png" in (run / "report.html").read_text()
    assert "image 3" in text  # the leak
    assert "mpp 2.0" in text


@pytest.mark.usefixtures("undrawn")
def test_a_report_is_written_again_the_same_and_nothing_else_is_overwritten(run: Path, tmp_path: Path) -> None:
    first, again = (write_report(run, resamples=30, out=tmp_path / "report.html").read_bytes() for _ in range(2))
    assert first == again
    other = tmp_path / "thesis.html"
    other.write_text("mine")
    with pytest.raises(FileExistsError, match="no report"):
        write_report(run, out=other)
    assert other.read_text() == "mine"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("missing", ["predictions.csv", "metrics.csv", "split.csv", "leaks.csv", "run.json"])
def test_a_run_without_a_file_is_reported_without_it(run: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / missing).unlink()
    assert "How it was made" in _Page(write_report(tmp_path / "run", resamples=2, max_mistakes=0)).text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("damaged", ["predictions.csv", "metrics.csv", "run.json"])
def test_damaged_files_are_named(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,val_loss\n0,1\n")
    (tmp_path / damaged).write_bytes(b'\xff\xfe{"a\x00,\n"1,2,3')
    assert f"{damaged} could not be read" in _Page(write_report(tmp_path)).text


@pytest.mark.usefixtures("undrawn")
def test_scores_that_are_undefined_say_why(tmp_path: Path) -> None:
    table = predictions(tmp_path).assign(label="tumor", split="test")
    save_table(table, tmp_path / "one.csv")
    text = _Page(write_report(tmp_path / "one.csv", resamples=20)).text
    assert "undefined: no image without 'tumor'" in text
    assert "No ROC curve: it needs images of two classes." in text
    save_table(table.assign(label=""), tmp_path / "two.csv")
    assert (
        "no images with both label and prediction (24 images without label"
        in _Page(write_report(tmp_path / "two.csv")).text
    )


@pytest.mark.usefixtures("undrawn")
def test_tables_that_would_give_wrong_scores_are_refused_alone_and_named_in_a_run(tmp_path: Path) -> None:
    save_table(predictions(tmp_path).assign(label="other"), tmp_path / "predictions.csv")
    with pytest.raises(PredictionError, match="none of the classes"):
        write_report(tmp_path / "predictions.csv")
    assert "There are no scores: image 'image 0' has the label 'other'" in _Page(write_report(tmp_path)).text


@pytest.mark.usefixtures("undrawn")
def test_names_that_look_like_numbers_or_missing_values_stay_names(tmp_path: Path) -> None:
    table = predictions(tmp_path, ("NA", "007"))
    save_table(table, tmp_path / "predictions.csv")
    assert "one class an image (NA, 007)" in _Page(write_report(tmp_path, resamples=2)).text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["many classes", "labels", "numbers"])
def test_other_tasks_are_reported(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "labels":  # drawn as two classes are
        request.getfixturevalue("undrawn")
    table = predictions(tmp_path, tuple(f"class {k}" for k in range(12)) if kind == "many classes" else ("a", "b"))
    if kind == "labels":
        table = table.assign(label=np.where(table["label"] == "a", "a; b", "none"), predicted="a;b")
    elif kind == "numbers":
        table = table.rename(columns={"probability_a": "value_age"}).drop(columns=["probability_b", "predicted"])
        table["label"] = [f"{number / 10}" for number in range(len(table))]
    save_table(table, tmp_path / "predictions.csv")
    text = _Page(write_report(tmp_path, resamples=20)).text
    expected = {"many classes": "Confusion matrix", "labels": "Accuracy by label", "numbers": "Residuals of age"}
    assert expected[kind] in text


@pytest.mark.usefixtures("undrawn")
def test_folds_are_pooled_and_compared(tmp_path: Path) -> None:
    for fold in range(2):
        table = predictions(tmp_path)
        table.loc[table["split"] == "val", "image"] += f" of fold {fold}"
        columns = ["probability_normal", "probability_tumor"]
        if fold:
            table.loc[12:, columns] = table.loc[12:, columns[::-1]].to_numpy()  # the mean is 0.5
        (tmp_path / f"fold_{fold}").mkdir()
        save_table(table, tmp_path / f"fold_{fold}" / "predictions.csv")
    text = _Page(write_report(tmp_path, resamples=2)).text
    assert "Mean and spread over 2 folds" in text
    assert "Validation, 24 images" in text
    assert "Test, 12 images" in text
    save_table(table.assign(split="val"), tmp_path / "fold_0" / "predictions.csv")
    assert "images are in one split twice" in _Page(write_report(tmp_path)).text


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to report"):
        write_report(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "predictions.csv").write_text("name;class\na;b\n")
    with pytest.raises(PredictionError, match=r"no column 'image'.*commas"):
        write_report(tmp_path / "predictions.csv")


def test_heat_maps_are_those_of_the_longest_name() -> None:
    paths = [Path(name) for name in ("a_1_tumor_cam.png", "a_tumor_cam.png", "b.png", "ab.png", "twin_cam.png")]
    found = heat_map_of(["a", "a_1", "x/b.tif", "one/twin.tif", "two/twin.tif"], paths)
    assert found == {"a_1": [paths[0]], "a": [paths[1]], "x/b.tif": [paths[2]]}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH")
def test_a_browser_shows_a_report_on_a_phone_without_requests_errors_or_overflow(run: Path, tmp_path: Path) -> None:
    text = (run / "report.html").read_text()
    measuring = (
        "onload = () => { const view = frames[0], page = view.document; document.title = ["
        "page.documentElement.scrollWidth, view.innerWidth, "
        "[...page.images].filter(image => !image.naturalWidth).length, page.images.length, "
        "view.performance.getEntriesByType('resource').filter(one => !one.name.startsWith('data:')).length].join() }"
    )
    (tmp_path / "phone.html").write_text(
        '<!doctype html><meta charset="utf-8"><title></title><iframe width="400" height="800"></iframe><script>'
        f"document.querySelector('iframe').srcdoc = {json.dumps(text).replace('</', chr(60) + chr(92) + '/')};"
        f"{measuring}</script>"
    )
    assert BROWSER is not None
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=800,1000", "--hide-scrollbars",
        "--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=2000", "--dump-dom",
        f"file://{tmp_path}/phone.html",
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr
    numbers = [int(one) for one in re.findall(r"<title>([\d,]+)</title>", shown.stdout)[0].split(",")]
    width, window, broken, images, requests = numbers
    assert (window, broken, images, requests) == (400, 0, text.count("<img "), 0)
    assert width <= window
