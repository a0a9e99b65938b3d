"""Scores are checked on a table small enough to count by hand."""

import numpy as np
import pandas as pd
import pytest

from wsidata.evaluation import scores_by_class, scores_by_split


def test_classes_are_scored_by_precision_recall_and_f1(predictions: pd.DataFrame) -> None:
    table = scores_by_class(predictions, unit="photos").set_index("class")
    assert table.loc["x"].to_dict() == pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "photos": 2})
    assert table.loc["y"].to_dict() == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "photos": 3})


def test_balanced_accuracy_is_the_mean_of_the_recalls(predictions: pd.DataFrame) -> None:
    table = scores_by_split(predictions, ("accuracy", "balanced_accuracy"))
    assert table.columns.tolist() == ["split", "images", "accuracy", "balanced_accuracy"]
    assert table["accuracy"].item() == pytest.approx(3 / 5)
    assert table["balanced_accuracy"].item() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_auroc_is_the_share_of_pairs_in_the_right_order(predictions: pd.DataFrame) -> None:
    assert scores_by_split(predictions)["auroc"].item() == pytest.approx(5 / 6)  # only (b, c) is not


@pytest.mark.parametrize("label", ["x", "y"])
def test_a_split_with_one_class_has_no_auroc(predictions: pd.DataFrame, label: str) -> None:
    table = scores_by_split(predictions.assign(label=label), unit="slides")
    assert table["slides"].item() == 5
    assert table["accuracy"].item() == (predictions["predicted"] == label).mean()
    assert np.isnan(table["auroc"].item())
