"""Colors of heat maps, their range, and what the color bar says."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from streammodels.explain.heatmap import Heatmap
from streammodels.explain.placement import PlacedMap, Values

_CLIPPED_FRACTION = 0.005  # of the values, so that a few outliers do not compress the color scale
_MAX_OPACITY = 0.85
_STEPS = 255

Limits = tuple[float, float]


def color_limits(placed: PlacedMap, limits: Limits | None = None) -> Limits:
    """The values at the ends of the color bar.

    Args:
        placed: The map.
        limits: The values to take, in ascending order. None: 0 and 1 for probabilities; else symmetric about 0 for
            signed maps, or from 0, with the most extreme 0.5 % of the values beyond.

    Raises:
        ValueError: If `limits` are not in ascending order.
    """
    if limits is not None:
        if not limits[0] < limits[1]:
            raise ValueError(f"limits={limits} have to be two values, the lower one first.")
        return limits
    if placed.unit == "probability":
        return 0.0, 1.0
    values = placed.values[np.isfinite(placed.values)]
    size = np.abs(values)
    largest = float(np.quantile(size, 1 - _CLIPPED_FRACTION)) or float(size.max()) or 1.0
    return (-largest if (values < 0).any() else 0.0), largest


def color_map(low: float, high: float) -> ListedColormap:
    """A color map that is red above 0, blue below, and transparent near 0."""
    signed = low < 0
    steps = np.linspace(low, high, _STEPS) / max(-low, high) if signed else np.linspace(0, 1, _STEPS)
    colors = colormaps["RdBu_r"](0.5 + 0.45 * steps) if signed else colormaps["YlOrRd"](steps)
    colors[:, 3] = _MAX_OPACITY * np.abs(steps) ** 0.6
    return ListedColormap(colors)


def colored(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """The values as (h, w, 4) uint8 RGBA of that color map, not premultiplied; NaN is transparent."""
    table = np.zeros((_STEPS + 1, 4), dtype=np.uint8)
    table[:-1] = color_map(low, high)(np.arange(_STEPS), bytes=True)
    steps = np.floor((values.astype(np.float64) - low) / (high - low) * _STEPS).clip(0, _STEPS - 1)
    chosen: NDArray[np.uint8] = table[np.where(np.isnan(steps), _STEPS, steps).astype(np.uint8)]
    return chosen


def color_bar_label(heatmap: Heatmap, index: int, class_name: str | None) -> str:
    """What the colors stand for, with the map's mean."""
    explained = f"class {int(heatmap.class_index[index])}" if class_name is None else class_name
    mean = float(heatmap.values[index].mean())
    return {
        "gradient": f"|d {'value' if heatmap.unit == 'value' else 'logit'} / d pixel|, {explained}",
        "class activation map": f"{heatmap.unit} of {explained} per location (mean {mean:.3g})",
        "Grad-CAM": f"Grad-CAM, {explained}",
        "attention": f"attention (uniform: {mean:.3g})",
    }[heatmap.method]
