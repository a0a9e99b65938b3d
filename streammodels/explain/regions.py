"""The hottest regions and places of a map, in level-0 pixels of the slide, and as GeoJSON for QuPath.

placed = place(heatmap, placement)
regions = hottest_regions(placed, quantile=0.98)       outlines of the cells above a threshold
places = hottest_places(placed, 9, apart_lv0=1000)     the hottest cells, some way apart
write_geojson("map.geojson", regions, class_name="tumor", value_name="logit")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from streammodels.explain.heatmap_files import whole_file
from streammodels.explain.outlines import outline
from streammodels.explain.placement import PlacedMap

Color = tuple[int, int, int]

RED: Color = (200, 30, 30)
_BOX_COLOR: Color = (30, 30, 30)


@dataclass(frozen=True)
class Region:
    """Cells above a threshold that are connected by their edges.

    Attributes:
        rings: The outer ring, then those of holes: (n, 2) corners (x, y) in pixels of level 0, the first is the last.
        largest: Largest value of its cells.
        mean: Their mean.
        area_lv0: Their area in pixels of level 0.
    """

    rings: tuple[NDArray[np.float64], ...]
    largest: float
    mean: float
    area_lv0: float


@dataclass(frozen=True)
class Place:
    """A hot place.

    Attributes:
        x_lv0: Column, in pixels of level 0.
        y_lv0: Row.
        value: Value of the map there.
    """

    x_lv0: float
    y_lv0: float
    value: float


def hottest_regions(
    placed: PlacedMap, *, quantile: float = 0.98, threshold: float | None = None, count: int | None = 20
) -> list[Region]:
    """The regions whose cells reach a threshold, by descending largest value.

    Args:
        placed: A map over a slide.
        quantile: Fraction of the cells below the threshold.
        threshold: The threshold itself, instead.
        count: How many regions to keep; None for all.

    Returns:
        The regions; none for a map that is the same everywhere.

    Raises:
        ValueError: If `quantile` is not between 0 and 1.
    """
    check_quantile(quantile)
    seen = placed.values[np.isfinite(placed.values)]
    if seen.size == 0:
        return []
    if threshold is None:
        threshold = float(np.quantile(seen, quantile))
        if threshold <= seen.min():
            threshold = float(np.nextafter(seen.min(), np.float32(np.inf)))
    hot = placed.values >= threshold  # NaN is not
    labels = cv2.connectedComponentsWithStats(hot.astype(np.uint8), connectivity=4)
    numbers, boxes = labels[1].astype(np.int64), labels[2]
    values, inside = placed.values[hot].astype(np.float64), numbers[hot]
    cells = np.bincount(inside, minlength=len(boxes))
    sums = np.bincount(inside, values, minlength=len(boxes))
    largest = np.full(len(boxes), -np.inf)
    np.maximum.at(largest, inside, values)
    means = sums / np.maximum(cells, 1)
    order = sorted(range(1, len(boxes)), key=lambda one: (-largest[one], -means[one], one))
    cell = np.array(placed.cell_lv0)
    regions = []
    for one in order[:count]:
        left, top, width, height = boxes[one, :4].tolist()
        part = numbers[top : top + height, left : left + width] == one
        rings = tuple((ring + np.array((left, top))) * cell for ring in outline(part))
        regions.append(Region(rings, float(largest[one]), float(means[one]), float(cells[one] * cell.prod())))
    return regions


def check_quantile(quantile: float) -> None:
    """Raise `ValueError` unless it lies between 0 and 1."""
    if not 0 < quantile < 1:
        raise ValueError(f"quantile={quantile} has to lie between 0 and 1, such as 0.98 for the hottest 2 %.")


def hottest_places(placed: PlacedMap, count: int, apart_lv0: float | tuple[float, float]) -> list[Place]:
    """The hottest cells, by descending value; none that is not above the map's mean.

    Args:
        placed: A map over a slide.
        count: How many at most.
        apart_lv0: Least distance between two of them along x or y, in pixels of level 0; one number or (x, y).
    """
    left, seen = placed.values.copy(), np.isfinite(placed.values)
    left[~seen] = -np.inf
    mean = float(left[seen].mean(dtype=np.float64)) if seen.any() else np.inf
    apart = apart_lv0 if isinstance(apart_lv0, tuple) else (apart_lv0, apart_lv0)
    (cell_x, cell_y), places = placed.cell_lv0, list[Place]()
    reach_x, reach_y = (max(1, int(np.ceil(one / side))) for one, side in zip(apart, (cell_x, cell_y), strict=True))
    while len(places) < count:
        row, column = (int(one) for one in np.unravel_index(int(left.argmax()), left.shape))
        value = left[row, column]
        if value <= mean:
            break
        y, x = _middle(left, row, column)  # of the cells of one map pixel
        places.append(Place((x + 0.5) * cell_x, (y + 0.5) * cell_y, float(value)))
        left[max(0, row - reach_y + 1) : row + reach_y, max(0, column - reach_x + 1) : column + reach_x] = -np.inf
    return places


def _middle(values: NDArray[np.float32], row: int, column: int) -> tuple[float, float]:
    """Mean row and column of a cell and those to its right and below it that have its value."""
    alike = np.argwhere(values[row : row + 2, column : column + 2] == values[row, column])
    down, right = alike.mean(axis=0).tolist()
    return row + down, column + right


def write_geojson(
    path: str | Path,
    regions: Sequence[Region],
    *,
    class_name: str,
    value_name: str = "value",
    color: Color = RED,
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> Path:
    """Write regions as annotations that QuPath (0.4 or later) imports, in pixels of level 0.

    Args:
        path: The file to write; QuPath goes by the suffix .geojson or .json.
        regions: The regions; they are named "region 1", "region 2", ...
        class_name: Their class in QuPath.
        value_name: What is measured: measurements are "max VALUE_NAME" and "mean VALUE_NAME".
        color: Color of the class, RGB of 0 to 255.
        boxes: (x, y, width, height) of rectangles in pixels of level 0, which are added as "crop 1", "crop 2", ..., of
            the class "CLASS_NAME crop".

    Returns:
        The path.
    """
    name = " ".join(class_name.replace(":", " ").split()) or "unnamed"  # a colon would make two classes of it
    features = []
    for number, region in enumerate(regions, start=1):
        measured = {f"max {value_name}": region.largest, f"mean {value_name}": region.mean}
        rings = [ring.round(3).tolist() for ring in region.rings]
        features.append(_feature(rings, f"region {number}", name, color, measured))
    for number, (x, y, width, height) in enumerate(boxes, start=1):
        ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
        features.append(_feature([ring], f"crop {number}", f"{name} crop", _BOX_COLOR, {}))
    content = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False, ensure_ascii=False)
    with whole_file(Path(path)) as unfinished:
        unfinished.write_text(content, encoding="utf-8")
    return Path(path)


def _feature(
    rings: list[Any], name: str, class_name: str, color: Color, measurements: dict[str, float]
) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": class_name, "color": list(color)},
            "measurements": measurements,
        },
    }
