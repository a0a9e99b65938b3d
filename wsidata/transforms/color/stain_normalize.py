"""Stain and color normalization to a target, after Macenko and after Reinhard.

Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009. Reinhard et al.,
"Color transfer between images", IEEE Computer Graphics and Applications 21(5), 2001.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.transforms.base import Operation, Transform, TransformError, as_tuples, require, same_window
from wsidata.transforms.color.stain import (
    TISSUE_DENSITY,
    DensityMap,
    Matrix,
    Vector,
    as_matrix,
    as_vector,
    density_of,
    float_table,
    step_of,
    tissue_weight,
)
from wsidata.utils.messages import check_choice

OnBlank = Literal["raise", "keep"]

BLOCKS = 16
"""Blocks along each side of a large image that are sampled."""

BLOCK_PX = 64
"""Side of a block."""

LEAST_TISSUE_PX = 500
"""Stained pixels that a fit needs."""

_LEAST_VARIANCE = 1e-9
"""A variance below this is rounding."""

LMS_FROM_RGB = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""Reinhard et al., equation 4."""

LAB_FROM_LMS = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1, 1], [1, 1, -2], [1, -1, 0]])
"""Reinhard et al., equation 6, on logarithms of LMS."""


class BlankImageError(TransformError):
    """An image has too little stained tissue to fit its stains."""


class _Fit:
    """A fit that can be saved as JSON."""

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self))  # type: ignore[call-overload]  # every subclass is a dataclass

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            TransformError: if it is something else.
        """
        try:
            return cls(**{name: as_tuples(value) for name, value in json.loads(text).items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise TransformError(f"this is no JSON of a {cls.__name__} ({error}). Write it with to_json().") from error


@dataclass(frozen=True)
class StainFit(_Fit):
    """The stains of an image, after Macenko.

    Attributes:
        haematoxylin: Densities in red, green and blue; a unit vector.
        eosin: The same.
        strongest: 99th percentile of the amount of each.
    """

    haematoxylin: Vector
    eosin: Vector
    strongest: tuple[float, float]


@dataclass(frozen=True)
class ColorFit(_Fit):
    """The colors of an image, after Reinhard.

    Attributes:
        mean: Mean of l, alpha and beta over the tissue.
        std: Their standard deviations.
    """

    mean: Vector
    std: Vector


MACENKO_REFERENCE = StainFit((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581), (1.9705, 1.0308))
"""The reference of the authors' own program, which most published models used."""


def fit_macenko(image: pyvips.Image) -> StainFit:
    """Fit the stains of an image.

    Tissue pixels (every band denser than 0.15) are projected on the plane of their two largest principal components;
    the 1st and 99th percentile of the angle there are the stains, hematoxylin the one that absorbs more red. Amounts
    are the least-squares solution, over the same pixels.

    Args:
        image: 3 bands of 8 or 16 bits.

    Raises:
        BlankImageError: if there are not enough tissue pixels.
    """
    require(image, "fit_macenko", bands=3)
    density = density_of(sample_pixels(image))
    density = _enough(density[(density >= TISSUE_DENSITY).all(axis=1)])
    variances, vectors = np.linalg.eigh(np.cov(density, rowvar=False))
    plane = vectors[:, [2, 1]]
    plane = plane * np.where(plane[0] < 0, -1.0, 1.0)
    projected = density @ plane
    angles = np.arctan2(projected[:, 1], projected[:, 0])
    ends = [plane @ [np.cos(a), np.sin(a)] for a in np.percentile(angles, [1, 99])]
    haematoxylin, eosin = sorted(ends, key=lambda end: -end[0])
    amounts = np.linalg.lstsq(np.stack([haematoxylin, eosin], axis=1), density.T, rcond=None)[0]
    strongest = np.percentile(amounts, 99, axis=1)
    if variances[1] < _LEAST_VARIANCE or not (strongest > 0).all():
        raise BlankImageError("the image has one stain only, and Macenko's method needs two. Pass on_blank='keep'.")
    return StainFit(as_vector(haematoxylin), as_vector(eosin), (float(strongest[0]), float(strongest[1])))


def fit_reinhard(image: pyvips.Image) -> ColorFit:
    """Fit the mean and spread of the colors of an image's tissue (mean density above 0.15), in Reinhard's l-alpha-beta.

    Args:
        image: 3 bands of 8 or 16 bits.

    Raises:
        BlankImageError: if there are not enough tissue pixels.
    """
    require(image, "fit_reinhard", bands=3)
    density = density_of(sample_pixels(image))
    density = _enough(density[density.mean(axis=1) > TISSUE_DENSITY])
    lab = np.log(np.exp(-density) @ LMS_FROM_RGB.T) @ LAB_FROM_LMS.T
    std = lab.std(axis=0)
    if not (std**2 > _LEAST_VARIANCE).all():
        raise BlankImageError("the image's tissue has one color only. Pass on_blank='keep'.")
    return ColorFit(as_vector(lab.mean(axis=0)), as_vector(std))


def sample_pixels(image: pyvips.Image) -> NDArray[np.integer]:
    """Pixels of blocks spread evenly over an image, (N, bands); all pixels of one that is not much larger than these.

    The blocks are always the same, so a fit draws nothing at random.
    """
    span_px = BLOCKS * BLOCK_PX
    if image.width * image.height <= span_px**2:
        pixels = image.numpy()
        return np.asarray(pixels.reshape(-1, image.bands))
    lefts, tops = (
        sorted({round(i * max(side - BLOCK_PX, 0) / (BLOCKS - 1)) for i in range(BLOCKS)})
        for side in (image.width, image.height)
    )
    width, height = min(BLOCK_PX, image.width), min(BLOCK_PX, image.height)
    blocks = [image.crop(left, top, width, height).numpy().reshape(-1, image.bands) for top in tops for left in lefts]
    return np.concatenate(blocks)


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
    source_window = same_window

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


class MacenkoNormalize(Transform):
    """Normalize the stains to those of a target; glass stays as it is, and what is neither stain is left out.

    Args:
        target: `fit_macenko` of a slide with the target stains, or the authors' reference.
        on_blank: For images with too little tissue to fit: "raise", or "keep" them as they are.
    """

    def __init__(self, target: StainFit = MACENKO_REFERENCE, on_blank: OnBlank = "raise") -> None:
        check_choice("on_blank", on_blank, ("raise", "keep"), TransformError)
        self.target, self.on_blank = target, on_blank

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> DensityMap | None:
        """Fit the image's own stains."""
        try:
            own = fit_macenko(image)
        except BlankImageError:
            if self.on_blank == "raise":
                raise
            return None
        factors = np.divide(self.target.strongest, own.strongest)
        matrix = _stains(self.target) @ np.diag(factors) @ np.linalg.pinv(_stains(own))
        return DensityMap(as_matrix(matrix), (0.0, 0.0, 0.0))


class ReinhardNormalize(Transform):
    """Normalize the mean and spread of the tissue's colors to a target; glass stays as it is.

    Costs about thirty times the decoding, so crop first.

    Args:
        target: `fit_reinhard` of a slide with the target colors.
        on_blank: For images with too little tissue to fit: "raise", or "keep" them as they are.
    """

    def __init__(self, target: ColorFit, on_blank: OnBlank = "raise") -> None:
        check_choice("on_blank", on_blank, ("raise", "keep"), TransformError)
        self.target, self.on_blank = target, on_blank

    def draw(self, image: pyvips.Image, rng: np.random.Generator) -> ReinhardMap | None:
        """Fit the image's own colors."""
        try:
            own = fit_reinhard(image)
        except BlankImageError:
            if self.on_blank == "raise":
                raise
            return None
        scale = np.diag(np.divide(self.target.std, own.std))
        back = np.linalg.inv(LAB_FROM_LMS)
        matrix = back @ scale @ LAB_FROM_LMS
        return ReinhardMap(as_matrix(matrix), as_vector(back @ (self.target.mean - scale @ np.array(own.mean))))


def _stains(fit: StainFit) -> NDArray[np.float64]:
    return np.stack([fit.haematoxylin, fit.eosin], axis=1)


def _vips(matrix: NDArray[np.float64]) -> pyvips.Image:
    return pyvips.Image.new_from_array(matrix.tolist())


def _enough(density: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(density) < LEAST_TISSUE_PX:
        raise BlankImageError(
            f"of the pixels looked at, {len(density)} are stained, and at least {LEAST_TISSUE_PX} are needed to say "
            "what the stains are. Leave blank images out (crop='tissue'), or pass on_blank='keep'."
        )
    return density


MacenkoNormalise = MacenkoNormalize
ReinhardNormalise = ReinhardNormalize
ColourFit = ColorFit
BlankPictureError = BlankImageError
