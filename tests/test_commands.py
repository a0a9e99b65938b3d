"""The shell commands of the README and of every page of the documentation, checked by the parsers of the commands."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import FitParser, check_commands
from places import ROOT

from slidestream.configs import config_path

PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def fit() -> FitParser:
    return FitParser()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the configuration of a run, from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    shutil.copy(config_path("slides"), "runs/first/config.yaml")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == tmp_path:
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page: str, fit: FitParser, folder: Path) -> None:
    check_commands(page, fit)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("slidestream fit --config slides --data.mppp 2", "mppp"),
        ("slidestream predict best.ckpt slides --outt x.csv", "2"),
        ("wsidata infos slide.svs", "2"),
        ("rsync slides elsewhere", "is not checked"),
        ("pip install slidestream[everything]", "is no extra"),
        ("make nothing", "is no target"),
    ],
)
def test_wrong_commands_are_found(command: str, said: str, fit: FitParser, folder: Path) -> None:
    Path("page.md").write_text(f"```bash\n{command}\n```\n")
    with pytest.raises(AssertionError, match=said):
        check_commands(str(folder / "page.md"), fit)
