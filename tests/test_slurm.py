"""The SLURM scripts of the documentation, run by a shell with programs in the place of srun, sbatch and slidestream."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from commands import BLOCK
from places import ROOT

PROGRAMS = {
    "srun": 'exec "$@"',
    # Runs a script once for each task of its array, or the command of --wrap, as soon as it is told to.
    "sbatch": r"""
while [[ $1 == --* ]]; do
  if [[ $1 == --wrap ]]; then bash -ec "$2" >&2; exit; fi
  shift
done
last=$(sed -n 's/^#SBATCH.*--array=0-\([0-9]*\).*/\1/p' "$1")
for task in $(seq 0 "${last:-0}"); do SLURM_ARRAY_TASK_ID=$task bash -e "$1" >&2; done
echo 7
""",
    "slidestream": 'echo "$*" >> commands.txt',
}


def scripts() -> dict[str, str]:
    """The scripts that pages name, and the commands that submit them."""
    found: dict[str, str] = {}
    for page in ("cluster.md", "many-gpus.md"):
        for block in BLOCK.finditer((ROOT / "docs" / page).read_text()):
            name = re.match(r"file: (\w+\.sh)", block["note"] or "")
            if name or "sbatch " in block["text"]:
                found[name[1] if name else "submit.sh"] = block["text"]
    return found


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scripts, in which the programs are found."""
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for name, text in scripts().items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(script: str) -> list[str]:
    """The commands that a script runs."""
    subprocess.run(["bash", "-n", script], check=True)
    subprocess.run(["bash", "-eu", script], check=True)
    return Path("commands.txt").read_text().splitlines()


def test_an_array_trains_each_fold_once_and_is_summed_up_then(cluster: Path) -> None:
    *folds, last = run("submit.sh")
    assert [re.search(r"--fold (\d+) --out runs/folds$", one)[1] for one in folds] == list("01234")  # type: ignore[index]
    assert len({re.sub(r" --fold \d+", "", one).replace(" --data.num_workers 6", "") for one in (*folds, last)}) == 1


@pytest.mark.parametrize("name", ["share.sh", "train.sh", "node.sh"])
def test_scripts_run_a_command_that_can_be_run_again(cluster: Path, name: str) -> None:
    once = run(name)
    assert len(once) == 1
    assert "--share" in once[0] or "--ckpt_path last" in once[0]
    assert "--requeue" in Path(name).read_text()
    assert run(name) == once * 2


def test_lightning_is_signaled_and_not_the_shell() -> None:
    signaled = [text for text in scripts().values() if "--signal" in text]
    assert len(signaled) == 3
    assert all("--signal=USR1@" in text for text in signaled)
    assert all("--requeue" in text for text in signaled)
