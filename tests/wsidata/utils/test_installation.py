"""The distribution `wsidata` of PyPI beside this project's."""

import shutil
import subprocess
import sys

import pytest
from places import ROOT

from wsidata.utils.installation import OtherDistributionWarning, warn_of_other_distribution


def run(folder, *arguments):
    command = [sys.executable, *arguments]
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@pytest.fixture
def site_packages(tmp_path):
    """A folder with this package and the metadata of the other."""
    shutil.copytree(ROOT / "wsidata", tmp_path / "wsidata", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "wsidata-0.12.0.dist-info").mkdir()
    return tmp_path


def test_the_other_distribution_is_named_once_with_the_remedy(tmp_path):
    (tmp_path / "wsidata-0.12.0.dist-info").mkdir()
    with pytest.warns(OtherDistributionWarning, match=r"wsidata-0\.12\.0.*pip uninstall wsidata, then") as warned:
        warn_of_other_distribution(tmp_path)
    warn_of_other_distribution(tmp_path)  # once a process; warnings are errors
    assert len(warned) == 1


def test_this_installation_is_alone():
    warn_of_other_distribution()  # warnings are errors


def test_importing_warns(site_packages):
    found = run(site_packages, "-c", "import wsidata; print(wsidata.__file__)")
    assert str(site_packages) in found.stdout
    assert found.stderr.count("OtherDistributionWarning") == 1


@pytest.mark.slow
@pytest.mark.parametrize("overwritten", [False, True])
def test_the_command_line_warns_whoever_was_installed_last(site_packages, overwritten):
    if overwritten:
        (site_packages / "wsidata" / "__init__.py").write_text("__version__ = '0.12.0'\n")
    found = run(site_packages, "-m", "wsidata", "info", "absent.svs")
    assert "pip uninstall wsidata" in found.stderr
    assert "absent.svs" in found.stdout + found.stderr
