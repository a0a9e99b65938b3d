"""Fixtures shared by the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsidata.synthetic.slides import write_camelyon16


@pytest.fixture(scope="session")
def camelyon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small artificial CAMELYON16: 6 normal, 6 tumour, 4 test slides of about 400 x 360 pixels. Read only."""
    folder = tmp_path_factory.mktemp("camelyon16")
    write_camelyon16(folder, normal=6, tumor=6, test=4, size_px=(400, 360), tile=64, seed=1)
    return folder
