"""Brightness, contrast, gamma and blur, by lookup tables and a small kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.transforms.base import (
    Operation,
    Transform,
    TransformError,
    check_limit,
    check_probability,
    check_range,
    require,
    same_window,
)
from wsidata.transforms.canvas import Canvas
from wsidata.transforms.color_table import Colors
from wsidata.utils.rectangle import Rectangle

MAX_SIGMA_PX = 16.0


@dataclass(frozen=True)
class ToneCurve(Operation):
    """On the scale 0..1, per band: y = contrast * (x ** gamma - 0.5) + 0.5 + brightness, cut to 0..1 and rounded.

    Attributes:
        brightness: One value per band.
        contrast: One value per band.
        gamma: One value per band.
    """

    cost: ClassVar[float] = 0.5
    brightness: tuple[float, ...]
    contrast: tuple[float, ...]
    gamma: tuple[float, ...]
    source_window = same_window

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Look values up."""
        largest = require(image, "ToneCurve", bands=len(self.gamma))
        table = self.values(largest).astype(np.uint8 if largest == 255 else np.uint16)
        return image.maplut(pyvips.Image.new_from_array(table))

    def on_canvas(self, canvas: Canvas) -> Canvas | None:
        """The plan in other colors."""
        require(canvas, "ToneCurve", bands=len(self.gamma))
        return canvas.recolored(self.colors)

    def colors(self, colors: Colors) -> Colors:
        """What becomes of 8-bit colors."""
        table = self.values(255)[0].astype(np.uint8)
        return np.take_along_axis(table, colors, axis=0)

    def values(self, largest: int) -> NDArray[np.float64]:
        """The result for each value, (1, largest + 1, bands), whole numbers."""
        x = np.linspace(0.0, 1.0, largest + 1)[None, :, None]
        y = np.asarray(self.contrast) * (x ** np.asarray(self.gamma) - 0.5) + 0.5 + np.asarray(self.brightness)
        return np.asarray(np.rint(np.clip(y, 0, 1) * largest))


@dataclass(frozen=True)
class GaussianBlur(Operation):
    """Gaussian blur; the edge pixels are repeated outward.

    libvips' own integer Gaussians change the brightness (flat 200 becomes 194 to 204 with small `min_ampl`), because
    the sum of their coefficients is arbitrary. Here it is a power of two, by which the fast path divides exactly.

    Attributes:
        sigma_px: Standard deviation, in pixels.
    """

    cost: ClassVar[float] = 2.0
    sigma_px: float

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Convolve."""
        require(image, "GaussianBlur")
        total = 64 if self.sigma_px < 1 else 128 if self.sigma_px < 2.5 else 256  # larger ones overrun its 8 bits
        if image.format == "ushort":
            total = 4096
        kernel = gaussian_kernel(self.sigma_px, total)
        if len(kernel) == 1:
            return image
        mask = pyvips.Image.new_from_array([kernel.tolist()], scale=total, offset=0)
        return image.convsep(mask, precision="integer")

    def source_window(self, window: Rectangle, width_px: int, height_px: int) -> Rectangle:
        """The rectangle with a margin of half the kernel."""
        return window.grown(math.ceil(3 * self.sigma_px))


class ToneJitter(Transform):
    """Change brightness, contrast and gamma at random, in all bands alike or in each band.

    Args:
        brightness: Added on the scale 0..1; drawn from -brightness..brightness.
        contrast: Factor about the middle; drawn from 1 - contrast..1 + contrast.
        gamma: Exponent, drawn from 1 / (1 + gamma)..1 + gamma, log-uniformly.
        per_band: Draw for each band, which also changes the hue.
        p: Probability.
    """

    def __init__(
        self,
        brightness: float = 0.05,
        contrast: float = 0.1,
        gamma: float = 0.1,
        per_band: bool = False,
        p: float = 1.0,
    ) -> None:
        self.brightness = check_limit("brightness", brightness)
        self.contrast = check_limit("contrast", contrast)
        self.gamma = check_limit("gamma", gamma)
        if self.contrast >= 1:
            raise TransformError(f"contrast={contrast} must be below 1: the image would be turned negative.")
        self.per_band = per_band
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> ToneCurve:
        """Choose the curve."""
        require(image, "ToneJitter")
        count = image.bands if self.per_band else 1
        brightness = rng.uniform(-self.brightness, self.brightness, count)
        contrast = rng.uniform(1 - self.contrast, 1 + self.contrast, count)
        steepest = math.log1p(self.gamma)
        gamma = np.exp(rng.uniform(-steepest, steepest, count))
        repeat = image.bands // count
        return ToneCurve(*(tuple(one.tolist()) * repeat for one in (brightness, contrast, gamma)))


class Blur(Transform):
    """Gaussian blur of random width, as of slides out of focus.

    Args:
        sigma_px: Range of the Gaussian's standard deviation, in pixels; at most 16.
        p: Probability.
    """

    def __init__(self, sigma_px: float | tuple[float, float] = (0.3, 1.5), p: float = 1.0) -> None:
        self.sigma_px = check_range("sigma_px", sigma_px, 0)
        if self.sigma_px[1] > MAX_SIGMA_PX:
            raise TransformError(f"sigma_px={sigma_px} must be at most {MAX_SIGMA_PX:g}: read at a coarser spacing.")
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> GaussianBlur:
        """Choose the width."""
        require(image, "Blur")
        return GaussianBlur(float(rng.uniform(*self.sigma_px)))


def gaussian_kernel(sigma_px: float, total: int) -> NDArray[np.int64]:
    """Whole-number Gaussian weights, symmetric, that add up to `total`; without zeros at the ends.

    Rounded down first; what is missing goes, one to each side, to the weights that lost most (largest remainders).
    """
    if sigma_px == 0:
        return np.array([total])
    radius = math.ceil(3 * sigma_px)
    weights = np.exp(-(np.arange(radius + 1) ** 2) / (2 * sigma_px**2))  # from the middle outwards
    weights *= total / (2 * weights.sum() - weights[0])
    half = np.floor(weights).astype(np.int64)
    missing = total - int(2 * half.sum() - half[0])
    half[0] += missing % 2
    losers = np.argsort(half[1:] - weights[1:], kind="stable")[: missing // 2]
    half[1:][losers] += 1
    kernel = np.concatenate([half[:0:-1], half])
    return np.asarray(kernel[kernel > 0])
