"""Heat maps as files: a picture to look at, and a pyramid that a slide viewer lays over the slide.

    write_overlay(heatmap, "slide.png", thumbnail)       the slide, the map over it, a colour bar with numbers
    write_pyramid(heatmap, "slide.tif", mpp=(2.0, 2.0))  the numbers themselves, float32, in micrometres

Pixels of a feature map are drawn where their receptive fields are centred, see `map_grid.py`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyvips
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streammodels.explain.heatmap import Heatmap, MapAxis

Values = NDArray[np.float32]

_OVERLAY_SIDE_PX = 1024
_CLIPPED_SHARE = 0.005  # of the values, so that a few extreme pixels do not make all others look alike
_TILE_PX = 256
_MOST_OPAQUE = 0.85


def write_overlay(
    heatmap: Heatmap,
    path: str | Path,
    picture: NDArray[np.uint8],
    *,
    index: int = 0,
    title: str = "",
    class_name: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Path:
    """Draw the image and, beside it, the heat map over the image, with a colour bar.

    Every place has the colour of the nearest map pixel; nothing is interpolated.

    Args:
        heatmap: The map, one number a place.
        path: The PNG to write.
        picture: The whole image, of any size: (height, width, 3) uint8.
        index: Which image of the batch.
        title: A text over both.
        class_name: What the colour bar calls the class; None for its number.
        limits: Values at the ends of the colour bar. None: symmetric about 0 for maps with a sign, else from 0; the
            most extreme 0.5 % of the values lie beyond, which the colour bar's tips show.

    Returns:
        The path.

    Raises:
        ValueError: If the map holds a gradient of several channels, or values that are no finite numbers, or `limits`
            are none.
    """
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"limits={limits} have to be two values, the lower one first.")
    values, axes = _covering(*_shrunk(heatmap, index), heatmap.image_size)
    low, high = _limits(values) if limits is None else limits
    height, width = heatmap.image_size
    figure = Figure(figsize=(11.0, 1.2 + 5.0 * min(2.0, max(0.4, height / width))), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    frame = (-0.5, width - 0.5, height - 0.5, -0.5)
    left.imshow(picture, extent=frame)
    right.imshow(picture.mean(axis=2), extent=frame, cmap="gray", vmin=0, vmax=255)
    place = (*(_edge(axes[1], i) for i in (0, values.shape[1])), *(_edge(axes[0], i) for i in (values.shape[0], 0)))
    colours, scale = _colours(low, high), Normalize(low, high)
    drawn = right.imshow(values, cmap=colours, norm=scale, extent=place, interpolation="nearest")
    for axis, heading in ((left, "image"), (right, heatmap.method)):
        axis.set(xlim=frame[:2], ylim=frame[2:], xticks=[], yticks=[], title=heading)
    beyond = (bool((values < low).any()), bool((values > high).any()))
    tips = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    figure.colorbar(drawn, ax=right, extend=tips, shrink=0.85, label=_meaning(heatmap, index, class_name))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def write_pyramid(
    heatmap: Heatmap, path: str | Path, mpp: tuple[float, float], *, index: int = 0, tile_px: int = _TILE_PX
) -> Path:
    """Write the values as a pyramidal, tiled TIFF that begins at the slide's first pixel and knows its spacing.

    Its pixels are cells of the map's stride. Where a map pixel is not centred on a cell (as in a ResNet, whose map is
    shifted by almost half a stride), cells of half the stride are written: each holds the value of the nearest map
    pixel, so nothing is interpolated, and nothing is more than a quarter of the stride from its place.

    Args:
        heatmap: The map, one number a place.
        path: The TIFF to write.
        mpp: Spacing of the image the map was made of, (x, y), in um per pixel.
        index: Which image of the batch.
        tile_px: Side of the tiles, a multiple of 16.

    Returns:
        The path.

    Raises:
        ValueError: If the map holds a gradient of several channels, or the spacing is not positive.
    """
    if not all(math.isfinite(one) and one > 0 for one in mpp):
        raise ValueError(f"mpp={mpp} has to be a spacing in um per pixel above 0, (x, y).")
    values = _values(heatmap, index)
    (height, width), grid = heatmap.image_size, heatmap.grid
    cell_y, nearest_y = _cells(grid.y, values.shape[0], height)
    cell_x, nearest_x = _cells(grid.x, values.shape[1], width)
    cells = np.ascontiguousarray(values[nearest_y][:, nearest_x])
    image = pyvips.Image.new_from_memory(cells, cells.shape[1], cells.shape[0], 1, "float")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels_per_mm = [1000 / (spacing * cell) for spacing, cell in zip(mpp, (cell_x, cell_y), strict=True)]
    image.tiffsave(
        str(path), tile=True, tile_width=tile_px, tile_height=tile_px, pyramid=True, compression="deflate",
        region_shrink="max" if heatmap.method == "gradient" else "mean", bigtiff=cells.nbytes > 2**31,
        xres=pixels_per_mm[0], yres=pixels_per_mm[1], resunit="cm",
    )  # fmt: skip
    return path


def _values(heatmap: Heatmap, index: int) -> Values:
    """(h, w) float32, checked."""
    if heatmap.values.ndim != 3:
        raise ValueError(
            f"the map holds a gradient of shape {tuple(heatmap.values.shape)}, not one number a place. "
            "Ask for saliency(..., reduce='max') or 'mean'."
        )
    values: Values = heatmap.values[index].detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError("the map holds NaN or infinite values, which have no colour. Look for them in the image.")
    return values


def _cells(axis: MapAxis, size: int, image_px: int) -> tuple[float, NDArray[np.int64]]:
    """Side of a TIFF pixel in image pixels along one axis, and for each of them the nearest map pixel."""
    shift = abs(axis.first - (axis.stride - 1) / 2) % axis.stride
    aligned = min(shift, axis.stride - shift) <= axis.stride / 4
    cell = float(axis.stride) if aligned else axis.stride / 2
    centres = (np.arange(math.ceil(image_px / cell)) + 0.5) * cell - 0.5
    nearest = np.floor((centres - axis.first) / axis.stride + 0.5).astype(np.int64)
    return cell, nearest.clip(0, size - 1)


def _shrunk(heatmap: Heatmap, index: int) -> tuple[Values, tuple[MapAxis, MapAxis]]:
    """The values at a size for a picture: blocks of them become their maximum (gradients) or mean."""
    values, grid = _values(heatmap, index), heatmap.grid
    side = math.ceil(max(values.shape) / _OVERLAY_SIDE_PX)
    if side == 1:
        return values, (grid.y, grid.x)
    starts = [np.arange(0, size, side) for size in values.shape]
    if heatmap.method == "gradient":
        reduced = np.maximum.reduceat(np.maximum.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    else:
        counts = np.outer(*(np.diff([*start, size]) for start, size in zip(starts, values.shape, strict=True)))
        summed = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
        reduced = (summed / counts).astype(np.float32)
    coarse = [MapAxis(axis.stride * side, axis.centre((side - 1) / 2)) for axis in (grid.y, grid.x)]
    return reduced, (coarse[0], coarse[1])


def _covering(
    values: Values, axes: tuple[MapAxis, MapAxis], image_size: tuple[int, int]
) -> tuple[Values, tuple[MapAxis, MapAxis]]:
    """The map continued to the image's edges, where no map pixel is nearer than the last."""
    missing = [
        (
            max(0, math.ceil((axis.start + 0.5) / axis.stride)),
            max(0, math.ceil((px - 0.5 - _edge(axis, size)) / axis.stride)),
        )
        for axis, size, px in zip(axes, values.shape, image_size, strict=True)
    ]
    continued = [MapAxis(axis.stride, axis.centre(-before)) for axis, (before, _) in zip(axes, missing, strict=True)]
    return np.pad(values, missing, mode="edge"), (continued[0], continued[1])


def _edge(axis: MapAxis, index: int) -> float:
    """Where map pixel `index` begins, in image pixels."""
    return axis.start + index * axis.stride


def _limits(values: Values) -> tuple[float, float]:
    largest = float(np.quantile(np.abs(values), 1 - _CLIPPED_SHARE)) or float(np.abs(values).max()) or 1.0
    return (-largest if (values < 0).any() else 0.0), largest


def _colours(low: float, high: float) -> ListedColormap:
    """Colours that let the picture through where the values are small: red above 0, blue below."""
    signed = low < 0
    steps = np.linspace(low, high, 255) / max(-low, high) if signed else np.linspace(0, 1, 255)
    colours = colormaps["RdBu_r"](0.5 + 0.45 * steps) if signed else colormaps["YlOrRd"](steps)
    colours[:, 3] = _MOST_OPAQUE * np.abs(steps) ** 0.6
    return ListedColormap(colours)


def _meaning(heatmap: Heatmap, index: int, class_name: str | None) -> str:
    """What the numbers of the colour bar are."""
    explained = f"class {int(heatmap.class_index[index])}" if class_name is None else class_name
    mean = float(heatmap.values[index].mean())
    return {
        "gradient": f"|d score / d pixel|, {explained}",
        "class activation map": f"score of {explained}, place by place (mean {mean:.3g})",
        "Grad-CAM": f"Grad-CAM, {explained}",
        "attention": f"attention (all alike: {mean:.3g})",
    }[heatmap.method]
