"""The hottest places of a heat map at full resolution, as one numbered picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streammodels.explain.heatmap_files import whole_file
from streammodels.explain.overlay import draw_scale_bar, without_formulas
from streammodels.explain.regions import Place

_COLUMNS = 4


def write_sheet(
    path: Path,
    crops: Sequence[NDArray[np.uint8]],
    places: Sequence[Place],
    *,
    title: str,
    value_name: str,
    mpp: float | None,
) -> Path:
    """Write the crops side by side, numbered from 1.

    Args:
        path: The PNG to write.
        crops: (side, side, 3) each.
        places: Their middles and values.
        title: Title of the figure.
        value_name: What the values are.
        mpp: um per pixel of the crops, for a scale bar; None where it is unknown.
    """
    columns = min(_COLUMNS, len(crops))
    rows = -(-len(crops) // columns)
    figure = Figure(figsize=(max(5.0, 2.9 * columns), 3.3 * rows + 0.6), layout="constrained")
    figure.suptitle(without_formulas(title))
    for axis in figure.subplots(rows, columns, squeeze=False).flat[len(crops) :]:
        axis.set_axis_off()
    for number, (axis, crop, place) in enumerate(zip(figure.axes, crops, places, strict=False), start=1):
        axis.imshow(crop)
        label = f"{number}: {value_name} {place.value:.3g}\nx {place.x_lv0:.0f}, y {place.y_lv0:.0f}"
        axis.set_title(without_formulas(label), fontsize=9)
        axis.set(xticks=[], yticks=[])
        if mpp is not None:
            draw_scale_bar(axis, crop.shape[1], mpp)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
    return path
