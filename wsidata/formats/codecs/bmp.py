"""BMP photos, decoded by OpenCV.

libvips' wheel does not read BMP; Pillow rounds 16-bit colors differently, and supports fewer bit fields. OpenCV accepts
cut-off files, so the length is checked here. Layout: "Bitmap Storage", Win32 documentation: a file header of 14 bytes,
then BITMAPCOREHEADER (12 bytes) or BITMAPINFOHEADER (40 bytes) or one of its successors.
"""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError

BMP_START = b"BM"
HEADER_BYTES = 34
_CORE_BYTES, _UNCOMPRESSED = 12, (0, 3)


def bmp_size(head: bytes, path: Path) -> tuple[int, int]:
    """(height, width) of a BMP in pixels, from its first `HEADER_BYTES` or more.

    Raises:
        UnreadableImageError: if it states no size.
    """
    if len(head) >= HEADER_BYTES:
        is_core = struct.unpack_from("<I", head, 14) == (_CORE_BYTES,)
        width, height = struct.unpack_from("<HH" if is_core else "<ii", head, 18)
        if width > 0 and height != 0:
            return abs(height), width  # below 0: from top to bottom
    raise UnreadableImageError(f"'{path}' breaks off in its BMP header, or states no size. Copy it again.")


def read_bmp(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Pixels of a BMP, (height, width, 3) RGB. A fourth byte is ignored: few programs mean transparency by it.

    Raises:
        UnreadableImageError: if it is cut off, or of a kind OpenCV does not read.
    """
    height, width = bmp_size(data, path)
    if _stored_bytes(data, height, width) > len(data):
        raise UnreadableImageError(f"'{path}' is a BMP that was cut off. Copy it again from its source.")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != (height, width):
        raise UnreadableImageError(f"'{path}' is no BMP that OpenCV reads. Save it as PNG.")
    return np.ascontiguousarray(pixels[..., ::-1], dtype=np.uint8)


def _stored_bytes(data: bytes, height: int, width: int) -> int:
    """Length of an uncompressed file, its rows padded to multiples of 4 bytes; 0 for a compressed one."""
    start, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes == _CORE_BYTES:
        (bits,) = struct.unpack_from("<H", data, 24)
    else:
        bits, compression = struct.unpack_from("<HI", data, 28)
        if compression not in _UNCOMPRESSED:
            return 0
    return int(start + height * (-(-width * bits // 32) * 4))
