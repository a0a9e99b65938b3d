"""Crops, flips, right-angle rotations and changes of tone on NumPy arrays.

For transforms made of these alone: around a small decoded photo a libvips pipeline costs as much as decoding. They draw
from the sample's generator as on libvips images, and give the same pixels; but `RandomResizedCrop` resamples as
`read_photo` does, which differs from libvips by rounding, and by how edges are continued.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.photos.resize import resize
from wsidata.transforms.base import Transform
from wsidata.transforms.color.tone import ToneCurve, ToneJitter
from wsidata.transforms.compose import Compose
from wsidata.transforms.geometry.affine import (
    RandomD4,
    RandomHorizontalFlip,
    RandomRotate90,
    RandomVerticalFlip,
    Symmetry,
)
from wsidata.transforms.geometry.crop import CropOrPad, CropWindow, RandomResizedCrop, ResizedWindow
from wsidata.transforms.turn import Turn

Pixels = NDArray[np.uint8]

KNOWN = (CropOrPad, RandomD4, RandomHorizontalFlip, RandomResizedCrop, RandomRotate90, RandomVerticalFlip, ToneJitter)
_WHITE = 255


@dataclass(frozen=True)
class _Facts:
    """The attributes of an image that transforms draw by."""

    width: int
    height: int
    bands: int = 3
    format: str = "uchar"


def runs_on_arrays(transform: Transform) -> bool:
    """Whether `run_on_array` can apply a transform."""
    if type(transform) is Compose:
        return all(runs_on_arrays(member) for member in transform.transforms)
    return type(transform) in KNOWN  # a subclass may draw anything


def run_on_array(transform: Transform, pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The result of `transform.run`, for one that `runs_on_arrays`, on (height, width, 3) pixels; perhaps a view."""
    if isinstance(transform, Compose):
        for member in transform.transforms:
            pixels = run_on_array(member, pixels, rng)
        return pixels
    if transform.p < 1 and rng.random() >= transform.p:
        return pixels
    operation = transform.draw(_Facts(pixels.shape[1], pixels.shape[0]), rng)
    if isinstance(operation, CropWindow):
        return _window(pixels, operation)
    if isinstance(operation, ToneCurve):
        return np.asarray(cv2.LUT(pixels, operation.values(_WHITE).astype(np.uint8)), dtype=np.uint8)
    if isinstance(operation, ResizedWindow):
        bottom, right = operation.top + operation.height, operation.left + operation.width
        part = np.ascontiguousarray(pixels[operation.top : bottom, operation.left : right])
        return resize(part, (operation.to_height, operation.to_width))
    return _symmetry(pixels, operation) if isinstance(operation, Symmetry) else pixels


def _window(pixels: Pixels, window: CropWindow) -> Pixels:
    """Crop, and pad what lies outside."""
    height, width = pixels.shape[:2]
    top, bottom = max(window.top, 0), min(window.top + window.height, height)
    left, right = max(window.left, 0), min(window.left + window.width, width)
    inside = pixels[top:bottom, left:right]
    if inside.shape[:2] == (window.height, window.width):
        return inside
    fill = _WHITE if window.fill is None else window.fill
    filled = np.full((window.height, window.width, pixels.shape[2]), fill, dtype=np.uint8)
    filled[top - window.top : bottom - window.top, left - window.left : right - window.left] = inside
    return filled


def _symmetry(pixels: Pixels, symmetry: Symmetry) -> Pixels:
    """Rotate counterclockwise, then flip."""
    turn = Turn(symmetry.turns, symmetry.mirrored)
    if turn == Turn():
        return pixels
    width, height = turn.size(pixels.shape[1], pixels.shape[0])
    out = np.empty((height, width, pixels.shape[2]), dtype=pixels.dtype)
    turn.write(pixels, out)
    return out
