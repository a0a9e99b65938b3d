"""Normalisation gives every slide the stains or colours of one target, where jitter gives each slide many.

The target and the picture itself are fitted as `transform_fits` says; here the one is mapped to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.regions import Window
from wsidata.transform_base import Operation, Transform, TransformError, require
from wsidata.transform_density import (
    DensityMap,
    Matrix,
    Vector,
    as_matrix,
    as_vector,
    float_table,
    step_of,
    tissue_weight,
)
from wsidata.transform_fits import (
    LAB_FROM_LMS,
    LMS_FROM_RGB,
    MACENKO_REFERENCE,
    BlankPictureError,
    ColourFit,
    StainFit,
    fit_macenko,
    fit_reinhard,
)

OnBlank = Literal["raise", "keep"]


@dataclass(frozen=True)
class ReinhardMap(Operation):
    """log LMS' = log LMS + weight * (matrix @ log LMS + offset - log LMS), with the weight of `DensityMap`.

    Attributes:
        matrix: 3 x 3, row by row.
        offset: Added to log LMS.
    """

    cost: ClassVar[float] = 30.0
    matrix: Matrix
    offset: Vector

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Map, for 3 bands of 8 or 16 bits."""
        largest = require(image, "ReinhardMap", bands=3)
        step = step_of(largest)
        values = (np.arange(largest + 1) + step) / (largest + step)
        light = image.maplut(float_table(values))
        density = image.maplut(float_table(-np.log(values)))
        weight = tissue_weight(density) / 255
        logs = light.recomb(_vips(LMS_FROM_RGB)).log()
        change = logs.recomb(_vips(np.asarray(self.matrix) - np.eye(3))) + list(self.offset)
        lms = (logs + change * weight).exp()
        mapped = lms.recomb(_vips(np.linalg.inv(LMS_FROM_RGB)))
        shown = "srgb" if largest == 255 else "rgb16"
        return (mapped * (largest + step) - step).rint().cast(image.format).copy(interpretation=shown)

    def source_window(self, window: Window, width_px: int, height_px: int) -> Window:
        """The same: every pixel stands for itself."""
        return window


class MacenkoNormalise(Transform):
    """Give the picture the stains of a target; glass stays as it is, and what is neither stain is left out.

    Args:
        target: What `fit_macenko` found in the slide whose stains are wanted, or the authors' reference.
        on_blank: What to do with a picture with too little tissue to fit: "raise", or "keep" it as it is.
    """

    def __init__(self, target: StainFit = MACENKO_REFERENCE, on_blank: OnBlank = "raise") -> None:
        self.target = target
        self.on_blank = _checked(on_blank)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> DensityMap | None:
        """Fit the picture's own stains."""
        try:
            own = fit_macenko(image)
        except BlankPictureError:
            if self.on_blank == "raise":
                raise
            return None
        factors = np.divide(self.target.strongest, own.strongest)
        matrix = _stains(self.target) @ np.diag(factors) @ np.linalg.pinv(_stains(own))
        return DensityMap(as_matrix(matrix), (0.0, 0.0, 0.0))


class ReinhardNormalise(Transform):
    """Give the tissue the mean and spread of colours of a target; glass stays as it is.

    Costs about thirty times the decoding, so crop first.

    Args:
        target: What `fit_reinhard` found in the slide whose colours are wanted.
        on_blank: What to do with a picture with too little tissue to fit: "raise", or "keep" it as it is.
    """

    def __init__(self, target: ColourFit, on_blank: OnBlank = "raise") -> None:
        self.target = target
        self.on_blank = _checked(on_blank)

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> ReinhardMap | None:
        """Fit the picture's own colours."""
        try:
            own = fit_reinhard(image)
        except BlankPictureError:
            if self.on_blank == "raise":
                raise
            return None
        scale = np.diag(np.divide(self.target.std, own.std))
        back = np.linalg.inv(LAB_FROM_LMS)
        matrix = back @ scale @ LAB_FROM_LMS
        return ReinhardMap(as_matrix(matrix), as_vector(back @ (self.target.mean - scale @ np.array(own.mean))))


def _checked(on_blank: OnBlank) -> OnBlank:
    if on_blank not in ("raise", "keep"):
        raise TransformError(f"on_blank={on_blank!r} is not known. Pass 'raise' or 'keep'.")
    return on_blank


def _stains(fit: StainFit) -> NDArray[np.float64]:
    return np.stack([fit.haematoxylin, fit.eosin], axis=1)


def _vips(matrix: NDArray[np.float64]) -> pyvips.Image:
    return pyvips.Image.new_from_array(matrix.tolist())
