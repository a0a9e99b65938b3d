"""A figure of slides, their true tumor, and the heat maps of a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from slidestream.trained import load_trained
from wsidata import Slide
from wsidata.evaluation import save_figure

_HEADINGS = ("slide", "true tumor", "class activation map")


def draw_truth(run: Path, slides: Path, names: Sequence[str]) -> None:
    """Draw tumor.png into the folder of a run.

    Args:
        run: The folder.
        slides: What `write_camelyon16(masks=True)` wrote.
        names: Slides with tumor.
    """
    model: Any = load_trained(run / "checkpoints" / "best.ckpt").model
    figure = Figure(figsize=(9.6, 3.3 * len(names)), layout="constrained")
    rows = figure.subplots(len(names), 3, squeeze=False)
    for axes, name in zip(rows, names, strict=True):
        with Slide(slides / "images" / f"{name}.tif") as slide:
            lazy = slide.lazy(mpp=2.0)
        pixels = lazy.thumbnail(1024).permute(1, 2, 0).numpy()
        found = model.class_activation_map(lazy, 1)
        mask = np.asarray(Image.open(slides / "masks" / f"{name}.png"))
        height, width = pixels.shape[:2]
        frame = (0, width, height, 0)
        axes[0].imshow(pixels, extent=frame)
        axes[1].imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=frame)
        axes[1].contourf(
            np.linspace(0, width, mask.shape[1]), np.linspace(0, height, mask.shape[0]), mask, [127, 256],
            colors=["#d55e00"], alpha=0.55,
        )  # fmt: skip
        axes[2].imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=frame)
        values, grid = found.values[0].numpy(), found.grid
        extent = (
            grid.x.start + 0.5, grid.x.center(values.shape[1] - 0.5) + 0.5,
            grid.y.center(values.shape[0] - 0.5) + 0.5, grid.y.start + 0.5,
        )  # fmt: skip
        limit = float(np.abs(values).max()) or 1.0
        axes[2].imshow(
            values, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent, alpha=0.6, interpolation="nearest"
        )
        axes[0].set_ylabel(name)
        for panel, heading in zip(axes, _HEADINGS, strict=True):
            panel.set(xticks=[], yticks=[], xlim=frame[:2], ylim=frame[2:], title=heading)
    save_figure(figure, run / "tumor.png", dpi=110)
