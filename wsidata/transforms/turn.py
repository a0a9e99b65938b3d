"""Right-angle rotations and flips of rectangles and arrays, the eight symmetries of the square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.utils.rectangle import Rectangle

_OPENCV_TYPES = {np.dtype(np.uint8), np.dtype(np.uint16)}
_OPENCV_BANDS = (2, 3, 4)


@dataclass(frozen=True)
class Turn:
    """Right-angle rotations, counterclockwise as in `numpy.rot90`, then a flip left to right or none.

    Attributes:
        turns: 0 to 3.
        mirrored: Whether to flip.
    """

    turns: int = 0
    mirrored: bool = False

    @property
    def swaps_sides(self) -> bool:
        """Whether width and height change places."""
        return self.turns % 2 == 1

    def size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """(width, height) of an image of this size once it is turned."""
        return (height_px, width_px) if self.swaps_sides else (width_px, height_px)

    def then(self, other: Turn) -> Turn:
        """This turn and then another, as one."""
        # A rotation after a flip is the rotation the other way before it.
        turns = self.turns - other.turns if self.mirrored else self.turns + other.turns
        return Turn(turns % 4, self.mirrored != other.mirrored)

    def rectangle(self, part: Rectangle, width_px: int, height_px: int) -> Rectangle:
        """Where a rectangle of an image of this size is, once it is turned."""
        x, y, width, height = part.x, part.y, part.width, part.height
        for _ in range(self.turns):  # counterclockwise: the right edge goes to the top
            x, y, width, height = y, width_px - x - width, height, width
            width_px, height_px = height_px, width_px
        return Rectangle(width_px - x - width if self.mirrored else x, y, width, height)

    def source(self, part: Rectangle, width_px: int, height_px: int) -> Rectangle:
        """The rectangle of an image of this size that is `part` once it is turned."""
        sides = self.size(width_px, height_px)
        x, y, width, height = part.x, part.y, part.width, part.height
        if self.mirrored:
            x = sides[0] - x - width
        for _ in range(self.turns):  # clockwise: the top goes to the right
            x, y, width, height = sides[1] - y - height, x, height, width
            sides = sides[::-1]
        return Rectangle(x, y, width, height)

    def write(self, pixels: NDArray[Any], out: NDArray[Any]) -> None:
        """Write pixels, (height, width, bands), turned into an array of that size, which may be a view."""
        if self == Turn():
            out[...] = pixels
        elif pixels.dtype in _OPENCV_TYPES and pixels.shape[2] in _OPENCV_BANDS:
            _write_by_opencv(self, np.ascontiguousarray(pixels), out)
        else:
            turned = np.rot90(pixels, self.turns)
            out[...] = turned[:, ::-1] if self.mirrored else turned


_FLIPS = {Turn(0, True): 1, Turn(2, False): -1, Turn(2, True): 0}
_ROTATIONS = {Turn(1): cv2.ROTATE_90_COUNTERCLOCKWISE, Turn(3): cv2.ROTATE_90_CLOCKWISE}


def _write_by_opencv(turn: Turn, pixels: NDArray[Any], out: NDArray[Any]) -> None:
    """NumPy copies pixels of three bytes one byte at a time, which takes three times as long."""
    if turn in _FLIPS:
        written = cv2.flip(pixels, _FLIPS[turn], dst=out)
    elif turn in _ROTATIONS:
        written = cv2.rotate(pixels, _ROTATIONS[turn], dst=out)
    elif turn == Turn(3, True):
        written = cv2.transpose(pixels, dst=out)
    else:  # about the other diagonal
        written = cv2.flip(cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE), 1, dst=out)
    if written is not out:  # OpenCV wrote elsewhere, as the layout did not suit it
        out[...] = written
