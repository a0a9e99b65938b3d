"""Pixels of a scene, any square of it at a time.

A square depends on its place alone: neighbors fit together, in whatever order they are painted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.synthetic.lesions.cells import STAMP_PX, UNIT, Density, nuclei
from wsidata.synthetic.lesions.grounds import SIDE_PX, ground, wave
from wsidata.synthetic.lesions.looks import Look
from wsidata.synthetic.lesions.scene import Field, Patch, Scene

_MARGIN_PX = 3
_RAGGED_PX, _SOFT_PX = 5.0, 3.0
_PLAIN = "stroma"


class Painter:
    """Paints squares of a scene.

    Args:
        scene: What lies where.
        look: Stain and scanner.
        finest_um: Scale of the lesions' texture; see `nuclei`.
    """

    def __init__(self, scene: Scene, look: Look, finest_um: float) -> None:
        self.scene, self.look = scene, look
        self.colors, self.nuclei = look.colors(), nuclei(finest_um)
        rng = np.random.default_rng([scene.seed, 5])
        self.start, self.steps = rng.integers(0, SIDE_PX, 2).tolist(), rng.choice((-1, 1), 2).tolist()

    def __call__(self, left: int, top: int, side_px: int) -> NDArray[np.uint8] | None:
        """RGB of a square, (side, side, 3), by its corner in pixels of level 0; None where all is glass."""
        left, top, side = left - _MARGIN_PX, top - _MARGIN_PX, side_px + 2 * _MARGIN_PX
        edge = self._spread(self.scene.edge, left, top, side)
        if edge.max() <= -_RAGGED_PX * 5:
            return None
        edge += _RAGGED_PX * self._tiled(_edges(), left, top, side)
        hematoxylin, eosin = self._ground(left, top, side)
        for patch in self.scene.patches:
            self._patch(patch, hematoxylin, eosin, left, top)
        thick = np.clip(128 * self._spread(self.scene.thickness, left, top, side), 0, 255).astype(np.uint8)
        inside = np.clip(255 * (edge / _SOFT_PX + 0.5), 0, 255).astype(np.uint8)
        share = cv2.multiply(thick, inside, scale=1 / 255)
        blue, pink = (cv2.multiply(one, share, scale=1 / 128).astype(np.uint16) for one in (hematoxylin, eosin))
        packed = np.take(self.colors, blue << 8 | pink)
        pixels = cv2.cvtColor(packed.view(np.uint8).reshape(side, side, 4), cv2.COLOR_RGBA2RGB)
        blurred = cv2.GaussianBlur(pixels, (5, 5), self.look.blur_px)
        return np.ascontiguousarray(blurred[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX])

    def _ground(self, left: int, top: int, side: int) -> tuple[Density, Density]:
        """Densities of the types of tissue, without patches."""
        made = [self._tiled(one, left, top, side) for one in ground(_PLAIN)]
        for kind, share in self.scene.types.items():
            weight = self._spread(share, left, top, side)
            if weight.max() > 0:
                weight = np.clip(weight, 0, 1)
                other = [self._tiled(one, left, top, side) for one in ground(kind)]
                made = [cv2.blendLinear(a, b, 1 - weight, weight) for a, b in zip(made, other, strict=True)]
        return made[0], made[1]

    def _patch(self, patch: Patch, hematoxylin: Density, eosin: Density, left: int, top: int) -> None:
        """Paint a patch into a square, in place."""
        side, reach = len(eosin), patch.reach + STAMP_PX
        x, y = patch.x - left, patch.y - top
        if max(-x, -y, x - side, y - side) > reach:
            return
        window = np.s_[max(0, int(y - reach)) : int(y + reach) + 2, max(0, int(x - reach)) : int(x + reach) + 2]
        inside = np.zeros(eosin[window].shape, dtype=np.uint8)
        ring = patch.ring - (left + window[1].start, top + window[0].start)
        cv2.fillPoly(inside, [np.rint(ring * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
        body = inside.view(np.bool_)
        hematoxylin[window][body] = hematoxylin[window][body] // 8 + round(0.12 * UNIT)
        eosin[window][body] = eosin[window][body] // 3 + round(0.14 * UNIT)
        kind = self.nuclei[int(patch.is_lesion)]
        places = patch.cells - (left, top, 0)
        near = (places[:, :2] > -STAMP_PX).all(axis=1) & (places[:, :2] < side).all(axis=1)
        for column, row, number in places[near].tolist():
            stamp = kind[number % len(kind)][max(0, -row) :, max(0, -column) :]
            part = hematoxylin[max(0, row) : row + STAMP_PX, max(0, column) : column + STAMP_PX]
            np.maximum(part, stamp[: part.shape[0], : part.shape[1]], out=part)

    def _tiled(self, one: NDArray[Any], left: int, top: int, side: int) -> NDArray[Any]:
        """A square of what repeats every `SIDE_PX`."""
        flipped = one[:: self.steps[0], :: self.steps[1]]
        y, x = (top + self.start[0]) % SIDE_PX, (left + self.start[1]) % SIDE_PX
        square = np.empty((side, side), dtype=one.dtype)
        down, across = min(side, SIDE_PX - y), min(side, SIDE_PX - x)
        square[:down, :across] = flipped[y : y + down, x : x + across]
        square[:down, across:] = flipped[y : y + down, : side - across]
        square[down:, :across] = flipped[: side - down, x : x + across]
        square[down:, across:] = flipped[: side - down, : side - across]
        return square

    def _spread(self, field: Field, left: int, top: int, side: int) -> Field:
        """A square of a field at level 0, linear between the centers of its cells."""
        cell = self.scene.cell_px
        first_y, rows = _weights(top, side, cell, len(field))
        first_x, columns = _weights(left, side, cell, len(field))
        part = field[first_y : first_y + rows.shape[1], first_x : first_x + columns.shape[1]]
        return np.asarray(rows @ part @ columns.T, dtype=np.float32)


def _weights(first_px: int, side: int, cell_px: int, cells: int) -> tuple[int, Field]:
    """First cell, and weights of it and its successors at each pixel, (side, n)."""
    place = np.clip((first_px + np.arange(side) + 0.5) / cell_px - 0.5, 0, cells - 1.001)
    whole = place.astype(np.int64)
    first = int(whole[0])
    weights = np.zeros((side, int(whole[-1]) - first + 2), dtype=np.float32)
    pixel = np.arange(side)
    weights[pixel, whole - first] = 1 - (place - whole)
    weights[pixel, whole - first + 1] = place - whole
    return first, weights


@lru_cache(maxsize=1)
def _edges() -> Field:
    return wave(70, np.random.default_rng(3)) + 0.4 * wave(18, np.random.default_rng(4))
