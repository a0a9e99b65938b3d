"""What a transform is: a picture and one random generator in, a picture out.

All randomness of a sample comes from the one generator it is given, so that a sample can be drawn again in any process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pyvips
import torch

Picture = Any
"""A `pyvips.Image` (lazy), an (H, W, C) `numpy.ndarray`, or a (C, H, W) `torch.Tensor`.

Only a pyvips image can go on to another transform."""


class TransformError(ValueError):
    """A transform cannot be used, or got or gave something that is no picture."""


class Transform(ABC):
    """A lazy transform of a pyvips image whose randomness comes from the generator it is handed.

    Subclasses define `apply`. Instances hold parameters only and can be pickled.
    """

    @abstractmethod
    def apply(self, image: pyvips.Image, rng: np.random.Generator) -> Picture:
        """Transform `image`, drawing from `rng` alone."""

    def __call__(self, image: pyvips.Image, rng: np.random.Generator | None = None) -> Picture:
        """Transform `image`.

        Args:
            image: Any size.
            rng: Generator of this sample. None: one seeded from torch's global generator.

        Raises:
            TransformError: if `image` is no pyvips image, for instance because a step before made a tensor of it.
        """
        if not isinstance(image, pyvips.Image):
            raise TransformError(
                f"{type(self).__name__} needs a pyvips image and got {type(image).__name__}. "
                "Steps that make an array or a tensor (ToTensor) must come last."
            )
        if rng is None:
            rng = np.random.default_rng(int(torch.randint(2**62, ()).item()))
        return self.apply(image, rng)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
