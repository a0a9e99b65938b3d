"""Figures of prediction tables, including those without a curve or without a mistake."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from wsidata.evaluation import plot_confusion, plot_mistakes, plot_roc


def _check_saved(figure: Figure, path: Path) -> None:
    figure.savefig(path)
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_roc_of_each_split_is_labeled_with_its_auroc(predictions: pd.DataFrame, tmp_path: Path) -> None:
    one_class = predictions[predictions["label"] == "y"].assign(split="test")
    figure = plot_roc(pd.concat([predictions, one_class]), "slides")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["validation: AUROC 0.833, 5 slides", "test: one class only, no curve"]
    assert figure.axes[0].get_title() == "Slides with y"
    _check_saved(figure, tmp_path / "roc.png")


@pytest.mark.parametrize("classes", [2, 9])
def test_confusion_matrix_counts_true_classes_in_rows(predictions: pd.DataFrame, classes: int, tmp_path: Path) -> None:
    more = {f"probability_{number}": 0.0 for number in range(classes - 2)}
    axes = (figure := plot_confusion(predictions.assign(**more))).axes[0]
    counts = [text.get_text() for text in axes.texts]
    assert counts == ["1", "1", "1", "2"]
    np.testing.assert_allclose(axes.images[0].get_array()[:2, :2], [[1 / 2, 1 / 2], [1 / 3, 2 / 3]])
    assert axes.get_title() == "validation"
    _check_saved(figure, tmp_path / "confusion.png")


def test_mistakes_are_drawn_with_both_probabilities(predictions: pd.DataFrame, tmp_path: Path) -> None:
    figure = plot_mistakes(predictions, lambda image: np.zeros((4, 4, 3), np.uint8))
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "c\nlabel y (0.20)\npredicted x (0.80)", "b\nlabel x (0.40)\npredicted y (0.60)", "",
    ]  # fmt: skip
    _check_saved(figure, tmp_path / "mistakes.png")


def test_no_mistakes_make_a_figure_too(predictions: pd.DataFrame, tmp_path: Path) -> None:
    right = predictions.query("label == predicted")
    _check_saved(plot_mistakes(right, lambda image: np.zeros((4, 4, 3), np.uint8)), tmp_path / "mistakes.png")
