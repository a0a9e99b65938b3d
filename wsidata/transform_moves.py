"""Windows, the eight right-angle symmetries, affine maps: exact for points, and values of masks are never mixed.

All are lazy: libvips decodes only what the result shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyvips

from wsidata.regions import Window as Region
from wsidata.transform_base import Operation, Points, TransformError

_WHITE = {"uchar": 255.0, "ushort": 65535.0, "float": 1.0, "double": 1.0}


@dataclass(frozen=True)
class Window(Operation):
    """A rectangle of the picture, which may reach beyond its edges.

    Attributes:
        left: First column; negative to begin outside.
        top: First row.
        width: Columns.
        height: Rows.
        fill: Value outside the picture. None: white in its number format.
        mask_fill: Value outside the masks. None: 0.
    """

    cost: ClassVar[float] = 0.3
    left: int
    top: int
    width: int
    height: int
    fill: float | None
    mask_fill: float | None

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Cut out, and fill."""
        right, bottom = self.left + self.width, self.top + self.height
        if self.left >= 0 and self.top >= 0 and right <= image.width and bottom <= image.height:
            return image.crop(self.left, self.top, self.width, self.height)
        return self._embed(image, white_of(image, self.fill))

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Cut out, and fill."""
        return self._embed(mask, self.mask_fill or 0)

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Shift."""
        return points - [self.left, self.top]

    def source_window(self, window: Region, width_px: int, height_px: int) -> Region:
        """The same, shifted."""
        return window.moved(self.left, self.top)

    def _embed(self, image: pyvips.Image, fill: float) -> pyvips.Image:
        background = [fill] * image.bands
        return image.embed(
            -self.left, -self.top, self.width, self.height, extend="background", background=background
        )  # fmt: skip


@dataclass(frozen=True)
class Symmetry(Operation):
    """Quarter turns counter-clockwise, as `numpy.rot90`, and then perhaps a mirror, left to right.

    Attributes:
        turns: 0 to 3.
        mirrored: Whether to mirror.
    """

    cost: ClassVar[float] = 0.3
    turns: int
    mirrored: bool

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Turn and mirror."""
        if self.mirrored and self.turns == 2:
            return image.flipver()
        turned = rot90(image, self.turns)
        return turned.fliphor() if self.mirrored else turned

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Turn and mirror."""
        return self.image(mask)

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Turn and mirror."""
        x, y = points[:, 0], points[:, 1]
        for _ in range(self.turns):
            x, y = y, width_px - x
            width_px, height_px = height_px, width_px
        return np.stack([width_px - x if self.mirrored else x, y], axis=1)

    def source_window(self, window: Region, width_px: int, height_px: int) -> Region:
        """Turned back."""
        sides = (width_px, height_px) if self.turns % 2 == 0 else (height_px, width_px)
        x, y, width, height = window.x, window.y, window.width, window.height
        if self.mirrored:
            x = sides[0] - x - width
        for _ in range(self.turns):  # clockwise: what was on top comes to the right
            x, y, width, height = sides[1] - y - height, x, height, width
            sides = sides[::-1]
        return Region(x, y, width, height)


@dataclass(frozen=True)
class AffineMap(Operation):
    """new point = matrix @ point + offset, on a canvas of the same size; pictures bilinear, masks nearest neighbour.

    Attributes:
        matrix: ((a, b), (c, d)).
        offset: (x, y) in pixels.
        fill: Value of what comes from outside. None: white in the picture's number format.
        mask_fill: The same in masks. None: 0.
    """

    cost: ClassVar[float] = 4.0
    matrix: tuple[tuple[float, float], tuple[float, float]]
    offset: tuple[float, float]
    fill: float | None
    mask_fill: float | None

    def image(self, image: pyvips.Image) -> pyvips.Image:
        """Resample, bilinear."""
        # libvips counts from pixel centres: the point (0.5, 0.5) is its (0, 0).
        shift = np.asarray(self.matrix) @ (0.5, 0.5) + self.offset - 0.5
        return self._resample(image, "bilinear", shift, white_of(image, self.fill))

    def mask(self, mask: pyvips.Image) -> pyvips.Image:
        """Take the mask's pixel that holds the place."""
        # "nearest" takes the whole part of a coordinate, so here the place itself is wanted, not the pixel centre.
        return self._resample(mask, "nearest", np.asarray(self.offset) - 0.5, self.mask_fill or 0)

    def points(self, points: Points, width_px: int, height_px: int) -> Points:
        """Map."""
        return np.asarray(points @ np.asarray(self.matrix).T + self.offset)

    def _resample(
        self, image: pyvips.Image, interpolate: str, shift: np.ndarray[tuple[int], np.dtype[np.float64]], fill: float
    ) -> pyvips.Image:
        return image.affine(
            [value for row in self.matrix for value in row],
            oarea=[0, 0, image.width, image.height],
            odx=float(shift[0]),
            ody=float(shift[1]),
            interpolate=pyvips.Interpolate.new(interpolate),
            extend="background",
            background=[fill] * image.bands,
        )


def rot90(image: pyvips.Image, turns: int) -> pyvips.Image:
    """Turn counter-clockwise by `turns` right angles, as `numpy.rot90` does."""
    turns %= 4
    return [image.copy, image.rot270, image.rot180, image.rot90][turns]()


def white_of(image: pyvips.Image, fill: float | None) -> float:
    """`fill`, or white in the picture's number format.

    Raises:
        TransformError: if the format has no white that everybody agrees on.
    """
    if fill is not None:
        return fill
    if image.format not in _WHITE:
        raise TransformError(f"white is not known for a '{image.format}' picture. Pass fill=.")
    return _WHITE[image.format]
