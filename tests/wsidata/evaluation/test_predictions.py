"""Prediction tables are checked on probabilities written by hand."""

import pandas as pd
import pytest
import torch

from wsidata.evaluation import mistakes, prediction_table
from wsidata.evaluation.predictions import by_split, classes_of


def test_each_image_has_its_label_prediction_and_probabilities() -> None:
    rows = pd.DataFrame({"image_id": ["a", "b"], "split": ["val", "test"], "label_name": ["x", "x"]}, index=[3, 7])
    table = prediction_table(rows, torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.bfloat16), ["x", "y"])
    assert table.to_dict("list") == {
        "image": ["a", "b"], "split": ["val", "test"], "label": ["x", "x"], "predicted": ["x", "y"],
        "probability_x": [0.75, 0.25], "probability_y": [0.25, 0.75],
    }  # fmt: skip
    assert classes_of(table) == ["x", "y"]
    same = prediction_table(rows, torch.tensor([[0.75, 0.25], [0.25, 0.75]]).numpy(), ["x", "y"])
    pd.testing.assert_frame_equal(table, same)


def test_probabilities_of_other_images_are_an_error() -> None:
    rows = pd.DataFrame({"image_id": ["a"], "split": "val", "label_name": "x"})
    with pytest.raises(ValueError, match=r"2|1"):
        prediction_table(rows, torch.ones(2, 2), ["x", "y"])


def test_splits_are_in_the_order_train_val_test() -> None:
    table = pd.DataFrame({"image": list("abc"), "split": ["test", "train", "test"]})
    assert [(split, part["image"].tolist()) for split, part in by_split(table)] == [
        ("train", ["b"]),
        ("test", ["a", "c"]),
    ]


def test_the_most_confident_mistakes_come_first(predictions: pd.DataFrame) -> None:
    assert mistakes(predictions)["image"].tolist() == ["c", "b"]
