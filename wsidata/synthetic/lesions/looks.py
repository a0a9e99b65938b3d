"""Stains and scanners of sites, by which densities become colors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsidata.synthetic.lesions.cells import UNIT
from wsidata.synthetic.tissue import EOSIN, GLASS, HEMATOXYLIN


@dataclass(frozen=True)
class Look:
    """How a slide is stained and scanned.

    Attributes:
        stains: Optical density of hematoxylin and eosin in red, green and blue, (2, 3).
        glass: Light through glass, three values.
        blur_px: Deviation of the scanner's blur in pixels of level 0.
    """

    stains: NDArray[np.float64]
    glass: NDArray[np.float64]
    blur_px: float

    @property
    def glass_color(self) -> tuple[int, int, int]:
        """Color where there is no tissue."""
        red, green, blue = np.clip(self.glass, 0, 255).astype(int).tolist()
        return red, green, blue

    def colors(self) -> NDArray[np.uint32]:
        """Packed RGBA by hematoxylin x 256 + eosin, after Beer and Lambert; 65,536 values."""
        density = np.arange(256) / UNIT
        absorbed = density[:, None, None] * self.stains[0] + density[None, :, None] * self.stains[1]
        light = np.clip(self.glass * np.exp(-absorbed), 0, 255).astype(np.uint8)
        packed = np.concatenate([light, np.full((256, 256, 1), 255, dtype=np.uint8)], axis=2)
        return packed.reshape(-1, 4).view(np.uint32).ravel()


def draw_look(site: int, seed: int, rng: np.random.Generator) -> Look:
    """The look of a slide: that of its site, and a little of its own.

    Args:
        site: Number of the site.
        seed: Of the sites.
        rng: Of the slide.
    """
    ours = np.random.default_rng([seed, 1_000_003, site])
    strength = ours.uniform((0.9, 0.7), (1.2, 1.15)) * rng.uniform(0.92, 1.08, 2)
    vectors = np.stack([HEMATOXYLIN, EOSIN]) + ours.normal(0, 0.03, (2, 3)) + rng.normal(0, 0.01, (2, 3))
    stains = strength[:, None] * np.maximum(vectors, 0.02)
    return Look(stains, GLASS - ours.uniform(0, 10, 3), float(ours.uniform(0.35, 0.6)))
