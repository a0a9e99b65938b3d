"""Painted nuclei of lesions and of their mimics, alike but for the texture of their chromatin.

A pair of nuclei has one outline and the very same values of density inside, in another order: clumps of chromatin in
the lesion, finer ones in the mimic. So no mean, no color and no histogram of a nucleus tells which it is, only a filter
that resolves the clumps.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Density = NDArray[np.uint8]
"""Optical density, `UNIT` for 1.0."""

UNIT = 160
MPP = 0.5
"""um per pixel of level 0, of all slides with lesions."""
STAMP_PX = 27
SPACING_PX = 21.0
"""Side of a painted nucleus, and from one to the next, in pixels of level 0."""
FINEST_UM = (0.7, 4.0)
"""Bounds of the scale of textures; below, neither 0.5 um/px nor JPEG would keep the mimics' texture."""
FINER = 1.5
"""How much finer mimics' clumps are than those of lesions."""

_CONTRAST, _SHADES, _FIELD_PX = 0.4, (0.65, 0.85), 512


@lru_cache(maxsize=4)
def nuclei(finest_um: float, count: int = 256) -> NDArray[np.uint8]:
    """Painted nuclei, (2, count, `STAMP_PX`, `STAMP_PX`): mimics, then the lesion's, which differ in texture alone.

    Args:
        finest_um: Width of the lesion's clumps of chromatin in um, half the period of the texture.
        count: Number of pairs.
    """
    rng = np.random.default_rng(7)
    textures = [band_noise(2 * finest_um / MPP / finer, _FIELD_PX, rng) for finer in (FINER, 1.0)]
    y, x = np.mgrid[:STAMP_PX, :STAMP_PX] - (STAMP_PX // 2)
    painted = np.zeros((2, count, STAMP_PX, STAMP_PX), dtype=np.uint8)
    for number in range(count):
        long, slim, turn = rng.uniform(8.5, 11.5), rng.uniform(0.7, 1.0), rng.uniform(0, np.pi)
        across, down = x * np.cos(turn) + y * np.sin(turn), (y * np.cos(turn) - x * np.sin(turn)) / slim
        distance = np.hypot(across, down) / long
        body = rng.uniform(*_SHADES) * np.clip((1 - distance) * long * slim + 0.5, 0, 1)
        inside = distance < 0.9
        values = np.linspace(-_CONTRAST, _CONTRAST, int(inside.sum()))
        for kind, texture in enumerate(textures):
            top, left = rng.integers(0, _FIELD_PX - STAMP_PX, 2)
            ranks = np.argsort(np.argsort(texture[top : top + STAMP_PX, left : left + STAMP_PX][inside]))
            shaded = body.copy()
            shaded[inside] += values[ranks] + np.mean(body[inside]) - body[inside]
            painted[kind, number] = np.clip(shaded * UNIT + 0.5, 0, 255)
    painted.setflags(write=False)
    return painted


def band_noise(period_px: float, side_px: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of one period and any direction, without slower waves; its opposite edges fit together."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side_px), np.fft.fftfreq(side_px)))
    strength = np.exp(-0.5 * ((frequency * period_px - 1) / 0.15) ** 2)
    return np.fft.ifft2(np.fft.fft2(rng.standard_normal((side_px, side_px))) * strength).real
