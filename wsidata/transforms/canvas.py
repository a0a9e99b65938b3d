"""Plans of pictures whose pixels are decoded once and written once, in their final place and color.

Crops, padding, right-angle turns, filled rectangles and changes of color need no picture of each step between. Together
they say where each pixel of the source goes, and what it becomes there:

    source                 canvas
    +-----------+          +--fill---+
    |    +---+  |   turn   | +-----+ |
    |    | A |  |  ----->  | |  <  | |
    |    |   |  |  colors  | +-----+ |
    |    +---+  |          +---------+
    +-----------+

An operation that can be planned so has `on_canvas`; what it paints is what its `image` gives, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyvips
from numpy.typing import DTypeLike

from wsidata.formats.vips import pixels_of
from wsidata.transforms.color_table import ColorTable, Recolor
from wsidata.transforms.turn import Turn
from wsidata.utils.rectangle import Pixels, ReadParts, Rectangle

DTYPES: dict[str, type[np.generic]] = {
    "uchar": np.uint8,
    "ushort": np.uint16,
    "float": np.float32,
    "double": np.float64,
}

AS_IT_IS = Turn()


@dataclass(frozen=True)
class Patch:
    """A rectangle of the source, and its place on the canvas; turned with the others."""

    source: Rectangle
    place: Rectangle


@dataclass(frozen=True)
class Fill:
    """A rectangle of the canvas that is filled; `value` has the shape (1, 1, bands)."""

    place: Rectangle
    value: Pixels


@dataclass(frozen=True)
class Canvas:
    """A picture made of rectangles of a source image and of filled ones.

    Attributes:
        width: Columns.
        height: Rows.
        bands: Samples of a pixel.
        format: Number format of libvips, such as "uchar".
        layers: What is painted, each over those before. Every pixel is covered.
        turn: From the source to the canvas.
        recolors: What becomes of the colors of the source, in order. Fills have their last color already.
    """

    width: int
    height: int
    bands: int = 3
    format: str = "uchar"
    layers: tuple[Patch | Fill, ...] = ()
    turn: Turn = AS_IT_IS
    recolors: tuple[Recolor, ...] = ()

    @staticmethod
    def of(width: int, height: int, bands: int, dtype: DTypeLike) -> Canvas | None:
        """An image as it is; None for a type of samples that cannot be planned."""
        number_format = next((name for name, known in DTYPES.items() if np.dtype(known) == dtype), None)
        if number_format is None:
            return None
        whole = Rectangle(0, 0, width, height)
        return Canvas(width, height, bands, number_format, (Patch(whole, whole),))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample."""
        return np.dtype(DTYPES[self.format])

    @property
    def pixel(self) -> pyvips.Image:
        """A black image of one pixel, of the kind of this one; operations show on it what they fill with."""
        return pyvips.Image.black(1, 1, bands=self.bands).cast(self.format)

    def turned(self, turn: Turn) -> Canvas:
        """This canvas, turned."""
        width, height = turn.size(self.width, self.height)
        layers = tuple(replace(one, place=turn.rectangle(one.place, self.width, self.height)) for one in self.layers)
        return replace(self, width=width, height=height, layers=layers, turn=self.turn.then(turn))

    def window(self, part: Rectangle, outside: Callable[[], pyvips.Image] | None = None) -> Canvas:
        """A rectangle of this canvas, which may reach beyond it.

        Args:
            part: The rectangle.
            outside: Makes a pixel of what is there; needed only if the rectangle reaches beyond the canvas.
        """
        inside = part.inside(self.width, self.height)
        moved = [] if inside is None else [one for layer in self.layers if (one := self._cut(layer, inside))]
        layers = tuple(replace(one, place=one.place.moved(-part.x, -part.y)) for one in moved)
        if inside != part:
            assert outside is not None
            value = pixels_of(outside())
            seen = None if inside is None else inside.moved(-part.x, -part.y)
            layers += tuple(Fill(one, value) for one in _around(seen, part.width, part.height))
        return replace(self, width=part.width, height=part.height, layers=layers)

    def filled(self, places: Sequence[Rectangle], value: pyvips.Image) -> Canvas:
        """This canvas with rectangles filled with the color of a pixel; they may reach beyond it."""
        color = pixels_of(value)
        inside = (place.inside(self.width, self.height) for place in places)
        return replace(self, layers=(*self.layers, *(Fill(place, color) for place in inside if place is not None)))

    def recolored(self, recolor: Recolor) -> Canvas | None:
        """This canvas in other colors; None where it is not of three bands of 8 bits."""
        if self.bands != 3 or self.format != "uchar":
            return None
        layers = tuple(
            Fill(one.place, recolor(one.value.reshape(1, 3)).reshape(1, 1, 3)) if isinstance(one, Fill) else one
            for one in self.layers
        )
        return replace(self, layers=layers, recolors=(*self.recolors, recolor))

    def packed(self, pieces: Sequence[tuple[Rectangle, int, int]], width: int, height: int, fill: float) -> Canvas:
        """Rectangles of an untouched canvas on another one.

        Args:
            pieces: Each rectangle, and the column and row of its new place. Places do not overlap.
            width: Columns of the new canvas.
            height: Rows of the new canvas.
            fill: Value between the pieces.
        """
        patches = [Patch(part, Rectangle(x, y, part.width, part.height)) for part, x, y in pieces]
        whole = Rectangle(0, 0, width, height)
        value = np.full((1, 1, self.bands), fill, dtype=self.dtype)
        below = () if any(patch.place == whole for patch in patches) else (Fill(whole, value),)
        return replace(self, width=width, height=height, layers=(*below, *patches))

    def color_table(self) -> ColorTable | None:
        """An empty table for the changes of color, shared by windows of this canvas; None where there are none."""
        return ColorTable(self.recolors, self.width * self.height) if self.recolors else None

    def paint(self, read: ReadParts, out: Pixels, table: ColorTable | None = None) -> None:
        """Paint it.

        Args:
            read: Reads the source.
            out: (height, width, bands) of type `dtype`; perhaps a view.
            table: That of `color_table`, of this canvas or of one it is a window of. None: a new one.
        """
        table = table or self.color_table()
        for layer in self.layers:
            to = out[layer.place.within(Rectangle(0, 0, self.width, self.height))]
            if isinstance(layer, Fill):
                # Row by row is several times as fast as pixel by pixel.
                to[...] = np.tile(layer.value, (1, layer.place.width, 1))
            elif table is None:
                read(layer.source, partial(self._put, layer.source, to))
            else:
                with table.changing(partial(self._put, layer.source, to)) as put:
                    read(layer.source, put)

    def array(self, read: ReadParts, table: ColorTable | None = None) -> Pixels:
        """The painted canvas; arguments as for `paint`."""
        out = np.empty((self.height, self.width, self.bands), dtype=self.dtype)
        self.paint(read, out, table)
        return out

    def _put(self, source: Rectangle, out: Pixels, part: Rectangle, pixels: Pixels) -> None:
        """Write a part of a patch into its place."""
        inside = part.moved(-source.x, -source.y)
        place = self.turn.rectangle(inside, source.width, source.height)
        width, height = self.turn.size(source.width, source.height)
        self.turn.write(pixels, out[place.within(Rectangle(0, 0, width, height))])

    def _cut(self, layer: Patch | Fill, part: Rectangle) -> Patch | Fill | None:
        """The part of a layer inside a rectangle of the canvas."""
        place = layer.place.intersection(part)
        if place is None or isinstance(layer, Fill):
            return None if place is None else replace(layer, place=place)
        inside = place.moved(-layer.place.x, -layer.place.y)
        cut = self.turn.source(inside, layer.source.width, layer.source.height)
        return Patch(cut.moved(layer.source.x, layer.source.y), place)


def _around(inside: Rectangle | None, width: int, height: int) -> list[Rectangle]:
    """Up to four rectangles that cover what is not inside."""
    if inside is None:
        return [Rectangle(0, 0, width, height)]
    right, bottom = inside.x + inside.width, inside.y + inside.height
    sides = [
        (0, 0, width, inside.y),
        (0, bottom, width, height - bottom),
        (0, inside.y, inside.x, inside.height),
        (right, inside.y, width - right, inside.height),
    ]
    return [Rectangle(*side) for side in sides if side[2] > 0 and side[3] > 0]
