"""Draws docs/figures/packing.png, a slide, its tissue mask, and its tissue packed on a small canvas."""

import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from wsidata import Slide, TissueCrop
from wsidata.synthetic.slides import write_pixels
from wsidata.synthetic.tissue import paint_tissue

INK = "#22303c"
COLORS = ("#2f5f97", "#2f7d5b", "#a8741a", "#b8434e", "#6b4fa0", "#3d8a99", "#8a97a3")
SECTION_PX = (1100, 900)
PLACES = ((100, 100), (1400, 100), (2650, 700), (200, 2050), (1700, 1900))


def slide_pixels() -> np.ndarray:
    """Pixels of five sections of synthetic tissue on one glass slide."""
    canvas = np.full((3000, 3800, 3), paint_tissue(64, 64, tumor=False, mpp=0.5, rng=np.random.default_rng(0))[0, 0])
    for seed, (x, y) in enumerate(PLACES):
        section = paint_tissue(*SECTION_PX, tumor=seed == 1, mpp=0.5, rng=np.random.default_rng(seed))
        canvas[y : y + SECTION_PX[1], x : x + SECTION_PX[0]] = section
    return canvas.astype(np.uint8)


def show(axes: Axes, image: np.ndarray, title: str) -> None:
    """Draw one panel, without ticks."""
    axes.imshow(image)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])


def main() -> None:
    """Draw and save."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_pixels(Path(folder) / "slide.tif", slide_pixels(), mpp=0.5)
        with Slide(path) as slide:
            mask = slide.tissue_mask()
            packing = TissueCrop("pack").plan(slide, {"mpp": 2.0})
            picture = slide.numpy(mpp=2.0)
            packed = packing.apply(slide.image(mpp=2.0)).numpy()
    figure, panels = plt.subplots(1, 3, figsize=(10, 3), dpi=110, width_ratios=[3, 3, 2])
    show(panels[0], picture, f"the slide, {picture.shape[1]} x {picture.shape[0]} px")
    show(panels[1], np.where(mask.pixels[..., None], (225, 140, 180), 250).astype(np.uint8), "its tissue mask")
    show(panels[2], packed, f"packed, {packing.width} x {packing.height} px")
    for piece, color in zip(packing.pieces, COLORS, strict=False):
        for axes, corner in ((panels[0], (piece.x, piece.y)), (panels[2], (piece.canvas_x, piece.canvas_y))):
            axes.add_patch(Rectangle(corner, piece.width, piece.height, fill=False, color=color, linewidth=1.5))
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
