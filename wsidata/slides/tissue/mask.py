"""Tissue masks, computed on a coarse view of a slide.

The method, `otsu_saturation`, is Otsu's threshold on saturation with its known pitfalls handled.

1. Saturation is max(R, G, B) - min(R, G, B): glass, ink-free background, black borders and unscanned white are all
   gray, stains are not. (The saturation of HSV divides this by max(R, G, B), which makes noise in black pixels look
   colorful.) A median filter removes single pixels.
2. The threshold is Otsu's (IEEE Transactions on Systems, Man, and Cybernetics 9, 1979, p. 62): the split of the
   histogram with the largest variance between its two classes. It adapts to tinted glass.
3. Otsu splits everything in two, also a slide without tissue, and tissue that fills the view. So where the means of the
   two classes differ by less than `MIN_CONTRAST`, nothing counts as tissue - except, always, pixels more saturated than
   `CERTAIN_SATURATION`, which glass never is.
4. Cleaning: gaps narrower than `close_px` are closed, holes smaller than `max_hole_px` filled, pieces smaller than
   `min_piece_px` dropped.

Lumps of fat, faint stains and pen marks are the known failures; other methods can be passed as a function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyvips
from numpy.typing import NDArray

MASK_MPP = 8.0
"""Default um per pixel of masks: a nucleus is about one pixel."""

MASK_MAX_SIDE_PX = 2048
"""Longer side of masks where the mpp is unknown."""

MIN_CONTRAST = 10.0
"""Smallest difference between the mean saturations (0..255) of glass and tissue."""

CERTAIN_SATURATION = 40
"""Saturation (0..255) above which a pixel is always tissue."""

TissueMethod = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
"""From (height, width, 3) uint8 RGB to a (height, width) boolean mask."""


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
        left, right = int(columns[0] * self.downsample_x), int(np.ceil((columns[-1] + 1) * self.downsample_x))
        top, bottom = int(rows[0] * self.downsample_y), int(np.ceil((rows[-1] + 1) * self.downsample_y))
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


def otsu_saturation(
    pixels: NDArray[np.uint8], *, close_px: int = 5, max_hole_px: int = 256, min_piece_px: int = 24
) -> NDArray[np.bool_]:
    """Tissue by Otsu's threshold on saturation, cleaned; see the top of this module.

    The defaults suit the default of 8 um per pixel. `functools.partial` sets others.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        close_px: Gaps up to this wide are closed; 1 or less closes none.
        max_hole_px: Holes of fewer pixels are filled.
        min_piece_px: Pieces of fewer pixels are dropped.

    Returns:
        (height, width) booleans.

    Raises:
        ValueError: for other pixels.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"saturation needs (height, width, 3) uint8 RGB, not {pixels.shape} {pixels.dtype}. Open the slide without "
            "channels=, or pass a tissue method of your own."
        )
    noisy = np.ascontiguousarray(pixels.max(axis=2) - pixels.min(axis=2))
    saturation: NDArray[np.uint8] = np.asarray(cv2.medianBlur(noisy, 3), dtype=np.uint8)
    mask: NDArray[Any] = (saturation > _threshold(saturation)).astype(np.uint8)
    if close_px > 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (close_px, close_px))
        padded = cv2.copyMakeBorder(mask, close_px, close_px, close_px, close_px, cv2.BORDER_REPLICATE)
        mask = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[close_px:-close_px, close_px:-close_px]
    filled = ~_without_small_pieces(mask == 0, max_hole_px, connectivity=4)
    return _without_small_pieces(filled, min_piece_px, connectivity=8)


def tissue_mask(
    image: pyvips.Image, method: TissueMethod = otsu_saturation, *, max_side_px: int = MASK_MAX_SIDE_PX
) -> NDArray[np.bool_]:
    """Tissue of an image (uchar, 3 bands) that is not a slide: booleans that span it, at most `max_side_px` a side."""
    scale = max_side_px / max(image.width, image.height)
    return apply_method(method, (image.resize(scale) if scale < 1 else image).numpy(), "the image")


def apply_method(method: TissueMethod, pixels: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    """Call a method that may be the user's own, and check that it gives a boolean mask of the image's size."""
    mask = np.asarray(method(pixels))
    if mask.shape != pixels.shape[:2] or mask.dtype != np.bool_:
        raise ValueError(
            f"the tissue method gave {mask.dtype} {mask.shape} for {name}; it must give a boolean mask of its height "
            f"and width, {pixels.shape[:2]}. Compare with a threshold (mask > 0), and do not resize."
        )
    return mask


def check_sees_colors(method: TissueMethod, purpose: str) -> None:
    """Reject `otsu_saturation`, or a `functools.partial` of it, for pixels that are not colors.

    It would take three fluorescence channels for RGB. `purpose` is for the message.
    """
    if getattr(method, "func", method) is otsu_saturation:
        raise ValueError(
            f"{purpose} cannot be found by color where channels= are chosen. Pass a method that takes these channels: "
            "TissueCrop(..., method=...), or Slide.tissue_mask(method)."
        )


def _threshold(saturation: NDArray[np.uint8]) -> float:
    """Pixels above it are tissue."""
    otsu, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above = saturation > otsu
    if not above.any() or above.all() or saturation[above].mean() - saturation[~above].mean() < MIN_CONTRAST:
        return CERTAIN_SATURATION
    return min(otsu, CERTAIN_SATURATION)


def _without_small_pieces(mask: NDArray[np.bool_], min_px: int, connectivity: int) -> NDArray[np.bool_]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    keep[0] = False  # what was not in the mask
    return np.asarray(keep[labels], dtype=np.bool_)
