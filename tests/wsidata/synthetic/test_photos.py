"""Synthetic photos are deterministic and their kinds can be learned."""

import hashlib

import cv2
import numpy as np
import pandas as pd

from wsidata.photos.read import read_photo
from wsidata.synthetic.photos import kind_name, write_photo_folders, write_photos


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_arguments_write_the_same_files(tmp_path):
    first, again, other = (
        digests(write_photos(tmp_path / name, classes=2, per_class=3, side_px=48, seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert set(first) == set(other)
    assert first["photos/img_0.jpg"] != other["photos/img_0.jpg"]


def test_table_names_photos_without_suffix_and_labels_apart(tmp_path):
    folder = write_photos(tmp_path, classes=4, per_class=5, side_px=48)
    table = pd.read_csv(folder / "labels.csv")
    assert table["label"].value_counts().to_dict() == dict.fromkeys(range(4), 5)
    assert {path.stem for path in (folder / "photos").iterdir()} == set(table["image"])
    assert {path.suffix for path in (folder / "photos").iterdir()} == {".jpg", ".JPG"}
    assert pd.read_csv(folder / "names.csv")["name"].tolist() == ["scarlet", "amber", "olive", "teal"]


def test_class_folders_with_and_without_parts(tmp_path):
    write_photo_folders(tmp_path / "plain", classes=2, per_class=2, side_px=48)
    write_photo_folders(tmp_path / "parts", classes=2, parts={"train": 2, "test": 1}, side_px=48)
    assert sorted(digests(tmp_path / "plain")) == [
        "amber/001.jpg",
        "amber/002.jpg",
        "scarlet/001.jpg",
        "scarlet/002.jpg",
    ]
    assert {name.split("/")[0] for name in digests(tmp_path / "parts")} == {"train", "test"}
    assert len(digests(tmp_path / "parts")) == 6


def test_kinds_never_run_out():
    assert len({kind_name(kind) for kind in range(40)}) == 40


def test_kinds_are_distinguished_by_vivid_colors_and_not_by_the_mean(tmp_path):
    """Nearest class mean of 24 photos, on the other 24: of the hues of vivid pixels, and of the mean color."""
    folder = write_photos(tmp_path, classes=4, per_class=12, side_px=96)
    table = pd.read_csv(folder / "labels.csv")
    files = {path.stem: path for path in (folder / "photos").iterdir()}
    hues, means = [], []
    for name in table["image"]:
        pixels = read_photo(files[name], short_side_px=96)
        hue, saturation, value = np.moveaxis(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), 2, 0)
        counts = np.bincount(hue[(saturation > 190) & (value > 90)] // 10, minlength=18)
        hues.append(counts / max(counts.sum(), 1))
        means.append(pixels.mean((0, 1)) / 255)

    def accuracy(features):
        features, known = np.array(features), np.arange(48) < 24
        centers = np.array([features[known & (table["label"] == kind)].mean(0) for kind in range(4)])
        nearest = ((features[:, None] - centers) ** 2).sum(2).argmin(1)
        return float((nearest == table["label"])[~known].mean())

    assert accuracy(hues) > 0.8
    assert accuracy(means) < 0.6
