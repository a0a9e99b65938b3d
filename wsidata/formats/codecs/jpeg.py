"""JPEG headers and decoding of JPEG photos by libjpeg-turbo, at full size or smaller.

The discrete cosine transform of a JPEG's blocks of 8 x 8 pixels can be inverted at a half, quarter or eighth of the
size, which saves most of the arithmetic and the memory. (Other eighths are possible, but slower than the full size.)
Warnings of libjpeg-turbo are errors here. Markers: ITU-T T.81, annex B.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsidata.errors import LimitExceededError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.limits import Limits, check_limit, limit
from wsidata.remote.address import SlidePath

SOI, EOI, SOS, COM = 0xD8, 0xD9, 0xDA, 0xFE
"""Start and end of the image, start of a scan, comment: codes of markers, their second byte; the first is 0xFF."""
APP0, APP1, APP2, APP14, APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
"""Application data, such as JFIF (0), EXIF (1), an ICC profile (2) and Adobe's color transform (14)."""
RESTARTS = range(0xD0, 0xD8)
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Start of a frame (SOF): of these 16 codes, three mean something else."""
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
SEQUENTIAL = frozenset({0xC0, 0xC1})
LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
JPEG_LS = 0xF7
WITHOUT_LENGTH = frozenset({0x01, *RESTARTS, SOI})

JPEG_START, JPEG_END, SCAN_START = bytes((0xFF, SOI)), bytes((0xFF, EOI)), bytes((0xFF, SOS))

EXIF_SIGNATURE, PROFILE_SIGNATURE = b"Exif\0\0", b"ICC_PROFILE\0"
ORIENTATION_TAG, SHORT = 0x0112, 3

SHRINKS = (8, 4, 2)
BLOCK_PX = 8
MAX_DECODED_BYTES = Limits.max_decoded_bytes
"""Memory that decoding one photo may take, unless the limit is changed."""


class JpegHeaderError(ValueError):
    """The markers end, or break off, before the size is known."""


class JpegLsError(JpegHeaderError):
    """The file is of another standard that begins like JPEG."""


@dataclass(frozen=True)
class JpegHeader:
    """Size and kind of a JPEG.

    Attributes:
        height_px: Rows as stored, before it is turned upright.
        width_px: Columns as stored.
        bits: Per sample; 8 except for medical and lossless kinds.
        components: 1 (gray), 3 (color) or 4 (CMYK).
        progressive: Whether its coefficients come in several passes, and all have to be held in memory.
        lossless: Whether it is of the kind without a cosine transform, and so has one size only.
        orientation: EXIF orientation, 1 (upright) to 8; see `upright`.
        icc_profile: The ICC profile, or None.
    """

    height_px: int
    width_px: int
    bits: int
    components: int
    progressive: bool
    lossless: bool = False
    orientation: int = 1
    icc_profile: bytes | None = field(default=None, repr=False)


def read_jpeg_header(stream: BinaryIO) -> JpegHeader:
    """The header of a JPEG, from its markers up to the first scan.

    A damaged EXIF block counts as none, as in other readers. The stream must be seekable, and at its start.

    Raises:
        JpegHeaderError: if there is no frame before the pixels or the end of the file.
    """
    if stream.read(2) != JPEG_START:
        raise JpegHeaderError("it does not begin as a JPEG")
    frame: tuple[int, int, int, int, bool, bool] | None = None
    orientation, chunks = None, dict[int, bytes]()
    while True:
        marker = _next_marker(stream)
        if marker in (SOS, EOI):
            break
        if marker in WITHOUT_LENGTH:
            continue
        if marker == JPEG_LS:
            raise JpegLsError("it is JPEG-LS")
        length = int.from_bytes(stream.read(2))
        if length < 2:
            raise JpegHeaderError("it breaks off in its header")
        if marker in FRAMES or marker in (APP1, APP2):
            body = stream.read(length - 2)
            if len(body) < length - 2:
                raise JpegHeaderError("it breaks off in its header")
            if marker in FRAMES and frame is None:
                frame = _frame(body, marker)
            elif marker == APP1 and orientation is None and body.startswith(EXIF_SIGNATURE):
                orientation = exif_orientation(body[len(EXIF_SIGNATURE) :])
            elif marker == APP2 and body.startswith(PROFILE_SIGNATURE):
                chunks[body[12] if len(body) > 13 else 0] = body[14:]
        else:
            stream.seek(length - 2, 1)
    if frame is None:
        raise JpegHeaderError("its header does not say how large the image is")
    return JpegHeader(*frame, orientation or 1, _joined(chunks))


def _next_marker(stream: BinaryIO) -> int:
    """The code of the next marker; fill bytes, and bytes that should not be there, are skipped."""
    previous = b""
    while byte := stream.read(1):
        if previous == b"\xff" and byte not in (b"\0", b"\xff"):
            return byte[0]
        previous = byte
    raise JpegHeaderError("it breaks off in its header")


def _frame(body: bytes, marker: int) -> tuple[int, int, int, int, bool, bool]:
    if len(body) < 6:
        raise JpegHeaderError("it breaks off in its header")
    bits, height, width, components = struct.unpack(">BHHB", body[:6])
    if not height or not width:
        raise JpegHeaderError(f"its header says it has {width}x{height} pixels")
    return height, width, bits, components, marker in PROGRESSIVE, marker in LOSSLESS


def exif_orientation(exif: bytes) -> int:
    """Orientation (1 to 8) stated in an EXIF block, which is a TIFF of its own; 1 where there is no valid one."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 10:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _ = struct.unpack_from(order + "HHI", exif, entry)
            if tag == ORIENTATION_TAG:
                (value,) = struct.unpack_from(order + ("H" if kind == SHORT else "I"), exif, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # tags that lie beyond its end
        return 1
    return 1


def _joined(chunks: dict[int, bytes]) -> bytes | None:
    """An ICC profile from its numbered pieces of 64 kB. If one is missing, applying the rest fails."""
    return b"".join(chunks[number] for number in sorted(chunks)) or None


def scan_start(data: bytes | mmap) -> int:
    """Position of the first scan, or where the markers break off. An end marker before it is that of a thumbnail."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != SOS:
        is_fill = data[place + 1] == 0xFF
        place += 1 if is_fill else 2 + int.from_bytes(data[place + 2 : place + 4])
    return min(place, len(data))


def _is_whole(data: bytes | mmap, scan: int) -> bool:
    """Whether the scan that begins there is the only one: libjpeg ends with an error at another one behind it.

    So it is of a sequential JPEG if it holds all components (T.81, B.2.3). What libjpeg may read in another way than
    marker by marker is not taken for such a JPEG.
    """
    place, components = 2, 0
    while place < scan:
        code, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if code == 0xFF:  # a fill byte
            place += 1
            continue
        if code in WITHOUT_LENGTH or code in (0, EOI) or length < 2:
            return False
        if code in FRAMES:
            if code not in SEQUENTIAL or components:
                return False
            components = data[place + 9] if place + 9 < scan else 0
        place += 2 + length
    return place == scan and 0 < components == (data[scan + 4] if scan + 4 < len(data) else 0)


def jpeg_header(path: Path, data: bytes | None = None) -> JpegHeader:
    """The header of a JPEG file, from its bytes if they have been read already.

    Raises:
        UnreadableImageError: if it breaks off, or states no size.
    """
    try:
        with path.open("rb") if data is None else io.BytesIO(data) as stream:
            return read_jpeg_header(stream)
    except JpegLsError as error:
        raise UnsupportedImageError(f"'{path}' is JPEG-LS, which is not read here. Save it as PNG.") from error
    except JpegHeaderError as error:
        raise undecodable(path, error) from error


def suits(header: JpegHeader) -> bool:
    """Whether `decode_jpeg` decodes it: gray or color of 8 bits. CMYK needs color management."""
    return header.bits == 8 and header.components in (1, 3)


def shrink_for(header: JpegHeader, short_side_px: float) -> int:
    """The factor (1, 2, 4 or 8) by which a JPEG can be decoded smaller, to a shorter side of no fewer pixels."""
    short = min(header.height_px, header.width_px)
    if short < BLOCK_PX**2:  # nothing to gain, and rounding makes the sizes of neighboring scales the same
        return 1
    if header.lossless:  # libjpeg-turbo 3 crashes
        return 1
    return next((shrink for shrink in SHRINKS if short >= shrink * short_side_px), 1)


def decode_jpeg(data: bytes, path: SlidePath, header: JpegHeader, shrink: int = 1) -> NDArray[np.uint8]:
    """Pixels of a JPEG that `suits`, as they are stored, not turned upright; shrunk by 1, 2, 4 or 8.

    Returns:
        (ceil(height / shrink), ceil(width / shrink), 3) RGB; the last row and column may lie partly
            outside the image.

    Raises:
        UnreadableImageError: if libjpeg-turbo reports an error or a warning.
        LimitExceededError: if it would take too much memory, or has too many scans.
    """
    check_scans(path, data)
    height, width = -(-header.height_px // shrink), -(-header.width_px // shrink)
    check_decoded_bytes(path, header, height * width * 3)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except (ValueError, RuntimeError) as error:
        raise undecodable(path, error) from error
    if pixels.shape != (height, width, 3):
        raise undecodable(path, f"{width}x{height} pixels were requested, and {pixels.shape[1]}x{pixels.shape[0]} came")
    return pixels


def check_decoded_bytes(path: SlidePath, header: JpegHeader, pixel_bytes: int) -> None:
    """Check the memory that decoding takes: pixels, and for a progressive JPEG all coefficients.

    Raises:
        LimitExceededError: naming the size, if it is more than the limit `max_decoded_bytes`.
    """
    held_bytes = 2 * header.height_px * header.width_px * header.components if header.progressive else 0
    if pixel_bytes + held_bytes > limit("max_decoded_bytes"):
        kind = "progressive JPEG" if header.progressive else "JPEG"
        raise LimitExceededError(
            f"'{path}' is a {kind} of {header.width_px}x{header.height_px} pixels, which takes "
            f"{(pixel_bytes + held_bytes) / 1e9:.1f} GB of memory to decode. Read it smaller (short_side_px=), or save "
            "it as a pyramidal TIFF and read it with Slide."
        )


def check_scans(path: SlidePath, data: bytes | mmap) -> None:
    """Check the number of scans of a JPEG: a scan of few bytes takes as long as decoding the whole image.

    They are counted where there may be several; counting takes some 3 % of the time of decoding.

    Raises:
        LimitExceededError: if there are more than the limit `max_scans`.
    """
    count, place = 0, scan_start(data)
    if _is_whole(data, place):
        return
    while (place := data.find(SCAN_START, place)) >= 0:
        count, place = count + 1, place + 2
    if count > 1:  # looking the limit up takes a tenth of the time to decode a tile
        check_limit("max_scans", count, path, f"{count:,} scans of a JPEG")


def undecodable(path: SlidePath, detail: object) -> UnreadableImageError:
    """The error for a damaged photo."""
    return UnreadableImageError(
        f"'{path}' could not be decoded: {' '.join(str(detail).split())}. Copy it again from its source; if it looks "
        "right in a viewer, save it anew from there."
    )
