import pandas as pd
import pytest
import torch

from wsidata.tables.label_table import read_table
from wsidata.tables.targets import mask_class_names, read_targets, target_tensor
from wsidata.tables.text_table import TableError, read_text_table


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.tif").touch()
        (tmp_path / f"{name}_mask.png").touch()
    return tmp_path


def table(folder, columns, **options):
    return read_table(pd.DataFrame({"image": ["a", "b", "c"], **columns}, dtype=str), folder, **options)


def test_several_labels_in_one_cell(folder):
    options = {"label_column": "found", "target": "multilabel"}
    labels = table(folder, {"found": ["mitosis; necrosis", "none", "necrosis|fat"]}, **options)
    assert labels.class_names == ("fat", "mitosis", "necrosis")
    assert labels.frame["target"].tolist() == [(0, 1, 1), (0, 0, 0), (1, 0, 1)]
    assert labels.frame["label_name"].tolist() == ["mitosis; necrosis", "none", "fat; necrosis"]
    assert labels.frame["label"].tolist() == [-1, -1, -1]
    merged = table(folder, {"found": ["x", "y", "x;y"]}, class_names={"x": "any", "y": "any"}, **options)
    assert merged.frame["target"].tolist() == [(1,), (1,), (1,)]


def test_several_labels_in_columns_of_yes_and_no(folder):
    columns = {"er": ["1", "no", "TRUE"], "pr": ["0", "1", "false"]}
    labels = table(folder, columns, label_column=["er", "pr"], target="multilabel", class_names=["ER", "PR"])
    assert labels.class_names == ("ER", "PR")
    assert labels.frame["target"].tolist() == [(1, 0), (0, 1), (1, 0)]
    assert torch.equal(target_tensor(labels.frame.iloc[1]), torch.tensor([0.0, 1.0]))


def test_numbers(folder):
    labels = table(folder, {"age": ["61", "5e1", "-0.5"]}, label_column="age", target="regression")
    assert labels.class_names == ("age",)
    assert labels.frame["target"].tolist() == [(61.0,), (50.0,), (-0.5,)]
    exact = table(folder, {"age": ["1234567.25", "0.1", "3"]}, label_column="age", target="regression")
    assert exact.frame["label_name"].tolist() == ["1234567.25", "0.1", "3"]


def test_masks_are_files(folder):
    columns = {"mask": ["a_mask", "b_mask.png", "c_mask"]}
    options = {"label_column": "mask", "target": "mask"}
    labels = table(folder, columns, class_names=["background", "tumor"], **options)
    assert [path.rsplit("/", 1)[1] for path in labels.frame["mask"]] == ["a_mask.png", "b_mask.png", "c_mask.png"]
    assert labels.class_names == ("background", "tumor")
    with pytest.raises(ValueError, match="needs class_names="):
        table(folder, columns, **options)
    columns["mask"][1] = "nope"
    with pytest.raises(TableError, match="row 1: mask: no file 'nope'"):
        table(folder, columns, class_names=["background", "tumor"], **options)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"y": ["a", "", "b"]}, {"target": "multilabel"}, "row 1: column 'y' is empty"),
        ({"y": ["a", "b;q", "b"]}, {"target": "multilabel", "class_names": ["a", "b"]}, "unknown label 'q'"),
        ({"y": ["1", "maybe", "0"]}, {"target": "multilabel", "label_column": ["y", "y"]}, "'maybe', which is neither"),
        ({"y": ["1", "", "0"]}, {"target": "multilabel", "label_column": ["y", "y"]}, "says '', which is neither"),
        ({"y": ["1,5", "2", "3"]}, {"target": "regression"}, "'1,5', which is no finite number .write a decimal point"),
        ({"y": ["1", "inf", "nan"]}, {"target": "regression"}, "2 problems"),
    ],
)
def test_cells_that_leave_it_open_are_refused(folder, columns, options, message):
    with pytest.raises(TableError, match=message):
        table(folder, columns, **({"label_column": "y"} | options))


def test_arguments_that_do_not_go_together_are_refused(folder):
    columns = {"y": ["1", "2", "3"], "z": ["1", "2", "3"]}
    with pytest.raises(ValueError, match="takes one label_column"):
        table(folder, columns, label_column=["y", "z"])
    with pytest.raises(ValueError, match="must name each of the columns"):
        table(folder, columns, label_column=["y", "z"], target="regression", class_names=["one"])
    with pytest.raises(ValueError, match="target='boxes' is not one of"):
        table(folder, columns, label_column="y", target="boxes")


def test_lists_are_several_labels_and_no_class():
    text = read_text_table(pd.DataFrame({"labels": [["a", "b"], [], ["b"]]}))
    targets = read_targets(text, "multilabel", ["labels"], None)
    assert targets.class_names == ("a", "b")
    assert targets.columns["target"] == [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)]
    with pytest.raises(ValueError, match=r"column 'labels' holds lists.*target='multilabel'"):
        read_targets(text, "class", ["labels"], None)


@pytest.mark.parametrize("cell", ["1e39", "1_000", "inf", "1,5"])
def test_numbers_that_targets_cannot_hold_or_tables_do_not_write_are_refused(cell):
    text = read_text_table(pd.DataFrame({"age": ["3.5", cell]}))
    problems = read_targets(text, "regression", ["age"], None).problems
    assert [problem.split(",")[0] for problem in problems] == [f"row 1: column 'age' says '{cell}'".split(",")[0]]


def test_classes_of_masks_are_not_merged():
    with pytest.raises(ValueError, match="merges classes, which masks do not"):
        mask_class_names({"bg": "bg", "tumor": "t", "stroma": "t"})
    assert mask_class_names({"bg": "background", "tumor": "t"}) == ("background", "t")


def test_decimal_commas_are_read_if_asked_for(folder):
    columns = {"age": ["1,5", "2", "-0,25"], "dose": ["0,5", "1,5", "2"]}
    options = {"target": "regression", "label_column": ["age", "dose"], "decimal": ","}
    expected = [(1.5, 0.5), (2.0, 1.5), (-0.25, 2.0)]
    assert table(folder, columns, **options).frame["target"].tolist() == expected
    numbers = pd.DataFrame({"image": list("abc"), "age": columns["age"], "dose": [0.5, 1.5, 2.0]})
    assert read_table(numbers, folder, **options).frame["target"].tolist() == expected
    for cell in ("1.500,5", "1.5", "1,5,0"):
        with pytest.raises(TableError, match=rf"'{cell}', which is no finite number"):
            table(folder, columns | {"age": [cell, "1", "2"]}, **options)
    with pytest.raises(TableError, match="pass decimal=','"):
        table(folder, columns, **options | {"decimal": "."})
    with pytest.raises(ValueError, match=r"decimal=';' is not one of"):
        table(folder, columns, **options | {"decimal": ";"})


def test_ordered_classes_need_an_order_that_is_told(folder):
    def ordered(labels, **options):
        return table(folder, {"grade": labels}, label_column="grade", target="ordinal", **options)

    labels = ordered(["10", "9", "11"])
    assert (labels.class_names, labels.frame["label"].tolist()) == (("9", "10", "11"), [1, 0, 2])
    assert target_tensor(labels.frame.iloc[2]) == 2
    names = ["low", "middle", "high"]
    assert ordered(["high", "low", "low"], class_names=names).frame["label"].tolist() == [2, 0, 0]
    assert ordered(["5", "1", "3"], class_names=["1", "2", "3", "4", "5"]).frame["label"].tolist() == [4, 0, 2]
    with pytest.raises(
        ValueError, match=r"needs an order of the classes.*'high', 'low'.*class_names= with all of them"
    ):
        ordered(["high", "low", "low"])
    for gap in (["1", "2", "4"], ["1", "01", "2"]):
        with pytest.raises(ValueError, match=r"are not consecutive numbers.*class_names="):
            ordered(gap)
    with pytest.raises(ValueError, match="at least two, not"):
        ordered(["1", "1", "1"])
    with pytest.raises(TableError, match="unknown label 'higher'"):
        ordered(["high", "higher", "low"], class_names=names)
    with pytest.raises(ValueError, match="takes one label_column"):
        table(folder, {"a": ["1"] * 3, "b": ["2"] * 3}, label_column=["a", "b"], target="ordinal")


def test_times_and_events_are_checked(folder):
    def survival(time, event, **options):
        columns = {"label_column": ["months", "died"], "target": "survival"} | options
        return table(folder, {"months": time, "died": event}, **columns)

    labels = survival(["12.5", "0", "3"], ["1", "false", "Yes"])
    assert labels.frame["target"].tolist() == [(12.5, 1.0), (0.0, 0.0), (3.0, 1.0)]
    assert labels.frame["label_name"].tolist() == ["12.5 event", "0 censored", "3 event"]
    assert survival(["12,5", "0", "3"], ["1"] * 3, decimal=",").frame["target"][0] == (12.5, 1.0)
    with pytest.raises(TableError) as error:
        survival(["-1", "nan", ""], ["2", "dead", ""])
    for said in ("'months' says '-1', and times are at least 0", "'nan', which is no finite number",
                 "'died' says '2', which is neither 0 (censored) nor 1 (event)", "'dead'", "6 problems"):  # fmt: skip
        assert said in str(error.value)
    with pytest.raises(TableError, match=r"'months' says '12\.5', which is neither"):
        survival(["12.5", "0", "3"], ["1", "0", "1"], label_column=["died", "months"])
    with pytest.raises(ValueError, match=r"label_column=\[time, event\], in this order"):
        survival(["1"] * 3, ["1"] * 3, label_column="months")
