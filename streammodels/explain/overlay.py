"""Heat maps as figures, the image beside the map over it, with a color bar and a scale bar.

write_overlay(heatmap, "slide.png", thumbnail, mpp=(2.0, 2.0))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from streammodels.explain.colors import Limits, color_bar_label, color_limits, color_map
from streammodels.explain.heatmap import Heatmap
from streammodels.explain.heatmap_files import whole_file
from streammodels.explain.placement import Placement, place

_SIDE_CELLS = 1024
_BAR_FRACTION = 0.25  # of the width, at most
_LEAST_BOX = 0.012  # of the longer side, so that it is seen


def write_overlay(
    heatmap: Heatmap,
    path: str | Path,
    picture: NDArray[np.uint8],
    *,
    index: int = 0,
    title: str = "",
    class_name: str | None = None,
    limits: Limits | None = None,
    placement: Placement | None = None,
    mpp: tuple[float, float] | None = None,
    boxes: Sequence[tuple[float, float, float, float]] = (),
    outlines: Sequence[NDArray[np.float64]] = (),
) -> Path:
    """Write a figure of the image beside the heat map over the image, with a color bar.

    Every location has the color of the nearest map pixel, without interpolation.

    Args:
        heatmap: The map, one value per location.
        path: The PNG to write.
        picture: The whole image (with `placement`, the whole slide) at any size, (height, width, 3) uint8.
        index: Index of the image in the batch.
        title: Title of the figure.
        class_name: Name of the class on the color bar; None for its number.
        limits: Values at the ends of the color bar. None: 0 and 1 for probabilities; else symmetric about 0 for signed
            maps, or from 0; the most extreme 0.5 % of the values lie beyond, as the color bar's tips indicate.
        placement: Where the explained image lies on the slide; None: it is the whole slide.
        mpp: Resolution (x, y) of the image (with `placement`, of level 0, which it states itself) in um/px, for a scale
            bar.
        boxes: (x, y, width, height) of rectangles that are drawn and numbered from 1, in pixels of the image (with
            `placement`, of level 0).
        outlines: (n, 2) x and y of the vertices of closed lines that are drawn, in the same pixels.

    Returns:
        The path.

    Raises:
        ValueError: If the map holds a gradient of several channels or values that are not finite, or `limits` are not
            in ascending order.
    """
    placed = place(heatmap, placement or Placement.of_whole(heatmap.image_size, mpp), index=index)
    low, high = color_limits(placed, limits)
    levels = list(placed.levels(_SIDE_CELLS))
    values, side = levels[-1], 2 ** (len(levels) - 1)
    (width, height), (cell_x, cell_y) = placed.size_lv0, placed.cell_lv0
    # the last cells may reach beyond the image
    covered = (0, values.shape[1] * side * cell_x, values.shape[0] * side * cell_y, 0)
    aspect = _aspect(placed.mpp)
    figure = Figure(figsize=(11.0, 1.2 + 5.0 * min(2.0, max(0.4, height * aspect / width))), layout="constrained")
    figure.suptitle(without_formulas(title))
    left, right = figure.subplots(1, 2)
    frame = (0, width, height, 0)
    left.imshow(picture, extent=frame, aspect=aspect)
    right.imshow(picture.mean(axis=2), extent=frame, cmap="gray", vmin=0, vmax=255, aspect=aspect)
    drawn = right.imshow(
        values, cmap=color_map(low, high), norm=Normalize(low, high), extent=covered, interpolation="nearest",
        aspect=aspect,
    )  # fmt: skip
    for axis, heading in ((left, "image"), (right, heatmap.method)):
        axis.set(xlim=frame[:2], ylim=frame[2:], xticks=[], yticks=[], title=heading)
        _draw_boxes(axis, boxes, max(width, height))
        _draw_outlines(axis, outlines)
        if placed.mpp is not None:
            draw_scale_bar(axis, width, placed.mpp[0])
    beyond = (bool((values < low).any()), bool((values > high).any()))
    tips = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    label = without_formulas(color_bar_label(heatmap, index, class_name))
    figure.colorbar(drawn, ax=right, extend=tips, shrink=0.85, label=label)
    with whole_file(Path(path)) as unfinished:
        figure.savefig(unfinished, dpi=110)
    return Path(path)


def _aspect(mpp: tuple[float, float] | None) -> float:
    """Height of a pixel as a fraction of its width."""
    return 1.0 if mpp is None else mpp[1] / mpp[0]


def without_formulas(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("\\", "\\\\").replace("$", r"\$")


def _draw_boxes(axis: Axes, boxes: Sequence[tuple[float, float, float, float]], side: float) -> None:
    """Rectangles with their numbers in the upper left corner of what is seen of them."""
    label: dict[str, Any] = {"fontsize": 8, "ha": "left", "va": "top", "textcoords": "offset points", "xytext": (2, -2)}
    for number, (x, y, width, height) in enumerate(boxes, start=1):
        grown = [max(0.0, side * _LEAST_BOX - one) / 2 for one in (width, height)]
        corner = x - grown[0], y - grown[1]
        axis.add_patch(Rectangle(corner, width + 2 * grown[0], height + 2 * grown[1], fill=False, color="black", lw=1))
        seen = max(0.0, corner[0]), max(0.0, corner[1])
        axis.annotate(str(number), seen, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, **label)


def _draw_outlines(axis: Axes, outlines: Sequence[NDArray[np.float64]]) -> None:
    """Black lines with a white rim, which are seen on every color."""
    for width, color in ((2.2, "white"), (1.0, "black")):
        axis.add_collection(
            PolyCollection(outlines, closed=True, facecolors="none", edgecolors=color, linewidths=width)
        )


def draw_scale_bar(axis: Axes, width_px: float, mpp: float) -> None:
    """Draw a bar of a round length, in um or mm, in the lower left corner.

    Args:
        axis: Axes that show `width_px` pixels from edge to edge.
        width_px: Width of the image in pixels.
        mpp: um per pixel along x.
    """
    um = scale_bar_um(width_px * mpp * _BAR_FRACTION)
    share, start = um / (width_px * mpp), 0.04
    text = f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"
    at: dict[str, Any] = {"transform": axis.transAxes, "clip_on": False}
    axis.plot([start, start + share], [0.045, 0.045], color="white", lw=6, solid_capstyle="butt", **at)
    axis.plot([start, start + share], [0.045, 0.045], color="black", lw=3, solid_capstyle="butt", **at)
    box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
    axis.text(start, 0.065, text, fontsize=8, ha="left", va="bottom", bbox=box, transform=axis.transAxes)


def scale_bar_um(longest_um: float) -> float:
    """The longest of 1, 2 or 5 times a power of ten that is not longer than `longest_um`."""
    power = 10.0 ** math.floor(math.log10(longest_um))
    return float(max(step for step in (1, 2, 5) if step * power <= longest_um * (1 + 1e-9)) * power)
