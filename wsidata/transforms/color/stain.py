"""Stain augmentation of H&E images, and the optical densities it rests on.

Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train distilled
stain-invariant convolutional networks", IEEE Transactions on Medical Imaging 37(9), 2018: each stain's amount s
becomes alpha * s + beta. The stains are separated as by Ruifrok and Johnston, "Quantification of histochemical staining
by color deconvolution", Analytical and Quantitative Cytology and Histology 23, 2001.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, TypeAlias

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.transforms.base import (
    Operation,
    Transform,
    TransformError,
    check_limit,
    check_probability,
    require,
    same_window,
)
from wsidata.transforms.canvas import Canvas
from wsidata.transforms.color_table import Colors

Vector: TypeAlias = tuple[float, float, float]
Matrix: TypeAlias = tuple[Vector, Vector, Vector]

TISSUE_DENSITY = 0.15
"""Optical density above which a pixel counts as stained (Macenko's threshold beta)."""

GLASS_DENSITY = 0.05
"""Mean density of the bands up to which a pixel is glass: a gray of 243 in 8 bits."""

RAMP = 0.15
"""Range of density above it in which glass passes into tissue."""

_STEPS_PER_DENSITY = 2000
"""Steps per unit of density in the table of 8-bit results, a quarter of a percent of a gray level at most."""

_WEIGHT_SCALE, _WEIGHT_SHIFT = 255 / RAMP, -255 * GLASS_DENSITY / RAMP

RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Rows: densities in red, green and blue of one unit of hematoxylin, eosin and DAB (Ruifrok; as in scikit-image)."""


@dataclass(frozen=True)
class DensityMap(Operation):
    """density' = density + weight * (matrix @ density + offset - density).

    The weight, (mean density - 0.05) / 0.15 cut to 0..1, keeps the background: glass stays as it is, and white white.

    Attributes:
        matrix: 3 x 3, row by row; maps densities of red, green and blue.
        offset: Added to these densities.
    """

    cost: ClassVar[float] = 1.5  # 8 behind a step that cannot be painted, see `planning`
    matrix: Matrix
    offset: Vector
    source_window = same_window

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Map, for 3 bands of 8 or 16 bits."""
        largest = require(image, "DensityMap", bands=3)
        values = np.arange(largest + 1)
        step = step_of(largest)
        density = image.maplut(float_table(-np.log((values + step) / (largest + step))))
        change = density.recomb(pyvips.Image.new_from_array((np.asarray(self.matrix) - np.eye(3)).tolist()))
        if any(self.offset):
            change += list(self.offset)
        mapped = density + change * (tissue_weight(density) / 255)
        if largest > 255:
            return (
                ((mapped * -1).exp() * (largest + step) - step).rint().cast(image.format).copy(interpretation="rgb16")
            )
        steps = (mapped * _STEPS_PER_DENSITY).cast("ushort")
        return steps.maplut(pyvips.Image.new_from_array(_values_of_steps()[None])).copy(interpretation="srgb")

    def on_canvas(self, canvas: Canvas) -> Canvas | None:
        """The plan in other colors."""
        require(canvas, "DensityMap", bands=3)
        return canvas.recolored(self.colors)

    def colors(self, colors: Colors) -> Colors:
        """What becomes of 8-bit colors, by the arithmetic of libvips in `image`: float32 between its operations."""
        density = -np.log((np.arange(256) + 1) / 256).astype(np.float32)[colors]
        exact = density.astype(np.float64)
        change = _recombined(exact, np.asarray(self.matrix) - np.eye(3)).astype(np.float32)
        if any(self.offset):
            change = (change.astype(np.float64) + self.offset).astype(np.float32)
        mean = _recombined(exact, np.full((1, 3), 1 / 3)).astype(np.float32)
        weight = mean * np.float32(_WEIGHT_SCALE) + np.float32(_WEIGHT_SHIFT)
        share = np.clip(weight, 0, 255).astype(np.uint8).astype(np.float32) * np.float32(1 / 255)
        mapped = (density + change * share) * np.float32(_STEPS_PER_DENSITY)
        return np.asarray(_values_of_steps()[np.clip(mapped, 0, 65535).astype(np.uint16)])


class StainJitter(Transform):
    """Change the amounts of hematoxylin, eosin and DAB at random; glass stays as it is (see `DensityMap`).

    Amounts are in natural units of density. scikit-image's HED values, and published ranges that rest on them, are
    smaller by ln(10^6) = 13.8: its beta of 0.05 is 0.69 here, which is a lot. Unlike there, negative amounts are not
    cut off, so that alpha = 1 and beta = 0 change nothing.

    Args:
        alpha: Factor of each stain, drawn from 1 - alpha..1 + alpha.
        beta: Added to each stain, drawn from -beta..beta. Above about 0.06 it can reverse the order of the palest
            shades.
        p: Probability.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 0.05, p: float = 1.0) -> None:
        self.alpha = check_limit("alpha", alpha)
        self.beta = check_limit("beta", beta)
        if self.alpha >= 1:
            raise TransformError(f"alpha={alpha} must be below 1: a stain would turn negative.")
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> DensityMap:
        """Choose factors and shifts."""
        require(image, "StainJitter", bands=3)
        alpha = rng.uniform(1 - self.alpha, 1 + self.alpha, 3)
        beta = rng.uniform(-self.beta, self.beta, 3)
        return stain_map(alpha, beta)


def stain_map(alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> DensityMap:
    """The map of densities that multiplies the stains' amounts by `alpha` and adds `beta`.

    With density = RGB_FROM_HED.T @ stains: RGB_FROM_HED.T @ (alpha * stains + beta).
    """
    mix = RGB_FROM_HED.T
    return DensityMap(as_matrix(mix @ np.diag(alpha) @ np.linalg.inv(mix)), as_vector(mix @ beta))


def tissue_weight(density: pyvips.Image) -> pyvips.Image:
    """Weight of tissue in each pixel, from its 3 densities: 0 for glass, up to 255 for stained tissue."""
    mean = density.recomb(pyvips.Image.new_from_array([[1 / 3] * 3]))
    return mean.linear(_WEIGHT_SCALE, _WEIGHT_SHIFT, uchar=True)  # cuts at both ends


@lru_cache(maxsize=1)
def _values_of_steps() -> NDArray[np.uint8]:
    """The 8-bit value of each step of density."""
    middles = (np.arange(65536) + 0.5) / _STEPS_PER_DENSITY
    return np.asarray(np.rint(np.clip(256 * np.exp(-middles) - 1, 0, 255)).astype(np.uint8))


def _recombined(values: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, rows) products of a matrix and (N, 3) values, added up in libvips' order."""
    return np.asarray(sum(values[:, band, None] * matrix[:, band] for band in range(3)))


def step_of(largest: int) -> int:
    """One 8-bit step on a scale of values up to `largest`."""
    return largest // 255


def density_of(pixels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Optical density of 8- or 16-bit pixels."""
    largest = np.iinfo(pixels.dtype).max
    step = step_of(largest)
    return np.asarray(-np.log((pixels.astype(np.float64) + step) / (largest + step)))


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
