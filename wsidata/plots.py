"""Figures of samples, class balance and resolutions, to spot mistakes in a data pipeline.

They are made without pyplot, so that nothing is shown, kept or changed globally.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from torch import Tensor

from wsidata.slides.info import SlideInfo
from wsidata.tables.class_names import class_map
from wsidata.tables.parts import SPLITS

if TYPE_CHECKING:
    from wsidata.annotations.annotations import Annotations
    from wsidata.slides.slide import Slide

_SPLIT_COLORS = {"train": "C0", "val": "C1", "test": "C2"}
_SHOWN_SIDE_PX = 384
_COLUMNS = 4
_TITLE_CHARACTERS = 28


def spread_over_classes(labels: Sequence[int], count: int) -> list[int]:
    """Up to `count` row numbers, taking the classes in turn, each from its beginning.

    >>> spread_over_classes([0, 0, 0, 1], 3)
    [0, 3, 1]
    """
    order = pd.DataFrame({"label": labels})
    order["turn"] = order.groupby("label").cumcount()
    return [int(i) for i in order.sort_values(["turn", "label"], kind="stable").index[:count]]


def plot_images(images: Sequence[Tensor], titles: Sequence[str], heading: str = "") -> Figure:
    """A grid of images, as the network sees them.

    Args:
        images: (C, H, W), uint8 or float in [0, 1]; may differ in size. One or three channels.
        titles: Title of each.
        heading: Title of the figure.

    Returns:
        A figure; save it with `figure.savefig(path)`.
    """
    columns = max(1, min(_COLUMNS, len(images)))
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


def overlay_masks(figure: Figure, masks: Sequence[Tensor], class_names: Sequence[str]) -> None:
    """Overlay masks on the images of `plot_images`: a color per class from 1 on, gray for pixels of no class.

    Args:
        figure: The figure.
        masks: (H, W) int64 class numbers, negative for no class; one per image, in order.
        class_names: Names for the legend.
    """
    colors = np.array([(0.0, 0.0, 0.0, 0.0), *(to_rgba(f"C{i % 10}", 0.45) for i in range(1, len(class_names)))])
    seen: set[int] = set()
    for axis, mask in zip([axis for axis in figure.axes if axis.axison], masks, strict=True):
        step = max(1, -(-max(mask.shape) // _SHOWN_SIDE_PX))
        small = mask[::step, ::step].numpy()
        seen.update(int(number) for number in np.unique(small))
        left, right, bottom, top = axis.images[0].get_extent()
        layer = np.where((small < 0)[..., None], (0.5, 0.5, 0.5, 0.6), colors[np.maximum(small, 0)])
        axis.imshow(layer, extent=(left, right, bottom, top), interpolation="nearest")
    handles = [Patch(color=colors[number], label=class_names[number]) for number in sorted(seen) if number > 0]
    handles += [Patch(color=(0.5, 0.5, 0.5, 0.6), label="no class")] if min(seen, default=0) < 0 else []
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)


def plot_outlines(slide: Slide, annotations: Annotations, max_side_px: int = 1600, title: str = "") -> Figure:
    """Outlines over a thumbnail of their slide, in the color of their class.

    What is taken away from other outlines is dashed. Lines have a white rim, so that they are seen on every color.

    Args:
        slide: The slide.
        annotations: Its annotations.
        max_side_px: Longer side of the thumbnail.
        title: Title; "" for the name of the slide.

    Returns:
        A figure; save it with `figure.savefig(path)`.
    """
    pixels = slide.thumbnail(max_side_px).numpy()
    shown = pixels if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels.reshape(*pixels.shape[:2], -1)[..., 0]
    figure = Figure(figsize=(9.0, 0.8 + 9.0 * min(2.0, max(0.3, slide.height / slide.width))), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shown, cmap="gray", extent=(0, slide.width, slide.height, 0))
    colors = {one.name: one.color for one in annotations.classes}
    numbers = {
        name: number for number, name in enumerate(dict.fromkeys(one.class_name for one in annotations.outlines))
    }
    handles: dict[tuple[str, str], Line2D] = {}
    for one in annotations.outlines:
        stated = one.color or colors.get(one.class_name)
        color = to_rgba(f"C{numbers[one.class_name]}" if stated is None else "#{:02x}{:02x}{:02x}".format(*stated))
        dashes = "--" if one.removes else "-"
        rings = [ring for part in one.parts for ring in part]
        if one.kind == "points":
            axis.plot(*np.concatenate(rings).T, "o", ms=4, mfc=color, mec="white", mew=0.8)
        else:
            closed = [ring if one.kind == "line" else np.concatenate([ring, ring[:1]]) for ring in rings]
            axis.add_collection(LineCollection(closed, colors="white", linewidths=2.6))
            axis.add_collection(LineCollection(closed, colors=[color], linewidths=1.3, linestyles=dashes))
        handles.setdefault(
            (one.class_name, dashes), Line2D([], [], color=color, ls=dashes, label=one.class_name or "-")
        )
    axis.set(xlim=(0, slide.width), ylim=(slide.height, 0), xticks=[], yticks=[])
    axis.set_title((title or slide.path.name).replace("$", r"\$"), fontsize=10)
    if handles:
        figure.legend(
            handles=list(handles.values()), loc="outside lower center", ncols=min(6, len(handles)), fontsize=8
        )
    return figure


def displayable(image: Tensor) -> NDArray[np.float32]:
    """An image shrunk to at most 384 pixels a side by area averaging, as (H, W, 3) or (H, W) floats in [0, 1]."""
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    factor = max(pixels.shape[-2:]) / _SHOWN_SIDE_PX
    if factor > 1:
        size = [max(1, round(side / factor)) for side in pixels.shape[-2:]]
        pixels = torch.nn.functional.interpolate(pixels[None], size=size, mode="area")[0]
    pixels = pixels.clamp(0, 1)
    return (pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]).numpy()


def _shorten(line: str) -> str:
    """A line that fits over an image; the end of a name is more informative than its beginning."""
    return line if len(line) <= _TITLE_CHARACTERS else f"...{line[3 - _TITLE_CHARACTERS :]}"


def plot_split(table: pd.DataFrame, class_names: Sequence[str] | None = None) -> Figure:
    """Bar charts of the class balance of each split, with numbers of slides.

    Args:
        table: Columns `split` and `label_name`, as `make_splits` returns.
        class_names: Order of the classes. None: sorted, numbers as numbers.

    Returns:
        A figure with one panel per split; equal bars mean equal balance.
    """
    names = list(class_names or class_map(table["label_name"].tolist()).class_names)
    parts = [part for part in SPLITS if (table["split"] == part).any()]
    figure = Figure(figsize=(1.6 + 2.6 * len(parts), 1.2 + 0.28 * max(len(names), 2)), layout="constrained")
    panels = np.ravel(figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False))
    for panel, part in zip(panels, parts, strict=True):
        labels = table.loc[table["split"] == part, "label_name"]
        counts = [int((labels == name).sum()) for name in names]
        shares = [100 * count / max(len(labels), 1) for count in counts]
        bars = panel.barh(range(len(names)), shares, color=_SPLIT_COLORS[part])
        panel.bar_label(bars, [str(count) for count in counts], padding=3, fontsize=8)
        panel.set_title(f"{part}: {len(labels)} slides", fontsize=9)
        panel.set_xlabel("% of the split", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), [_shorten(str(name)) for name in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)  # the first class on top
    panels[0].set_xlim(0, panels[0].get_xlim()[1] * 1.15)  # room for the numbers
    return figure


def plot_spacing(slides: Sequence[SlideInfo], mpp: float | None = None) -> Figure:
    """Plot of the mpp of every level of every slide, which shows whether `level=k` means the same on all.

    Args:
        slides: Results of `slide_info`.
        mpp: An mpp to mark.

    Returns:
        A figure: levels downwards, um per pixel (logarithmic) to the right, a line of dots per slide, colored by the
        source of the mpp.
    """
    known = [slide for slide in slides if slide.mpp is not None]
    deepest = max((len(slide.levels) for slide in known), default=1)
    figure = Figure(figsize=(7, 1.6 + 0.35 * deepest), layout="constrained")
    axis = figure.subplots()
    sources = sorted({str(slide.mpp_source) for slide in known})
    for number, slide in enumerate(known):
        place = 0.6 * (number / (len(known) - 1) - 0.5) if len(known) > 1 else 0.0  # side by side, not on one another
        color = f"C{sources.index(str(slide.mpp_source))}"
        dots = [(level.mpp[0], level.index + place) for level in slide.levels if level.mpp]
        axis.plot(*zip(*dots, strict=True), "o-", ms=4, lw=0.4, alpha=0.7, color=color)
    for number, source in enumerate(sources):
        count = sum(str(slide.mpp_source) == source for slide in known)
        axis.plot([], [], "o", ms=4, color=f"C{number}", label=f"{source} ({count})")
    if mpp is not None:
        axis.axvline(mpp, color="black", lw=0.8, ls="--", label=f"{mpp:g} um/px")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_yticks(range(deepest), [f"level {index}" for index in range(deepest)])
    axis.set_ylim(deepest - 0.5, -0.5)
    axis.grid(axis="x", lw=0.3)
    axis.set_xlabel("um per pixel")
    unknown, unread = sum(s.mpp is None and not s.error for s in slides), sum(bool(s.error) for s in slides)
    axis.set_title(f"{len(known)} slides; {unknown} without spacing, {unread} unreadable", fontsize=9)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
