"""Encoding of images for publication as PNG, JPEG or pyramidal TIFF, without any metadata.

libvips writes an image's pipeline from top to bottom, so that even gigapixels are never whole in memory. Every writer
gets `keep="none"`: by default libvips copies a scanner's description, which may name the patient.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from wsidata.errors import SlideError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.codecs.jpeg_strip import stripped_jpeg
from wsidata.formats.vips import failure_behind
from wsidata.hub.manifest import IMAGE_FORMATS, Encoding, ImageFormat
from wsidata.utils.files import atomic_write, file_sha256
from wsidata.utils.messages import check_choice

JPEG_MAX_PX = 65_500
"""Longest side of a JPEG (libjpeg), and of PNGs written here; larger images become pyramids."""

TILE_PX = 512
UM_PER_MM = 1000.0
DEFAULT_QUALITY = 90
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "tiff": ".tif", "tiff-jpeg": ".tif"}
# Measured on H&E: filter "up" at level 3 is as small as every filter at level 6, in half the time.
_PNG = {"compression": 3, "filter": "up"}


@dataclass(frozen=True)
class EncodedImage:
    """An image that was written.

    Attributes:
        path: The file.
        sha256: Of its bytes, in hexadecimal.
        size_bytes: Its length.
        width: In pixels.
        height: In pixels.
    """

    path: Path
    sha256: str
    size_bytes: int
    width: int
    height: int


def choose_encoding(image_format: ImageFormat | None, quality: int | None, *, lazy: bool, photos: bool) -> Encoding:
    """The requested encoding, or a lossless default.

    Args:
        image_format: None: "original" for photos, "tiff" for lazy images, else "png".
        quality: JPEG quality. None: 90 for lossy formats.
        lazy: Whether images are too large to be read whole.
        photos: Whether the images are photos.

    Raises:
        ValueError: for an unknown format, or a quality out of range or of a lossless format.
    """
    if image_format is None:
        image_format = "tiff" if lazy else "original" if photos else "png"
    check_choice("image_format", image_format, IMAGE_FORMATS)
    if image_format == "original" and not photos:
        raise ValueError("image_format='original' is for photos: slides are read at a resolution and encoded anew.")
    if image_format not in ("jpeg", "tiff-jpeg"):
        if quality is not None:
            raise ValueError(f"quality={quality} is for 'jpeg' and 'tiff-jpeg'; {image_format!r} is lossless.")
        return Encoding(image_format)
    quality = DEFAULT_QUALITY if quality is None else quality
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality} must be from 1 to 100.")
    return Encoding(image_format, quality)


def encode(
    image: pyvips.Image,
    stem: Path,
    encoding: Encoding,
    *,
    name: str,
    mpp: tuple[float, float] | None = None,
    original: Path | None = None,
) -> EncodedImage:
    """Write an image, whole or not at all.

    Args:
        image: uchar, or ushort where the format supports it.
        stem: Path without suffix; its folder is created.
        encoding: The encoding. Above 65,500 pixels "png" becomes "tiff", and "jpeg" becomes "tiff-jpeg".
        name: Its name in error messages.
        mpp: Resolution in um/px, written into TIFF.
        original: The photo's own file, for "original".

    Raises:
        UnreadableImageError: if the source file cannot be decoded.
        UnsupportedImageError: if the format cannot hold the image.
        OSError: if the disk is full, or the file cannot be written.
    """
    kept = stripped_jpeg(original) if encoding.format == "original" and original is not None else None
    if kept is not None and _same_pixels(kept, image, name):
        chosen = "jpeg"
    else:
        kept, chosen = None, _fitting(image, encoding, name)
    path = stem.with_name(stem.name + _SUFFIXES[chosen])
    with atomic_write(path, sync=False) as unfinished:
        if kept is None:
            _write(image, unfinished, chosen, encoding.quality, name, mpp)
        else:
            unfinished.write_bytes(kept)
        facts = str(file_sha256(unfinished)), unfinished.stat().st_size
    return EncodedImage(path, *facts, image.width, image.height)


def _fitting(image: pyvips.Image, encoding: Encoding, name: str) -> str:
    """The format of this image: a pyramid where it is too large for a plain file."""
    chosen: str = "png" if encoding.format == "original" else encoding.format
    if max(image.width, image.height) > JPEG_MAX_PX:
        chosen = {"png": "tiff", "jpeg": "tiff-jpeg"}.get(chosen, chosen)
    bands, deep = {"png": ((1, 2, 3, 4), True), "jpeg": ((1, 3), False), "tiff-jpeg": ((1, 3), False)}.get(
        chosen, (range(1, 65536), True)
    )
    if image.format not in (("uchar", "ushort") if deep else ("uchar",)) or image.bands not in bands:
        raise UnsupportedImageError(
            f"'{name}' has {image.bands} bands of {image.format}, which '{chosen}' cannot hold unchanged. Pass "
            "image_format='tiff' for more bands or 16 bits; publish pixels, not normalized floats."
        )
    return chosen


def _write(
    image: pyvips.Image, path: Path, chosen: str, quality: int | None, name: str, mpp: tuple[float, float] | None
) -> None:
    try:
        if chosen == "png":
            image.pngsave(str(path), keep="none", **_PNG)
        elif chosen == "jpeg":
            image.jpegsave(str(path), Q=quality, keep="none")
        else:
            _write_pyramid(image, path, quality if chosen == "tiff-jpeg" else None, mpp)
    except pyvips.Error as error:
        cause = failure_behind(image)
        detail = " ".join(str(cause or error).split())
        if cause is None and ("write error" in detail or "No space left" in detail or "too large" in detail):
            raise OSError(errno.ENOSPC, f"'{path}' could not be written ({detail[:200]})") from error
        raise UnreadableImageError(f"'{name}' could not be decoded whole: {detail}") from (cause or error)
    failure = failure_behind(image)  # libvips may return black for what it could not read
    if failure is not None:
        raise UnreadableImageError(f"'{name}' could not be decoded whole: {failure}") from failure


def _write_pyramid(image: pyvips.Image, path: Path, quality: int | None, mpp: tuple[float, float] | None) -> None:
    """Write a tiled pyramidal BigTIFF."""
    compression: dict[str, Any] = {"compression": "deflate", "predictor": "horizontal"}
    if quality is not None:
        compression = {"compression": "jpeg", "Q": quality}
    spacing = {} if mpp is None else {"xres": UM_PER_MM / mpp[0], "yres": UM_PER_MM / mpp[1], "resunit": "cm"}
    plain = image.copy(xres=0, yres=0)  # a print density must not become a resolution
    # libvips cannot read tiles far larger than the image
    tile_px = min(TILE_PX, -(-max(image.width, image.height) // 16) * 16)
    plain.tiffsave(
        str(path), tile=True, tile_width=tile_px, tile_height=tile_px, pyramid=True, bigtiff=True, keep="none",
        **compression, **spacing,
    )  # fmt: skip


def _same_pixels(encoded: bytes, image: pyvips.Image, name: str) -> bool:
    """Whether a JPEG decodes to exactly this image: not if that was rotated, resized or converted to sRGB."""
    from wsidata.photos.read import decode_photo

    try:
        return bool(np.array_equal(decode_photo(encoded, Path(name)), image.numpy()))
    except SlideError:
        return False
