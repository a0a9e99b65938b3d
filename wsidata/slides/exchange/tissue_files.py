"""Tissue masks read from files, as a method to find tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from wsidata.formats.vips import pixels_of
from wsidata.slides.protocol import SlideLike
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.methods import SlideMethod
from wsidata.tables.find_slides import MaskFolder, split_suffix


@dataclass(frozen=True)
class TissueFiles(SlideMethod):
    """Tissue as files say, one per slide, found by its name: masks (PNG, TIFF and other images) or outlines.

        TileDataModule(..., tissue_method=TissueFiles("masks"))   # masks/tumor_001.png, masks/tumor_002.geojson

    Masks of images span their slide, at any resolution; what is not 0 is tissue. Outlines (GeoJSON, ASAP, ImageScope)
    are polygons in pixels of level 0.

    Attributes:
        folder: The folder of the files.
        classes: Classes of outlines that are tissue. None: all of them.
    """

    goes_by_color = False

    folder: str | Path
    classes: Sequence[str] | None = None

    def __call__(self, slide: SlideLike, resolution: Mapping[str, Any]) -> NDArray[np.bool_]:
        """The tissue at a resolution.

        Raises:
            ImageLookupError: if the slide has no file, or several.
            MaskError: if a mask has another shape than the slide.
            AnnotationError: if outlines are malformed, or lie beside the slide.
        """
        from wsidata.slides.masks import is_outlines, read_mask  # loads torch

        files, name = MaskFolder(str(self.folder)), slide.path.name
        path = files.find_outlines(name) or files.find(split_suffix(name)[0])
        classes: dict[Any, int] = {value: min(value, 1) for value in range(256)}
        if is_outlines(path):
            classes |= self._outlined(path)
        mask = read_mask(path, cast(Slide, slide), resolution, classes)
        height, width = mask.height, mask.width
        return np.asarray(pixels_of(mask).reshape(height, width) == 1)

    def _outlined(self, path: Path) -> dict[Any, int]:
        """Number of each class of the outlines of a file: 1 for tissue."""
        from wsidata.annotations.annotations import Annotations

        names = dict.fromkeys(one.class_name for one in Annotations.read(path).outlines)
        return {name: int(self.classes is None or name in self.classes) for name in names}
