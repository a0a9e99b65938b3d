import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsidata.evaluation import save_table
from wsidata.splits.split_file import load_splits, save_splits, split_digest
from wsidata.tables.cells import escaped, restored

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=x", "=", "\uff1dx", "-"]
HARMLESS = ["-0.5", "+3", "-1e-5", "a=1", "'a", "", " =1", "'-5", "5", "TCGA-1", "-.5"]


def cells(names):
    return pd.DataFrame({"image": names})


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_escaped_and_restored(text):
    made = escaped(cells([text, "x"]))
    assert made["image"].tolist() == [f"'{text}", "x"]
    assert restored(made)["image"].tolist() == [text, "x"]


@pytest.mark.parametrize("text", HARMLESS)
def test_other_cells_stay(text):
    assert escaped(cells([text]))["image"].tolist() == [text]
    assert restored(cells([text]))["image"].tolist() == [text]


@given(st.lists(st.text(alphabet="'=+-@\t\r15.ea ", max_size=6), min_size=1, max_size=5))
def test_every_text_is_restored(names):
    made = escaped(cells(names))
    assert restored(made)["image"].tolist() == names
    assert escaped(made)["image"].map(lambda text: text[:1]).isin(["=", "@"]).sum() == 0


def test_numbers_and_names_of_columns():
    table = pd.DataFrame({"=a": [-1.5, 2.0], "b": [True, False], "c": [None, "=x"]})
    made = escaped(table)
    assert list(made.columns) == ["'=a", "b", "c"]
    assert made["'=a"].tolist() == [-1.5, 2.0]
    assert made["c"].fillna("").tolist() == ["", "'=x"]
    pd.testing.assert_frame_equal(restored(made), table)


def test_prediction_tables_hold_no_formulas(tmp_path):
    table = pd.DataFrame({"image": ["=HYPERLINK(1)", "a"], "label": ["+", "-"], "probability_+": [0.25, 0.75]})
    save_table(table, tmp_path / "p.csv")
    rows = list(csv.reader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert rows[1:] == [["'=HYPERLINK(1)", "'+", "0.25"], ["a", "'-", "0.75"]]
    pd.testing.assert_frame_equal(restored(pd.read_csv(tmp_path / "p.csv")), table)


def split(ids, labels=None):
    parts = [("train", "val", "test")[number % 3] for number in range(len(ids))]
    return pd.DataFrame({"image_id": ids, "label_name": labels or ["a"] * len(ids), "split": parts})


def test_splits_with_formulas_for_ids_come_back_exactly(tmp_path):
    table = split(FORMULAS[:4] + FORMULAS[6:9] + HARMLESS[:4], (["+", "-", "=x"] * 4)[:11])
    digest = save_splits(table, tmp_path / "split.csv")
    rows = list(csv.reader(io.StringIO((tmp_path / "split.csv").read_text())))[1:]
    assert not [row for row in rows for cell in row if cell.startswith(("=", "@", "+c", "-2"))]
    found = load_splits(tmp_path / "split.csv", expected_digest=digest)
    assert found[["image_id", "label_name", "split"]].to_numpy().tolist() == table.to_numpy().tolist()


def test_splits_that_were_never_escaped_are_read_as_they_are(tmp_path):
    table = split(["=1+1", "'=2", "-x"])
    table.assign(split_digest=f"sha256:{split_digest(table)[:16]}").to_csv(tmp_path / "old.csv", index=False)
    assert load_splits(tmp_path / "old.csv")["image_id"].tolist() == ["=1+1", "'=2", "-x"]
    table.to_csv(tmp_path / "own.csv", index=False)
    assert load_splits(tmp_path / "own.csv")["image_id"].tolist() == ["=1+1", "'=2", "-x"]
