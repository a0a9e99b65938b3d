"""Draws docs/figures/streaming.svg, how strips are computed without overlap or approximation.

Left: which step of the forward pass makes which row of every layer, and which rows are carried to the next step. The
rows are not drawn by hand: they follow from the row arithmetic of the page. Right: the order of the steps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

STEP_COLORS = ("#7aa6d8", "#82c4a5", "#f2c879")
STEP_INKS = ("#2f5f97", "#2f7d5b", "#a8741a")
INK = "#22303c"
GRAY = "#8a97a3"
GRADIENT = "#b8434e"
IMAGE_ROWS = 24
STRIP_ROWS = 8
STEPS = IMAGE_ROWS // STRIP_ROWS


@dataclass(frozen=True)
class Convolution:
    """A convolution over `kernel` rows at a time, `stride` apart, with `padding` rows of zeros at each end."""

    kernel: int
    stride: int
    padding: int

    def ready(self, rows_in: int, last: bool) -> int:
        """Output rows that can be computed once `rows_in` input rows (and, if `last`, the bottom padding) are there."""
        reach = rows_in + self.padding * (2 if last else 1)
        return max(0, (reach - self.kernel) // self.stride + 1)

    def carried(self, rows_in: int, rows_out: int) -> range:
        """Input rows seen so far that output rows still to come will read again."""
        return range(max(0, rows_out * self.stride - self.padding), rows_in)


@dataclass(frozen=True)
class Column:
    """One tensor of the drawing, with the rows that are ready after each step, and those carried to the next."""

    title: str
    row_height: int  # in image rows: the product of the strides so far
    ready: tuple[int, ...]
    carried: tuple[range, ...]


def columns() -> list[Column]:
    """A residual block and a convolution of stride 2, row by row."""
    convolution, strided = Convolution(3, 1, 1), Convolution(3, 2, 1)
    image = [STRIP_ROWS * (step + 1) for step in range(STEPS)]
    finished = [step == STEPS - 1 for step in range(STEPS)]
    first = [convolution.ready(rows, last) for rows, last in zip(image, finished, strict=True)]
    second = [convolution.ready(rows, last) for rows, last in zip(first, finished, strict=True)]
    joined = [min(rows) for rows in zip(image, second, strict=True)]
    deep = [strided.ready(rows, last) for rows, last in zip(joined, finished, strict=True)]
    waits = range(STEPS - 1)  # the boundaries between steps
    # The image feeds conv 1 (which needs `kernel` rows) and the shortcut (which waits for conv 2): the longer wins.
    shortcut = [range(min(joined[i], convolution.carried(image[i], first[i]).start), image[i]) for i in waits]
    return [
        Column("input\nof the block", 1, tuple(image), tuple(shortcut)),
        Column("conv 3x3", 1, tuple(first), tuple(convolution.carried(first[i], second[i]) for i in waits)),
        Column("conv 3x3", 1, tuple(second), tuple(range(0) for _ in waits)),
        Column("sum with\nthe shortcut", 1, tuple(joined), tuple(strided.carried(joined[i], deep[i]) for i in waits)),
        Column("conv 3x3\nstride 2", 2, tuple(deep), tuple(range(0) for _ in waits)),
    ]


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Text at a point, centered vertically."""
    axes.text(x, y, text, **({"va": "center", "color": INK} | style))


def draw_rows(axes: Axes) -> None:
    """Draw the left half: tensors side by side, rows downwards, colored by the step that made them."""
    pitch, width = 2.0, 1.42
    for index, column in enumerate(columns()):
        left = index * pitch
        for step, ready in enumerate(column.ready):
            for row in range(column.ready[step - 1] if step else 0, ready):
                corner = (left, row * column.row_height)
                axes.add_patch(Rectangle(corner, width, column.row_height, fc=STEP_COLORS[step], ec="white", lw=1.2))
        for step, rows in enumerate(column.carried):
            if len(rows):
                top, height = rows.start * column.row_height, len(rows) * column.row_height
                style = {"fill": False, "ec": STEP_INKS[step]}
                axes.add_patch(Rectangle((left - 0.04, top), width + 0.08, height, lw=2.2, zorder=4, **style))
                axes.add_patch(Rectangle((left, top), width, height, hatch="///", lw=0, zorder=3, alpha=0.55, **style))
        write(axes, left + width / 2, -0.7, column.title, ha="center", va="bottom", fontsize=10, linespacing=1.15)
        if index:
            style = {"arrowstyle": "-|>", "mutation_scale": 11, "color": GRAY, "lw": 1.3}
            axes.add_patch(FancyArrowPatch((left - 0.52, 12), (left - 0.06, 12), **style))
    for step, ink in enumerate(STEP_INKS):
        style = {"rotation": 90, "ha": "center", "fontsize": 10, "weight": "bold"}
        write(axes, -0.35, STRIP_ROWS * (step + 0.5), f"strip {step}", color=ink, **style)
    right = 4 * pitch + width
    style = {"connectionstyle": "arc3,rad=0.16", "arrowstyle": "-|>", "mutation_scale": 12, "color": GRAY, "lw": 1.4}
    axes.add_patch(FancyArrowPatch((width / 2, 24.25), (3 * pitch + width / 2, 24.25), **style))
    style = {"fontsize": 9, "style": "italic", "zorder": 5, "bbox": {"fc": "white", "ec": "none", "pad": 1.5}}
    write(axes, 1.5 * pitch + width / 2, 26.35, "shortcut", ha="center", color=GRAY, **style)
    axes.add_patch(Rectangle((0, 28.4), 0.8, 1.5, fill=False, ec=INK, lw=2.0))
    axes.add_patch(Rectangle((0, 28.4), 0.8, 1.5, fill=False, ec=INK, hatch="///", lw=0, alpha=0.55))
    legend = "carry: rows kept for the next step, in the color of the step that leaves them"
    write(axes, 1.05, 29.15, legend, fontsize=9.5)
    axes.set_xlim(-0.75, right + 0.2)
    axes.set_ylim(30.2, -3.4)
    axes.set_title("Every row is computed once", loc="left", fontsize=13, weight="bold", color=INK, pad=14)


def box(axes: Axes, center: tuple[float, float], size: tuple[float, float], text: str, step: int) -> None:
    """Draw a rounded box with a centered text, in the colors of a step."""
    corner = (center[0] - size[0] / 2, center[1] - size[1] / 2)
    style = {"boxstyle": "round,pad=0,rounding_size=0.14", "fc": STEP_COLORS[step], "ec": STEP_INKS[step]}
    axes.add_patch(FancyBboxPatch(corner, *size, lw=1.6, zorder=3, **style))
    write(axes, *center, text, ha="center", fontsize=9.6, linespacing=1.3, zorder=4)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, text: str = "") -> None:
    """Draw an arrow with a label above its middle."""
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "lw": 1.7, "shrinkA": 0, "shrinkB": 0, "zorder": 2}
    axes.add_patch(FancyArrowPatch(start, end, color=color, connectionstyle="arc3,rad=0.0", **style))
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.17
        write(axes, x, y, text, ha="center", va="bottom", fontsize=9.4, color=color)


def draw_order(axes: Axes) -> None:
    """Draw the right half: the steps as a recurrent network, run forward without and backward with a graph."""
    places, forward, backward = (0.0, 3.0, 6.0), 5.6, 1.6
    small = {"ha": "center", "fontsize": 9.4}
    for step, x in enumerate(places):
        box(axes, (x, forward), (1.75, 1.0), f"step {step}\nno graph", step)
        box(axes, (x, backward), (1.75, 1.25), f"step {step} again\nwith its graph,\nthen backward", step)
        arrow(axes, (x, forward - 1.3), (x, forward - 0.53), GRAY)
        write(axes, x, forward - 1.5, f"strip {step}", **small)
        arrow(axes, (x, forward + 0.53), (x, forward + 1.25), GRAY)
        write(axes, x, forward + 1.46, f"output rows {step}", **small)
        arrow(axes, (x, backward + 1.4), (x, backward + 0.66), GRADIENT)
        write(axes, x, backward + 1.6, f"gradient of output {step}", color=GRADIENT, **small)
        for y, number, color in ((forward + 0.62, step + 1, INK), (backward + 0.76, 2 * STEPS - step, GRADIENT)):
            style = {"fontsize": 9, "weight": "bold", "color": "white", "ha": "center", "zorder": 6}
            bbox = {"boxstyle": "circle,pad=0.22", "fc": color, "ec": "none"}
            write(axes, x - 0.86, y, f"{number}", bbox=bbox, **style)
    for step in range(STEPS - 1):
        start, end = places[step] + 0.9, places[step + 1] - 0.9
        arrow(axes, (start, forward), (end, forward), INK, f"carry {step + 1}")
        arrow(axes, (end, backward), (start, backward), GRADIENT, f"gradient of\ncarry {step + 1}")
    heading = {"fontsize": 9.8, "weight": "bold"}
    write(axes, -1.05, 7.75, "FORWARD  only inputs, outputs and carries are kept", **heading)
    write(axes, -1.05, -0.05, "BACKWARD  last step first, weight gradients add up", color=GRADIENT, **heading)
    claim = "Backpropagation through the strips, never truncated: gradients match plain autograd."
    write(axes, -1.05, -0.5, claim, fontsize=9.4)
    axes.set_xlim(-1.3, 7.15)
    axes.set_ylim(-0.85, 8.1)
    axes.set_title(
        "A strip is one step of a recurrent network", loc="left", fontsize=13, weight="bold", color=INK, pad=14
    )


def main() -> None:
    """Write the SVG beside this file (deterministic for one version of matplotlib)."""
    mpl.rcParams.update({"svg.hashsalt": "streaming", "hatch.linewidth": 0.9, "font.family": "DejaVu Sans"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(15.5, 7.2), width_ratios=(1.0, 1.08))
    draw_rows(left)
    draw_order(right)
    for axes in (left, right):
        axes.axis("off")
    figure.tight_layout(w_pad=3.0)
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
