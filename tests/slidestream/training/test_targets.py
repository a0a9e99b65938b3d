"""Targets that are known are found again, from a table to a checkpoint, its predictions and their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from lightning import Trainer, seed_everything
from torch.optim import AdamW

from slidestream.predicting import Done, predict
from slidestream.training.folds import ensemble
from streammodels import StreamingResNet
from wsidata import ImageFolderDataModule
from wsidata.datamodules.checkpoint import memory_in
from wsidata.evaluation import read_predictions, scores_with_intervals
from wsidata.evaluation.report.scores import figure_section, score, score_section
from wsidata.tables.parts import SplitError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*in the checkpoint's training set"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy photos, the darker the higher the grade, and a table."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    rows = []
    for number in range(96):
        severity = random.uniform()
        pixels = 220 - 180 * severity + random.normal(0, 10, (16, 16, 1)) + random.normal(0, 10, (16, 16, 3))
        cv2.imwrite(str(folder / f"p{number:02d}.png"), pixels.clip(0, 255).astype(np.uint8))
        months, follow_up = 60 * (1.05 - severity) * random.uniform(0.8, 1.2), random.uniform(20, 90)
        times = {"months": round(min(months, follow_up), 1), "died": int(months <= follow_up)}
        rows.append({"image": f"p{number:02d}", "grade": 1 + int(severity * 4), **times})
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder


def train(photos: Path, out: Path, **options: Any) -> tuple[pd.DataFrame, Done]:
    """The predictions, on test photos, of a checkpoint of a small network, and what is told of them."""
    seed_everything(1, verbose=False)
    options = {"test_fraction": 0.3, "batch_size": 16, "num_workers": 0, "leaks": "off", **options}
    dm = ImageFolderDataModule(photos / "table.csv", **options)
    model = StreamingResNet(
        "resnet9", weights=None, streaming=False, train_streaming_layers=True, num_classes=dm.num_classes,
        remove_last_stage=True, task=options["target"], optimizer=lambda own: AdamW(own, lr=0.002),
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=out,
    )  # fmt: skip
    trainer.fit(model, dm)
    trainer.save_checkpoint(out / "last.ckpt")
    done = predict(out / "last.ckpt", [photos / "table.csv"], out / "all.csv", loading={"num_workers": 0})
    table = read_predictions(out / "all.csv")
    return table[table["image"].isin(dm.tables["test"]["image_id"])], done


def test_grades_are_learned_and_told_in_their_order(photos: Path, tmp_path: Path) -> None:
    table, done = train(photos, tmp_path, label_column="grade", target="ordinal")
    assert "quadratic weighted kappa 0." in done.summary()
    found = scores_with_intervals(table, resamples=300)
    found = found[found["target"] == ""].set_index("score")
    kappa = found.loc["quadratic_kappa"]
    assert kappa["value"] > 0.8
    assert 0.5 < kappa["low"] <= kappa["value"] <= kappa["high"] <= 1
    assert found.loc["mae", "value"] < 0.6
    probabilities = table[[f"probability_{grade}" for grade in (1, 2, 3, 4)]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(table["expected_rank"], probabilities @ np.arange(4), atol=1e-5)
    section = str(score_section(score(table, None, "photos", 100)))
    assert "Quadratic weighted kappa" in section
    assert "errors are in classes" in section


def test_risks_are_learned_from_times_that_are_partly_censored(photos: Path, tmp_path: Path) -> None:
    columns = {"label_column": ["months", "died"], "target": "survival", "time_bins": 3, "time_unit": "months"}
    table, done = train(photos, tmp_path, **columns)
    assert "concordance index 0." in done.summary()
    index = scores_with_intervals(table, resamples=300).iloc[0]
    assert index["score"] == "c_index"
    assert index["value"] > 0.8
    assert 0.6 < index["low"] <= index["value"] <= index["high"] <= 1
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    memory = memory_in(content)
    assert memory is not None
    assert (memory["target"], memory["time_unit"]) == ("survival", "months")
    dm = ImageFolderDataModule(photos / "table.csv", test_fraction=0.3, num_workers=0, leaks="off", **columns)
    events = [target[0] for target in dm.tables["train"]["target"] if target[1]]
    assert (
        dm.time_bins
        == tuple(memory["time_bins"])
        == tuple(np.quantile(events, [1 / 3, 2 / 3, 1], method="inverted_cdf"))
    )
    survival = table[[f"survival_{end:.15g}" for end in dm.time_bins]].to_numpy()
    assert (np.diff(survival, axis=1) <= 0).all()
    np.testing.assert_allclose(table["risk"], 1 - survival.mean(axis=1), atol=1e-6)
    other = ImageFolderDataModule(photos / "table.csv", num_workers=0, leaks="off", **{**columns, "time_bins": [9, 30]})
    with pytest.raises(SplitError, match=r"intervals of time end at \[.*at \[9.0, 30.0\]. Pass time_bins=\["):
        other.load_state_dict(memory)
    section = figure_section(score(table, None, "photos", 100, "months"), "test").blocks[0]
    assert "Kaplan-Meier curves by predicted risk. lower risk: 1" in str(section)
    folds = [table, table.rename(columns={f"survival_{dm.time_bins[0]:.15g}": "survival_7"}).assign(risk=0.0)]
    mean = ensemble(folds, "survival")
    np.testing.assert_allclose(mean["risk"], table["risk"] / 2)
    assert not [name for name in mean if str(name).startswith("survival_")]
