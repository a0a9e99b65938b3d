"""Masks drawn from outlines, on the pixel grid that their slide is read on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.annotations.annotations import Annotations
from wsidata.annotations.grid import Grid
from wsidata.annotations.masks import OutlineMask
from wsidata.annotations.outline import AnnotationError
from wsidata.formats.vips import TILE_MULTIPLE_PX, TileSource, cached_tiles
from wsidata.slides.slide import Slide
from wsidata.utils.messages import name_some

_AT_ONCE_PX = 1 << 22
_TILE_PX = (2048, 64)


def outline_image(
    path: str, slide: Slide, resolution: Mapping[str, Any], classes: Mapping[str, int], *, keep_tiles: bool = False
) -> pyvips.Image:
    """Class number of the outlines that the center of each pixel of `slide.image(**resolution)` lies in.

    Args:
        path: A file of annotations; see `Annotations.read`.
        slide: The slide.
        resolution: The resolution it is read at.
        classes: Class number of each class of outlines; where they overlap, the last one lies on top.
        keep_tiles: Keep decoded tiles between requests: for a mask read in strips.

    Returns:
        A lazy image, uchar, one band; 0 where nothing is outlined.

    Raises:
        AnnotationError: naming the file, if it is malformed, lies beside the slide, or has outlines of another class.
    """
    grid = Grid.of(slide, **resolution)
    mask = _drawn(path, grid, classes)
    width, height = grid.width, grid.height
    if mask is None:
        return pyvips.Image.black(width, height)
    if width * height <= _AT_ONCE_PX:
        return pyvips.Image.new_from_memory(mask.labels().tobytes(), width, height, 1, "uchar")
    sides = (math.ceil(side / TILE_MULTIPLE_PX) * TILE_MULTIPLE_PX for side in (width, height))
    across, down = (min(side, most) for side, most in zip(sides, _TILE_PX, strict=True))
    image = TileSource((width, height), (across, down), _Strips(mask), bands=1).image()
    return cached_tiles(image) if keep_tiles else image


class _Strips:
    """Reads rectangles of a mask; rows are drawn whole, and the latest kept, as tiles side by side share them."""

    def __init__(self, mask: OutlineMask) -> None:
        self._mask = mask
        self._latest: tuple[int, NDArray[np.uint8]] = (-1, np.zeros((0, 0), np.uint8))

    def __call__(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        if self._latest[0] != y or len(self._latest[1]) != height:
            self._latest = y, self._mask.labels(y, y + height)
        return self._latest[1][:, x : x + width, None]


def check_outlines(path: str, size_lv0: tuple[int, int], classes: Mapping[str, int]) -> None:
    """Check that a file of annotations can be drawn on a slide; arguments and errors are those of `outline_image`."""
    _drawn(path, Grid(*size_lv0), classes)


def _drawn(path: str, grid: Grid, classes: Mapping[str, int]) -> OutlineMask | None:
    """The mask; None where nothing is outlined."""
    annotations = Annotations.read(Path(path))
    there = named_classes(annotations, classes)
    return OutlineMask(annotations, grid, there) if there else None


def named_classes(annotations: Annotations, classes: Mapping[str, int]) -> dict[str, int]:
    """Those of the classes that annotations have; none if nothing is outlined.

    Raises:
        AnnotationError: if outlines are of another class, which is not part of one of them either.
    """
    parent_of = {one.name: one.parent for one in annotations.classes}

    def is_named(name: str) -> bool:
        seen = set[str]()
        while name not in classes and parent_of.get(name) and name not in seen:
            seen.add(name)
            name = parent_of[name]
        return name in classes

    drawn = dict.fromkeys(one.class_name for one in annotations.outlines if one.kind == "polygon" and not one.removes)
    if unknown := [name for name in drawn if not is_named(name)]:
        raise AnnotationError(
            f"'{annotations.path}' has outlines of the class {name_some(unknown)}, and known are "
            f"{name_some(list(classes))}. Say what all of them are with outline_classes=, such as "
            f"{{{unknown[0]!r}: 'tumor'}}; None is for pixels that do not count."
        )
    return {name: value for name, value in classes.items() if name in drawn or name in parent_of} if drawn else {}
