"""Summaries that a run prints at its end."""

from pathlib import Path

import pandas as pd

from wsidata.evaluation import summarize, summarize_folds


def test_scores_and_existing_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "roc.png").touch()
    scores = pd.DataFrame(
        {"split": ["val", "test"], "slides": [8, 10], "accuracy": [0.5, 1.0], "auroc": [0.875, float("nan")]}
    )
    files = {"scores.csv": "the table above", "roc.png": "ROC curves"}
    assert summarize(scores, tmp_path, files).splitlines() == [
        "",
        "                slides  accuracy   AUROC",
        "  validation         8     0.500   0.875",
        "  test              10     1.000       -",
        "",
        f"  in {tmp_path}/",
        "    roc.png     ROC curves",
    ]


def test_folds_are_summarized_by_mean_deviation_and_range() -> None:
    folds = pd.DataFrame(
        {"split": "val", "photos": 4, "accuracy": [0.25, 0.75], "balanced_accuracy": [0.5, 0.5], "fold": [0, 1]}
    )
    assert summarize_folds(folds).splitlines() == [
        "",
        "  over 2 folds: mean and standard deviation, lowest and highest",
        "  validation  accuracy           0.500 ± 0.354   0.250 .. 0.750",
        "  validation  balanced accuracy  0.500 ± 0.000   0.500 .. 0.500",
    ]
