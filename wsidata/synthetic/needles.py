"""Canvases with handwritten digits at free places, and the question whether one of them is a 7.

The digits are the scans of scikit-learn (Alpaydin and Kaynak, Optical recognition of handwritten digits, 1998, UCI), at
their native 8 x 8 pixels: nothing is upscaled, so shrinking a canvas loses information. Every digit has the same sum of
ink, so that neither the mean of a canvas nor the ink at a place tells which digits it holds.

    canvases = draw_needles(100, side_px=128, digits=25, part="train", seed=0)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsidata.utils.messages import check_choice

Part = Literal["train", "val", "test"]
DIGIT_PX = 8
_PARTS = {"train": (0.0, 0.6), "val": (0.62, 0.79), "test": (0.81, 1.0)}
_BACKGROUND, _NOISE, _MEAN_INK = 70.0, 16.0, 36.0


@dataclass(frozen=True, eq=False)
class Canvases:
    """Canvases and what is on them.

    Attributes:
        images: (N, side, side) uint8, gray.
        labels: (N,) 1 where a canvas holds the digit that is sought.
        corners: (N, digits, 2) column and row of the upper left pixel of each digit; the one that is sought, where a
            canvas holds it, is the first.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    corners: NDArray[np.int64]


def draw_needles(
    count: int, *, side_px: int, digits: int, part: Part, seed: int, sought: int = 7, noise: float = _NOISE
) -> Canvases:
    """Noisy canvases of digits that do not touch; half of them, by chance, hold exactly one that is sought.

    The file of the digits is in the order of their writers. The parts are runs of it with gaps between them, so that
    no writer is in two.

    Args:
        count: Number of canvases.
        side_px: Height and width of a canvas in pixels.
        digits: Digits on each.
        part: Whose writers: "train", "val" or "test".
        seed: A canvas depends on this and its number alone.
        sought: The digit that makes a canvas positive.
        noise: Standard deviation of the background, in gray values of 0..255.

    Raises:
        ValueError: if so many digits do not fit.
    """
    check_choice("part", part, tuple(_PARTS))
    if digits < 1 or digits * (2 * DIGIT_PX) ** 2 > side_px**2:
        raise ValueError(
            f"{digits} digits do not fit on a canvas of {side_px} x {side_px} pixels without touching. "
            f"Use 1 to {side_px**2 // (2 * DIGIT_PX) ** 2}, or a larger side_px."
        )
    inks, names = _digits(part)
    needles, others = np.flatnonzero(names == sought), np.flatnonzero(names != sought)
    images = np.empty((count, side_px, side_px), np.uint8)
    labels, corners = np.empty(count, np.int64), np.empty((count, digits, 2), np.int64)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        labels[number] = rng.integers(2)
        chosen = rng.choice(others, digits)
        if labels[number]:
            chosen[0] = rng.choice(needles)
        corners[number] = _places(side_px, digits, rng)
        canvas = rng.normal(_BACKGROUND, noise, (side_px, side_px))
        for digit, (column, row) in zip(chosen, corners[number], strict=True):
            canvas[row : row + DIGIT_PX, column : column + DIGIT_PX] += inks[digit]
        images[number] = canvas.round().clip(0, 255)
    return Canvases(images, labels, corners)


@cache
def _digits(part: Part) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The digits of a part, (N, 8, 8), of equal sums, and which they are."""
    from sklearn.datasets import load_digits

    found = load_digits()
    start, stop = (round(share * len(found.images)) for share in _PARTS[part])
    inks = found.images[start:stop]
    return inks * (_MEAN_INK / inks.mean(axis=(1, 2), keepdims=True)), found.target[start:stop]


def _places(side_px: int, digits: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Upper left corners of digits that do not touch, uniform among all such layouts by drawing one after the other."""
    places = np.empty((digits, 2), np.int64)
    for number in range(digits):
        while True:
            places[number] = rng.integers(0, side_px - DIGIT_PX + 1, 2)
            apart = np.abs(places[:number] - places[number]).max(axis=1, initial=0) > DIGIT_PX
            if apart.all():
                break
    return places
