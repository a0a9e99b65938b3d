"""Synthetic slides with artifacts (pen, blur, folds, bubbles), and the true mask of each.

Artifacts are painted as light sees them, and not as `wsidata.slides.artifacts` looks for them: ink and a second layer
of tissue multiply the transmitted light (Beer-Lambert), defocus is a disk and not a Gaussian, and the sensor's noise
comes last. Sizes are in um, of what is met on real slides: strokes of 150 to 400 um, folds of 25 to 70 um.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.synthetic.slides import write_pixels
from wsidata.synthetic.tissue import GLASS, Stain, paint_tissue, tissue_pieces
from wsidata.utils.messages import check_choice

ARTIFACTS = ("fold", "blur", "pen", "bubble")
"""Known artifacts, in the order in which they are painted."""

INKS = {"blue": (0.16, 0.28, 0.72), "green": (0.12, 0.55, 0.32), "red": (0.82, 0.13, 0.17), "black": (0.16, 0.15, 0.17)}
"""Share of the light in red, green and blue that passes a stroke."""

Field = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PaintedSlide:
    """Pixels of a synthetic slide, and where what is on them.

    Attributes:
        pixels: (height, width, 3) uint8 RGB.
        masks: (height, width) booleans of "tissue" (with what lies on it) and of each artifact; "blur" and "fold" are
            parts of the tissue, "pen" and "bubble" also lie on glass.
        mpp: um per pixel.
    """

    pixels: NDArray[np.uint8]
    masks: Mapping[str, NDArray[np.bool_]]
    mpp: float

    def write(self, path: str | Path, **options: Any) -> Path:
        """Write the pixels as a pyramidal TIFF; for the options see `write_pixels`."""
        return write_pixels(path, self.pixels, **{"mpp": self.mpp, **options})


def paint_slide(
    width: int,
    height: int,
    *,
    artifacts: Collection[str] = (),
    stain: Stain = "he",
    pieces: int | None = None,
    tumor: bool = False,
    mpp: float = 0.5,
    ink: str | None = None,
    seed: int = 0,
) -> PaintedSlide:
    """Paint a slide with artifacts.

    Args:
        width: Columns of level 0 in pixels.
        height: Rows of level 0 in pixels.
        artifacts: Of "pen", "blur", "fold" and "bubble"; one or two of each.
        stain: "he", or "dab" for immunohistochemistry: hematoxylin, and DAB on the cells of the tumor.
        pieces: Number of pieces of tissue, apart from each other. None: one to three, which may touch.
        tumor: Whether the tissue holds tumor.
        mpp: um per pixel.
        ink: Color of the pen: "blue", "green", "red" or "black". None: drawn.
        seed: The same arguments and seed give the same pixels; without artifacts, those of `write_slide`.

    Raises:
        ValueError: for unknown artifacts or inks.
    """
    for name in artifacts:
        check_choice("artifacts", name, ARTIFACTS)
    check_choice("ink", ink, (None, *INKS))
    shape, rng = (height, width), np.random.default_rng([seed, 17])
    pixels = paint_tissue(
        width, height, tumor=tumor, mpp=mpp, rng=np.random.default_rng(seed), stain=stain, pieces=pieces
    )
    masks = {"tissue": tissue_pieces(shape, np.random.default_rng(seed), pieces) > 0.5}
    light = pixels.astype(np.float32)
    paint = {"fold": _fold, "blur": _blur, "pen": _pen, "bubble": _bubble}
    for name in ARTIFACTS:
        drawn = rng.spawn(1)[0]
        if name in artifacts:
            given = {"ink": ink} if name == "pen" else {}
            light, masks[name] = paint[name](light, masks["tissue"], mpp, drawn, **given)
    if artifacts:
        light += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(1.2)
        pixels = np.clip(light, 0, 255).astype(np.uint8)
    return PaintedSlide(pixels, masks, mpp)


def _fold(
    light: Field, tissue: NDArray[np.bool_], mpp: float, rng: np.random.Generator
) -> tuple[Field, NDArray[np.bool_]]:
    """Tissue that lies on itself along a line: what passes one layer passes the other, shifted, too."""
    share = np.zeros(tissue.shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 3))):
        line = _curve(_point_in(tissue, rng), rng.uniform(600, 1500) / mpp, rng)
        share = np.maximum(share, _tapered(tissue.shape, line, rng.uniform(25, 70) / mpp, 4 / mpp))
    shift = np.rint(rng.normal(0, 60, 2) / mpp).astype(int)
    layer = np.roll(light, (int(shift[0]), int(shift[1])), axis=(0, 1)) / GLASS
    on_both = (share > 0.5) & tissue & np.roll(tissue, (int(shift[0]), int(shift[1])), axis=(0, 1))
    return light * (1 + share[..., None] * (layer - 1)), on_both


def _blur(
    light: Field, tissue: NDArray[np.bool_], mpp: float, rng: np.random.Generator
) -> tuple[Field, NDArray[np.bool_]]:
    """A region out of focus: every point of it a disk of 4 to 9 um."""
    shape = tissue.shape
    share = np.zeros(shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 3))):
        x, y = _point_in(tissue, rng)
        axes = rng.uniform(0.12, 0.28, 2) * min(shape)
        cv2.ellipse(share, (x, y), (int(axes[0]), int(axes[1])), rng.uniform(0, 180), 0, 360, 1.0, -1)
    share = np.asarray(cv2.blur(share, (int(40 / mpp) | 1,) * 2), dtype=np.float32)
    radius = max(1, round(rng.uniform(4, 9) / mpp))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2).astype(np.float32)
    soft = np.asarray(cv2.filter2D(light, -1, disk / disk.sum(), borderType=cv2.BORDER_REFLECT), dtype=np.float32)
    return light + share[..., None] * (soft - light), (share > 0.5) & tissue


def _pen(
    light: Field, tissue: NDArray[np.bool_], mpp: float, rng: np.random.Generator, ink: str | None = None
) -> tuple[Field, NDArray[np.bool_]]:
    """Strokes of a marker on the coverslip, beside the tissue and over it; denser at their edges, unevenly dry."""
    color = np.array(INKS[ink or str(rng.choice(list(INKS)))], dtype=np.float32)
    shape = tissue.shape
    amount = np.zeros(shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.uniform(0.1, 0.9) * shape[1]), int(rng.uniform(0.1, 0.9) * shape[0])
        line = _curve(start, rng.uniform(800, 2500) / mpp, rng)
        stroke = np.zeros(shape, dtype=np.float32)
        cv2.polylines(stroke, [line], False, 1.0, max(1, round(rng.uniform(150, 400) / mpp)), cv2.LINE_AA)
        soft = np.asarray(cv2.blur(stroke, (int(12 / mpp) | 1,) * 2), dtype=np.float32)
        amount = np.maximum(amount, soft)
    streaks = cv2.resize(rng.uniform(0.7, 1.3, (shape[0] // 64 + 2, shape[1] // 64 + 2)), shape[::-1], None, 0, 0, 2)
    return light * color ** (amount * streaks.astype(np.float32))[..., None], amount > 0.5


def _bubble(
    light: Field, tissue: NDArray[np.bool_], mpp: float, rng: np.random.Generator
) -> tuple[Field, NDArray[np.bool_]]:
    """Air under the coverslip, cut by the border of the slide: a dark rim that bends the light, and a paler inside."""
    height, width = tissue.shape
    inside = np.zeros(tissue.shape, dtype=np.uint8)
    rim = np.zeros(tissue.shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 3))):
        at = rng.uniform(0.1, 0.9)
        x, y = [(at * width, 0), (at * width, height), (0, at * height), (width, at * height)][int(rng.integers(4))]
        axes = rng.uniform(0.08, 0.2, 2) * min(height, width)
        place = (round(x), round(y)), (round(axes[0]), round(axes[1])), rng.uniform(0, 180), 0, 360
        cv2.ellipse(inside, *place, 1, -1)
        cv2.ellipse(rim, *place, 1.0, max(1, round(rng.uniform(14, 30) / mpp)), cv2.LINE_AA)
    soft = np.asarray(cv2.blur(rim, (int(8 / mpp) | 1,) * 2), dtype=np.float32)[..., None]
    paler = light + np.float32(0.35) * (GLASS - light) * inside[..., None]
    return paler * np.float32(0.42) ** soft, (inside > 0) | (rim > 0.5)


def _point_in(tissue: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
    """A point (x, y) of the tissue; the middle where there is none."""
    found = np.flatnonzero(tissue)
    if not len(found):
        return tissue.shape[1] // 2, tissue.shape[0] // 2
    y, x = divmod(int(rng.choice(found)), tissue.shape[1])
    return x, y


def _curve(middle: tuple[int, int], length_px: float, rng: np.random.Generator) -> NDArray[np.int32]:
    """A bent line through a point, (points, 2) as x, y."""
    t = np.linspace(-0.5, 0.5, 60)
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-2.5, 2.5) * t + rng.uniform(-4, 4) * t**2
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * length_px / len(t)
    points = np.cumsum(steps, axis=0)
    return np.asarray(np.rint(points - points[len(t) // 2] + middle), dtype=np.int32)


def _tapered(shape: tuple[int, int], line: NDArray[np.int32], width_px: float, soft_px: float) -> Field:
    """A band along a line that grows thin towards both ends, 0 to 1."""
    band = np.zeros(shape, dtype=np.float32)
    for number, (start, end) in enumerate(pairwise(line)):
        thick = width_px * np.sin(np.pi * (number + 1) / len(line)) ** 0.5
        cv2.line(band, start.tolist(), end.tolist(), 1.0, max(1, round(thick)), cv2.LINE_AA)
    return np.asarray(cv2.blur(band, (int(soft_px) | 1,) * 2), dtype=np.float32)
