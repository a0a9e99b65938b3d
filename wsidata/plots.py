"""One look at what the network gets shows most mistakes of a data pipeline: wrong colours, empty crops, wrong labels.

Figures are made without pyplot, so that nothing is shown, kept or changed globally.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

_SHOWN_SIDE_PX = 384
_TITLE_CHARACTERS = 28


def spread_over_classes(labels: Sequence[int], count: int) -> list[int]:
    """Up to `count` positions, taking the classes in turn, each from its beginning.

    >>> spread_over_classes([0, 0, 0, 1], 3)
    [0, 3, 1]
    """
    order = pd.DataFrame({"label": labels})
    order["turn"] = order.groupby("label").cumcount()
    return [int(i) for i in order.sort_values(["turn", "label"], kind="stable").index[:count]]


def plot_images(images: Sequence[Tensor], titles: Sequence[str], heading: str = "", columns: int = 4) -> Figure:
    """Pictures in a grid, as the network gets them.

    Args:
        images: (C, H, W), uint8 or float in [0, 1]; may differ in size. One or three channels.
        titles: A text over each.
        heading: A text over all.
        columns: Pictures a row.

    Returns:
        A figure; save it with `figure.savefig(path)`.
    """
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.9 * rows + 0.5), layout="constrained")
    if heading:
        figure.suptitle(heading, fontsize=10)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axis in axes:
        axis.set_axis_off()
    for axis, image, title in zip(axes, images, titles, strict=False):
        shown = displayable(image)
        axis.set_axis_on()
        axis.set_xticks([])
        axis.set_yticks([])
        axis.imshow(shown, cmap="gray" if shown.ndim == 2 else None, vmin=0, vmax=1, interpolation="nearest")
        axis.set_title("\n".join(_shorten(line) for line in title.splitlines()), fontsize=8)
    return figure


def displayable(image: Tensor) -> NDArray[np.float32]:
    """A picture of at most 384 pixels a side, averaged over areas, as (H, W, 3) or (H, W) floats in [0, 1]."""
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    factor = max(pixels.shape[-2:]) / _SHOWN_SIDE_PX
    if factor > 1:
        size = [max(1, round(side / factor)) for side in pixels.shape[-2:]]
        pixels = torch.nn.functional.interpolate(pixels[None], size=size, mode="area")[0]
    pixels = pixels.clamp(0, 1)
    return (pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]).numpy()


def _shorten(line: str) -> str:
    """A line that fits over a picture; the end of a name says more than its beginning."""
    return line if len(line) <= _TITLE_CHARACTERS else f"...{line[3 - _TITLE_CHARACTERS :]}"
