"""Square tiles of tissue types, which repeat without a seam, as maps of hematoxylin and eosin.

stroma     wavy collagen with spindle cells
lymphoid   crowded small, round, dark nuclei
glands     rings of nuclei around an empty lumen
muscle     dense parallel fibers
fat        large empty vacuoles
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.synthetic.lesions.cells import UNIT, Density

SIDE_PX = 2048
"""Side of a ground in pixels of level 0, after which it repeats."""
Kind = str
KINDS = ("stroma", "lymphoid", "glands", "muscle", "fat")

_Field = NDArray[np.float32]


@lru_cache(maxsize=len(KINDS))
def ground(kind: Kind) -> NDArray[np.uint8]:
    """Densities of a type of tissue, (2, `SIDE_PX`, `SIDE_PX`): hematoxylin, eosin; the same in every slide."""
    rng = np.random.default_rng([11, KINDS.index(kind)])
    fibers = _fibers(rng, straight=kind == "muscle")
    hematoxylin = np.full_like(fibers, 0.05)
    eosin = fibers
    if kind == "stroma":
        _scatter(hematoxylin, 44, (8, 13), (0.25, 0.42), (0.5, 0.8), rng)
    elif kind == "muscle":
        eosin = 0.25 + 0.9 * fibers
        _scatter(hematoxylin, 62, (11, 16), (0.16, 0.25), (0.4, 0.6), rng, turn=0.3)
    elif kind == "lymphoid":
        eosin = 0.35 * fibers
        hematoxylin += 0.07
        _scatter(hematoxylin, 17, (5, 7), (0.85, 1.0), (0.7, 0.95), rng)
    elif kind == "glands":
        _scatter(hematoxylin, 60, (8, 13), (0.25, 0.42), (0.5, 0.8), rng)
        _rings(hematoxylin, eosin, rng)
    else:
        eosin = 0.5 * fibers
        _vacuoles(hematoxylin, eosin, rng)
    grain = 1 + 0.12 * wave(2.5, rng)
    both = np.stack([hematoxylin * grain, eosin * (1 + 0.07 * rng.standard_normal(eosin.shape, dtype=np.float32))])
    made: Density = np.clip(both * UNIT, 0, 255).astype(np.uint8)
    made.setflags(write=False)
    return made


def wave(cell_px: float, rng: np.random.Generator) -> _Field:
    """Smooth noise of mean 0 and deviation 1 whose blobs are about `cell_px` wide; opposite edges fit together."""
    knots = max(4, round(SIDE_PX / cell_px))
    coarse = np.pad(rng.standard_normal((knots, knots), dtype=np.float32), 4, mode="wrap")
    scale = SIDE_PX / knots
    side = round(coarse.shape[0] * scale)
    fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    start = round(4 * scale)
    cut = fine[start : start + SIDE_PX, start : start + SIDE_PX]
    return np.asarray((cut - cut.mean()) / cut.std(), dtype=np.float32)


def _fibers(rng: np.random.Generator, *, straight: bool) -> _Field:
    """Bands of collagen or muscle, density about 0.4; whole numbers of bands fit into the side."""
    y, x = np.arange(SIDE_PX, dtype=np.float32)[:, None], np.arange(SIDE_PX, dtype=np.float32)[None, :]
    turn = np.float32(2 * np.pi / SIDE_PX)
    bend = (0.6 if straight else 2.5) * wave(300, rng) + (0.15 if straight else 0.5) * wave(70, rng)
    bands = np.sin(turn * (20 * x + 26 * y) + bend)
    strands = np.sin(turn * (75 * x + 92 * y) + 3 * bend)
    fibers = 0.42 + 0.05 * bands + 0.06 * strands * np.clip(0.5 + 0.5 * wave(110, rng), 0, 1) + 0.05 * wave(160, rng)
    return np.asarray(np.clip(fibers, 0.02, 1), dtype=np.float32)


def _scatter(
    hematoxylin: _Field, spacing: float, long: tuple[float, float], slim: tuple[float, float],
    shade: tuple[float, float], rng: np.random.Generator, turn: float | None = None,
) -> None:  # fmt: skip
    """Paint elliptic nuclei about `spacing` pixels apart, in place."""
    count = round(SIDE_PX / spacing)
    rows, columns = (axis.ravel() for axis in np.mgrid[:count, :count])
    x, y = (place + 0.5 + rng.uniform(-0.42, 0.42, place.size) for place in (columns, rows))
    size = rng.uniform(*long, x.size)
    angle = rng.uniform(0, np.pi, x.size) if turn is None else rng.normal(-0.6, turn, x.size)
    step, slimness, shades = SIDE_PX / count, rng.uniform(*slim, x.size), rng.uniform(*shade, x.size)
    ellipses(hematoxylin, np.stack([x * step, y * step, size, size * slimness, angle, shades], axis=1))


def ellipses(field: _Field, drawn: NDArray[np.float64]) -> None:
    """Raise ellipses to a density, in place; what leaves at one edge enters at the opposite.

    `drawn` is (n, 6): x, y, both radii in pixels, angle in radians, density.
    """
    layer = np.zeros((SIDE_PX, SIDE_PX), dtype=np.uint8)
    for x, y, long, short, turn, shade in drawn.tolist():
        axes, color = (round(long * 16), round(short * 16)), round(shade * UNIT)
        for right in _turns(x, long):
            for down in _turns(y, long):
                center = (round((x + right) * 16), round((y + down) * 16))
                cv2.ellipse(layer, center, axes, np.degrees(turn), 0, 360, color, -1, cv2.LINE_AA, 4)
    np.maximum(field, layer.astype(np.float32) / UNIT, out=field)


def _turns(place: float, reach: float) -> list[int]:
    """Whole sides to add to a coordinate so that all of what is drawn there shows."""
    place %= SIDE_PX
    return [0] + [SIDE_PX] * (place < reach + 2) + [-SIDE_PX] * (place > SIDE_PX - reach - 2)


def _disk(center: tuple[float, float], radii: tuple[float, float], turn: float) -> tuple[tuple[Any, ...], _Field]:
    """Where an ellipse lies on the ground, for indexing, and how much of each pixel it covers."""
    reach = int(max(radii)) + 2
    x = np.arange(int(center[0]) - reach, int(center[0]) + reach + 1)
    y = np.arange(int(center[1]) - reach, int(center[1]) + reach + 1)
    dx, dy = (x - center[0])[None, :], (y - center[1])[:, None]
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / radii[0]
    v = (dy * np.cos(turn) - dx * np.sin(turn)) / radii[1]
    inside = np.clip((1 - np.hypot(u, v)) * min(radii) + 0.5, 0, 1)
    return np.ix_(y % SIDE_PX, x % SIDE_PX), inside.astype(np.float32)


def _rings(hematoxylin: _Field, eosin: _Field, rng: np.random.Generator) -> None:
    """Paint glands, in place: cytoplasm, an empty lumen, and nuclei along the rim."""
    step, nuclei = SIDE_PX / 9, list[NDArray[np.float64]]()
    for number in range(81):
        x, y = (((number // 9, number % 9)[axis] + 0.5 + rng.uniform(-0.08, 0.08)) * step for axis in (1, 0))
        radius, slim, turn = rng.uniform(52, 92), rng.uniform(0.7, 1.0), rng.uniform(0, np.pi)
        where, body = _disk((x, y), (radius, radius * slim), turn)
        hematoxylin[where] += body * (0.10 - hematoxylin[where])
        eosin[where] += body * (0.30 - eosin[where])
        where, lumen = _disk((x, y), (radius * 0.45, radius * slim * 0.45), turn)
        hematoxylin[where] *= 1 - 0.98 * lumen
        eosin[where] *= 1 - 0.94 * lumen
        count = int(2 * np.pi * radius * (1 + slim) / 2 / 14)
        phase = (np.arange(count) + rng.normal(0, 0.15, count)) * 2 * np.pi / count
        u, v = 0.85 * radius * np.cos(phase), 0.85 * radius * slim * np.sin(phase)
        places = x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)
        size, shades = rng.uniform(6, 8.4, count), rng.uniform(0.6, 0.85, count)
        nuclei.append(np.stack([*places, size, 0.7 * size, phase + turn + rng.normal(0, 0.2, count), shades], axis=1))
    ellipses(hematoxylin, np.concatenate(nuclei))


def _vacuoles(hematoxylin: _Field, eosin: _Field, rng: np.random.Generator) -> None:
    """Empty fat cells in a thin net, in place."""
    count, nuclei = 16, list[tuple[float, ...]]()
    empty, step = np.zeros_like(eosin), SIDE_PX / count
    for row, column in np.ndindex(count, count):
        x = (column + 0.5 + 0.5 * (row % 2) + rng.uniform(-0.05, 0.05)) * step
        y = (row + 0.5 + rng.uniform(-0.05, 0.05)) * step
        where, inside = _disk(
            (x, y), (step * rng.uniform(0.46, 0.54), step * rng.uniform(0.44, 0.5)), rng.uniform(0, 3)
        )
        empty[where] = np.maximum(empty[where], inside)
        nuclei.append((x + 0.5 * step, y, 9, 3, rng.uniform(0, np.pi), 0.7))
    eosin *= 1 - 0.95 * empty
    hematoxylin *= 1 - 0.9 * empty
    ellipses(hematoxylin, np.array(nuclei))
