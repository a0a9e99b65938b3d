"""Figures of a report as SVG data URIs, in colors that everybody tells apart.

The palette is that of Okabe and Ito (https://jfly.uni-koeln.de/color/); lines differ in their dashes, too.
"""

from __future__ import annotations

import io
import warnings
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from wsidata.evaluation.curves import Calibration, Curve, SurvivalCurve

BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000",
)  # fmt: skip
COLORS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
FEW_CLASSES = 8
_MANY_POINTS = 1500
_GRAY = "#8a949e"
_STYLE: Any = {
    "text.parse_math": False,  # a class may be called $x$
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 9.5, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#5b6770", "axes.labelcolor": "#22303c", "legend.frameon": False,
    "legend.fontsize": 8.5, "axes.titlesize": 10, "figure.constrained_layout.use": True, "figure.dpi": 100,
    "font.family": "sans-serif", "font.sans-serif": ["Arial", "Helvetica", "DejaVu Sans"],
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A figure in a page.

    Attributes:
        uri: Data URI of the SVG.
        alt: What it shows, for those who do not see it.
        title: Heading.
        caption: What to know.
        width_px: Width it is legible at.
    """

    uri: str
    alt: str
    title: str
    caption: str = ""
    width_px: int = 400


def shown(name: str, longest: int = 26) -> str:
    """A name as it may stand in a figure: without control characters, and not too long."""
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def draw(
    paint: Callable[[Figure], None], alt: str, title: str, caption: str = "", size: tuple[float, float] = (4.0, 3.4)
) -> Drawing:
    """A figure painted by a function, as SVG.

    Args:
        paint: Paints into an empty figure.
        alt: See `Drawing`.
        title: See `Drawing`.
        caption: See `Drawing`.
        size: Width and height in inches, of 100 pixels.
    """
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*(Glyph .* missing|findfont)")  # the browser has its own fonts
        figure = Figure(figsize=size)
        paint(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    uri = f"data:image/svg+xml;base64,{b64encode(buffer.getvalue()).decode()}"
    return Drawing(uri, alt, title, caption, round(size[0] * 100))


def draw_roc(curves: Mapping[str, Curve], alt: str, caption: str) -> Drawing:
    """ROC curves by name, with their bands."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_GRAY, lw=1, ls=":")
        _curves(axes, curves)
        axes.set(
            xlabel="1 \N{MINUS SIGN} specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01), aspect="equal"
        )
        _legend(figure, axes, len(curves), "lower right")

    return draw(paint, alt, "ROC curve", caption, _size(len(curves)))


def draw_precision_recall(curves: Mapping[str, Curve], prevalence: float | None, alt: str, caption: str) -> Drawing:
    """Precision-recall curves by name, with their bands, and the precision of chance."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        if prevalence is not None:
            axes.axhline(prevalence, color=_GRAY, lw=1, ls=":")
        _curves(axes, curves, step=True)
        axes.set(xlabel="recall (sensitivity)", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        _legend(figure, axes, len(curves), "lower left")

    return draw(paint, alt, "Precision and recall", caption, _size(len(curves)))


def draw_kaplan_meier(curves: Mapping[str, SurvivalCurve], unit: str, alt: str, caption: str) -> Drawing:
    """Survival curves by name, with bands, marks at ends of follow-up, and the numbers at risk below."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (name, curve) in enumerate(curves.items()):
            color, line = COLORS[number % len(COLORS)], LINES[number % len(LINES)]
            axes.fill_between(curve.time, curve.low, curve.high, step="post", color=color, alpha=0.16, lw=0)
            axes.step(curve.time, curve.survival, where="post", color=color, ls=line, lw=1.8, label=shown(name, 60))
            there = np.searchsorted(curve.time, curve.censored, side="right") - 1
            axes.plot(curve.censored, curve.survival[there], "|", color=color, ms=6)
        below = "\n" * (len(curves) + 2)  # room for the numbers
        label = f"time in {unit}" if unit else "time"
        axes.set(xlabel=label + below, ylabel="share without event", ylim=(0, 1.02))
        axes.set_xlim(0, None)
        places = np.array([place for place in axes.get_xticks() if 0 <= place <= axes.get_xlim()[1]])
        how: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top", "fontsize": 8.5}
        axes.annotate("number at risk", (0, 0), (0, -34), color=_GRAY, **how)
        for number, curve in enumerate(curves.values()):
            color, down = COLORS[number % len(COLORS)], -46 - 12 * number
            for place, count in zip(places, curve.at_risk(places), strict=True):
                axes.annotate(str(count), (place, 0), (0, down), color=color, ha="center", **how)
        figure.legend(loc="outside lower left")

    return draw(paint, alt, "Kaplan-Meier", caption, (4.6, 4.4))


def _size(curves: int) -> tuple[float, float]:
    return 4.0, 4.0 if curves <= 3 else 4.0 + 0.18 * curves


def _legend(figure: Figure, axes: Any, curves: int, place: str) -> None:
    """Names of the curves, below them where they are many."""
    if curves <= 3:
        axes.legend(loc=place)
    else:
        figure.legend(loc="outside lower left")


def _curves(axes: Any, curves: Mapping[str, Curve], *, step: bool = False) -> None:
    for number, (name, curve) in enumerate(curves.items()):
        color, line = COLORS[number % len(COLORS)], LINES[number % len(LINES)]
        if len(curves) <= 3 and np.isfinite(curve.low).all():
            axes.fill_between(curve.places, curve.low, curve.high, color=color, alpha=0.16, lw=0)
        how = {"drawstyle": "steps-pre"} if step else {}
        axes.plot(curve.x, curve.y, color=color, ls=line, lw=1.8, label=shown(name, 40), clip_on=False, **how)


def draw_confusion(counts: NDArray[np.int64], classes: Sequence[str], alt: str, caption: str) -> Drawing:
    """Counts of true classes in rows and predicted ones in columns, shaded by their share of the row."""
    few = len(classes) <= FEW_CLASSES
    names = [shown(name, 14 if few else 22) for name in classes]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    longest = max(map(len, names), default=0)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            if count or few:
                rate = f"{share[row, column]:.0%}" if counts[row].any() else "no images"
                text = f"{count}\n{rate}" if few else str(count)
                ink = "white" if share[row, column] > 0.55 else "#22303c"
                small = 7 if not few else 10 if len(classes) <= 4 else 8
                axes.text(column, row, text, ha="center", va="center", fontsize=small, color=ink)
        axes.set_xticks(range(len(names)), names, rotation=90 if longest * len(names) > 30 else 0)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0, labelsize=9 if few else 7.5)
        axes.set(xlabel="predicted", ylabel="true")
        axes.spines[:].set_visible(False)

    side = max(3.6, 0.26 * len(names) + 1.8) if not few else 4.0
    return draw(paint, alt, "Confusion matrix", caption, (side, side))


def draw_calibration(found: Calibration, alt: str, caption: str, confidence: str, share: str) -> Drawing:
    """Share of right or positive images against mean probability, over a histogram of the images."""

    def paint(figure: Figure) -> None:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axes.plot([0, 1], [0, 1], color=_GRAY, lw=1, ls=":")
        axes.plot(found.confidence, found.share, "o-", color=BLUE, lw=1.5, ms=5, clip_on=False, zorder=3)
        axes.set(ylabel=share, xlim=(0, 1), ylim=(0, 1.02))
        below.bar(np.clip(np.floor(found.confidence * 10) / 10, 0, 0.9) + 0.05, found.count, width=0.092, color=SKY)
        for place, count in zip(found.confidence, found.count, strict=True):
            middle = min(np.floor(place * 10) / 10, 0.9) + 0.05
            below.annotate(str(count), (middle, count), (0, 1), textcoords="offset points", ha="center", fontsize=7.5)
        below.set(xlabel=confidence, ylabel="images", ylim=(0, float(found.count.max(initial=1)) * 1.25))

    return draw(paint, alt, "Calibration", caption, (4.0, 4.0))


def draw_histogram(scores: Mapping[str, NDArray[np.float64]], alt: str, label: str, caption: str) -> Drawing:
    """Histogram of probabilities by true class, one panel a class."""

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(scores), 1, sharex=True, squeeze=False)[:, 0]
        for number, (axes, (name, values)) in enumerate(zip(panels, scores.items(), strict=True)):
            axes.hist(values, bins=np.linspace(0, 1, 21), color=COLORS[number % len(COLORS)], alpha=0.85)
            axes.set_title(f"{shown(name)}: {len(values)} images", loc="left", fontsize=9)
            axes.set(xlim=(0, 1), ylim=(0, None if len(values) else 1), ylabel="images")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        panels[-1].set_xlabel(label)

    return draw(paint, alt, "Scores by true class", caption, (4.0, max(2.0, 1.5 * len(scores) + 0.6)))


def draw_balance(table: Mapping[str, Sequence[int]], classes: Sequence[str], alt: str) -> Drawing:
    """Number of images of each class in each split, as bars."""

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, len(table), sharey=True, squeeze=False)[0]
        for number, (axes, (split, counts)) in enumerate(zip(panels, table.items(), strict=True)):
            axes.barh([shown(name, 20) for name in classes], counts, color=COLORS[number % len(COLORS)])
            axes.set_title(f"{split}: {sum(counts)}", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        panels[0].invert_yaxis()

    return draw(paint, alt, "Images of each class", "", (4.0, max(1.5, 0.24 * len(classes) + 0.8)))


def draw_curves(series: Mapping[str, tuple[Any, Any]], name: str, alt: str) -> Drawing:
    """Values of a metric by epoch; each series is epochs and values."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (label, (epochs, values)) in enumerate(series.items()):
            marker = "o" if len(epochs) < 25 else None
            color, line = COLORS[number % len(COLORS)], LINES[number % len(LINES)]
            axes.plot(epochs, values, color=color, ls=line, lw=1.6, marker=marker, ms=3.5, label=shown(label))
        axes.set(xlabel="epoch", ylabel=shown(name))
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.legend(ncols=2 if len(series) > 4 else 1)

    return draw(paint, alt, shown(name), "", (4.0, 3.0))


def draw_scatter(truth: NDArray[np.float64], predicted: NDArray[np.float64], name: str, alt: str) -> list[Drawing]:
    """Predicted against true numbers, and their differences."""
    low, high = (float(edge(np.r_[truth, predicted])) for edge in (np.min, np.max))
    rim = 0.05 * (high - low) or 1.0
    many = len(truth) > _MANY_POINTS
    dots: dict[str, Any] = {"s": 6 if many else 14, "alpha": 0.35 if many else 0.6, "lw": 0, "rasterized": many}

    def paint_both(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([low - rim, high + rim], [low - rim, high + rim], color=_GRAY, lw=1, ls=":")
        axes.scatter(truth, predicted, color=BLUE, **dots)
        ends = (low - rim, high + rim)
        axes.set(xlabel=f"true {shown(name)}", ylabel=f"predicted {shown(name)}", xlim=ends, ylim=ends, aspect="equal")

    def paint_residuals(figure: Figure) -> None:
        axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        axes.axhline(0, color=_GRAY, lw=1, ls=":")
        axes.scatter(truth, predicted - truth, color=VERMILION, **dots)
        beside.hist(predicted - truth, bins=20, orientation="horizontal", color=VERMILION, alpha=0.7)
        axes.set(xlabel=f"true {shown(name)}", ylabel="predicted \N{MINUS SIGN} true")
        beside.set(xlabel="images")

    return [
        draw(paint_both, f"{alt}: predicted against true {name}.", f"Predicted against true {name}", "", (4.0, 4.0)),
        draw(paint_residuals, f"{alt}: predicted minus true {name}.", f"Residuals of {name}", "", (4.0, 4.0)),
    ]
