"""Fixtures shared by the tests of wsidata; the helpers in this folder can be imported by its tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wsidata.synthetic_tissue import paint

sys.path.insert(0, str(Path(__file__).parent))  # where `mean_colour` is


@pytest.fixture(scope="session")
def tissue() -> NDArray[Any]:
    """A stained picture, (300, 400, 3) uint8. Read only."""
    pixels = paint(400, 300, tumor=True, mpp=0.5, rng=np.random.default_rng(0))
    pixels.flags.writeable = False
    return pixels
