import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsidata.__main__ import main
from wsidata.hub.manifest import Preprocessing

pytest.importorskip("datasets", reason="publishing needs slidestream[hub]")


def table(camelyon):
    return [str(camelyon / "evaluation" / "reference.csv"), "--image-dir", str(camelyon / "images"), "--quiet"]


@pytest.mark.slow
def test_slides_are_exported_to_a_folder(camelyon, tmp_path, capsys):
    split = str(tmp_path / "split.csv")
    assert main(["split", *table(camelyon), "--test-prefix", "test_", "-o", split, "--leaks", "off"]) == 0
    capsys.readouterr()
    arguments = ["publish", *table(camelyon), "--level", "1", "--image-size", "64", "--folder", str(tmp_path / "out")]
    arguments += [
        "--split",
        split,
        "--opaque-ids",
        "--format",
        "jpeg",
        "--quality",
        "80",
        "--license",
        "mit",
        "--no-stats",
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"In '{tmp_path / 'out'}': 16 images (10 train, 2 validation, 4 test)")
    assert "numbers for ids" in out.splitlines()[0]
    found = Preprocessing.load(tmp_path / "out")
    assert (found.encoding.format, found.encoding.quality, found.stats) == ("jpeg", 80, None)
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"folder": str(tmp_path / "out"), "digest": found.digest, "images": 16,
                               "bytes": found.image_bytes, "layout": "parquet"}  # fmt: skip
    assert err.startswith("In '")


def test_photos_are_exported_too(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{number}.jpg")
    pd.DataFrame({"image": range(6), "class": ["a", "b"] * 3}).to_csv(tmp_path / "t.csv", index=False)
    arguments = ["publish", str(tmp_path / "t.csv"), "--photos", "--val-fraction", "0.34", "--quiet"]
    assert main([*arguments, "--folder", str(tmp_path / "out")]) == 0
    assert Preprocessing.load(tmp_path / "out").kind == "photos"
    assert main([*arguments, "--folder", str(tmp_path / "out"), "--level", "1"]) == 2
    assert "--level is for slides" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--level", "1"], "say where to"),
        (["--folder", "x"], "at which resolution"),
        (["--folder", "x", "--level", "1", "--format", "png", "--quality", "3"], "is lossless"),
    ],
)
def test_what_is_not_said_is_asked_for(camelyon, options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["publish", *table(camelyon), *options]) == 2
    assert message in capsys.readouterr().err


def test_refusals_of_the_hub_are_one_line(camelyon, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    arguments = ["publish", *table(camelyon), "--level", "1", "--repo", "me/data", "--folder", str(tmp_path / "out")]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out.startswith("Private at 'me/data': 16 images")
    assert err.startswith("wsidata publish: there is no access token")
    assert not (tmp_path / "out").exists()
