"""Draws docs/figures/streaming.svg: why the page on streaming needs no overlap and no approximation.

Left: which step of the forward pass makes which row of every layer, and which rows are carried to the next step. The
rows are not drawn by hand: they follow from the row arithmetic of the page. Right: the order of the steps.
"""

from dataclasses import dataclass
from pathlib import Path

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
class Window:
    """A layer that looks at `kernel` rows at a time, `stride` apart, over `padding` rows of zeros at each end."""

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
    """One tensor of the drawing: how many rows are ready after each step, and which of them are carried."""

    title: str
    row_height: int  # in image rows: the product of the strides so far
    ready: tuple[int, ...]
    carried: tuple[range, ...]


def columns() -> list[Column]:
    """A residual block and a convolution of stride 2, row by row."""
    convolution, strided = Window(3, 1, 1), Window(3, 2, 1)
    image = [STRIP_ROWS * (step + 1) for step in range(STEPS)]
    finished = [step == STEPS - 1 for step in range(STEPS)]
    first = [convolution.ready(rows, last) for rows, last in zip(image, finished, strict=True)]
    second = [convolution.ready(rows, last) for rows, last in zip(first, finished, strict=True)]
    joined = [min(rows) for rows in zip(image, second, strict=True)]
    deep = [strided.ready(rows, last) for rows, last in zip(joined, finished, strict=True)]
    waits = range(STEPS - 1)  # the boundaries between steps
    # The image feeds conv 1 (which needs a window) and the shortcut (which waits for conv 2): the longer wins.
    shortcut = [range(min(joined[i], convolution.carried(image[i], first[i]).start), image[i]) for i in waits]
    return [
        Column("input\nof the block", 1, tuple(image), tuple(shortcut)),
        Column("conv 3x3", 1, tuple(first), tuple(convolution.carried(first[i], second[i]) for i in waits)),
        Column("conv 3x3", 1, tuple(second), tuple(range(0) for _ in waits)),
        Column("sum with\nthe shortcut", 1, tuple(joined), tuple(strided.carried(joined[i], deep[i]) for i in waits)),
        Column("conv 3x3\nstride 2", 2, tuple(deep), tuple(range(0) for _ in waits)),
    ]


def draw_rows(axes: Axes) -> None:
    """The left half: tensors side by side, rows downwards, colored by the step that made them."""
    pitch, width = 2.0, 1.42
    for index, column in enumerate(columns()):
        left = index * pitch
        for step, ready in enumerate(column.ready):
            before = column.ready[step - 1] if step else 0
            for row in range(before, ready):
                box = (left, row * column.row_height)
                axes.add_patch(Rectangle(box, width, column.row_height, fc=STEP_COLORS[step], ec="white", lw=1.2))
        for step, rows in enumerate(column.carried):
            if len(rows):
                top, height = rows.start * column.row_height, len(rows) * column.row_height
                axes.add_patch(
                    Rectangle(
                        (left - 0.04, top), width + 0.08, height, fill=False, ec=STEP_INKS[step], lw=2.2, zorder=4
                    )
                )
                axes.add_patch(
                    Rectangle(
                        (left, top),
                        width,
                        height,
                        fill=False,
                        ec=STEP_INKS[step],
                        hatch="///",
                        lw=0,
                        zorder=3,
                        alpha=0.55,
                    )
                )
        axes.text(
            left + width / 2, -0.7, column.title, ha="center", va="bottom", fontsize=10, color=INK, linespacing=1.15
        )
        if index:
            arrow = FancyArrowPatch(
                (left - 0.52, 12), (left - 0.06, 12), arrowstyle="-|>", mutation_scale=11, color=GRAY, lw=1.3
            )
            axes.add_patch(arrow)
    for step in range(STEPS):
        middle = STRIP_ROWS * (step + 0.5)
        axes.text(
            -0.35,
            middle,
            f"strip {step}",
            rotation=90,
            ha="center",
            va="center",
            fontsize=10,
            color=STEP_INKS[step],
            weight="bold",
        )
    right = 4 * pitch + width
    shortcut = FancyArrowPatch(
        (width / 2, 24.25),
        (3 * pitch + width / 2, 24.25),
        connectionstyle="arc3,rad=0.16",
        arrowstyle="-|>",
        mutation_scale=12,
        color=GRAY,
        lw=1.4,
    )
    axes.add_patch(shortcut)
    axes.text(
        1.5 * pitch + width / 2,
        26.35,
        "shortcut",
        ha="center",
        va="center",
        fontsize=9,
        color=GRAY,
        style="italic",
        zorder=5,
        bbox={"fc": "white", "ec": "none", "pad": 1.5},
    )
    axes.add_patch(Rectangle((0, 28.4), 0.8, 1.5, fill=False, ec=INK, lw=2.0))
    axes.add_patch(Rectangle((0, 28.4), 0.8, 1.5, fill=False, ec=INK, hatch="///", lw=0, alpha=0.55))
    axes.text(
        1.05,
        29.15,
        "carry: rows kept for the next step, in the color of the step that leaves them",
        va="center",
        fontsize=9.5,
        color=INK,
    )
    axes.set_xlim(-0.75, right + 0.2)
    axes.set_ylim(30.2, -3.4)
    axes.set_title("Every row is computed once", loc="left", fontsize=13, weight="bold", color=INK, pad=14)


def box(axes: Axes, center: tuple[float, float], size: tuple[float, float], text: str, face: str, edge: str) -> None:
    """A rounded box with a centered text."""
    corner = (center[0] - size[0] / 2, center[1] - size[1] / 2)
    axes.add_patch(
        FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.14", fc=face, ec=edge, lw=1.6, zorder=3)
    )
    axes.text(*center, text, ha="center", va="center", fontsize=9.6, color=INK, linespacing=1.3, zorder=4)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, text: str = "", bend: float = 0.0
) -> None:
    """An arrow with a label above its middle."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=13,
            color=color,
            lw=1.7,
            shrinkA=0,
            shrinkB=0,
            connectionstyle=f"arc3,rad={bend}",
            zorder=2,
        )
    )
    if text:
        axes.text(
            (start[0] + end[0]) / 2,
            (start[1] + end[1]) / 2 + 0.17,
            text,
            ha="center",
            va="bottom",
            fontsize=9.4,
            color=color,
        )


def draw_order(axes: Axes) -> None:
    """The right half: the steps as a recurrent network, run forward without and backward with a graph."""
    places, forward, backward = (0.0, 3.0, 6.0), 5.6, 1.6
    for step, x in enumerate(places):
        box(axes, (x, forward), (1.75, 1.0), f"step {step}\nno graph", STEP_COLORS[step], STEP_INKS[step])
        box(
            axes,
            (x, backward),
            (1.75, 1.25),
            f"step {step} again\nwith its graph,\nthen backward",
            STEP_COLORS[step],
            STEP_INKS[step],
        )
        arrow(axes, (x, forward - 1.3), (x, forward - 0.53), GRAY)
        axes.text(x, forward - 1.5, f"strip {step}", ha="center", va="center", fontsize=9.4, color=INK)
        arrow(axes, (x, forward + 0.53), (x, forward + 1.25), GRAY)
        axes.text(x, forward + 1.46, f"output rows {step}", ha="center", va="center", fontsize=9.4, color=INK)
        arrow(axes, (x, backward + 1.4), (x, backward + 0.66), GRADIENT)
        axes.text(
            x, backward + 1.6, f"gradient of output {step}", ha="center", va="center", fontsize=9.4, color=GRADIENT
        )
        axes.text(
            x - 0.86,
            forward + 0.62,
            f"{step + 1}",
            fontsize=9,
            weight="bold",
            color="white",
            ha="center",
            va="center",
            zorder=6,
            bbox={"boxstyle": "circle,pad=0.22", "fc": INK, "ec": "none"},
        )
        order = 2 * STEPS - step
        axes.text(
            x - 0.86,
            backward + 0.76,
            f"{order}",
            fontsize=9,
            weight="bold",
            color="white",
            ha="center",
            va="center",
            zorder=6,
            bbox={"boxstyle": "circle,pad=0.22", "fc": GRADIENT, "ec": "none"},
        )
    for step in range(STEPS - 1):
        start, end = places[step] + 0.9, places[step + 1] - 0.9
        arrow(axes, (start, forward), (end, forward), INK, f"carry {step + 1}")
        arrow(axes, (end, backward), (start, backward), GRADIENT, f"gradient of\ncarry {step + 1}")
    axes.text(
        -1.05,
        7.75,
        "FORWARD  only inputs, outputs and carries are kept",
        fontsize=9.8,
        color=INK,
        weight="bold",
        va="center",
    )
    axes.text(
        -1.05,
        -0.05,
        "BACKWARD  last step first, weight gradients add up",
        fontsize=9.8,
        color=GRADIENT,
        weight="bold",
        va="center",
    )
    axes.text(
        -1.05,
        -0.5,
        "Back-propagation through the strips, never truncated: equal to plain autograd.",
        fontsize=9.4,
        color=INK,
        va="center",
    )
    axes.set_xlim(-1.3, 7.15)
    axes.set_ylim(-0.85, 8.1)
    axes.set_title(
        "A strip is one step of a recurrent network", loc="left", fontsize=13, weight="bold", color=INK, pad=14
    )


def main() -> None:
    """Write the SVG beside this file; the same bytes for the same matplotlib."""
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
