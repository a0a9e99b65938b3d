"""Coarse views of slides: glass, and patches of stain on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]
Pixels = NDArray[np.uint8]


def glass(shape: tuple[int, int] = (200, 300), tint: Color = (244, 240, 246), noise: float = 2.0) -> Pixels:
    """Empty glass, (height, width, 3)."""
    rng = np.random.default_rng(0)
    return np.clip(rng.normal(tint, noise, (*shape, 3)), 0, 255).astype(np.uint8)


def stain(pixels: Pixels, rows: slice, columns: slice, color: Color = (200, 110, 170)) -> Pixels:
    """The view with a rectangle of one color, and some noise, painted into it."""
    rng = np.random.default_rng(1)
    part: NDArray[Any] = pixels[rows, columns]
    part[:] = np.clip(rng.normal(color, 6, part.shape), 0, 255).astype(np.uint8)
    return pixels
