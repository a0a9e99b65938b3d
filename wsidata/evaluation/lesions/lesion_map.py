"""Lesions as Camelyon16 counts them, and the detections that hit them.

Bejnordi et al., Diagnostic assessment of deep learning algorithms for detection of lymph node metastases, JAMA 2017;
the rules are those of the organizers' published evaluation script.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

CAMELYON16_MPP = 0.243 * 2**5
"""Um per pixel of the masks that Camelyon16 is evaluated on, level 5."""

_JOINED_UM = 75.0
"""Tumor less than this apart is one lesion: about five tumor cells."""

_ISOLATED_UM = 275.0
"""Lesions whose major axis is shorter are isolated tumor cells."""


class LesionError(ValueError):
    """Detections, maps or masks do not suit each other, or what is asked of them."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Places on a slide with the scores of a lesion there.

    Attributes:
        x: (N,) in pixels of level 0.
        y: (N,) the same.
        scores: (N,) the higher, the surer.
    """

    x: Numbers
    y: Numbers
    scores: Numbers

    def __post_init__(self) -> None:
        for name in ("x", "y", "scores"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if not (self.x.ndim == 1 and self.x.shape == self.y.shape == self.scores.shape):
            shapes = f"{self.x.shape}, {self.y.shape} and {self.scores.shape}"
            raise LesionError(f"x, y and scores have shapes {shapes}. Pass one of each for each detection.")
        if not all(np.isfinite(numbers).all() for numbers in (self.x, self.y, self.scores)):
            raise LesionError(
                "a place or score of a detection is not finite. Remove it, or find out where it comes from."
            )


@dataclass(frozen=True)
class LesionHits:
    """What the detections on one slide hit.

    Attributes:
        lesions: The highest score in each lesion that counts; minus infinity where it was missed.
        false_positives: Scores of the detections outside all lesions.
    """

    lesions: tuple[float, ...]
    false_positives: tuple[float, ...]

    @classmethod
    def without_lesions(cls, detections: Detections) -> Self:
        """A slide without tumor, on which every detection is a false positive."""
        return cls((), tuple(detections.scores.tolist()))


@dataclass(frozen=True, eq=False)
class LesionMap:
    """The lesions of a slide.

    Attributes:
        labels: (height, width) number of the lesion of each pixel, from 1; 0 outside.
        isolated: Numbers of those that are isolated tumor cells, which count neither way.
        downsample_x: Level-0 pixels per pixel along x.
        downsample_y: The same along y.
    """

    labels: NDArray[np.int32]
    isolated: frozenset[int]
    downsample_x: float
    downsample_y: float

    @classmethod
    def of(
        cls,
        tumor: NDArray[np.bool_],
        downsample: float | tuple[float, float] = 2.0**5,
        mpp: float = CAMELYON16_MPP,
    ) -> Self:
        """Lesions of a mask of tumor.

        Pixels less than 37.5 um from tumor join it, holes are filled, and what touches, diagonally too, is one lesion.
        Those with a major axis (of the ellipse with the same second moments) below 275 um are isolated tumor cells.

        Args:
            tumor: (height, width), from the upper left corner of the slide on, such as `OutlineMask.labels() > 0`.
                Camelyon16 takes level 5, about 8 um/px.
            downsample: Level-0 pixels per pixel of it, or (along x, along y).
            mpp: Um per pixel of it.

        Raises:
            LesionError: if this is no mask, or the numbers are not above 0.
        """
        across, down = downsample if isinstance(downsample, tuple) else (downsample, downsample)
        if tumor.dtype != np.bool_ or tumor.ndim != 2 or not tumor.size:
            raise LesionError(f"the tumor is {tumor.dtype} {tumor.shape}. Pass booleans (height, width): labels > 0.")
        if not all(0 < number < np.inf for number in (mpp, across, down)):
            raise LesionError(f"mpp={mpp} and downsample={downsample} must be above 0.")
        if not tumor.any():
            return cls(np.zeros(tumor.shape, np.int32), frozenset(), across, down)
        distance = cv2.distanceTransform((~tumor).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        near = _filled(distance < _JOINED_UM / (2 * mpp))
        count, found = cv2.connectedComponents(near.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        labels = np.asarray(found, np.int32)
        short = _major_axes(labels, count) < _ISOLATED_UM / mpp
        return cls(labels, frozenset((np.flatnonzero(short) + 1).tolist()), across, down)

    def hits(self, detections: Detections) -> LesionHits:
        """What detections hit: each lesion counts once, by the highest score in it.

        Raises:
            LesionError: if a detection lies outside the map.
        """
        row = np.floor(detections.y / self.downsample_y).astype(np.int64)
        column = np.floor(detections.x / self.downsample_x).astype(np.int64)
        height, width = self.labels.shape
        outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
        if outside.any():
            first = int(np.flatnonzero(outside)[0])
            place = f"x={detections.x[first]:.0f}, y={detections.y[first]:.0f}"
            raise LesionError(
                f"{outside.sum()} of {len(row)} detections lie outside the map of lesions, the first at {place}; it "
                f"reaches to x={width * self.downsample_x:.0f}, y={height * self.downsample_y:.0f} px of level 0. Are "
                "they of this slide, and in pixels of level 0?"
            )
        hit = self.labels[row, column]
        best = np.full(int(self.labels.max()) + 1, -np.inf)
        np.maximum.at(best, hit, detections.scores)
        counted = [number for number in range(1, len(best)) if number not in self.isolated]
        return LesionHits(tuple(best[counted].tolist()), tuple(detections.scores[hit == 0].tolist()))


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without holes: what the border of the image does not reach over edges of pixels."""
    _, labels = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=4)
    filled: NDArray[np.bool_] = labels[1:-1, 1:-1] != labels[0, 0]
    return filled


def _major_axes(labels: NDArray[np.int32], count: int) -> Numbers:
    """Length of the major axis, in pixels, of the ellipse with the second moments of each label from 1 on."""
    row, column = (axis.astype(np.float64) for axis in np.nonzero(labels))
    label = labels[labels > 0]
    area = np.bincount(label, minlength=count)[1:]

    def mean(numbers: Numbers) -> Numbers:
        means: Numbers = np.bincount(label, numbers, count)[1:] / area
        return means

    y, x = row - mean(row)[label - 1], column - mean(column)[label - 1]
    xx, yy, xy = mean(x * x), mean(y * y), mean(x * y)
    largest = (xx + yy) / 2 + np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    axes: Numbers = 4 * np.sqrt(largest)
    return axes
