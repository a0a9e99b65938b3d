"""Packing of tissue pieces close together on a white canvas.

Tissue is scattered over a slide, and a network that reads whole images pays for all the glass in between. So the
bounding boxes of its pieces are cut out and placed close together.

        slide                       canvas
    +-------------------+        +---------+
    |  +--+             |        |+---+ +-+|
    |  |A |      +---+  |        || B | |A||
    |  +--+      | B |  |   ->   ||   | +-+|
    |            +---+  |        |+---+ +-+|
    |     ++            |        |      ++ |
    |     ++ C          |        |      ++ |
    +-------------------+        +---------+

Rules: a piece is never cut, turned or resampled. Boxes that overlap are united first, so every pixel of the slide is on
the canvas at most once, and all its tissue exactly once. The same mask gives the same canvas. Between slide and canvas
points are mapped both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyvips
from numpy.typing import ArrayLike, NDArray

from wsidata.slides.tissue.bin_packing import place, unite_overlapping
from wsidata.slides.tissue.mask import TissueMask

if TYPE_CHECKING:
    from wsidata.annotations.annotations import Annotations

WHITE = 255
PIECES_AT_ONCE = 16
BAND_PX = 256
"""Rows of the bands that a canvas of more pieces than `PIECES_AT_ONCE` is assembled from."""

MARGIN_PX = 16
"""Default margin around each piece, in pixels of the canvas."""

Points = NDArray[np.float64]
Corners = list[tuple[int, int]]


@dataclass(frozen=True)
class Piece:
    """A rectangle of the image, and its place on the canvas; all in pixels of the resolution that is read."""

    x: int
    y: int
    width: int
    height: int
    canvas_x: int
    canvas_y: int


@dataclass(frozen=True)
class Packing:
    """Pieces of an image on a white canvas.

    Attributes:
        pieces: The pieces and their places.
        width: Columns of the canvas.
        height: Rows of the canvas.
        source_width: Columns of the image that pieces are cut from.
        source_height: Rows of that image.
        downsample_x: Level-0 pixels per pixel of image and canvas, along x.
        downsample_y: The same along y.
    """

    pieces: tuple[Piece, ...]
    width: int
    height: int
    source_width: int
    source_height: int
    downsample_x: float = 1.0
    downsample_y: float = 1.0

    @property
    def saving(self) -> float:
        """Pixels of the image per pixel of the canvas."""
        return self.source_width * self.source_height / (self.width * self.height)

    def apply(self, image: pyvips.Image, fill: float = WHITE) -> pyvips.Image:
        """The canvas, lazily: a piece is decoded when its place on the canvas is read.

        Args:
            image: The image, `source_width` x `source_height` pixels, any bands, or a mask of that size.
            fill: Value between the pieces.

        Raises:
            ValueError: if the image has another size.
        """
        if (image.width, image.height) != (self.source_width, self.source_height):
            raise ValueError(
                f"a packing for an image of {self.source_width}x{self.source_height} px cannot be applied to one of "
                f"{image.width}x{image.height} px. Plan it for the resolution that is read."
            )
        cut = [image.crop(one.x, one.y, one.width, one.height) for one in self.pieces]
        if len(cut) == 1 and (cut[0].width, cut[0].height) == (self.width, self.height):
            return cut[0]
        if len(cut) <= PIECES_AT_ONCE:
            return self._canvas(cut, fill, 0, self.height)
        bands = [self._canvas(cut, fill, top, BAND_PX) for top in range(0, self.height, BAND_PX)]
        return pyvips.Image.arrayjoin(bands, across=1).crop(0, 0, self.width, self.height)

    def _canvas(self, cut: Sequence[pyvips.Image], fill: float, top: int, height: int) -> pyvips.Image:
        """Some rows of the canvas. libvips reads every piece on it for each patch of pixels, so fewer are faster."""
        blank = cut[0].new_from_image([fill] * cut[0].bands).crop(0, 0, 1, 1)
        canvas = blank.gravity("north-west", self.width, height, extend="copy")
        for piece, pixels in zip(self.pieces, cut, strict=True):
            if piece.canvas_y < top + height and piece.canvas_y + piece.height > top:
                canvas = canvas.insert(pixels, piece.canvas_x, piece.canvas_y - top)
        return canvas

    def to_slide(self, x: ArrayLike, y: ArrayLike) -> tuple[Points, Points]:
        """Points on the canvas as points on the slide.

        Args:
            x: Columns on the canvas; whole numbers are left edges of pixels. Numbers or arrays of one shape.
            y: Rows on the canvas.

        Returns:
            x and y in pixels of level 0, NaN where the canvas is white.
        """
        in_image, on_canvas = self._corners
        x_image, y_image = self._moved(x, y, on_canvas, in_image)
        return x_image * self.downsample_x, y_image * self.downsample_y

    def to_canvas(self, x_lv0: ArrayLike, y_lv0: ArrayLike) -> tuple[Points, Points]:
        """Points on the slide as points on the canvas.

        Args:
            x_lv0: Columns of level 0. Numbers or arrays of one shape.
            y_lv0: Rows of level 0.

        Returns:
            x and y on the canvas, NaN where the point is in no piece.
        """
        x_image = np.asarray(x_lv0, dtype=np.float64) / self.downsample_x
        y_image = np.asarray(y_lv0, dtype=np.float64) / self.downsample_y
        in_image, on_canvas = self._corners
        return self._moved(x_image, y_image, in_image, on_canvas)

    def annotations(self, class_name: str = "Piece") -> Annotations:
        """Outlines of the pieces on the slide, to write as GeoJSON for QuPath."""
        from wsidata.annotations.annotations import Annotations
        from wsidata.annotations.outline import Outline, OutlineClass

        outlines = []
        for number, one in enumerate(self.pieces, start=1):
            left, right = one.x * self.downsample_x, (one.x + one.width) * self.downsample_x
            top, bottom = one.y * self.downsample_y, (one.y + one.height) * self.downsample_y
            ring = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)
            outlines.append(Outline(((ring,),), class_name, f"{class_name} {number}"))
        return Annotations(tuple(outlines), (OutlineClass(class_name, (30, 30, 30)),))

    @property
    def _corners(self) -> tuple[Corners, Corners]:
        """(x, y) of every piece in the image, and on the canvas."""
        return [(one.x, one.y) for one in self.pieces], [(one.canvas_x, one.canvas_y) for one in self.pieces]

    def _moved(self, x: ArrayLike, y: ArrayLike, before: Corners, after: Corners) -> tuple[Points, Points]:
        """Points moved as the piece that contains them is; NaN for those in no piece."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        moved_x, moved_y = np.full(x.shape, np.nan), np.full(y.shape, np.nan)
        for piece, (left, top), (to_x, to_y) in zip(self.pieces, before, after, strict=True):
            inside = (x >= left) & (x < left + piece.width) & (y >= top) & (y < top + piece.height)
            moved_x[inside], moved_y[inside] = x[inside] + to_x - left, y[inside] + to_y - top
        return moved_x[()], moved_y[()]  # numbers where numbers were passed


def whole(width_px: int, height_px: int, downsample: tuple[float, float] = (1.0, 1.0)) -> Packing:
    """A packing that leaves the image as it is."""
    return _placed([(0, 0, width_px, height_px)], [(0, 0)], (width_px, height_px), (width_px, height_px), downsample)


def crop_to_tissue(
    mask: TissueMask, size: tuple[int, int], downsample: tuple[float, float], margin_px: int = MARGIN_PX
) -> Packing:
    """A packing of one piece, the bounding box of all tissue.

    Args:
        mask: The tissue, not empty.
        size: (width, height) of the image that is read.
        downsample: Level-0 pixels per pixel of the image, (x, y).
        margin_px: Margin around the box, in pixels of the image; it ends at the image's edge.
    """
    boxes = _image_boxes(mask, size, downsample, margin_px)
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    return _placed([(left, top, right, bottom)], [(0, 0)], (right - left, bottom - top), size, downsample)


def pack_tissue(
    mask: TissueMask, size: tuple[int, int], downsample: tuple[float, float], margin_px: int = MARGIN_PX
) -> Packing:
    """A packing of all pieces of tissue, close together; the margin is around each. Arguments as `crop_to_tissue`."""
    boxes = [tuple(box) for box in unite_overlapping(_image_boxes(mask, size, downsample, margin_px)).tolist()]
    places, canvas = place([(right - left, bottom - top) for left, top, right, bottom in boxes])
    return _placed(boxes, places, canvas, size, downsample)


def _image_boxes(
    mask: TissueMask, size: tuple[int, int], downsample: tuple[float, float], margin_px: int
) -> NDArray[np.int64]:
    """The mask's boxes in pixels of the image, rounded outwards, with their margin, inside the image."""
    boxes = mask.boxes()
    if len(boxes) == 0:
        raise ValueError("the mask holds no tissue, so there is nothing to crop to. Ask mask.is_empty first.")
    if margin_px < 0:
        raise ValueError(f"margin_px={margin_px} must be at least 0: a piece is never cut.")
    scale = np.array([mask.downsample_x / downsample[0], mask.downsample_y / downsample[1]])
    nearest = 1e-9  # of a pixel: values that are whole but for rounding errors are not rounded outwards
    corner = np.floor(boxes[:, :2] * scale + nearest).astype(np.int64) - margin_px
    beyond = np.ceil(boxes[:, 2:] * scale - nearest).astype(np.int64) + margin_px
    limits = np.array(size, dtype=np.int64)
    at_edge = boxes[:, 2:] == mask.pixels.shape[::-1]  # the mask's size was rounded
    beyond = np.where(at_edge, limits, beyond)
    corner = np.clip(corner, 0, limits - 1)
    return np.concatenate([corner, np.clip(beyond, corner + 1, limits)], axis=1)


def _placed(
    boxes: Sequence[tuple[int, ...]],
    places: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    size: tuple[int, int],
    downsample: tuple[float, float],
) -> Packing:
    pieces = tuple(
        Piece(left, top, right - left, bottom - top, x, y)
        for (left, top, right, bottom), (x, y) in zip(boxes, places, strict=True)
    )
    return Packing(pieces, *canvas, *size, *downsample)
