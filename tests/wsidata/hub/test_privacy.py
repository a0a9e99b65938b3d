import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from wsidata.hub.privacy import (
    PUBLISHED_ARGUMENTS,
    PrivacyError,
    disclosure,
    published_arguments,
    published_rows,
)
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.tables.label_table import LabelTable
from wsidata.transforms.base import Transform
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.compose import Compose, default_train_transform
from wsidata.transforms.describe import described
from wsidata.transforms.geometry.crop import CropOrPad


def labels(**columns):
    frame = pd.DataFrame(
        {
            "image_id": ["doe_1", "roe_1", "doe_2"],
            "path": ["/secret/doe_1.tif", "/secret/roe_1.tif", "/secret/doe_2.tif"],
            "label_name": ["a", "b", "a"],
            "label": [0, 1, 0],
            "group": ["Doe", "Roe", "Doe"],
            "site": ["", "", ""],
            "split": ["train", "val", "train"],
            "diagnosed": ["1999", "2000", "2001"],
        }
        | columns
    )
    return LabelTable(frame, ("a", "b"), "table.csv")


def test_only_listed_columns_are_published():
    rows = published_rows(labels(), opaque_ids=False)
    assert list(rows.columns) == ["image_id", "label", "label_name", "group", "row", "split"]
    assert "secret" not in rows.to_json()
    assert "1999" not in rows.to_json()
    assert rows["split"].tolist() == ["train", "validation", "train"]


def test_patients_are_numbers_unless_names_are_requested():
    assert published_rows(labels(), opaque_ids=False)["group"].tolist() == ["group-0001", "group-0002", "group-0001"]
    named = published_rows(labels(), opaque_ids=True, keep_names=["group"])
    assert named["group"].tolist() == ["Doe", "Roe", "Doe"]
    with pytest.raises(ValueError, match="diagnosed"):
        published_rows(labels(), opaque_ids=False, keep_names=["diagnosed"])


def test_opaque_ids_are_numbers():
    rows = published_rows(labels(), opaque_ids=True)
    assert rows["image_id"].tolist() == ["image-0001", "image-0002", "image-0003"]
    assert "doe" not in rows.to_json().lower()


@pytest.mark.parametrize("name", ["/slides/doe/x", "C:\\slides\\doe", "\\\\server\\doe"])
def test_ids_that_are_absolute_paths_are_refused(name):
    table = labels(image_id=[name, "b", "c"])
    with pytest.raises(PrivacyError, match="opaque_ids=True"):
        published_rows(table, opaque_ids=False)
    assert published_rows(table, opaque_ids=True)["image_id"][0] == "image-0001"


def test_targets_are_lists_of_numbers():
    table = labels(target=[(1.0, 0.0), (0.0, 1.0), (1, 1)])
    rows = published_rows(LabelTable(table.frame, ("a", "b"), "t", "multilabel"), opaque_ids=False)
    assert rows["target"].tolist() == [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    assert "label" not in rows.columns


def test_only_listed_arguments_are_published_as_plain_values():
    hparams = {
        "mpp": (0.5, 0.5),
        "seed": 3,
        "table": "/secret/doe.csv",
        "test_ids": ["doe"],
        "crop": TissueCrop("pack"),
    }
    found = published_arguments(hparams)
    assert found == {"mpp": [0.5, 0.5], "seed": 3}
    json.dumps(found)
    private = {"table", "image_dir", "mask_dir", "split", "stats", "test_ids", "val_ids", "test_prefix", "val_prefix"}
    assert not private & set(PUBLISHED_ARGUMENTS)


class Normalizer:
    """A user's own transform, with a path."""

    def __init__(self, reference="/users/jane/reference_0017.png", strength=0.5):
        self.reference, self.strength, self.lines = reference, strength, open

    def __call__(self, image):
        return image


def test_objects_are_described_by_named_plain_parameters():
    default = default_train_transform((64, 64))
    assert described(default) == repr(default)
    mine = Compose([CropOrPad(8), partial(Normalizer(), key="/x/y"), Normalizer(), lambda image: image, StainJitter()])
    text = described(mine)
    assert "/" not in text
    assert "0017" not in text
    assert " at 0x" not in text
    assert "CropOrPad(height_px=8" in text
    assert "own.Normalizer(reference=..., strength=0.5, lines=open)" in text
    assert "partial(own.Normalizer(reference=..., strength=0.5, lines=open), key=...)" in text
    assert "<lambda>" in text
    assert "StainJitter(alpha=" in text


def test_a_class_of_another_module_is_no_default():
    class RandomD4(Transform):
        def draw(self, image, rng):
            return None

    assert described(RandomD4()) != described(default_train_transform(None))


def test_arguments_that_are_no_plain_values_are_left_out():
    assert published_arguments({"seed": 1, "mpp": Path("/secret"), "channels": [open]}) == {"seed": 1}


def test_disclosure_is_one_line_with_audience_and_content():
    line = disclosure(
        published_rows(labels(), opaque_ids=False, keep_names=["group"]),
        "PUBLIC",
        opaque_ids=False,
        class_names=("a", "b"),
    )
    assert "\n" not in line
    assert line.startswith("PUBLIC: 3 images (2 train, 1 validation); labels (a, b); ids as they are (such as 'doe_1')")
    assert "groups by name (such as 'Doe')" in line
    hidden = disclosure(published_rows(labels(), opaque_ids=True), "X", opaque_ids=True, class_names=())
    assert "no labels; numbers for ids; groups as numbers" in hidden
    assert "doe" not in hidden.lower()
