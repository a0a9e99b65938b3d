"""Values of tiles, which may overlap, as a map over their slide."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def stitch(
    values: ArrayLike,
    coords_lv0: ArrayLike,
    tile_lv0: tuple[float, float],
    size_lv0: tuple[int, int],
    downsample: float | tuple[float, float],
) -> NDArray[np.float64]:
    """The map of values of tiles; a pixel has the mean of the tiles over it, weighted by the areas of it they cover.

    Args:
        values: (N,), or (N, K) for K maps.
        coords_lv0: (N, 2) x and y of the upper left corners in pixels of level 0.
        tile_lv0: Width and height of a tile in pixels of level 0.
        size_lv0: Width and height of the slide.
        downsample: Level-0 pixels per pixel of the map, one number or (x, y).

    Returns:
        (height, width), or (K, height, width), rounded up so that it covers the slide; NaN where there is no tile.

    Raises:
        ValueError: if values and coordinates differ in number, a size is not positive, or all tiles lie beside it.
    """
    table = np.asarray(values, np.float64)
    places = np.asarray(coords_lv0, np.float64).reshape(-1, 2)
    step = np.broadcast_to(np.asarray(downsample, np.float64), 2)
    if table.ndim not in (1, 2) or len(table) != len(places):
        raise ValueError(f"values {table.shape} and coords_lv0 {places.shape} must have a row for each tile.")
    if not (min(tile_lv0) > 0 and min(size_lv0) > 0 and (step > 0).all()):
        raise ValueError(f"tile_lv0={tile_lv0}, size_lv0={size_lv0} and downsample={downsample} must be above 0.")
    if len(places) and ((places >= np.array(size_lv0)) | (places + np.array(tile_lv0) <= 0)).any(axis=1).all():
        low, high = places.min(axis=0).tolist(), places.max(axis=0).tolist()
        raise ValueError(
            f"tiles from {low} to {high} (x, y) all lie beside a slide of {tuple(size_lv0)}. Are they of it, "
            "and in pixels of level 0?"
        )
    width, height = (int(np.ceil(side / one - 1e-9)) for side, one in zip(size_lv0, step, strict=True))
    columns = table.reshape(len(table), -1)
    across = _covered(places[:, 0] / step[0], tile_lv0[0] / step[0], width)
    down = _covered(places[:, 1] / step[1], tile_lv0[1] / step[1], height)
    total, weight = np.zeros((height * width, columns.shape[1])), np.zeros(height * width)
    for row, part_y in down:
        for column, part_x in across:
            area = part_y * part_x
            there = area > 0
            pixel = row[there] * width + column[there]
            np.add.at(weight, pixel, area[there])
            np.add.at(total, pixel, area[there, None] * columns[there])
    found = np.divide(total, weight[:, None], out=np.full_like(total, np.nan), where=weight[:, None] > 0)
    maps = found.T.reshape(-1, height, width)
    return maps[0] if table.ndim == 1 else maps


def _covered(
    start: NDArray[np.float64], length: float, count: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For the first, second ... pixel under each tile along one axis its number, and how much of it is covered."""
    first = np.floor(start).astype(np.int64)
    found = []
    for number in range(int(np.ceil(length)) + 1):
        pixel = first + number
        part = (np.minimum(start + length, pixel + 1) - np.maximum(start, pixel)).clip(0)
        part[(pixel < 0) | (pixel >= count)] = 0
        found.append((pixel.clip(0, count - 1), part))
    return found
