"""Pen strokes on a coarse view, by the ratios of optical densities.

Stains and inks absorb in fixed ratios, whatever their amount (Beer-Lambert; Ruifrok and Johnston, Anal. Quant. Cytol.
Histol. 23, 2001), so ratios of densities tell ink apart where thresholds on RGB or HSV depend on how thick it lies. No
stain in use absorbs far more red than green (hematoxylin: 0.93), both green and blue but hardly any red, or all three
alike and much. What is of the color of ink is a stroke where it is thick and large; its thin edges are added.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsidata.slides.artifacts.density import Density, Mask, closed, connected_to, densities, opened, smoothed, widened

BLUE_RATIO, BLUE_STRONG, BLUE_WEAK = 1.25, 0.42, 0.2
"""Blue and green ink: density of red by that of green; density of red inside strokes and at their edges."""

RED_MAX_RED, RED_MIN_BLUE, RED_STRONG, RED_WEAK = 0.2, 0.62, 0.55, 0.35
"""Red ink: densities of red and of blue by that of green; density of green."""

OVER_TISSUE = 0.6
"""Density that ink over tissue has, where its ratios are mixed with those of stains."""

BLACK_STRONG, BLACK_WEAK, BLACK_SPREAD = 0.55, 0.4, 0.28
"""Black ink: smallest density of the three; difference of the largest and the smallest, by the largest."""

WIDTH_UM, LEAST_MM2, REACH_UM, EDGE_UM = 60.0, 0.03, 250.0, 8.0
"""Strokes are at least so wide and large; weaker ink is looked for so far from them; all is widened by so much."""


def find_pen(pixels: NDArray[np.uint8], mpp: float) -> Mask:
    """Strokes of blue, green, red or black pens.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        mpp: um per pixel, 4 to 16.
    """
    density = smoothed(densities(pixels), 8 / mpp)
    found = np.zeros(pixels.shape[:2], dtype=np.bool_)
    for strong, weak in (_blue(density), _red(density), _black(density)):
        thick = opened(closed(strong, 24 / mpp), WIDTH_UM / mpp)
        found |= connected_to(weak & widened(thick, REACH_UM / mpp), thick, LEAST_MM2 * 1e6 / mpp**2)
    return widened(closed(found, WIDTH_UM / mpp), EDGE_UM / mpp) if found.any() else found


def _blue(density: Density) -> tuple[Mask, Mask]:
    red, green, _ = np.moveaxis(density, 2, 0)
    is_color = red > BLUE_RATIO * green
    mixed = (red > OVER_TISSUE) & (red > 0.8 * green)
    over_tissue = (red > OVER_TISSUE) & (red > green)
    return is_color & (red > BLUE_STRONG) | over_tissue, (red > green) & (red > BLUE_WEAK) | mixed


def _red(density: Density) -> tuple[Mask, Mask]:
    red, green, blue = np.moveaxis(density, 2, 0)
    is_color = (red < RED_MAX_RED * green) & (blue > RED_MIN_BLUE * green)
    mixed = (green > 1.4 * OVER_TISSUE) & (blue > OVER_TISSUE) & (red < 0.42 * green)
    return is_color & (green > RED_STRONG), is_color & (green > RED_WEAK) | mixed


def _black(density: Density) -> tuple[Mask, Mask]:
    low, high = density.min(axis=2), density.max(axis=2)
    is_color = high - low < BLACK_SPREAD * high
    return is_color & (low > BLACK_STRONG), is_color & (low > BLACK_WEAK)
