"""Fixtures shared by the tests of wsidata; the helpers in this folder can be imported by its tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wsidata.synthetic.photos import write_photo_folders, write_photos
from wsidata.synthetic.tissue import paint_tissue

sys.path.insert(0, str(Path(__file__).parent))  # where `mean_color` is


@pytest.fixture(scope="session")
def tissue() -> NDArray[Any]:
    """A stained picture, (300, 400, 3) uint8. Read only."""
    pixels = paint_tissue(400, 300, tumor=True, mpp=0.5, rng=np.random.default_rng(0))
    pixels.flags.writeable = False
    return pixels


@pytest.fixture(scope="session")
def toadstools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with a table: 3 kinds of 8, about 64 x 80 pixels. Read only."""
    return write_photos(tmp_path_factory.mktemp("toadstools"), classes=3, per_class=8, side_px=64, seed=1)


@pytest.fixture(scope="session")
def toadstool_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in folders train, val and test of class folders: 3 kinds of 4, 2 and 2. Read only."""
    parts = {"train": 4, "val": 2, "test": 2}
    return write_photo_folders(tmp_path_factory.mktemp("folders"), classes=3, parts=parts, side_px=64, seed=1)
