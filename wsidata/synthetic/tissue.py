"""Synthetic H&E-stained tissue as an array of pixels.

Two maps of optical density are painted, one for hematoxylin (nuclei, blue-violet) and one for eosin (the rest, pink),
and converted to light by the Beer-Lambert law with the stain vectors of Ruifrok and Johnston (Anal. Quant. Cytol.
Histol. 23, 2001). So stain strength varies from slide to slide as in real slides, and the classes differ in structure
(nests of crowded, large, dark nuclei in tumor, glands and spindle cells elsewhere) rather than in mean color.

All sizes are in micrometers, so that a slide of another resolution shows the same tissue at another scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Stain = Literal["he", "dab"]
"""Hematoxylin and eosin; or hematoxylin, with DAB where tumor is."""

HEMATOXYLIN = np.array([0.65, 0.70, 0.29], dtype=np.float32)
EOSIN = np.array([0.07, 0.99, 0.11], dtype=np.float32)
DAB = np.array([0.27, 0.57, 0.78], dtype=np.float32)
GLASS = np.array([244.0, 243.0, 246.0], dtype=np.float32)


@dataclass(frozen=True)
class Nuclei:
    """Nuclei as ellipses: center and radii in pixels, angle in radians, density from 0 to 1; arrays of one length."""

    x: Field
    y: Field
    long: Field
    short: Field
    angle: Field
    density: Field


def paint_tissue(
    width: int, height: int, *, tumor: bool, mpp: float, rng: np.random.Generator, stain: Stain = "he",
    pieces: int | None = None,
) -> NDArray[np.uint8]:  # fmt: skip
    """Pixels of stained tissue on glass, with or without nests of tumor, (height, width, 3) uint8 RGB.

    `mpp` is the resolution in um per pixel, `pieces` the number of pieces that lie apart (None: one to three that may
    touch). The same state of `rng` gives the same pixels.
    """
    shape = (height, width)
    tissue = tissue_pieces(shape, rng, pieces)
    nests = _nests(tissue, rng) if tumor else np.zeros(shape, dtype=np.float32)
    eosin = _stroma(shape, mpp, rng) * tissue
    hematoxylin = 0.05 * tissue
    stroma = tissue * (nests < 0.05)
    cells = [_glands(stroma, eosin, hematoxylin, mpp, rng), _spindles(stroma, mpp, rng), _lymphocytes(stroma, mpp, rng)]
    eosin += nests * (0.30 - 0.45 * eosin)
    hematoxylin += nests * 0.16
    if tumor:
        cells.append(_tumor_cells(nests, mpp, rng))
    grain = 1 + 0.16 * _noise(shape, 2.4 / mpp, rng)
    for nuclei in cells:
        _stamp(hematoxylin, nuclei, grain)
    if stain == "dab":
        return _light(hematoxylin * (1 - 0.5 * nests), 0.7 * nests * (0.35 + hematoxylin), rng, DAB, fog=0.09 * eosin)
    return _light(hematoxylin, eosin, rng)


def tumor_mask(width: int, height: int, *, seed: int) -> NDArray[np.bool_]:
    """Where `write_slide(..., tumor=True, seed=seed)` paints tumor, (height, width)."""
    rng = np.random.default_rng(seed)
    return _nests(tissue_pieces((height, width), rng), rng) > 0.5


def _noise(shape: tuple[int, int], cell_px: float, rng: np.random.Generator) -> Field:
    """Smooth noise, about standard normal, whose blobs are `cell_px` wide."""
    down, across = (_spline(side, cell_px) for side in shape)
    coarse = rng.standard_normal((down.shape[1], across.shape[1]), dtype=np.float32)
    return np.asarray(down @ coarse @ across.T, dtype=np.float32) * np.float32(1.7)  # the spline flattens: 1.7 = 1/sd


def _spline(side_px: int, cell_px: float) -> Field:
    """Weights of a cubic B-spline with a knot every `cell_px` pixels: (side_px, knots), rows sum to 1."""
    place = np.arange(side_px, dtype=np.float32) / np.float32(max(cell_px, 1.0))
    knot = place.astype(np.int64)
    t = place - knot
    weights = np.zeros((side_px, int(knot[-1]) + 4), dtype=np.float32)
    pixel = np.arange(side_px)
    weights[pixel, knot] = (1 - t) ** 3 / 6
    weights[pixel, knot + 1] = (4 - 6 * t**2 + 3 * t**3) / 6
    weights[pixel, knot + 2] = (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6
    weights[pixel, knot + 3] = t**3 / 6
    return weights


def _soft(field: Field, threshold: float, softness: float) -> Field:
    """A soft step: 0 below the threshold, 1 above, with a ramp between."""
    ramp: Field = np.clip((field - threshold) / softness + 0.5, 0, 1).astype(np.float32)
    return ramp


def _coordinates(shape: tuple[int, int]) -> tuple[Field, Field]:
    height, width = shape
    return np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]


def tissue_pieces(shape: tuple[int, int], rng: np.random.Generator, pieces: int | None = None) -> Field:
    """Ragged pieces, 1 inside and 0 on glass: so many in rows, apart; or one to three anywhere in the middle."""
    if pieces is not None:
        return _apart(shape, rng, pieces)
    x, y = _coordinates(shape)
    side = float(min(shape))
    squared = np.full(shape, 99.0, dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        center_x, center_y = (rng.uniform(0.34, 0.66) * shape[axis] for axis in (1, 0))
        radius_x, radius_y = rng.uniform(0.2, 0.38, 2) * side
        along_x, along_y = ((x - center_x) / radius_x) ** 2, ((y - center_y) / radius_y) ** 2
        np.minimum(squared, (along_x + along_y).astype(np.float32), out=squared)
    ragged = 0.16 * _noise(shape, side / 7, rng) + 0.04 * _noise(shape, side / 40, rng)
    piece = _soft(ragged - np.sqrt(squared), -1.0, 0.012)
    tears = _soft(_noise(shape, side / 9, rng) + 0.3 * _noise(shape, side / 60, rng), 2.1, 0.1)
    return piece * (1 - tears)


def _apart(shape: tuple[int, int], rng: np.random.Generator, pieces: int) -> Field:
    """Pieces in the cells of a grid, which they do not fill."""
    x, y = _coordinates(shape)
    rows = max(1, round(float(np.sqrt(pieces * shape[0] / shape[1]))))
    columns = -(-pieces // rows)
    cell_x, cell_y = shape[1] / columns, shape[0] / rows
    squared = np.full(shape, 99.0, dtype=np.float32)
    for number in range(pieces):
        row, column = divmod(number, columns)
        center_x, center_y = (column + rng.uniform(0.47, 0.53)) * cell_x, (row + rng.uniform(0.47, 0.53)) * cell_y
        radius_x, radius_y = rng.uniform(0.24, 0.34) * cell_x, rng.uniform(0.24, 0.34) * cell_y
        along_x, along_y = ((x - center_x) / radius_x) ** 2, ((y - center_y) / radius_y) ** 2
        np.minimum(squared, (along_x + along_y).astype(np.float32), out=squared)
    ragged = 0.09 * np.clip(_noise(shape, min(cell_x, cell_y) / 7, rng), -2, 2)
    return _soft(ragged - np.sqrt(squared), -1.0, 0.012)


def _nests(tissue: Field, rng: np.random.Generator) -> Field:
    """Tumor regions: lobes that cover a quarter to two thirds of the tissue."""
    side = min(tissue.shape)
    field = _noise(tissue.shape, side / 4.5, rng) + 0.35 * _noise(tissue.shape, side / 22, rng)
    inside = field[tissue > 0.5]
    share = rng.uniform(0.25, 0.65)
    threshold = float(np.quantile(inside, 1 - share)) if inside.size else 9.0
    return _soft(field, threshold, 0.08) * tissue


def _stroma(shape: tuple[int, int], mpp: float, rng: np.random.Generator) -> Field:
    """Wavy collagen: bands along a slowly varying direction."""
    x, y = _coordinates(shape)
    turn = rng.uniform(0, np.pi)
    across = (x * np.cos(turn) + y * np.sin(turn)).astype(np.float32) * np.float32(mpp)
    bend = 42 * _noise(shape, 150 / mpp, rng) + 8 * _noise(shape, 34 / mpp, rng)
    bands = np.sin((across + bend) * np.float32(2 * np.pi / 31.0) + 2 * _noise(shape, 70 / mpp, rng))
    strands = np.sin((across + bend) * np.float32(2 * np.pi / 9.7) + 3 * _noise(shape, 22 / mpp, rng))
    plump = np.clip(0.5 + 0.5 * _noise(shape, 55 / mpp, rng), 0, 1)
    mottle = 0.06 * _noise(shape, 80 / mpp, rng) + 0.045 * _noise(shape, 5 / mpp, rng)
    density = 0.40 + plump * (0.05 * bands + 0.07 * strands) + mottle
    clefts = _soft(strands + bands + 0.8 * _noise(shape, 60 / mpp, rng), 2.7, 0.5)
    stained: Field = np.clip(density * (1 - 0.85 * clefts), 0.02, 1).astype(np.float32)
    return stained


def _scatter(weight: Field, spacing_px: float, rng: np.random.Generator) -> tuple[Field, Field]:
    """Points about `spacing_px` apart, each kept with the probability `weight` has there."""
    height, width = weight.shape
    rows, columns = int(height / spacing_px) + 1, int(width / spacing_px) + 1
    jitter = rng.random((2, rows, columns), dtype=np.float32) - 0.5
    x = (np.arange(columns, dtype=np.float32)[None, :] + 0.5 + 0.9 * jitter[0]) * spacing_px
    y = (np.arange(rows, dtype=np.float32)[:, None] + 0.5 + 0.9 * jitter[1]) * spacing_px
    x, y = np.clip(x, 0, width - 1).ravel(), np.clip(y, 0, height - 1).ravel()
    keep = rng.random(x.size) < weight[y.astype(np.int64), x.astype(np.int64)]
    return x[keep].astype(np.float32), y[keep].astype(np.float32)


def _ellipses(
    x: Field, y: Field, radius_um: tuple[float, float], slim: tuple[float, float], density: tuple[float, float],
    mpp: float, rng: np.random.Generator, angle: Field | None = None,
) -> Nuclei:  # fmt: skip
    """Nuclei at given points; radius, slimness and density uniform between their bounds."""
    count = x.size
    long = rng.uniform(*radius_um, count).astype(np.float32) / np.float32(mpp)
    short = long * rng.uniform(*slim, count).astype(np.float32)
    turned = rng.uniform(0, np.pi, count).astype(np.float32) if angle is None else angle
    return Nuclei(x, y, long, short, turned, rng.uniform(*density, count).astype(np.float32))


def _spindles(weight: Field, mpp: float, rng: np.random.Generator) -> Nuclei:
    """Fibroblasts of the stroma: thin, sparse, roughly parallel."""
    x, y = _scatter(weight * 0.7, 21 / mpp, rng)
    along = (rng.uniform(0, np.pi) + rng.normal(0, 0.35, x.size)).astype(np.float32)
    return _ellipses(x, y, (3.6, 6.0), (0.25, 0.42), (0.55, 0.8), mpp, rng, along)


def _lymphocytes(weight: Field, mpp: float, rng: np.random.Generator) -> Nuclei:
    """Small round dark nuclei in loose clusters; every slide has some, so darkness alone does not indicate tumor."""
    crowd = _soft(_noise(weight.shape, 120 / mpp, rng), rng.uniform(0.9, 2.2), 0.8)
    x, y = _scatter(weight * crowd * 0.8, 8.0 / mpp, rng)
    return _ellipses(x, y, (2.2, 2.9), (0.85, 1.0), (0.8, 1.0), mpp, rng)


def _tumor_cells(nests: Field, mpp: float, rng: np.random.Generator) -> Nuclei:
    """Crowded, large, dark nuclei of every shape."""
    x, y = _scatter(nests * 0.93, 10.5 / mpp, rng)
    return _ellipses(x, y, (3.8, 6.8), (0.55, 1.0), (0.72, 1.0), mpp, rng)


def _glands(weight: Field, eosin: Field, hematoxylin: Field, mpp: float, rng: np.random.Generator) -> Nuclei:
    """Rings of cells around an empty lumen; paints the cytoplasm into the maps and returns the nuclei.

    Their area is removed from `weight`, so that nothing else is placed there.
    """
    rings = [np.zeros((3, 0), dtype=np.float32)]  # x, y and angle of nuclei
    centers = _scatter(_soft(weight, 0.9, 0.1) * rng.uniform(0.25, 0.6), 118 / mpp, rng)
    for x, y in zip(*centers, strict=True):
        radius, slim, turn = rng.uniform(26, 50) / mpp, rng.uniform(0.65, 1.0), rng.uniform(0, np.pi)
        if not _paint_gland(weight, eosin, hematoxylin, (float(x), float(y)), radius, slim, turn):
            continue
        count = max(6, int(2 * np.pi * radius * (1 + slim) / 2 / (6.6 / mpp)))
        phase = (np.arange(count) + rng.normal(0, 0.16, count)) * 2 * np.pi / count
        u = radius * rng.uniform(0.80, 0.90, count) * np.cos(phase)
        v = radius * slim * rng.uniform(0.80, 0.90, count) * np.sin(phase)
        ring_x, ring_y = x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)
        rings.append(np.stack([ring_x, ring_y, phase + turn + rng.normal(0, 0.2, count)]).astype(np.float32))
    x, y, angle = np.concatenate(rings, axis=1)
    return _ellipses(x, y, (3.0, 4.2), (0.6, 0.8), (0.6, 0.85), mpp, rng, angle)


def _paint_gland(
    weight: Field,
    eosin: Field,
    hematoxylin: Field,
    center: tuple[float, float],
    radius: float,
    slim: float,
    turn: float,
) -> bool:
    """Paint cytoplasm and lumen of one gland, in place; False if it would leave the tissue or overlap another."""
    x, y = center
    top, bottom = int(y - radius), int(y + radius) + 2
    left, right = int(x - radius), int(x + radius) + 2
    if top < 0 or left < 0 or bottom > weight.shape[0] or right > weight.shape[1]:
        return False
    window = np.s_[top:bottom, left:right]
    if weight[window].mean() < 0.97:
        return False
    across, down = np.arange(left, right)[None, :] - x, np.arange(top, bottom)[:, None] - y
    u, v = across * np.cos(turn) + down * np.sin(turn), (down * np.cos(turn) - across * np.sin(turn)) / slim
    distance = (np.sqrt(u**2 + v**2) / radius).astype(np.float32)
    body = _soft(-distance, -1.0, 0.06)
    lumen = _soft(-distance, -0.42, 0.08)
    eosin[window] += body * (0.30 - eosin[window])
    hematoxylin[window] += body * 0.07
    eosin[window] *= 1 - 0.94 * lumen
    hematoxylin[window] *= 1 - 0.98 * lumen
    weight[window] *= 1 - body
    return True


def _stamp(hematoxylin: Field, nuclei: Nuclei, grain: Field, batch: int = 2048) -> None:
    """Paint nuclei into the map, in place, with chromatin grain inside, a slightly denser rim and a soft edge."""
    height, width = hematoxylin.shape
    flat, flat_grain = hematoxylin.reshape(-1), grain.reshape(-1)
    reach = int(np.ceil(nuclei.long.max(initial=0.0))) + 2
    offset = np.arange(-reach, reach + 1, dtype=np.int64)
    for start in range(0, nuclei.x.size, batch):
        part = slice(start, start + batch)
        x, y = nuclei.x[part, None, None], nuclei.y[part, None, None]
        columns = x.astype(np.int64) + offset[None, None, :]
        rows = y.astype(np.int64) + offset[None, :, None]
        dx, dy = (columns - x).astype(np.float32), (rows - y).astype(np.float32)
        cos, sin = np.cos(nuclei.angle[part, None, None]), np.sin(nuclei.angle[part, None, None])
        long, short = nuclei.long[part, None, None], nuclei.short[part, None, None]
        squared = ((dx * cos + dy * sin) / long) ** 2 + ((dy * cos - dx * sin) / short) ** 2
        hit = (squared < 1.44) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        where = (rows * width + columns)[hit]
        inside = squared[hit]
        shade = np.clip((1.44 - inside) * 2.2, 0, 1) * (0.82 + 0.18 * np.minimum(inside, 1))
        density = np.broadcast_to(nuclei.density[part, None, None], hit.shape)[hit]
        np.maximum.at(flat, where, (density * shade * flat_grain[where]).astype(np.float32))


def _light(
    hematoxylin: Field, eosin: Field, rng: np.random.Generator, second: Field = EOSIN, fog: Field | None = None
) -> NDArray[np.uint8]:
    """RGB of stain maps, with random stain strengths and hues, and a little sensor noise.

    `second` are the densities of what stands in the place of eosin, `fog` a gray density.
    """
    blue, pink = rng.uniform(0.8, 1.3), rng.uniform(0.55, 1.25)
    blue_vector = blue * (HEMATOXYLIN + rng.normal(0, 0.035, 3).astype(np.float32))
    pink_vector = pink * (second + np.abs(rng.normal(0, 0.05, 3)).astype(np.float32))
    sensor = rng.standard_normal(hematoxylin.shape, dtype=np.float32) * 1.6
    out = np.empty((*hematoxylin.shape, 3), dtype=np.uint8)
    for band in range(3):
        absorbed = hematoxylin * np.float32(blue_vector[band]) + eosin * np.float32(pink_vector[band])
        if fog is not None:
            absorbed += fog
        out[..., band] = np.clip(GLASS[band] * np.exp(-absorbed) + sensor, 0, 255)
    return out
