"""The data module of the Camelyon16 challenge, lymph nodes with or without metastases of cancer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pandas as pd

from wsidata.datamodules.wsi import WSIDataModule
from wsidata.tables.text_table import NO_LABEL, TableError
from wsidata.utils.messages import check_choice

CORRECTIONS = {"normal_086": "holds a tumor, now tumor_111", "test_049": "a duplicate"}
"""Slides that the organizers have withdrawn, and why.

test_114 stays: not all of its tumors are outlined, but its slide label is right.
"""

CLASSES = {
    "tumor": dict.fromkeys(("negative", "normal"), "normal") | dict.fromkeys(("micro", "macro", "tumor"), "tumor"),
    "extent": {"negative": "negative", "micro": "micro", "macro": "macro"},
}
"""The class of each label in the table; another label is an error."""


OUTLINES = {"_0": "tumor", "_1": "tumor", "Tumor": "tumor"}
"""The class of each group of outlines; `_2` and `Exclusion` are cut out of all of them."""


class Camelyon16DataModule(WSIDataModule):
    """DataModule for Camelyon16 (https://camelyon16.grand-challenge.org) as it is published.

    Withdrawn slides are left out (see `CORRECTIONS`), and the slides named test_... are the test split.

    With `target="mask"`, masks of normal (0) and tumor (1) are drawn from the outlines in annotations/, a file for each
    slide with tumor. Not all tumors of test_114 are outlined: leave it out where that matters.

    Args:
        folder: Folder of the data, with images/ and evaluation/reference.csv.
        classes: "tumor": any tumor against none; "extent": negative, micro- and macrometastases, which only the test
            slides are labeled with.
        **options: Other arguments of `WSIDataModule`, among them the resolution, such as `mpp=8.0`.

    Raises:
        TableError: if there is no table in the folder, or it lacks a column.

    Example:
        >>> dm = Camelyon16DataModule("camelyon16", mpp=8.0, image_size=4096)
    """

    def __init__(self, folder: str | Path, classes: Literal["tumor", "extent"] = "tumor", **options: Any) -> None:
        check_choice("classes", classes, tuple(CLASSES))
        folder = str(folder)  # checkpoints hold plain values
        table = read_reference(Path(folder))
        if options.get("target") == "mask":
            defaults = {"label_column": "annotation", "mask_dir": str(Path(folder) / "annotations")}
            options = {**defaults, "outline_classes": OUTLINES, **options}
            class_names: Any = ["normal", "tumor"]
            has_tumor = table["class"].map(CLASSES["tumor"]) == "tumor"
            table["annotation"] = table["image"].where(has_tumor, NO_LABEL)
        else:
            class_names = CLASSES[classes]
        named_test = bool(table["image"].str.startswith("test_").any())
        super().__init__(
            table,
            Path(folder) / "images",
            class_names=class_names,
            test_prefix="test_" if named_test else None,
            **options,
        )


def read_reference(folder: Path) -> pd.DataFrame:
    """The published table without withdrawn slides, with the columns image and class as text.

    Labels are in lower case; see `CLASSES`.

    Args:
        folder: Folder with evaluation/reference.csv, or reference.csv.

    Raises:
        TableError: if there is none, or it lacks a column.
    """
    places = [folder / "evaluation" / "reference.csv", folder / "reference.csv"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise TableError(
            f"there is no table of Camelyon16: looked for {places[0]} and {places[1]}. Name the folder that holds "
            "images/ and evaluation/ of the published data."
        )
    table = pd.read_csv(path, dtype=str, skipinitialspace=True)
    label = next((column for column in ("class", "type") if column in table), None)
    if label is None or "image" not in table:
        raise TableError(
            f"{path} needs the columns image and class (or type); it has {', '.join(map(str, table.columns))}."
        )
    names = table["image"].str.strip().str.removesuffix(".tif")
    return pd.DataFrame({"image": names, "class": table[label].str.lower()})[~names.isin(list(CORRECTIONS))]
