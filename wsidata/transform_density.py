"""Stains absorb light, so they add up as optical density, not as colour (Beer and Lambert).

Everything done to stains here is one affine map of optical density, whoever chose it: jitter (`transform_stain`) or
normalisation (`transform_normalise`). Done with tables where pixels have few values, it costs about five decodings.

    density = -ln((value + 1) / (largest + 1)), per band, so that white has density 0 exactly, and black a finite one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.transform_base import Operation, require

Vector: TypeAlias = tuple[float, float, float]
Matrix: TypeAlias = tuple[Vector, Vector, Vector]

TISSUE_DENSITY = 0.15
"""Density above which a pixel counts as stained (Macenko's threshold beta)."""

GLASS_DENSITY = 0.05
"""Mean density of the bands up to which a pixel is glass: grey of 243 in 8 bits."""

RAMP = 0.15
"""Further density over which glass passes into tissue."""

_STEPS_PER_DENSITY = 2000
"""8-bit results are looked up in steps this fine, a quarter of a percent of a grey level's own step at most."""


@dataclass(frozen=True)
class DensityMap(Operation):
    """density' = matrix @ density + weight * offset.

    The weight, (mean density - 0.05) / 0.15 cut to 0..1, keeps the background: glass is not shifted, and white stays
    exactly white.

    Attributes:
        matrix: 3 x 3, row by row.
        offset: Added to the densities of red, green and blue.
    """

    cost: ClassVar[float] = 5.0
    matrix: Matrix
    offset: Vector

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Map, for 3 bands of 8 or 16 bits."""
        largest = require(image, "DensityMap", bands=3)
        values = np.arange(largest + 1)
        density = image.maplut(float_table(-np.log((values + 1) / (largest + 1))))
        matrix = np.asarray(self.matrix)
        if any(self.offset):
            density = density.bandjoin(tissue_weight(density))
            matrix = np.hstack([matrix, np.asarray(self.offset)[:, None] / 255])
        if largest > 255:
            mapped = density.recomb(pyvips.Image.new_from_array(matrix.tolist()))
            return ((mapped * -1).exp() * (largest + 1) - 1).rint().cast(image.format).copy(interpretation="rgb16")
        steps = density.recomb(pyvips.Image.new_from_array((matrix * _STEPS_PER_DENSITY).tolist())).cast("ushort")
        centres = (np.arange(65536) + 0.5) / _STEPS_PER_DENSITY
        back = np.rint(np.clip((largest + 1) * np.exp(-centres) - 1, 0, largest)).astype(np.uint8)
        return steps.maplut(pyvips.Image.new_from_array(back[None])).copy(interpretation="srgb")


def tissue_weight(density: pyvips.Image) -> pyvips.Image:
    """How much of a pixel is tissue, 0 to 255, of its 3 densities: 0 for glass, 255 for what is surely stained."""
    mean = density.recomb(pyvips.Image.new_from_array([[1 / 3] * 3]))
    return mean.linear(255 / RAMP, -255 * GLASS_DENSITY / RAMP, uchar=True)  # cuts at both ends


def density_of(pixels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Optical density of 8- or 16-bit pixels."""
    largest = np.iinfo(pixels.dtype).max
    return np.asarray(-np.log((pixels.astype(np.float64) + 1) / (largest + 1)))


def as_matrix(values: NDArray[np.float64]) -> Matrix:
    """A 3 x 3 array as plain numbers."""
    a, b, c = (as_vector(row) for row in values)
    return a, b, c


def as_vector(values: NDArray[np.float64]) -> Vector:
    """Three values as plain numbers."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def float_table(values: NDArray[np.float64]) -> pyvips.Image:
    """A look-up table of floats, the same for all bands."""
    return pyvips.Image.new_from_array(values.astype(np.float32)[None])
