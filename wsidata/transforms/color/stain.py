"""Laboratories stain differently: more or less haematoxylin, paler or stronger eosin. A network should not care.

Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train distilled
stain-invariant convolutional networks", IEEE Transactions on Medical Imaging 37(9), 2018: each stain's amount s
becomes alpha * s + beta. The stains are separated as by Ruifrok and Johnston, "Quantification of histochemical staining
by color deconvolution", Analytical and Quantitative Cytology and Histology 23, 2001.
"""

from __future__ import annotations

import numpy as np
import pyvips

from wsidata.transform_base import Transform, TransformError, check_limit, check_probability, require
from wsidata.transform_density import DensityMap, as_matrix, as_vector

RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Rows: densities in red, green and blue of one unit of haematoxylin, eosin and DAB (Ruifrok; as in scikit-image)."""


class StainJitter(Transform):
    """Change the amounts of haematoxylin, eosin and DAB; glass stays as it is (see `DensityMap`).

    Amounts are in natural units of density. scikit-image's HED values, and published ranges that rest on them, are
    smaller by ln(10^6) = 13.8: its beta of 0.05 is 0.69 here, which is a lot. Unlike there, negative amounts are not
    cut off, so that alpha = 1 and beta = 0 change nothing.

    Args:
        alpha: Factor of each stain, drawn from 1 - alpha..1 + alpha.
        beta: Added to each stain, drawn from -beta..beta. Above about 0.06 it can turn the order of the palest shades
            around.
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


def stain_map(
    alpha: np.ndarray[tuple[int], np.dtype[np.float64]], beta: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> DensityMap:
    """The map of densities that multiplies the stains' amounts by `alpha` and adds `beta`.

    With density = RGB_FROM_HED.T @ stains: RGB_FROM_HED.T @ (alpha * stains + beta).
    """
    mix = RGB_FROM_HED.T
    return DensityMap(as_matrix(mix @ np.diag(alpha) @ np.linalg.inv(mix)), as_vector(mix @ beta))
