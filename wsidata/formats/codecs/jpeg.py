"""JPEG photos at the speed of libjpeg-turbo: decoded smaller where they are made smaller, and damage an error.

The discrete cosine transform of a JPEG's blocks of 8 x 8 pixels can be undone at a half, quarter or eighth of the size,
which spares most of the arithmetic and all of the memory. (It can be at other eighths, too, but slower than whole.)
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.photos.jpeg_header import JpegHeader, JpegHeaderError, read_jpeg_header

SHRINKS = (8, 4, 2)
BLOCK_PX = 8
MAX_DECODED_BYTES = 4 * 1024**3
"""What decoding one photo may take."""


def jpeg_header(data: bytes, path: Path) -> JpegHeader:
    """The header of a JPEG, or an error that names the file.

    Raises:
        UnreadableImageError: if it breaks off, or states no size.
    """
    try:
        return read_jpeg_header(io.BytesIO(data))
    except JpegHeaderError as error:
        raise undecodable(path, error) from error


def open_jpeg(path: Path) -> JpegHeader:
    """The header of a JPEG file, of which nothing else is read.

    Raises:
        UnreadableImageError: if it breaks off, or states no size.
    """
    try:
        with path.open("rb") as file:
            return read_jpeg_header(file)
    except JpegHeaderError as error:
        raise undecodable(path, error) from error


def suits(header: JpegHeader) -> bool:
    """Whether `decode_jpeg` decodes it: grey or colour of 8 bits. Ink (CMYK) needs colour management."""
    return header.bits == 8 and header.components in (1, 3)


def shrink_for(header: JpegHeader, short_side_px: float) -> int:
    """By how much a JPEG can be decoded smaller, its shorter side keeping at least so many pixels: 1, 2, 4 or 8."""
    short = min(header.height_px, header.width_px)
    if short < BLOCK_PX**2:  # nothing to gain, and rounding makes the sizes of neighbouring scales the same
        return 1
    if header.lossless:  # libjpeg-turbo 3 crashes
        return 1
    return next((shrink for shrink in SHRINKS if short >= shrink * short_side_px), 1)


def decode_jpeg(data: bytes, path: Path, header: JpegHeader, shrink: int = 1) -> NDArray[np.uint8]:
    """Pixels as they are stored, not turned upright.

    Args:
        data: The file's bytes.
        path: The file, for errors.
        header: Its header, one that `suits`.
        shrink: 1, 2, 4 or 8.

    Returns:
        (ceil(height / shrink), ceil(width / shrink), 3) RGB; the last row and column may lie partly
            outside the picture.

    Raises:
        UnreadableImageError: if libjpeg-turbo reports as little as a warning.
        UnsupportedImageError: if it would take too much memory.
    """
    height, width = -(-header.height_px // shrink), -(-header.width_px // shrink)
    check_decoded_bytes(path, header, height * width * 3)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except (ValueError, RuntimeError) as error:
        raise undecodable(path, error) from error
    if pixels.shape != (height, width, 3):
        raise undecodable(path, f"{width}x{height} pixels were asked for, and {pixels.shape[1]}x{pixels.shape[0]} came")
    return pixels


def check_decoded_bytes(path: Path, header: JpegHeader, pixel_bytes: int) -> None:
    """Refuse what would take too much memory: pixels, and of a progressive JPEG the coefficients of the whole picture.

    Raises:
        UnsupportedImageError: naming the size.
    """
    held_bytes = 2 * header.height_px * header.width_px * header.components if header.progressive else 0
    if pixel_bytes + held_bytes > MAX_DECODED_BYTES:
        kind = "progressive JPEG" if header.progressive else "JPEG"
        raise UnsupportedImageError(
            f"'{path}' is a {kind} of {header.width_px}x{header.height_px} pixels, which takes "
            f"{(pixel_bytes + held_bytes) / 1e9:.1f} GB of memory to decode. Read it smaller (short_side_px=), or save "
            "it as a pyramidal TIFF and read it with Slide."
        )


def undecodable(path: Path, detail: object) -> UnreadableImageError:
    """The error for a damaged photo."""
    return UnreadableImageError(
        f"'{path}' could not be decoded: {' '.join(str(detail).split())}. Copy it again from its source; if it looks "
        "right in a viewer, save it anew from there."
    )
