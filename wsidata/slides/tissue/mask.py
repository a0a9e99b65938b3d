"""Tissue masks of slides, computed on a coarse view by one of the `methods` or a function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.slides.resample import shrunk_to
from wsidata.slides.tissue.methods import SlideMethod, find_tissue, otsu_density
from wsidata.slides.tissue.methods import TissueMethod as TissueMethod
from wsidata.slides.tissue.methods import otsu_saturation as otsu_saturation

if TYPE_CHECKING:
    from wsidata.annotations.annotations import Annotations

MASK_MPP = 8.0
"""Default um per pixel of masks: a nucleus is about one pixel."""

MASK_MAX_SIDE_PX = 2048
"""Longer side of masks where the mpp is unknown."""

COLOR_METHODS = (find_tissue, otsu_saturation, otsu_density)


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Mask of the tissue on a slide.

    Attributes:
        pixels: (height, width) booleans. Pixel (row, column) stands for the level-0 pixels from
            (column * downsample_x, row * downsample_y) to the same of the next.
        downsample_x: Level-0 pixels per pixel of the mask along x.
        downsample_y: The same along y.
        width_lv0: Columns of the slide's level 0.
        height_lv0: Rows of the slide's level 0.
    """

    pixels: NDArray[np.bool_]
    downsample_x: float
    downsample_y: float
    width_lv0: int
    height_lv0: int

    @property
    def fraction(self) -> float:
        """Fraction of the slide that is tissue, 0 to 1."""
        return float(self.pixels.mean())

    @property
    def is_empty(self) -> bool:
        """Whether no tissue was found."""
        return not self.pixels.any()

    @property
    def bounding_box(self) -> tuple[int, int, int, int] | None:
        """(x, y, width, height) of all tissue in pixels of level 0, or None if there is none."""
        rows, columns = np.flatnonzero(self.pixels.any(axis=1)), np.flatnonzero(self.pixels.any(axis=0))
        if len(rows) == 0:
            return None
        left, top = int(columns[0] * self.downsample_x), int(rows[0] * self.downsample_y)
        height, width = self.pixels.shape  # the last row and column reach to the edge, where their size was rounded off
        right = self.width_lv0 if columns[-1] == width - 1 else int(np.ceil((columns[-1] + 1) * self.downsample_x))
        bottom = self.height_lv0 if rows[-1] == height - 1 else int(np.ceil((rows[-1] + 1) * self.downsample_y))
        return left, top, min(right, self.width_lv0) - left, min(bottom, self.height_lv0) - top

    def boxes(self) -> NDArray[np.int64]:
        """Bounding boxes of the connected pieces (diagonal neighbors included), in pixels of the mask.

        Returns:
            (pieces, 4): left, top, right, bottom; right and bottom are the first beyond. Ordered by top, then left.
        """
        _, _, stats, _ = cv2.connectedComponentsWithStats(self.pixels.astype(np.uint8), connectivity=8)
        left, top, width, height = (stats[1:, column].astype(np.int64) for column in range(4))  # 0 is the background
        boxes = np.stack([left, top, left + width, top + height], axis=1)
        return boxes[np.lexsort((boxes[:, 0], boxes[:, 1]))]

    def annotations(self, class_name: str = "Tissue", color: tuple[int, int, int] = (0, 140, 70)) -> Annotations:
        """Outlines of the pieces, along the borders of the mask's pixels, to write as GeoJSON for QuPath.

        Args:
            class_name: Name of their class.
            color: Its red, green and blue, 0 to 255.

        Example:
            >>> slide.tissue_mask().annotations().write("tumor_001.geojson")
        """
        from wsidata.annotations.annotations import Annotations
        from wsidata.annotations.grid import Grid

        height, width = self.pixels.shape
        grid = Grid(width, height, self.downsample_x, self.downsample_y)
        size_lv0 = float(self.width_lv0), float(self.height_lv0)
        return Annotations.of_mask(self.pixels, grid, class_name, color=color, size_lv0=size_lv0)


def tissue_mask(
    image: pyvips.Image, method: TissueMethod = find_tissue, *, max_side_px: int = MASK_MAX_SIDE_PX
) -> NDArray[np.bool_]:
    """Tissue of an image (uchar, 3 bands) that is not a slide: booleans that span it, at most `max_side_px` a side."""
    return apply_method(method, shrunk_to(image, max_side_px).numpy(), "the image")


def apply_method(method: TissueMethod, pixels: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    """Call a method that may be the user's own, and check that it gives a boolean mask of the image's size."""
    if isinstance(method, SlideMethod):
        raise ValueError(f"{type(method).__name__} finds the tissue of slides, and {name} is none. Pass find_tissue.")
    return check_mask(method(pixels), pixels.shape[:2], name)


def check_mask(mask: NDArray[np.bool_], shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """Check what a method gave for the image of this name and (height, width)."""
    mask = np.asarray(mask)
    if mask.shape != shape or mask.dtype != np.bool_:
        raise ValueError(
            f"the tissue method gave {mask.dtype} {mask.shape} for {name}; it must give a boolean mask of its height "
            f"and width, {shape}. Compare with a threshold (mask > 0), and do not resize."
        )
    return mask


def check_sees_colors(method: TissueMethod, purpose: str) -> None:
    """Reject methods that go by color, and a `functools.partial` of one, for pixels that are not colors.

    They would take three fluorescence channels for RGB. `purpose` is for the message.
    """
    by_color = method.goes_by_color if isinstance(method, SlideMethod) else getattr(method, "func", method)
    if by_color is True or by_color in COLOR_METHODS:
        raise ValueError(
            f"{purpose} cannot be found by color where channels= are chosen. Pass a method that takes these channels: "
            "TissueCrop(..., method=...), or Slide.tissue_mask(method)."
        )
