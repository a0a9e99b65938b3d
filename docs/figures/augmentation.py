"""Draws docs/figures/augmentation.png, a piece of synthetic tissue through each transform."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pyvips

from wsidata.synthetic.tissue import paint_tissue
from wsidata.transforms import (
    Blur,
    CoarseDropout,
    Compose,
    Elastic,
    MacenkoNormalize,
    RandomAffine,
    RandomD4,
    StainJitter,
    ToneJitter,
    Transform,
)

INK = "#22303c"
PANELS: tuple[tuple[str, Transform, int], ...] = (
    ("as read", Compose([]), 0),
    ("RandomD4", RandomD4(), 1),
    ("RandomAffine", RandomAffine(degrees=20, scale=(0.8, 1.2)), 2),
    ("Elastic", Elastic(alpha_px=24, cell_px=96), 3),
    ("StainJitter", StainJitter(alpha=0.3), 9),
    ("MacenkoNormalize", MacenkoNormalize(), 0),
    ("ToneJitter", ToneJitter(brightness=0.1, contrast=0.3), 4),
    ("Blur", Blur(2.0), 0),
    ("CoarseDropout", CoarseDropout((4, 8), (20, 60)), 5),
)


def main() -> None:
    """Draw and save."""
    image = pyvips.Image.new_from_array(paint_tissue(300, 300, tumor=True, mpp=0.5, rng=np.random.default_rng(0)))
    figure, panels = plt.subplots(1, len(PANELS), figsize=(13, 1.75), dpi=110)
    for axes, (title, transform, seed) in zip(panels, PANELS, strict=True):
        axes.imshow(transform(image, np.random.default_rng(seed)).numpy())
        axes.set_title(title, fontsize=8, color=INK)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.tight_layout(pad=0.4)
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
