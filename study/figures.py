"""Figures of the study, drawn from its tables."""

from __future__ import annotations

from itertools import cycle
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
    for name, tables, function in (
        ("needles", ("needles", "needles_longer"), arms_figure), ("curves", ("needles_longer_curves",), curves_figure),
        ("borders", ("borders",), borders_figure), ("sides", ("sides",), sides_figure),
        ("shares", ("slides_shares",), shares_figure), ("cost", ("cost",), cost_figure),
        ("summary", ("needles_longer", "slides_shares", "cost"), summary_figure),
    ):  # fmt: skip
        sources = [folder / f"{table}.csv" for table in tables]
        if all(source.exists() for source in sources):
            path = folder / f"{name}.png"
            function(*map(pd.read_csv, sources)).savefig(path, dpi=120)
            drawn.append(path)
            print(f"wrote {path}")
    return drawn


def arms_figure(table: pd.DataFrame, longer: pd.DataFrame) -> Figure:
    """Test AUROC of each arm with its interval, and of each seed's range; filled where it was trained longer."""
    figure = Figure(figsize=(8, 0.34 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(table))[::-1]
    _arm_rows(axes, place, table, "white")
    _arm_rows(axes, place[table["arm"].isin(longer["arm"])], longer, None)
    best = pd.concat([table, longer]).drop_duplicates("arm", keep="last").set_index("arm")["test_auroc"]
    for at, arm in zip(place, table["arm"], strict=True):
        axes.text(1.015, at, f"{best[arm]:.3f}", va="center", fontsize=8)
    axes.set_yticks(place, table["arm"].tolist())
    _auroc_axis(axes, "x")
    steps, most = table["steps"].iloc[0], longer["steps"].iloc[0]
    title = (
        f"Is there a 7? Open: {steps:,} steps; filled: {most:,}. Line: 95 % over test canvases; band: range over seeds"
    )
    axes.set_title(title, fontsize=9)
    return figure


def curves_figure(curves: pd.DataFrame) -> Figure:
    """Validation AUROC, the mean over seeds, against the CPU seconds of the training steps so far."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    for (arm, points), marks in zip(curves.groupby("arm", sort=False), cycle("osv^D<>P"), strict=False):
        mean = points.groupby("step")[["cpu_s", "val_auroc"]].mean()
        axes.plot(mean["cpu_s"], mean["val_auroc"], f"{marks}-", color=_KINDS[_kind(str(arm))], label=str(arm), ms=4)
    axes.set_xlabel("CPU seconds of training")
    _auroc_axis(axes, "y", "validation part")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def shares_figure(table: pd.DataFrame) -> Figure:
    """Test AUROC against the share of the tissue that is lesion."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    _shares(figure.subplots(), table)
    return figure


def summary_figure(longer: pd.DataFrame, shares: pd.DataFrame, cost: pd.DataFrame) -> Figure:
    """What whole images bring and cost: AUROC on both tasks, and memory against the side of the image."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    place = np.arange(len(longer))[::-1]
    _arm_rows(left, place, longer, None)
    left.set_yticks(place, longer["arm"].tolist())
    _auroc_axis(left, "x")
    left.set_title("a digit among others", fontsize=10)
    _shares(middle, shares)
    middle.set_title("lesions on synthetic slides", fontsize=10)
    _lines(right, cost, "peak_bytes", 1e9, "peak memory of a training step, GB")
    right.legend(frameon=False, fontsize=8)
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
    left, right = figure.subplots(1, 2)
    _lines(left, table, "cpu_s", 1.0, "CPU seconds a step")
    _lines(right, table, "peak_bytes", 1e9, "peak memory, GB")
    left.legend(frameon=False, fontsize=8)
    return figure


def _lines(axes: Axes, table: pd.DataFrame, column: str, unit: float, label: str) -> None:
    for arm, of in table.groupby("arm", sort=False):
        axes.plot(of["side_px"], of[column] / unit, "o-", markersize=4, label=str(arm))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted(table["side_px"].unique()), sorted(table["side_px"].unique()))
    axes.set_xlabel("side of the image, pixels")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)


def _shares(axes: Axes, table: pd.DataFrame) -> None:
    ranges = table.drop_duplicates("share_low")[["share_low", "share_high"]]
    names = [f"{100 * low:.1f} to {100 * high:.1f} %" for low, high in ranges.to_numpy()]
    arms = list(table["arm"].unique())
    for number, (arm, of) in enumerate(table.groupby("arm", sort=False)):
        shift = 0.08 * (number - (len(arms) - 1) / 2)
        color = _FAINT if str(arm).startswith("shrunk") else _KINDS[_kind(str(arm))]
        marks = "s--" if str(arm) == "shrunk 4x" else "o-"
        label = f"{arm}, {of['steps'].iloc[0]:,} steps"
        _with_interval(axes, np.arange(len(of)) + shift, of, color, label, marks)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("share of the tissue that is lesion")
    _auroc_axis(axes, "y")
    axes.legend(frameon=False, fontsize=8)


def _arm_rows(axes: Axes, place: np.ndarray, table: pd.DataFrame, face: str | None) -> None:
    for at, (_, row) in zip(place, table.iterrows(), strict=True):
        color = _KINDS[_kind(row["arm"])]
        axes.hlines(at, row["seed_low"], row["seed_high"], color=color, alpha=0.25, linewidth=9)
        axes.plot([row["low"], row["high"]], [at, at], color=color, linewidth=1.5)
        axes.plot(row["test_auroc"], at, "o", color=color, markerfacecolor=face or color, markersize=5)


def _kind(arm: str) -> str:
    return "features" if arm.startswith("frozen") else "tiles" if "tiles" in arm else "image"


def _with_interval(axes: Axes, x: np.ndarray, of: pd.DataFrame, color: str, label: str, marks: str = "o-") -> None:
    value = of["test_auroc"].to_numpy()
    ends = np.nan_to_num(np.stack([value - of["low"], of["high"] - value])).clip(0)  # no interval where all are right
    axes.errorbar(x, value, ends, fmt=marks, color=color, markersize=5, linewidth=1.2, capsize=2, label=label)


def _auroc_axis(axes: Axes, along: str, part: str = "test part") -> None:
    """From below chance to 1, with chance marked."""
    axes.set(**{f"{along}lim": (0.4, 1.01), f"{along}label": f"AUROC on the {part}"})
    (axes.axvline if along == "x" else axes.axhline)(0.5, color=_FAINT, linewidth=0.8, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
