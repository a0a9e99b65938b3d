"""Optical densities of a coarse view, and the cleaning of masks that the artifacts share."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.slides.tissue.methods import WHITE, glass_color

Density = NDArray[np.float32]
Mask = NDArray[np.bool_]


def densities(pixels: NDArray[np.uint8]) -> Density:
    """Optical density of red, green and blue, log10(glass / pixel), at least 0; (height, width, 3)."""
    glass = glass_color(pixels)
    glass = WHITE if glass is None else glass
    table = np.log10((glass + 1) / (np.arange(256)[:, None] + 1)).clip(0).astype(np.float32)
    return np.stack([table[pixels[..., band], band] for band in range(3)], axis=-1)


def smoothed(values: Density, sigma_px: float) -> Density:
    """Gaussian smoothing."""
    return np.asarray(cv2.GaussianBlur(values, (0, 0), max(sigma_px, 0.1)), dtype=np.float32)


def disk(diameter_px: float) -> NDArray[np.uint8]:
    """A round structuring element, of odd side."""
    side = max(1, round(diameter_px)) | 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), dtype=np.uint8)


def opened(mask: Mask, diameter_px: float) -> Mask:
    """Without what is thinner than a diameter."""
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disk(diameter_px)), dtype=np.bool_)


def closed(mask: Mask, diameter_px: float) -> Mask:
    """With gaps narrower than a diameter filled."""
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disk(diameter_px)), dtype=np.bool_)


def widened(mask: Mask, by_px: float) -> Mask:
    """Grown on all sides."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disk(2 * by_px + 1)), dtype=np.bool_)


def connected_to(weak: Mask, strong: Mask, least_px: float) -> Mask:
    """Pieces of `weak` with at least `least_px` pixels of `strong`: a threshold with hysteresis (Canny, 1986)."""
    _, labels = cv2.connectedComponents((weak | strong).astype(np.uint8), connectivity=8)
    keep = np.bincount(labels[strong], minlength=int(labels.max()) + 1) >= max(1.0, least_px)
    keep[0] = False
    return np.asarray(keep[labels], dtype=np.bool_)
