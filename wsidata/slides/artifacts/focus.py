"""Focus of tissue at 1 um per pixel, as the ratio of the energies of fine and coarse detail.

Energies of the Laplacian or the gradient (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR
2000) grow with the stain and with the tissue's own detail as much as with focus. Their ratio at two scales does not:
defocus removes fine detail first (the idea of Crete et al., "The blur effect", SPIE 6492, 2007, who compare an image
with a blurred copy of itself). Both energies are taken of log intensities, where the amount of stain is a factor.

Where there is no coarse detail either - in mucus, colloid, necrosis - there is nothing to judge, and nothing counts as
blurred.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.vips import pixels_of
from wsidata.slides.artifacts.density import Mask
from wsidata.slides.tissue.mask import TissueMask

FOCUS_MPP = 1.0
"""um per pixel at which focus is judged."""

SQUARE_PX = 64
"""Side of the squares that are judged, in these pixels."""

BLURRED_RATIO = 0.22
"""Energy of fine by that of coarse detail, below which a square is blurred.

Squares of real slides: 0.26 to 3; the same out of focus, every point a disk with a radius of 2 um: 0.13 to 0.6, of 3
um: 0.1 to 0.34, of 4 um and more: 0.06 to 0.24."""

NOISE = 1e-6
"""Energy of fine detail that is the noise of the sensor and of JPEG, and not detail."""

LEAST_DETAIL = 4e-6
"""Energy of coarse detail (squared log10 of intensity) that a square needs to be judged."""

LEAST_TISSUE = 0.25
"""Share of a square that is tissue, where it is judged."""

BLOCK_PX, RIM_PX = 1024, 16
"""Side of what is decoded at a time, a multiple of `SQUARE_PX`, and how far beyond it the filters reach."""


def find_blur(image: pyvips.Image, tissue: TissueMask, downsample: tuple[float, float]) -> tuple[Mask, Mask]:
    """Squares of tissue that are out of focus.

    Args:
        image: The slide at `FOCUS_MPP`; only what holds tissue is decoded.
        tissue: What is judged.
        downsample: Level-0 pixels per pixel of the image, (x, y).

    Returns:
        Which squares of `SQUARE_PX` are blurred, and which are judged, (rows, columns) of squares.
    """
    rows, columns = math.ceil(image.height / SQUARE_PX), math.ceil(image.width / SQUARE_PX)
    blurred, judged = np.zeros((rows, columns), np.bool_), np.zeros((rows, columns), np.bool_)
    for top in range(0, image.height, BLOCK_PX):
        for left in range(0, image.width, BLOCK_PX):
            width, height = min(BLOCK_PX, image.width - left), min(BLOCK_PX, image.height - top)
            inside = _tissue_of(tissue, (left, top, width, height), downsample)
            if not inside.any():
                continue
            before, above = min(left, RIM_PX), min(top, RIM_PX)
            wide = min(image.width, left + width + RIM_PX) - left + before
            high = min(image.height, top + height + RIM_PX) - top + above
            pixels = pixels_of(image.crop(left - before, top - above, wide, high))
            energies = detail_energies(pixels)[above : above + height, before : before + width]
            shares, fine, coarse = (_by_square(one) for one in _weighted(energies, inside))
            window = np.s_[
                top // SQUARE_PX : top // SQUARE_PX + shares.shape[0],
                left // SQUARE_PX : left // SQUARE_PX + shares.shape[1],
            ]
            judged[window] = (shares >= LEAST_TISSUE) & (coarse >= LEAST_DETAIL * shares)
            blurred[window] = judged[window] & (fine < BLURRED_RATIO * coarse + NOISE * shares)
    return blurred, judged


def detail_energies(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Squares of fine (below about 2 px) and of coarse (4 to 8 px) detail of log intensities, (height, width, 2)."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    light = np.log10(np.arange(256) + 8.0).astype(np.float32)[gray]
    fine = cv2.GaussianBlur(light, (0, 0), 0.8) - cv2.GaussianBlur(light, (0, 0), 1.6)
    coarse = cv2.GaussianBlur(light, (0, 0), 2.0) - cv2.GaussianBlur(light, (0, 0), 4.0)
    return np.stack([fine * fine, coarse * coarse], axis=-1)


def _tissue_of(tissue: TissueMask, place: tuple[int, int, int, int], downsample: tuple[float, float]) -> Mask:
    """The tissue under the pixels of a block (left, top, width, height)."""
    left, top, width, height = place
    rows = ((np.arange(top, top + height) + 0.5) * downsample[1] / tissue.downsample_y).astype(np.int64)
    columns = ((np.arange(left, left + width) + 0.5) * downsample[0] / tissue.downsample_x).astype(np.int64)
    down, across = tissue.pixels.shape
    return np.asarray(tissue.pixels[np.ix_(rows.clip(0, down - 1), columns.clip(0, across - 1))], dtype=np.bool_)


def _weighted(energies: NDArray[np.float32], inside: Mask) -> list[NDArray[np.float32]]:
    weight = inside.astype(np.float32)
    return [weight, energies[..., 0] * weight, energies[..., 1] * weight]


def _by_square(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of squares; what lies beyond the image counts as zero."""
    padded = np.pad(values, [(0, -side % SQUARE_PX) for side in values.shape])
    rows, columns = (side // SQUARE_PX for side in padded.shape)
    means = padded.reshape(rows, SQUARE_PX, columns, SQUARE_PX).mean(axis=(1, 3))
    return np.asarray(means, dtype=np.float32)
