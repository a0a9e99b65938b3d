"""A rectangle of what a pipeline makes, without the pipeline: its part of the slide is decoded at once, then worked on.

A libvips pipeline pulls its pixels through itself, tile by tile: one tile is decoded at a time, and copied about six
times on its way, which takes twice as long as decoding it. Where it is known what of the slide a rectangle of the
result is made of, that part can be decoded straight into place, on all processors, and only it goes through libvips.

    window of the result --> what it needs of the canvas --> of each piece --> of the level --> decoded, kept tiles
                         <-- same operations on that part <-- placed       <-- resampled    <--

The arithmetic is that of the whole pipeline (the operations see a canvas of the whole's size, of which only that part
is painted), so the pixels are the same. What does not say which part it needs (`Operation.source_window`), as elastic
fields and functions of others, has no windows, and is read through its pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats.vips import naming_errors
from wsidata.packing import Packing
from wsidata.regions import Window
from wsidata.resampling import ReadWindow, window_pixels
from wsidata.transform_base import Operation

RIM_PX = 64
"""Rim around a rectangle that operations may ask for, for which decoded tiles are kept: blurs reach 48 pixels."""


@dataclass(frozen=True)
class PackedWindows:
    """Rectangles of a canvas on which pieces of a picture lie.

    Attributes:
        read: Reads rectangles of the picture.
        packing: What lies where.
        fill: Value between the pieces.
        blank: An empty picture, for its bands and number format.
    """

    read: ReadWindow
    packing: Packing
    fill: float
    blank: pyvips.Image

    def __call__(self, window: Window) -> NDArray[Any]:
        """Read the parts of the pieces that lie in the rectangle."""
        out: NDArray[Any] | None = None
        for piece in self.packing.pieces:
            placed = Window(piece.canvas_x, piece.canvas_y, piece.width, piece.height)
            seen = placed.inside_of(window)
            if seen is None:
                continue
            pixels = self.read(seen.moved(piece.x - piece.canvas_x, piece.y - piece.canvas_y))
            if seen == window:
                return pixels
            out = self._empty(window) if out is None else out
            out[seen.within(window)] = pixels
        return self._empty(window) if out is None else out

    def _empty(self, window: Window) -> NDArray[Any]:
        like = self.blank.crop(0, 0, 1, 1).numpy()
        return np.full((window.height, window.width, self.blank.bands), self.fill, dtype=like.dtype)


@dataclass(frozen=True)
class TransformedWindows:
    """Rectangles of a picture to which something was done.

    Attributes:
        read: Reads rectangles of the picture.
        operations: What is done, in order; each must know what it needs.
        blank: An empty picture of the same size and kind.
        sizes: (width, height) of the picture before each operation.
        name: The slide, for errors.
    """

    read: ReadWindow
    operations: tuple[Operation, ...]
    blank: pyvips.Image
    sizes: tuple[tuple[int, int], ...]
    name: str

    def __call__(self, window: Window) -> NDArray[Any]:
        """Read what the rectangle is made of, paint it on an empty canvas, and do the same to that."""
        wanted: Window | None = window
        for operation, size in zip(reversed(self.operations), reversed(self.sizes), strict=True):
            needed = None if wanted is None else operation.source_window(wanted, *size)
            wanted = None if needed is None else needed.inside(*size)
        canvas = self.blank
        if wanted is not None:  # else it lies in the padding
            part = pyvips.Image.new_from_array(self.read(wanted)).copy(interpretation=canvas.interpretation)
            canvas = canvas.insert(part, wanted.x, wanted.y)
        for operation in self.operations:
            canvas = operation.image(canvas)
        with naming_errors(self.name):
            return window_pixels(canvas.crop(window.x, window.y, window.width, window.height), window)


def packed(read: ReadWindow, packing: Packing, fill: float, picture: pyvips.Image) -> ReadWindow:
    """Rectangles of the canvas that `packing.apply(picture, fill)` makes.

    Args:
        read: Reads rectangles of the picture.
        packing: What lies where.
        fill: Value between the pieces.
        picture: The picture, for its bands and number format.
    """
    return PackedWindows(read, packing, fill, _blank(picture))


def transformed(
    read: ReadWindow, operations: Sequence[Operation], picture: pyvips.Image, name: str
) -> ReadWindow | None:
    """Rectangles of a picture to which operations are done; None if one of them does not know what it needs.

    Args:
        read: Reads rectangles of the picture.
        operations: What is done, in order.
        picture: The picture, for its size and kind.
        name: The slide, for errors.
    """
    if not operations:
        return read
    blank = canvas = _blank(picture)
    sizes = []
    for operation in operations:
        if operation.source_window(Window(0, 0, 1, 1), canvas.width, canvas.height) is None:
            return None
        sizes.append((canvas.width, canvas.height))
        canvas = operation.image(canvas)
    return TransformedWindows(read, tuple(operations), blank, tuple(sizes), name)


def _blank(picture: pyvips.Image) -> pyvips.Image:
    empty = pyvips.Image.black(picture.width, picture.height, bands=picture.bands).cast(picture.format)
    return empty.copy(interpretation=picture.interpretation)
