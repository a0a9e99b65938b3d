"""Figures of samples as the network gets them, with their names, labels and masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from wsidata.datasets.epochs import EpochDataset
from wsidata.evaluation.save import save_figure
from wsidata.plots import overlay_masks, plot_images, spread_over_classes
from wsidata.slides.lazy_image import as_tensor
from wsidata.slides.lazy_mask import LazyMask
from wsidata.tables.parts import Part, SplitError


def draw_samples(
    dataset: EpochDataset,
    table: pd.DataFrame,
    part: Part,
    class_names: Sequence[str],
    max_images: int = 8,
    path: str | Path | None = None,
    bands: Sequence[int] | None = None,
) -> Figure:
    """Draw samples of one split, one class after the other, with their masks unless it is "predict".

    For the arguments see `SplitDataModule.show_batch`; `table` has the split's rows.

    Raises:
        SplitError: if the split has no rows.
        ValueError: if there are no such bands, or neither one nor three.
    """
    if table.empty:
        raise SplitError(f"there are no {part} rows to show.")
    rows = spread_over_classes(table["label"].tolist(), max_images)
    masked = "mask" in table.columns and part != "predict"
    samples: list[tuple[Any, Any]] = [dataset[row] if masked else (dataset.image(row), None) for row in rows]
    images = [_shown(as_tensor(image), bands) for image, _ in samples]
    titles = [f"{table['image_id'][row]}\n{table['label_name'][row]}" for row in rows]
    sizes = sorted({f"{image.shape[1]} x {image.shape[2]}" for image in images})
    size = f"{sizes[0]} px" if len(sizes) == 1 else "sizes differ"
    chosen = "" if bands is None else f"bands {', '.join(map(str, bands))}"
    counts = f"{part}: {len(rows)} of {len(table)} {dataset.noun}s"
    facts = [counts, dataset.describe(), chosen, size, str(images[0].dtype)[6:]]
    figure = plot_images(images, titles, ", ".join(fact for fact in facts if fact))
    if masked:
        masks = [mask.thumbnail(1024) if isinstance(mask, LazyMask) else mask for _, mask in samples]
        overlay_masks(figure, masks, class_names)
    if path is not None:
        save_figure(figure, path, dpi=120)
    return figure


def _shown(image: Tensor, bands: Sequence[int] | None) -> Tensor:
    """The bands to show, (1, H, W) or (3, H, W)."""
    numbers = range(len(image)) if bands is None else bands
    if len(numbers) not in (1, 3) or not all(0 <= number < len(image) for number in numbers):
        raise ValueError(
            f"images of {len(image)} channels cannot be shown with bands={bands}. Pass bands=[i] for one of them as "
            "gray, or bands=[i, j, k] as red, green and blue."
        )
    return image if bands is None else image[list(bands)]
