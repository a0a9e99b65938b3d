"""Jobs that share a run by `--share`, one of which is killed in the middle."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from preloaded import start_python

import slidestream.__main__
import wsidata.__main__
from streammodels import StreamingResNet
from wsidata import WSIDataModule
from wsidata.jobs import claims

HANGS = """
import sys, time, unittest.mock
from importlib import import_module

def hang(*arguments, **options):
    print("at work", flush=True)
    time.sleep(60)

with unittest.mock.patch(sys.argv[1], hang):
    sys.exit(import_module(f"{sys.argv[2]}.__main__").main(sys.argv[3:]))
"""
"""A job that takes what it can, and hangs there."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_S", 0.05)


@pytest.fixture
def slides(camelyon: Path, tmp_path: Path) -> Path:
    """A folder of five slides, one of which is cut off after its header."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for path in sorted((camelyon / "images").glob("*_00[1-2].tif"))[:4]:
        (folder / path.name).symlink_to(path)
    content = bytearray((camelyon / "images" / "tumor_001.tif").read_bytes())
    content[len(content) // 3 : len(content) // 3 + 4000] = bytes(4000)
    (folder / "broken.tif").write_bytes(content)
    return folder


@pytest.fixture
def checkpoint(camelyon: Path, tmp_path: Path) -> Path:
    """An untrained network of slides at level 0."""
    table = camelyon / "evaluation" / "reference.csv"
    dm = WSIDataModule(table, camelyon / "images", test_prefix="test_", num_workers=0, leaks="off", level=0)
    torch.manual_seed(0)
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    trainer.strategy.connect(StreamingResNet("resnet9", 64, num_classes=2, weights=None))
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    torch.save({**content, "WSIDataModule": dm.state_dict()}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def beside_a_killed_job(program: str, hangs_in: str, arguments: list[str]) -> int:
    """Exit status of a job that starts while another one is at work, which is then killed."""
    main = {"slidestream": slidestream.__main__.main, "wsidata": wsidata.__main__.main}[program]
    statuses: list[int] = []
    killed = start_python("-c", HANGS, hangs_in, program, *arguments, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    deadline = time.monotonic() + 60
    while "at work" not in killed.output():
        assert time.monotonic() < deadline, killed.output("stderr")
        time.sleep(0.05)
    other = threading.Thread(target=lambda: statuses.append(main(arguments)))
    other.start()
    other.join(3)
    assert other.is_alive()  # waits for what the first has taken
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    other.join(20)
    return statuses[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::wsidata.stats.result.StatsWarning")
def test_statistics(slides: Path, tmp_path: Path) -> None:
    command = ["stats", *map(str, sorted(slides.iterdir())), "--level", "0", "--on-error", "skip", "--quiet"]
    assert wsidata.__main__.main([*command, "-o", str(tmp_path / "one.json")]) == 0
    shared = [*command, "--share", "-o", str(tmp_path / "shared.json")]
    assert beside_a_killed_job("wsidata", "wsidata.stats.pixel_sums.StatsJob.__call__", shared) == 0
    assert (tmp_path / "shared.json").read_bytes() == (tmp_path / "one.json").read_bytes()


@pytest.mark.slow
def test_an_export(camelyon: Path, tmp_path: Path) -> None:
    command = ["publish", str(camelyon / "evaluation" / "reference.csv"), "--image-dir", str(camelyon / "images")]
    command += ["--level", "1", "--image-size", "64", "--test-prefix", "test_", "--quiet", "--layout", "files"]
    one, shared = tmp_path / "one", tmp_path / "shared"
    assert wsidata.__main__.main([*command, "--folder", str(one)]) == 0
    hangs_in = "wsidata.hub.export.images.encode"
    assert beside_a_killed_job("wsidata", hangs_in, [*command, "--share", "--folder", str(shared)]) == 0
    names = [path.relative_to(one) for path in one.rglob("*") if path.is_file() and ".export" not in path.parts]
    assert len(names) > 16
    assert all((one / name).read_bytes() == (shared / name).read_bytes() for name in names)


@pytest.mark.slow
def test_predictions(slides: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(checkpoint), str(slides), "--workers", "0", "--accelerator", "cpu"]
    one, shared = tmp_path / "one.csv", tmp_path / "shared.csv"
    assert slidestream.__main__.main([*command, "-o", str(one)]) == 1
    hangs_in = "wsidata.evaluation.spread.shared.SharedWriter._batch_done"
    assert beside_a_killed_job("slidestream", hangs_in, [*command, "--share", "-o", str(shared)]) == 1
    assert shared.read_bytes() == one.read_bytes()
    assert (tmp_path / "shared.csv.json").read_bytes() == (tmp_path / "one.csv.json").read_bytes()
    assert {path.name for path in (tmp_path / "shared.csv.jobs").iterdir()} == {"settings.json", "settings.lock"}
    said = capsys.readouterr().out
    assert said.count("4 of 5 images predicted") == 2
    assert slidestream.__main__.main([*command, "--share", "-o", str(shared)]) == 1  # tries the broken one again
    assert shared.read_bytes() == one.read_bytes()


@pytest.mark.slow
def test_predictions_of_another_job_are_refused(
    slides: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(checkpoint), str(slides), "--workers", "0", "--accelerator", "cpu", "--share"]
    command += ["-o", str(tmp_path / "out.csv")]
    with claims.SharedRun(tmp_path / "out.csv.jobs", {"model": "another"}):
        assert slidestream.__main__.main(command) == 2
    assert "other jobs share" in capsys.readouterr().err
    assert slidestream.__main__.main([*command, "--overwrite"]) == 2
    assert "Remove '" in capsys.readouterr().err
    assert slidestream.__main__.main([*command, "--heatmaps"]) == 2
    assert "without --share" in capsys.readouterr().err
