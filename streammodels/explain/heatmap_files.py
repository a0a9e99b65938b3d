"""Heat maps as files, a PNG overlay or a pyramidal TIFF for slide viewers.

    write_overlay(heatmap, "slide.png", thumbnail)       the slide and the map over it, with a color bar
    write_pyramid(heatmap, "slide.tif", mpp=(2.0, 2.0))  the float32 values, with their resolution (um/px)

Pixels of a feature map are drawn at the centers of their receptive fields, see `heatmap.py`.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import numpy as np
import pyvips
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streammodels.explain.heatmap import Heatmap, MapAxis

Values = NDArray[np.float32]

_OVERLAY_SIDE_PX = 1024
_CLIPPED_FRACTION = 0.005  # of the values, so that a few outliers do not compress the color scale
_TILE_PX = 256
_MAX_OPACITY = 0.85


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
    """Write a figure of the image beside the heat map over the image, with a color bar.

    Every location has the color of the nearest map pixel, without interpolation.

    Args:
        heatmap: The map, one value per location.
        path: The PNG to write.
        picture: The whole image at any size, (height, width, 3) uint8.
        index: Index of the image in the batch.
        title: Title of the figure.
        class_name: Name of the class on the color bar; None for its number.
        limits: Values at the ends of the color bar. None: symmetric about 0 for signed maps, else from 0; the most
            extreme 0.5 % of the values lie beyond, as the color bar's tips indicate.

    Returns:
        The path.

    Raises:
        ValueError: If the map holds a gradient of several channels or values that are not finite, or `limits` are not
            in ascending order.
    """
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"limits={limits} have to be two values, the lower one first.")
    values, axes = _padded(*_downsampled(heatmap, index), heatmap.image_size)
    low, high = _limits(values) if limits is None else limits
    height, width = heatmap.image_size
    figure = Figure(figsize=(11.0, 1.2 + 5.0 * min(2.0, max(0.4, height / width))), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    frame = (-0.5, width - 0.5, height - 0.5, -0.5)
    left.imshow(picture, extent=frame)
    right.imshow(picture.mean(axis=2), extent=frame, cmap="gray", vmin=0, vmax=255)
    (rows, columns), (y, x) = values.shape, axes
    extent = (x.start, x.center(columns - 0.5), y.center(rows - 0.5), y.start)
    colors, scale = _colors(low, high), Normalize(low, high)
    drawn = right.imshow(values, cmap=colors, norm=scale, extent=extent, interpolation="nearest")
    for axis, heading in ((left, "image"), (right, heatmap.method)):
        axis.set(xlim=frame[:2], ylim=frame[2:], xticks=[], yticks=[], title=heading)
    beyond = (bool((values < low).any()), bool((values > high).any()))
    tips = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    figure.colorbar(drawn, ax=right, extend=tips, shrink=0.85, label=_color_bar_label(heatmap, index, class_name))
    with _whole(Path(path)) as unfinished:
        figure.savefig(unfinished, dpi=110)
    return Path(path)


def write_pyramid(
    heatmap: Heatmap, path: str | Path, mpp: tuple[float, float], *, index: int = 0, tile_px: int = _TILE_PX
) -> Path:
    """Write the values as a pyramidal, tiled TIFF with resolution tags, aligned with the slide's first pixel.

    Its pixels are cells of the map's stride, or of half the stride where map pixels are not centered on cells, as in a
    ResNet, whose map is shifted by almost half a stride. Each cell holds the value of the nearest map pixel, without
    interpolation, and no value is displaced by more than a quarter of the stride.

    Args:
        heatmap: The map, one value per location.
        path: The TIFF to write.
        mpp: Resolution (x, y) of the explained image, in um/px.
        index: Index of the image in the batch.
        tile_px: Side of the tiles, a multiple of 16.

    Returns:
        The path.

    Raises:
        ValueError: If the map holds a gradient of several channels, or the resolution is not positive.
    """
    if not all(math.isfinite(one) and one > 0 for one in mpp):
        raise ValueError(f"mpp={mpp} has to be a positive resolution (x, y) in um/px.")
    values = _values(heatmap, index)
    (height, width), grid = heatmap.image_size, heatmap.grid
    cell_y, nearest_y = _cells(grid.y, values.shape[0], height)
    cell_x, nearest_x = _cells(grid.x, values.shape[1], width)
    cells = np.ascontiguousarray(values[nearest_y][:, nearest_x])
    image = pyvips.Image.new_from_memory(cells, cells.shape[1], cells.shape[0], 1, "float")
    pixels_per_mm = [1000 / (um * cell) for um, cell in zip(mpp, (cell_x, cell_y), strict=True)]
    with _whole(Path(path)) as unfinished:
        image.tiffsave(
            str(unfinished), tile=True, tile_width=tile_px, tile_height=tile_px, pyramid=True, compression="deflate",
            region_shrink="max" if heatmap.method == "gradient" else "mean", bigtiff=cells.nbytes > 2**31,
            xres=pixels_per_mm[0], yres=pixels_per_mm[1], resunit="cm",
        )  # fmt: skip
    return Path(path)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an error; else removed."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".part-{token_hex(8)}{path.suffix}")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _values(heatmap: Heatmap, index: int) -> Values:
    """(h, w) float32, checked."""
    if heatmap.values.ndim != 3:
        raise ValueError(
            f"the map holds a gradient of shape {tuple(heatmap.values.shape)}, not one value per location. "
            "Use saliency(..., reduce='max') or 'mean'."
        )
    values: Values = heatmap.values[index].detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError("the map holds NaN or infinite values, which have no color. Look for them in the image.")
    return values


def _cells(axis: MapAxis, size: int, image_px: int) -> tuple[float, NDArray[np.int64]]:
    """Side of a cell in image pixels along one axis, and the nearest map pixel of every cell."""
    shift = abs(axis.first - (axis.stride - 1) / 2) % axis.stride
    aligned = min(shift, axis.stride - shift) <= axis.stride / 4
    cell = float(axis.stride) if aligned else axis.stride / 2
    centers = (np.arange(math.ceil(image_px / cell)) + 0.5) * cell - 0.5
    nearest = np.floor((centers - axis.first) / axis.stride + 0.5).astype(np.int64)
    return cell, nearest.clip(0, size - 1)


def _downsampled(heatmap: Heatmap, index: int) -> tuple[Values, tuple[MapAxis, MapAxis]]:
    """The values at the size of a figure, as maxima (gradients) or means of blocks, and their axes."""
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
    coarse = [MapAxis(axis.stride * side, axis.center((side - 1) / 2)) for axis in (grid.y, grid.x)]
    return reduced, (coarse[0], coarse[1])


def _padded(
    values: Values, axes: tuple[MapAxis, MapAxis], image_size: tuple[int, int]
) -> tuple[Values, tuple[MapAxis, MapAxis]]:
    """The map extended to the image's edges with its border values, and its axes."""
    missing = [
        (
            max(0, math.ceil((axis.start + 0.5) / axis.stride)),
            max(0, math.ceil((px - 0.5 - axis.center(size - 0.5)) / axis.stride)),
        )
        for axis, size, px in zip(axes, values.shape, image_size, strict=True)
    ]
    extended = [MapAxis(axis.stride, axis.center(-before)) for axis, (before, _) in zip(axes, missing, strict=True)]
    return np.pad(values, missing, mode="edge"), (extended[0], extended[1])


def _limits(values: Values) -> tuple[float, float]:
    largest = float(np.quantile(np.abs(values), 1 - _CLIPPED_FRACTION)) or float(np.abs(values).max()) or 1.0
    return (-largest if (values < 0).any() else 0.0), largest


def _colors(low: float, high: float) -> ListedColormap:
    """A color map that is red above 0, blue below, and transparent near 0."""
    signed = low < 0
    steps = np.linspace(low, high, 255) / max(-low, high) if signed else np.linspace(0, 1, 255)
    colors = colormaps["RdBu_r"](0.5 + 0.45 * steps) if signed else colormaps["YlOrRd"](steps)
    colors[:, 3] = _MAX_OPACITY * np.abs(steps) ** 0.6
    return ListedColormap(colors)


def _color_bar_label(heatmap: Heatmap, index: int, class_name: str | None) -> str:
    """The label of the color bar."""
    explained = f"class {int(heatmap.class_index[index])}" if class_name is None else class_name
    mean = float(heatmap.values[index].mean())
    return {
        "gradient": f"|d logit / d pixel|, {explained}",
        "class activation map": f"logit of {explained} per location (mean {mean:.3g})",
        "Grad-CAM": f"Grad-CAM, {explained}",
        "attention": f"attention (uniform: {mean:.3g})",
    }[heatmap.method]
