"""What a picture's stains or colours are like, found on its tissue: what normalisation starts from and aims at.

Macenko: M. Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009.
Reinhard: E. Reinhard et al., "Color transfer between images", IEEE Computer Graphics and Applications 21(5), 2001.

Only blocks spread evenly over the picture are looked at, so that a large slide is not decoded a second time.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.transform_base import TransformError, require
from wsidata.transform_density import TISSUE_DENSITY, Vector, as_vector, density_of

BLOCKS = 16
"""Blocks along each side of a large picture that are looked at."""

BLOCK_PX = 64
"""Side of a block."""

LEAST_TISSUE_PX = 500
"""Fewer stained pixels than that say nothing about a slide's stains."""

_LEAST_VARIANCE = 1e-9
"""Less is rounding."""

LMS_FROM_RGB = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""Reinhard et al., equation 4."""

LAB_FROM_LMS = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1, 1], [1, 1, -2], [1, -1, 0]])
"""Reinhard et al., equation 6, on logarithms of LMS."""


class _Fit:
    """What a target or a picture is like, with a way to keep it."""

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
            return cls(**{name: _tuples(value) for name, value in json.loads(text).items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise TransformError(f"this is no JSON of a {cls.__name__} ({error}). Write it with to_json().") from error


@dataclass(frozen=True)
class StainFit(_Fit):
    """The stains of a picture, after Macenko.

    Attributes:
        haematoxylin: Its density in red, green and blue; a unit vector.
        eosin: The same.
        strongest: 99th percentile of the amount of each.
    """

    haematoxylin: Vector
    eosin: Vector
    strongest: tuple[float, float]


@dataclass(frozen=True)
class ColourFit(_Fit):
    """The colours of a picture, after Reinhard.

    Attributes:
        mean: Mean of l, alpha and beta over the tissue.
        std: Their standard deviations.
    """

    mean: Vector
    std: Vector


MACENKO_REFERENCE = StainFit((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581), (1.9705, 1.0308))
"""The target of the authors' own program, with which most published models were normalised."""


class BlankPictureError(TransformError):
    """A picture has too little stained tissue to say what its stains are."""


def fit_macenko(image: pyvips.Image) -> StainFit:
    """Find the stains of a picture.

    Tissue pixels (every band denser than 0.15) are projected on the plane of their two largest principal components;
    the 1st and 99th percentile of the angle there are the stains, haematoxylin the one that absorbs more red. Amounts
    are the least-squares solution, over the same pixels.

    Args:
        image: 3 bands of 8 or 16 bits.

    Raises:
        BlankPictureError: if there are not enough tissue pixels.
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
        raise BlankPictureError("the picture has one stain only, and Macenko's method needs two. Pass on_blank='keep'.")
    return StainFit(as_vector(haematoxylin), as_vector(eosin), (float(strongest[0]), float(strongest[1])))


def fit_reinhard(image: pyvips.Image) -> ColourFit:
    """Find mean and spread of the colours of a picture's tissue (mean density above 0.15) in Reinhard's l-alpha-beta.

    Args:
        image: 3 bands of 8 or 16 bits.

    Raises:
        BlankPictureError: if there are not enough tissue pixels.
    """
    require(image, "fit_reinhard", bands=3)
    density = density_of(sample_pixels(image))
    density = _enough(density[density.mean(axis=1) > TISSUE_DENSITY])
    lab = np.log(np.exp(-density) @ LMS_FROM_RGB.T) @ LAB_FROM_LMS.T
    std = lab.std(axis=0)
    if not (std**2 > _LEAST_VARIANCE).all():
        raise BlankPictureError("the picture's tissue has one colour only. Pass on_blank='keep'.")
    return ColourFit(as_vector(lab.mean(axis=0)), as_vector(std))


def sample_pixels(image: pyvips.Image) -> NDArray[np.integer]:
    """Pixels of blocks spread evenly over a picture, (N, bands); all pixels of one that is not much larger than these.

    The same blocks every time: a fit takes nothing from the sample's generator.
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


def _enough(density: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(density) < LEAST_TISSUE_PX:
        raise BlankPictureError(
            f"of the pixels looked at, {len(density)} are stained, and at least {LEAST_TISSUE_PX} are needed to say "
            "what the stains are. Leave blank pictures out (crop='tissue'), or pass on_blank='keep'."
        )
    return density


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
