"""The comparisons with lightstream and with weights of ImageNet say what is true, and their scripts run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lightning import Trainer
from sklearn.metrics import balanced_accuracy_score

from study.peers import lightstream_compare as compare
from study.peers import lightstream_ours, lightstream_worker
from study.peers.mushrooms import interval, markdown
from wsidata.synthetic import write_camelyon16


def predictions(arm: str, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    labels = np.repeat(["0", "1", "2"], (5, 8, 12))
    found = np.where(random.random(25) < 0.6, labels, "0")
    facts = {"arm": arm, "side_px": 96, "fold": np.arange(25) % 5, "image": [f"img_{n}" for n in range(25)]}
    return pd.DataFrame({**facts, "label": labels, "predicted": found, "train_accuracy": 0.9, "cpu_s": 3.0})


def test_balanced_accuracy_is_that_of_scikit_learn_within_its_interval() -> None:
    rows = predictions("features", 0)
    right = (rows["label"] == rows["predicted"]).astype(float)
    value, low, high = interval(right, rows["label"], balanced=True)
    assert value == pytest.approx(balanced_accuracy_score(rows["label"], rows["predicted"]))
    assert low < value < high
    assert interval(right, rows["label"], balanced=False)[0] == pytest.approx(right.mean())


def test_differences_are_paired_by_photo() -> None:
    frozen, random = predictions("features", 0), predictions("random", 1)
    shuffled = random.sample(frac=1, random_state=0)
    lines = markdown(pd.concat([shuffled, frozen])).splitlines()
    assert len(lines) == 5  # a blank line, the head, and an arm each; the others are not there yet
    means = [(rows["label"] == rows["predicted"]).mean() for rows in (frozen, random)]
    assert f"{means[0] - means[1]:+.3f}" in lines[-1]
    assert "+0.000" not in lines[-2]  # the reference has no difference to itself


def test_work_of_tiles_is_that_of_counting_them() -> None:
    for side, tile in ((4096, 2560), (2048, 1536), (1536, 1536)):
        forward = [0]
        while forward[-1] + tile < side:
            forward.append(forward[-1] + tile - 416)
        backward = [0]
        while backward[-1] + tile < side:
            backward.append(backward[-1] + tile - 992)
        work = (len(forward) ** 2 + 3 * len(backward) ** 2) * (tile / side) ** 2
        assert compare.passes_of_tiles(side, tile) == pytest.approx(work)


def test_streamed_gradients_are_exact_where_the_comparison_says_so() -> None:
    errors = lightstream_worker.exact("ours", 75, 32)
    assert {"map", "convolutions", "normalization", "image"} == set(errors)
    assert max(errors.values()) < 1e-12


@pytest.mark.slow
def test_our_script_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    compare.random_weights(tmp_path / "home")
    write_camelyon16(tmp_path / "slides", normal=3, tumor=3, test=0, size_px=(160, 160), levels=1)
    meter = lightstream_worker.Meter()
    trainer = Trainer(
        max_epochs=1, limit_train_batches=1, limit_val_batches=0, accelerator="cpu", logger=False, callbacks=[meter],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    lightstream_ours.train(tmp_path / "slides", trainer, 0, 128, "500MB")
    assert meter.found["step_cpu_s"] > 0
    assert meter.found["peak_bytes"] >= meter.found["before_bytes"]


def test_lines_of_code_leave_out_what_is_no_code() -> None:
    assert compare.code_lines("lightstream_ours.py") < compare.code_lines("lightstream_theirs.py")
    assert compare.code_lines("__init__.py") == 0
