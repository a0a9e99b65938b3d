"""Figures of the study, drawn from its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_WHOLE, _OTHER, _FAINT = "#1b6ca8", "#c26a1b", "#999999"
_KINDS = {"image": _WHOLE, "tiles": _OTHER, "features": "#6b4c9a"}


def draw(folder: Path) -> list[Path]:
    """Draw every figure whose tables are in `folder`, beside them, and return the files."""
    drawn = list[Path]()
    for name, function in (
        ("needles", arms_figure), ("borders", borders_figure), ("sides", sides_figure), ("cost", cost_figure),
    ):  # fmt: skip
        source = folder / f"{name}.csv"
        if source.exists():
            figure = function(pd.read_csv(source))
            figure.savefig(source.with_suffix(".png"), dpi=120)
            drawn.append(source.with_suffix(".png"))
            print(f"wrote {drawn[-1]}")
    return drawn


def arms_figure(table: pd.DataFrame) -> Figure:
    """Test AUROC of each arm with its interval, and of each seed's range."""
    figure = Figure(figsize=(8, 0.34 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(table))[::-1]
    for at, (_, row) in zip(place, table.iterrows(), strict=True):
        color = _KINDS[_kind(row["arm"])]
        axes.hlines(at, row["seed_low"], row["seed_high"], color=color, alpha=0.25, linewidth=9)
        axes.plot([row["low"], row["high"]], [at, at], color=color, linewidth=1.5)
        axes.plot(row["test_auroc"], at, "o", color=color, markersize=5)
        axes.text(1.015, at, f"{row['test_auroc']:.3f}", va="center", fontsize=8)
    axes.set_yticks(place, table["arm"].tolist())
    _auroc_axis(axes, "x")
    axes.set_title("Is there a 7? Line: 95 % over test canvases; band: range over seeds", fontsize=9)
    return figure


def borders_figure(table: pd.DataFrame) -> Figure:
    """Test AUROC against the side of the tiles, with the share of digits that their borders cut."""
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.subplots()
    tiles = table[table["arm"].str.startswith("tiles of ")].copy()
    tiles["tile_px"] = tiles["arm"].str.extract(r"(\d+)", expand=False).astype(int)
    tiles = tiles.sort_values("tile_px")
    cut = [1 - ((side - 7) / side) ** 2 for side in tiles["tile_px"]]
    _with_interval(axes, np.arange(len(tiles)), tiles, _OTHER, "tiles, the same pooling")
    whole = table[table["arm"] == "whole image"].iloc[0]
    axes.axhspan(whole["low"], whole["high"], color=_WHOLE, alpha=0.15)
    axes.axhline(whole["test_auroc"], color=_WHOLE, label="whole image, streamed")
    labels = [f"{side} px\n{share:.0%} cut" for side, share in zip(tiles["tile_px"], cut, strict=True)]
    axes.set_xticks(np.arange(len(tiles)), labels)
    _auroc_axis(axes, "y")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def sides_figure(table: pd.DataFrame) -> Figure:
    """Test AUROC against the side of the canvas, for a digit of the same size."""
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.subplots()
    sides = sorted(table["side_px"].unique())
    colors = {"whole image": _WHOLE, "shrunk 2x": _FAINT, "tiles, max": _OTHER}
    least = table["steps"].min()
    for (steps, arm), of in table.groupby(["steps", "arm"], sort=False):
        where = np.array([sides.index(side) for side in of["side_px"]], float)
        label = str(arm) if steps == least else ""
        _with_interval(axes, where, of, colors[str(arm)], label, "o-" if steps == least else "D")
    axes.set_xticks(range(len(sides)), [f"{side} px\ndigit {64 / side**2:.2%}" for side in sides])
    _auroc_axis(axes, "y")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def cost_figure(table: pd.DataFrame) -> Figure:
    """CPU seconds and memory of a training step against the side of the image."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, column, scale, label in zip(
        figure.subplots(1, 2), ("cpu_s", "peak_bytes"), (1.0, 1e9), ("CPU seconds a step", "peak memory, GB"),
        strict=True,
    ):  # fmt: skip
        for arm, of in table.groupby("arm", sort=False):
            axes.plot(of["side_px"], of[column] / scale, "o-", markersize=4, label=str(arm))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sorted(table["side_px"].unique()), sorted(table["side_px"].unique()))
        axes.set_xlabel("side of the image, pixels")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def _kind(arm: str) -> str:
    return "features" if arm.startswith("frozen") else "tiles" if "tiles" in arm else "image"


def _with_interval(axes: Axes, x: np.ndarray, of: pd.DataFrame, color: str, label: str, marks: str = "o-") -> None:
    value = of["test_auroc"].to_numpy()
    ends = np.stack([value - of["low"], of["high"] - value]).clip(0)
    axes.errorbar(x, value, ends, fmt=marks, color=color, markersize=5, linewidth=1.2, capsize=2, label=label)


def _auroc_axis(axes: Axes, along: str) -> None:
    """From below chance to 1, with chance marked."""
    axes.set(**{f"{along}lim": (0.4, 1.01), f"{along}label": "AUROC on the test part"})
    (axes.axvline if along == "x" else axes.axhline)(0.5, color=_FAINT, linewidth=0.8, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
