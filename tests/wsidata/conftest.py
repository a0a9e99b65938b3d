"""Fixtures shared by the tests of wsidata."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wsidata.synthetic_tissue import paint


@pytest.fixture(scope="session")
def tissue() -> NDArray[Any]:
    """A stained picture, (300, 400, 3) uint8. Read only."""
    pixels = paint(400, 300, tumor=True, mpp=0.5, rng=np.random.default_rng(0))
    pixels.flags.writeable = False
    return pixels
