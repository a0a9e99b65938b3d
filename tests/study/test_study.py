"""A study chooses by validation, looks at the test part with what was chosen, and goes on where it ended."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from study import __main__ as command
from study.arms import NEEDLES, WHOLE
from study.heat import _detections, heat_table
from study.plan import chosen, run, tune, with_seeds
from study.tables import curve_table, score_table
from study.tasks.data import save
from study.tasks.needles import Needles
from study.training import Job, scores_of_test_part, train
from wsidata.synthetic.needles import draw_needles

SHRUNK = next(arm for arm in NEEDLES if arm.name == "shrunk 4x")
FROZEN = next(arm for arm in NEEDLES if arm.encoder == "random")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    data = Needles(tmp_path_factory.mktemp("study"), side_px=32, digits=2, steps=3, batch=4, held=20)
    jobs = tune(data, [WHOLE, SHRUNK])
    assert list(run(jobs, None, lambda _: None)) == jobs
    return data


def test_the_learning_rate_is_the_best_on_validation(done, tmp_path):
    best = chosen(done, [WHOLE])[0]
    values = {job.learning_rate: train(job)["val_auroc"] for job in tune(done, [WHOLE])}
    assert values[best.learning_rate] == max(values.values())
    other = next(job for job in tune(done, [WHOLE]) if job != best)
    result = train(other)
    other.file(".json").write_text(json.dumps({**result, "val_auroc": 2.0}))
    try:
        assert chosen(done, [WHOLE])[0].learning_rate == other.learning_rate
    finally:
        other.file(".json").write_text(json.dumps(result))


def test_tables_are_of_the_test_part_and_paired(done):
    jobs = [Job(done, arm, 3e-3, 0) for arm in (WHOLE, SHRUNK)]
    table = score_table(jobs, WHOLE.name).set_index("arm")
    for job in jobs:
        scores, labels = scores_of_test_part(job)
        pairs = scores[labels == 1][:, None] - scores[labels == 0]
        assert len(labels) == 50
        assert table.test_auroc[job.arm.name] == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    row = table.loc["shrunk 4x"]
    assert row.difference == pytest.approx(row.test_auroc - table.test_auroc["whole image"])
    assert row.difference_low <= row.difference <= row.difference_high
    assert np.isnan(table.difference["whole image"])
    curves = curve_table(jobs)
    assert curves.step.max() == 3
    assert set(curves.arm) == {"whole image", "shrunk 4x"}


def test_a_result_is_not_trained_again_and_is_the_same_elsewhere(done, tmp_path):
    job = Job(done, WHOLE, 3e-3, 0)
    before = job.file(".pt").read_bytes()
    assert train(job)["val_auroc"] == json.loads(job.file(".json").read_text())["val_auroc"]
    assert job.file(".pt").read_bytes() == before
    again = Job(Needles(tmp_path, side_px=32, digits=2, steps=3, batch=4, held=20), WHOLE, 3e-3, 0)
    train(again)
    weights = [torch.load(one.file(".pt")) for one in (job, again)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_files_of_all_trainings_have_names_of_their_own(tmp_path):
    data = Needles(tmp_path)
    jobs = with_seeds(tune(data, NEEDLES))
    assert len({job.file(".json") for job in jobs}) == len(set(jobs))
    assert len({job.file(".pt") for job in jobs} | {job.file(".json") for job in jobs}) == 2 * len(set(jobs))


def test_the_heat_map_lies_where_the_digit_is(tmp_path):
    """A network that only blurs finds the only digit of a canvas, on average at its center."""
    job = Job(Needles(tmp_path, side_px=64, digits=1, steps=1, held=24), WHOLE, 3e-3, 0)
    train(job)
    weights = torch.load(job.file(".pt"))
    blurring = {name: torch.full_like(one, 1 / one[0].numel()) for name, one in weights.items()}
    save({name: one if one.ndim > 1 else one * 0 for name, one in blurring.items()}, job.file(".pt"))
    canvases = draw_needles(60, side_px=64, digits=1, part="test", seed=1, noise=0.0)
    table = heat_table([job], canvases)
    assert (table.pointing_game == 1).all()
    assert table.sensitivity[5] == 1  # negative canvases have a digit of another class each, and nothing else
    assert table.chance.iloc[0] == 64 / 64**2
    found = [(one.x[0], one.y[0]) for one in _detections(job, canvases)]
    inside = (canvases.corners[:, 0] > 8).all(1) & (canvases.corners[:, 0] < 48).all(1)
    offsets = (np.array(found) - canvases.corners[:, 0] - 4)[inside]
    assert np.abs(offsets.mean(axis=0)).max() < 0.6  # peaks are 4 pixels apart: a standard error of 0.25
    other = Job(job.data, FROZEN, 3e-3, 0)
    train(other)
    with pytest.raises(TypeError, match=r"'frozen random, attention' has no map.*Use an arm"):
        heat_table([other], canvases)


@pytest.mark.slow
def test_the_short_form_shows_that_shrinking_loses_the_digit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["study", "--quick", "--kept", str(tmp_path)])
    command.main()
    assert "shrunk 4x" in capsys.readouterr().out
    score = pd.read_csv(tmp_path / "quick.csv").set_index("arm").test_auroc
    # Of ten first weights, nine gave at least 0.93 and a difference of 0.26, and one 0.78 and 0.13.
    assert score["whole image"] > 0.7
    assert score["whole image"] - score["shrunk 4x"] > 0.1
