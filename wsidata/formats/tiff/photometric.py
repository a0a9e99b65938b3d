"""Photometric interpretation of decoded TIFF samples, with black as 0 and palettes and YCbCr as RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

MINISWHITE, MINISBLACK, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
"""Values of the tag PhotometricInterpretation."""
APERIO_YCBCR_COMPRESSION = 33003
FEW_BITS = (1, 2, 4)
"""Bits per sample, below 8, of gray and of palettes."""


def apply_photometric(
    page: tifffile.TiffPage, data: bytes, pixels: NDArray[Any], *, looks_up: bool = True
) -> NDArray[Any]:
    """Samples decoded by tifffile, (height, width, samples), with black as 0, and as RGB if of a palette or YCbCr.

    `data` are the stored bytes of the tile or strip. A palette is left alone unless `looks_up`.
    """
    if page.bitspersample in FEW_BITS:
        pixels = pixels.astype(np.uint8)  # bool, or 0 and 1 from fax codecs
        if page.photometric != PALETTE:
            pixels = pixels * np.uint8(255 // (2**page.bitspersample - 1))
    if page.photometric == MINISWHITE:
        pixels = np.concatenate([255 - pixels[..., :1], pixels[..., 1:]], axis=-1)  # alpha stays
    if page.photometric == PALETTE and looks_up:
        pixels = _eight_bit_palette(page.colormap)[pixels[..., 0]]
    return ycbcr_to_rgb(pixels) if _is_bare_ycbcr(page, data) else pixels


def _eight_bit_palette(colormap: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Palette of (colors, 3). Some writers fill the 16 bits of an entry with 0..255, which libtiff accepts, too."""
    is_scaled = colormap.max() > 255
    return np.asarray((colormap >> 8 if is_scaled else colormap).astype(np.uint8).T)


def _is_bare_ycbcr(page: tifffile.TiffPage, data: bytes) -> bool:
    """Whether a JPEG 2000 tile of Aperio's YCbCr kind is still YCbCr once it is decoded.

    The stream does not state its color space; OpenJPEG converts only where the chroma are stored smaller (so they must
    be chroma) or the stream was transformed by JPEG 2000's own rule. Bio-Formats uses Aperio's number for RGB, so the
    directory has to say YCbCr, or be Aperio's. (SIZ and COD segments: ISO 15444-1, A.5.1, A.6.1.)
    """
    if page.compression != APERIO_YCBCR_COMPRESSION or not (page.photometric == YCBCR or page.parent.is_svs):
        return False
    siz, cod = data.find(b"\xff\x51"), data.find(b"\xff\x52")
    steps = data[siz + 41 : siz + 49 : 3], data[siz + 42 : siz + 49 : 3]
    is_transformed = cod >= 0 and data[cod + 8 : cod + 9] == b"\1"
    return siz >= 0 and set(steps[0] + steps[1]) == {1} and not is_transformed


def ycbcr_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range YCbCr to RGB, by the matrix of JFIF (ITU-R BT.601)."""
    y, cb, cr = (pixels[..., band].astype(np.float32) for band in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.asarray(np.clip(np.rint(rgb), 0, 255), dtype=np.uint8)
