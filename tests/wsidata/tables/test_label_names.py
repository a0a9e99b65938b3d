import pandas as pd
import pytest

from wsidata.tables.class_names import read_label_names
from wsidata.tables.text_table import TableError


def test_names_come_in_the_labels_order(tmp_path):
    (tmp_path / "names.csv").write_text("\ufefflabel;name;edible\n10;Boletus edulis;yes\n2; Amanita muscaria;no\n")
    names = read_label_names(tmp_path / "names.csv", "label")
    assert list(names.items()) == [("2", "Amanita muscaria"), ("10", "Boletus edulis")]


@pytest.mark.parametrize(
    ("columns", "label_column"),
    [(("label", "name"), "class"), (("species", "class_name"), "species"), (("id", "latin"), None)],
)
def test_columns_are_found(columns, label_column):
    frame = pd.DataFrame([["a", "Alder"], ["b", "Birch"]], columns=columns)
    assert read_label_names(frame, label_column) == {"a": "Alder", "b": "Birch"}


def test_mapping_of_numbers(tmp_path):
    assert read_label_names({1: "one", 0: "zero"}) == {"0": "zero", "1": "one"}


def test_other_columns_are_listed():
    frame = pd.DataFrame([["a", "b", "c"]], columns=["id", "latin", "english"])
    with pytest.raises(TableError, match=r"'label' and 'name'; its columns are \['id', 'latin', 'english'\]"):
        read_label_names(frame, "label")


def test_all_that_would_merge_or_lose_labels_is_listed():
    frame = pd.DataFrame({"label": ["0", "0", "1", "2", ""], "name": ["a", "b", "a", "", "c"]})
    with pytest.raises(TableError) as error:
        read_label_names(frame)
    for said in ("row 3: label or name is empty", "label '0' is there more than once", "name 'a' is there more than"):
        assert said in str(error.value)
    with pytest.raises(TableError, match="no labels"):
        read_label_names({})
