"""Fold ensembles name what could not be predicted; configurations are found by name."""

from pathlib import Path

import pandas as pd
import pytest

from slidestream.configs import config_path
from slidestream.training.command import with_config_files
from slidestream.training.folds import ensemble


def test_an_image_that_one_network_could_not_predict_has_no_mean() -> None:
    tables = [
        pd.DataFrame({"path": ["a"], "predicted": ["x"], "probability_x": [value], "error": [why]})
        for value, why in ((0.9, ""), (float("nan"), "cut"))
    ]
    assert ensemble(tables, "multiclass")[["predicted", "error"]].to_numpy().tolist() == [["", "cut"]]


def test_a_folder_named_like_a_configuration_is_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    (tmp_path / "photos").write_text("model:")
    found = with_config_files(["-c", "slides", "--config=photos"])
    assert found == ["-c", str(config_path("slides")), "--config=photos"]
