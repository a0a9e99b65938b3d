"""`slidestream fit`, `validate` and `test` write a run folder, go on where they stopped, and lose nothing."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning import Trainer

from slidestream import load_trained
from slidestream.__main__ import main
from slidestream.training.folds import ensemble
from wsidata import Camelyon16DataModule

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures")]  # those of `run` are drawn


def test_a_run_writes_all_that_is_needed_to_judge_and_to_repeat_it(run: Path) -> None:
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files >= {"checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv", "split.csv", "predictions.csv"}
    assert files >= {"scores.csv", "leaks.csv", "config.yaml", "run.json", "report.html"}
    facts = json.loads((run / "run.json").read_text())
    assert facts["finished"]
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_predictions_are_those_of_a_trainer(run: Path, camelyon16: Path) -> None:
    dm = Camelyon16DataModule(camelyon16, mpp=2.0, image_size=64, num_workers=0, batch_size=4, leaks="off")
    model = load_trained(run / "checkpoints" / "best.ckpt").model
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    expected = torch.cat(trainer.predict(model, dm))  # of the test slides
    table = pd.read_csv(run / "predictions.csv")
    written = table.loc[table["split"] == "test", ["probability_normal", "probability_tumor"]]
    assert torch.equal(torch.tensor(written.to_numpy(), dtype=torch.float32), expected)


def test_a_run_is_not_overwritten_but_resumed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    config = ["fit", "--config", str(again / "config.yaml"), "--out", str(again)]
    assert main(config) == 2
    assert "--ckpt_path last" in capsys.readouterr().err
    assert main([*config, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert sorted(set(pd.read_csv(again / "metrics.csv")["epoch"])) == [0, 1]
    assert "epoch 2/2" in capsys.readouterr().out
    assert main(config) == 2  # the settings don't say that it was resumed


def test_test_finds_the_configuration_beside_the_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "predictions.csv").read_bytes()
    assert main(["test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt")]) == 0
    assert "test_loss" in capsys.readouterr().out
    assert list((run / "test").glob("*/report.html"))
    assert (run / "predictions.csv").read_bytes() == before
    assert main(["test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--out", str(run)]) == 2
    assert "Name another folder with --out" in capsys.readouterr().err


def test_folds_are_trained_once_each_and_summed_up(
    fit: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []

    def call(command: list[str]) -> int:
        started.append(command)
        return main(command[3:])

    monkeypatch.setattr("slidestream.training.folds._call", call)
    arguments = [*fit, "--out", str(tmp_path), "--folds", "2"]
    assert main([*arguments, "--fold", "1"]) == 0
    assert main(arguments) == 0
    assert len(started) == 2  # fold 1 was finished
    table = pd.read_csv(tmp_path / "predictions.csv")
    validated, tested = table[table["split"] == "val"], table[table["split"] == "test"]
    assert len(validated) == validated["image"].nunique() == 12
    parts = [pd.read_csv(tmp_path / f"fold_{fold}" / "predictions.csv") for fold in range(2)]
    mean = sum(part.loc[part["split"] == "test", "probability_tumor"].to_numpy() for part in parts) / 2
    assert tested["probability_tumor"].to_numpy() == pytest.approx(mean)
    folds = pd.read_csv(tmp_path / "folds.csv")
    scores = [pd.read_csv(tmp_path / f"fold_{fold}" / "scores.csv") for fold in range(2)]
    assert folds["low"].tolist() == pytest.approx([low for one in scores for low in one["low"]], nan_ok=True)
    assert "over 2 folds" in capsys.readouterr().out


def test_networks_of_folds_predict_together() -> None:
    def table(**columns: list[object]) -> pd.DataFrame:
        return pd.DataFrame({"path": ["a"], **columns})

    labels = [table(predicted=[""], probability_x=[x], probability_y=[y]) for x, y in ((0.9, 0.4), (0.3, 0.2))]
    assert ensemble(labels, "multilabel")["predicted"].tolist() == ["x"]
    numbers = [table(value_age=[age]) for age in (40.0, 50.0)]
    assert ensemble(numbers, "regression")["value_age"].tolist() == [45.0]
    with pytest.raises(ValueError, match="different images"):
        ensemble([numbers[0], numbers[1].assign(path="b")], "regression")


def test_classes_of_the_present_folder_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "mylab_of_tests.py").write_text(
        "from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel\n"
        "class Net(BoringModel):\n"
        "    def on_validation_epoch_end(self): self.log('x', 1.0)\n"
        "class Data(BoringDataModule): ...\n"
    )
    own = ["--model", "mylab_of_tests.Net", "--data", "mylab_of_tests.Data", "--trainer.accelerator", "cpu"]
    assert main(["fit", *own, "--trainer.max_epochs", "1", "--monitor", "x", "--out", "run"]) == 0
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
