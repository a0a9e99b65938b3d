"""What the samples of a TIFF mean, once they are decoded: black is 0, palettes are looked up, YCbCr is RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

MINISWHITE, MINISBLACK, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
"""Values of the tag PhotometricInterpretation."""
APERIO_YCBCR_COMPRESSION = 33003


def natural_colours(page: tifffile.TiffPage, data: bytes, pixels: NDArray[Any]) -> NDArray[Any]:
    """Bring what tifffile decodes to one meaning.

    Args:
        page: The directory.
        data: The stored bytes of the tile or strip.
        pixels: What tifffile made of them, (height, width, samples).

    Returns:
        The same size, black as 0; RGB where there was a palette or YCbCr.
    """
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if page.photometric == MINISWHITE:
        pixels = 255 - pixels
    if page.photometric == PALETTE:
        pixels = (page.colormap >> 8).astype(np.uint8).T[pixels[..., 0]]
    return ycbcr_to_rgb(pixels) if _is_bare_ycbcr(page, data) else pixels


def _is_bare_ycbcr(page: tifffile.TiffPage, data: bytes) -> bool:
    """Whether a JPEG 2000 tile of Aperio's YCbCr kind comes back from its decoder as YCbCr.

    The stream does not say its colours; OpenJPEG converts where the chroma are stored smaller (so they must be
    chroma), and leaves the rest to us. Sizes: the SIZ segment, ISO 15444-1, A.5.1.
    """
    if page.compression != APERIO_YCBCR_COMPRESSION:
        return False
    siz = data.find(b"\xff\x51")
    steps = data[siz + 41 : siz + 49 : 3], data[siz + 42 : siz + 49 : 3]
    return siz >= 0 and set(steps[0] + steps[1]) == {1}


def ycbcr_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range YCbCr to RGB, by the matrix of JFIF (ITU-R BT.601)."""
    y, cb, cr = (pixels[..., band].astype(np.float32) for band in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.asarray(np.clip(np.rint(rgb), 0, 255), dtype=np.uint8)
