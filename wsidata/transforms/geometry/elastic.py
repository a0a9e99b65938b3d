"""Elastic deformation, a smooth random displacement of image, masks and points.

The field is coarse: random displacements on a grid of control points, joined by a uniform cubic B-spline. That keeps it
cheap, and bounds its slopes: a spline whose control points differ by at most 2 alpha rises by at most 2 alpha / cell
along each axis. With alpha up to cell / 4 the two slopes of each component add up to no more than 1, so that the map
p + d(p) does not fold and has an inverse, which iteration finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.transforms.base import Operation, Points, Transform, TransformError, check_probability
from wsidata.transforms.geometry.crop import white_of

MAX_SHARE = 0.25
"""Largest displacement, as a fraction of the spacing of control points."""

_NODES_PER_CELL = 8
"""The spline is evaluated at so many nodes per control point, and is linear in between."""


@dataclass(frozen=True)
class ElasticField(Operation):
    """The pixel at p comes from p + d(p). Images bilinear, masks nearest neighbor, points by the inverse.

    Attributes:
        seed: Of the displacements: PCG64's raw stream, which is the same in every NumPy release.
        alpha_px: Largest displacement along each axis.
        cell_px: Spacing of the control points, a multiple of 8.
        fill: Value outside the image. None: white in its number format.
        mask_fill: Value outside the masks. None: 0.
    """

    cost: ClassVar[float] = 10.0
    seed: int
    alpha_px: float
    cell_px: int
    fill: float | None
    mask_fill: float | None

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Resample, bilinear."""
        return image.mapim(
            self._sources(image.width, image.height),
            interpolate=pyvips.Interpolate.new("bilinear"),
            extend="background",
            background=[white_of(image, self.fill)] * image.bands,
        )

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Resample, nearest neighbor."""
        return mask.mapim(
            self._sources(mask.width, mask.height) + 0.5,  # "nearest" takes the whole part
            interpolate=pyvips.Interpolate.new("nearest"),
            extend="background",
            background=[self.mask_fill or 0] * mask.bands,
        )

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """The q with q + d(q) = p for each point p, by iteration (d is a contraction)."""
        nodes = self.nodes(width_px, height_px)
        found = points.copy()
        for _ in range(100):
            found = points - self._displacement(nodes, found)
        return found

    def nodes(self, width_px: int, height_px: int) -> NDArray[np.float32]:
        """Displacements at every cell_px / 8 pixels, (rows, columns, 2), from the center of the first pixel on."""
        rows, columns = (side // self.cell_px + 5 for side in (height_px, width_px))
        raw = np.random.PCG64(self.seed).random_raw(rows * columns * 2)
        uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
        controls = uniform.reshape(rows, columns, 2) * self.alpha_px
        step = self.cell_px // _NODES_PER_CELL
        smooth = _spline(controls, height_px // step + 3)
        smooth = _spline(smooth.swapaxes(0, 1), width_px // step + 3).swapaxes(0, 1)
        return np.ascontiguousarray(smooth, dtype=np.float32)

    def _sources(self, width_px: int, height_px: int) -> pyvips.Image:
        """The source of every pixel, in libvips' coordinates (pixel centers are whole numbers)."""
        step = self.cell_px // _NODES_PER_CELL
        field = pyvips.Image.new_from_array(self.nodes(width_px, height_px)).affine(
            [step, 0, 0, step], oarea=[0, 0, width_px, height_px], interpolate=pyvips.Interpolate.new("bilinear")
        )
        return pyvips.Image.xyz(width_px, height_px) + field

    def _displacement(self, nodes: NDArray[np.float32], points: Points) -> Points:
        """Displacement at any place, as in libvips: bilinear between nodes, constant beyond the border."""
        step = self.cell_px // _NODES_PER_CELL
        limit = np.array([nodes.shape[1] - 1.001, nodes.shape[0] - 1.001])
        place = np.clip((points - 0.5) / step, 0, limit)
        cell = place.astype(int)
        (x, y), (u, v) = cell.T, (place - cell).T[:, :, None]
        upper = nodes[y, x] * (1 - u) + nodes[y, x + 1] * u
        lower = nodes[y + 1, x] * (1 - u) + nodes[y + 1, x + 1] * u
        return np.asarray(upper * (1 - v) + lower * v, dtype=np.float64)


class Elastic(Transform):
    """Elastic deformation by a random field.

    Costs about ten times the decoding, so crop first.

    Args:
        alpha_px: Largest displacement along each axis, in pixels; at most a quarter of `cell_px`, or tissue would fold.
        cell_px: Spacing of the random displacements, the size of the waves. A multiple of 8.
        fill: Value outside the image. None: white in its number format.
        mask_fill: Value outside the masks. None: 0, or no class where a data module reads masks.
        p: Probability.

    Raises:
        TransformError: for a field that would fold.
    """

    def __init__(
        self,
        alpha_px: float = 16.0,
        cell_px: int = 128,
        fill: float | None = None,
        mask_fill: float | None = None,
        p: float = 1.0,
    ) -> None:
        if cell_px < _NODES_PER_CELL or cell_px % _NODES_PER_CELL:
            raise TransformError(f"cell_px={cell_px} must be a multiple of {_NODES_PER_CELL}.")
        if not 0 <= alpha_px <= MAX_SHARE * cell_px:
            raise TransformError(
                f"alpha_px={alpha_px} must lie between 0 and {MAX_SHARE} * cell_px = {MAX_SHARE * cell_px:g}; a "
                "stronger field would fold the tissue over itself. Pass a larger cell_px."
            )
        self.alpha_px = alpha_px
        self.cell_px = cell_px
        self.fill = fill
        self.mask_fill = mask_fill
        self.p = check_probability(p)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> ElasticField:
        """Choose the field's seed."""
        white_of(image, self.fill)
        return ElasticField(int(rng.integers(2**63)), self.alpha_px, self.cell_px, self.fill, self.mask_fill)


def _spline(controls: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Uniform cubic B-spline along the first axis, at `count` places, `_NODES_PER_CELL` to a control point."""
    place = np.minimum(np.arange(count) / _NODES_PER_CELL, len(controls) - 3 - 1e-9)
    first = place.astype(int)
    t = (place - first)[:, None, None]
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return np.asarray(sum(weight * controls[first + k] for k, weight in enumerate(weights)) / 6)
