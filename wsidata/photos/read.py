"""Decoding of photos to upright sRGB pixels.

    JPEG, gray or color        libjpeg-turbo, decoded at 1/2, 1/4 or 1/8 where the photo is resized to less anyway
    JPEG, CMYK or YCCK         libvips, through the profile in the file, or a generic press profile
    TIFF                       the slide reader (libvips shows some of them in false colors)
    PNG, WebP, AVIF            libvips; the first frame of an animation
    GIF                        Pillow; the first frame
    BMP                        OpenCV (not supported by libvips' wheel)

The format is detected from the content, not the name. EXIF orientation is applied, once. Transparency is composited on
white. 16-bit samples are scaled from their full range, 0..65535, to 0..255. Colors are converted to sRGB by the ICC
profile in the file; torchvision, Pillow and OpenCV ignore it, and show the photos of many phones too pale.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsidata.errors import LimitExceededError, UndecidedImageError, UnsupportedImageError
from wsidata.formats.channels import PixelRequest
from wsidata.formats.codecs.bmp import BMP_START, HEADER_BYTES, bmp_size, read_bmp
from wsidata.formats.codecs.icc import to_srgb
from wsidata.formats.codecs.jpeg import (
    JPEG_START,
    decode_jpeg,
    jpeg_header,
    shrink_for,
    suits,
)
from wsidata.formats.codecs.orientation import upright, upright_size
from wsidata.formats.limits import limit
from wsidata.formats.open import TIFF_SIGNATURES, Pyramid, check_regular, open_pyramid
from wsidata.formats.tiff.levels import opening
from wsidata.formats.vips import naming_errors
from wsidata.photos.resize import resize, size_with_short_side
from wsidata.utils.retries import retried

SHRINK_MARGIN = 2
"""A JPEG is decoded at a reduced size only down to this many times the requested size, and resized from there.

Compared with decoding it whole and resizing that, as median peak signal-to-noise ratio in dB (and largest difference of
255), over 61 photos made small and sharp for the web, the hardest kind: from 1 to 1.15 times the size 36 (91), from
1.5 to 1.75 times 44 (34), from 2 to 2.5 times 47 (24), from 3 to 4 times 52 (14). Photos straight from a camera, soft
at the level of pixels, differ by 1 or 2 of 255; a zone plate at twice the size by 24, at once by 51."""

FULL_RANGE = (0, 65_535)
"""Stored values of 16-bit photos that become 0 and 255."""


def photo_size(path: str | Path) -> tuple[int, int]:
    """Size of a photo, upright, from its header alone.

    Args:
        path: The file.

    Returns:
        (height, width) in pixels.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it is empty, not an image, or cut off within its header.
        UnsupportedImageError: if it is an image of an unsupported kind (see `read_photo`).
    """
    path = Path(path)
    check_regular(path)
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if head.startswith(JPEG_START):
        header = jpeg_header(path)
        return upright_size(header.height_px, header.width_px, header.orientation)
    if head.startswith(BMP_START):
        return bmp_size(head, path)
    with closing(_open(path, head)) as pyramid:
        return pyramid.levels[0].height, pyramid.levels[0].width


def read_photo(path: str | Path, *, short_side_px: int | None = None, apply_icc: bool = True) -> NDArray[np.uint8]:
    """The pixels of a photo, upright, in sRGB.

    Args:
        path: The file.
        short_side_px: Length of the shorter side of the result, the longer one in proportion, rounded. Smaller photos
            are enlarged, as by torchvision's `Resize`, so that a crop of this size always fits. Antialiased bilinear.
            None: the stored size.
        apply_icc: Convert colors to sRGB by the profile in the file. False takes the stored values of RGB and gray as
            sRGB, as most other loaders do.

    Returns:
        (height, width, 3), contiguous.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it is empty, not an image, cut off, or damaged in any way the decoder detects. JPEGs
            have no checksum: some altered bytes go unnoticed in every reader.
        UnsupportedImageError: if it is not a gray or color image of 8 or 16 bits (many channels, floats), has a
            damaged color profile, or takes too much memory.
    """
    path = Path(path)
    return decode_photo(photo_bytes(path), path, short_side_px=short_side_px, apply_icc=apply_icc)


def photo_bytes(path: Path) -> bytes:
    """The bytes of a photo's file.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it is a folder, pipe or device.
        UnreachableImageError: if its disk or mount fails.
    """
    retried(partial(check_regular, path), path)
    return retried(path.read_bytes, path)


def decode_photo(
    data: bytes, path: Path, *, short_side_px: int | None = None, apply_icc: bool = True
) -> NDArray[np.uint8]:
    """`read_photo` of a file whose bytes have been read already; TIFFs and the formats of libvips are read again."""
    if short_side_px is not None and short_side_px < 1:
        raise ValueError(f"short_side_px={short_side_px} must be at least 1 pixel, or None for the stored size.")
    if data.startswith(JPEG_START) and suits(header := jpeg_header(path, data)):
        stored_px, profile, orientation = (header.height_px, header.width_px), header.icc_profile, header.orientation
        shrink = 1 if short_side_px is None else shrink_for(header, short_side_px * SHRINK_MARGIN)
        size_px = _result_size(path, stored_px, short_side_px)
        pixels = decode_jpeg(data, path, header, shrink)
        pixels = resize(pixels, size_px, (stored_px[0] / shrink, stored_px[1] / shrink))
    else:
        pixels, profile = _decode_other(data, path)
        pixels, orientation = resize(pixels, _result_size(path, pixels.shape[:2], short_side_px)), 1
    if apply_icc:
        pixels = to_srgb(pixels, profile, path)
    return np.ascontiguousarray(upright(pixels, orientation))


def _result_size(path: Path, stored_px: tuple[int, ...], short_side_px: int | None) -> tuple[int, int]:
    """(height, width) of the result, or an error if it is too large."""
    height, width = size = stored_px[0], stored_px[1]
    if short_side_px is not None:
        size = size_with_short_side(height, width, short_side_px)
    if size[0] * size[1] * 3 > limit("max_decoded_bytes"):
        raise LimitExceededError(
            f"'{path}' has {width}x{height} pixels, and would have {size[1]}x{size[0]}, which take "
            f"{size[0] * size[1] * 3 / 1e9:.1f} GB of memory. Read it smaller (short_side_px=), crop it, or read "
            "parts of it with Slide."
        )
    return size


def _decode_other(data: bytes, path: Path) -> tuple[NDArray[np.uint8], bytes | None]:
    """Upright pixels of anything but gray and color JPEG, and their ICC profile."""
    if data.startswith(BMP_START):
        _result_size(path, bmp_size(data, path), None)
        return read_bmp(data, path), None
    with closing(_open(path, data)) as pyramid, naming_errors(path):
        _result_size(path, pyramid.levels[0].size[::-1], None)
        return np.asarray(pyramid.image(0).numpy(), dtype=np.uint8), pyramid.metadata.icc_profile


def _open(path: Path, head: bytes) -> Pyramid:
    """The slide reader, with 16-bit samples scaled from their full range."""
    request: PixelRequest | None = PixelRequest(scale_to_8bit=FULL_RANGE)
    if head[:4] in TIFF_SIGNATURES:
        with opening(path) as tiff:
            request = request if tiff.pages.first.dtype == np.uint16 else None
            tiff.close()
    try:
        return open_pyramid(path, request)
    except UndecidedImageError as error:
        raise UnsupportedImageError(
            f"{error} Photos are read without such a choice: save what you need of it as 8-bit RGB, or read it with "
            "Slide (WSIDataModule)."
        ) from error
