"""Tissue without artifacts, as a method to find tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsidata.slides.artifacts.find import check_artifacts, find_artifacts
from wsidata.slides.protocol import SlideLike
from wsidata.slides.tissue.mask import TissueMask
from wsidata.slides.tissue.methods import SlideMethod, TissueMethod, find_tissue


@dataclass(frozen=True)
class TissueWithout(SlideMethod):
    """Tissue without pen strokes, folds, bubbles or blurred parts.

        WSIDataModule(..., crop=TissueCrop("pack", method=TissueWithout(("pen", "blur"))))
        TileDataModule(..., tissue_method=TissueWithout(("pen", "blur", "fold")))

    Attributes:
        exclude: Of "pen", "fold", "bubble" and "blur"; see `find_artifacts`. "blur" decodes the tissue at 1 um per
            pixel; the others need no more than the coarse view.
        method: Finds the tissue.
    """

    exclude: Sequence[str] = ("pen", "blur", "fold")
    method: TissueMethod = find_tissue

    def __post_init__(self) -> None:
        exclude = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        check_artifacts(exclude)
        object.__setattr__(self, "exclude", exclude)

    def __call__(self, slide: SlideLike, resolution: Mapping[str, Any]) -> NDArray[np.bool_]:
        """The tissue at a resolution; for the errors see `Slide.tissue_mask`."""
        tissue: TissueMask = slide.tissue_mask(self.method, **resolution)
        pixels = tissue.pixels.copy()
        for mask in find_artifacts(slide, tissue, self.exclude).values():
            pixels &= ~mask.pixels
        return pixels
