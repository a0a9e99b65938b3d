"""Camelyon16's table is read as published and corrected."""

from pathlib import Path

import pytest

from wsidata import Camelyon16DataModule
from wsidata.datamodules.camelyon16 import read_reference
from wsidata.tables.text_table import TableError


def write(folder: Path, text: str) -> Path:
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "reference.csv").write_text(text)
    return folder


def test_withdrawn_slides_are_left_out_and_labels_are_text(tmp_path: Path) -> None:
    text = "image,type\nnormal_086.tif,Tumor\ntest_049.tif,Macro\ntest_001.tif, Macro\n"
    table = read_reference(write(tmp_path, text))
    assert table.to_dict("list") == {"image": ["test_001"], "class": ["macro"]}


@pytest.mark.parametrize(("text", "said"), [("a,b\n1,2\n", "needs the columns image and class"), (None, "no table")])
def test_another_table_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    folder = tmp_path if text is None else write(tmp_path, text)
    with pytest.raises(TableError, match=said):
        Camelyon16DataModule(folder, mpp=2.0)
