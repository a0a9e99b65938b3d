"""Small artificial photos that the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsidata.synthetic_photos import write_photo_folders, write_photos


@pytest.fixture(scope="session")
def toadstools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with a table: 3 kinds of 8, about 64 x 80 pixels. Read only."""
    return write_photos(tmp_path_factory.mktemp("toadstools"), classes=3, per_class=8, side_px=64, seed=1)


@pytest.fixture(scope="session")
def toadstool_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in folders train, val and test of class folders: 3 kinds of 4, 2 and 2. Read only."""
    parts = {"train": 4, "val": 2, "test": 2}
    return write_photo_folders(tmp_path_factory.mktemp("folders"), classes=3, parts=parts, side_px=64, seed=1)
