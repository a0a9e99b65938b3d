"""Plain images (JPEG, PNG, WebP, AVIF and GIF) as pyramids of one level.

They are told by their first bytes, whatever their name. They have no spacing: the density tags of a photo are print
sizes. EXIF orientation is applied here, once.
"""

from __future__ import annotations

import mmap
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.errors import LimitExceededError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.channels import RGB_NAMES, PixelRequest
from wsidata.formats.codecs.color import eight_bit_name, scaled_to_8bit, to_rgb
from wsidata.formats.codecs.gif import gif_frames, gif_size, read_gif
from wsidata.formats.codecs.icc import ICC_FIELD
from wsidata.formats.codecs.jpeg import (
    JpegHeader,
    check_decoded_bytes,
    check_scans,
    decode_jpeg,
    jpeg_header,
    suits,
)
from wsidata.formats.codecs.orientation import upright, upright_size
from wsidata.formats.levels import Level
from wsidata.formats.limits import check_limit
from wsidata.formats.metadata import Loaders, SlideMetadata
from wsidata.formats.vips import naming_errors

MAX_IN_MEMORY_BYTES = 100_000_000
"""Larger images are decoded by libvips, into a temporary file."""

SIGNATURES = {
    "jpeg": rb"\xff\xd8",
    "png": rb"\x89PNG\r\n\x1a\n",
    "webp": rb"RIFF....WEBP",
    "gif": rb"GIF8[79]a",
    "heif": rb"....ftyp(avi[fs]|hei[cx]|m[is]f1)",  # AVIF among them
}
HEAD_BYTES = 12


class PlainImagePyramid:
    """An open plain image, as a pyramid of one level.

    The image is decoded whole on the first access, so that a damaged file raises here instead of in the middle of a
    pipeline; the pixels are kept (in memory, above 100 MB in a temporary file) until `close`. Gray and color JPEGs are
    decoded by libjpeg-turbo itself, in half the time. Cut-off files are always detected; altered bytes always in PNG
    (it has checksums), in JPEG and WebP only where they break the code.

    Raises:
        UnreadableImageError: if it is none of these formats, or damaged.
        LimitExceededError: if it needs more memory or disk than photos may.
        UnsupportedImageError: if channels are requested.
    """

    channel_names = RGB_NAMES

    def __init__(self, path: Path, request: PixelRequest) -> None:
        self._path, self._request = path, request
        request.of.check_one_image(path)
        if request.channels is not None:
            raise UnsupportedImageError(f"'{path}' is a photo, which is read as RGB. Leave channels= out.")
        self.associated: Loaders = {}
        with path.open("rb") as file:
            kind = image_kind(file.read(HEAD_BYTES))
        if kind is None:
            raise UnreadableImageError(
                f"'{path}' is no image that can be read here, by its first bytes. Readable are SVS, pyramidal TIFF, "
                "OME-TIFF, Philips TIFF, JPEG, PNG, WebP, GIF and AVIF."
            )
        self.kind: str = kind
        self._jpeg = _plain_jpeg(path) if kind == "jpeg" else None
        profile = None
        if self._jpeg is not None:
            self.reader, profile = "libjpeg-turbo", self._jpeg.icc_profile
            height_px, width_px = upright_size(self._jpeg.height_px, self._jpeg.width_px, self._jpeg.orientation)
        elif kind == "gif":
            self.reader = "pillow"
            height_px, width_px = gif_size(path)
        else:
            self.reader = "libvips"
            height_px, width_px, profile = self._vips_header()
        self.levels = (Level(0, width_px, height_px, 1.0, 1.0),)
        self.metadata = SlideMetadata(
            checked=(f"a {self.kind} photo has none",), properties={"photo.kind": self.kind}, icc_profile=profile
        )
        self._pixels: NDArray[np.uint8] | None = None
        self._image: pyvips.Image | None = None

    @property
    def frames(self) -> int:
        """Number of frames of an animation, of which the first is read; 1 for others."""
        if self.kind == "gif":
            return gif_frames(self._path)
        header = self._load(access="sequential") if self._jpeg is None else None
        return int(header.get("n-pages")) if header is not None and header.get_typeof("n-pages") else 1

    def image(self, level: int) -> pyvips.Image:
        """The image as RGB, upright."""
        if self._image is None:
            if self._jpeg is not None:
                self._image = pyvips.Image.new_from_array(self._decoded_jpeg(self._jpeg)).copy(interpretation="srgb")
            elif self.kind == "gif":
                self._image = to_rgb(pyvips.Image.new_from_array(read_gif(self._path)), self._path.name).copy_memory()
            else:
                self._image = self._decoded_by_vips()
        return self._image

    def lazy_image(self, level: int) -> pyvips.Image:
        """The same: these formats are decoded whole."""
        return self.image(level)

    def lazy_regions(self, level: int, shared_px: tuple[int, int]) -> None:
        """None: these formats are decoded whole."""

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """A rectangle inside the image, (height, width, 3)."""
        if self._jpeg is not None:
            pixels = self._decoded_jpeg(self._jpeg)
            if self._image is None and (height_px, width_px) == pixels.shape[:2]:
                self._pixels = None  # returned instead of copied; decoded again if requested again
                return pixels
            return pixels[y_px : y_px + height_px, x_px : x_px + width_px].copy()
        with naming_errors(self._path):
            part = self.image(level).crop(x_px, y_px, width_px, height_px)
            return np.asarray(part.numpy(), dtype=np.uint8)

    def close(self) -> None:
        """Drop the decoded image."""
        self._image = self._pixels = None

    def _decoded_jpeg(self, header: JpegHeader) -> NDArray[np.uint8]:
        if self._pixels is None:
            stored = decode_jpeg(self._path.read_bytes(), self._path, header)
            self._pixels = np.ascontiguousarray(upright(stored, header.orientation))
        return self._pixels

    def _vips_header(self) -> tuple[int, int, bytes | None]:
        """Height, width and color profile."""
        with naming_errors(self._path):
            header = self._load(access="sequential")
        profile = bytes(header.get(ICC_FIELD)) if header.get_typeof(ICC_FIELD) else None
        if self._request.scale_to_8bit is None and header.format != "uchar":
            to_rgb(header, self._path.name)  # raises
        _check_temporary(self._path, header)
        return header.height, header.width, profile

    def _decoded_by_vips(self) -> pyvips.Image:
        with naming_errors(self._path):
            image = self._load(access="random")
            if self._request.scale_to_8bit is not None and image.format != "uchar":
                image = scaled_to_8bit(image, self._request.scale_to_8bit).copy(interpretation=eight_bit_name(image))
            image = to_rgb(image, self._path.name)
            image(0, 0)  # decodes all of it
        return image

    def _load(self, access: str) -> pyvips.Image:
        """Open with the strictest setting that intact files pass: many intact PNGs carry warnings, JPEGs do not."""
        load = getattr(pyvips.Image, f"{self.kind}load")  # not by libvips' own choice: it has loaders of other formats
        image = load(str(self._path), access=access, fail_on="warning" if self.kind == "jpeg" else "error")
        return image.autorot()


def image_kind(head: bytes) -> str | None:
    """Format of an image of `SIGNATURES` by its first `HEAD_BYTES`; None for anything else."""
    return next((kind for kind, pattern in SIGNATURES.items() if re.match(pattern, head, re.DOTALL)), None)


def _check_temporary(path: Path, header: pyvips.Image) -> None:
    """Check the disk space that decoding an image too large for memory takes, and the memory of an interlaced one.

    Raises:
        LimitExceededError: if it is more than the limit, or than there is.
    """
    size = f"{header.width}x{header.height} pixels"
    need_bytes = header.width * header.height * header.bands * (1 if header.format == "uchar" else 2)
    if header.get_typeof("interlaced"):  # which libvips holds in memory
        check_limit("max_decoded_bytes", need_bytes, path, f"{need_bytes / 1e9:.1f} GB of memory for its {size}")
    if need_bytes <= MAX_IN_MEMORY_BYTES:
        return
    what = f"{need_bytes / 1e9:.1f} GB of temporary disk space for its {size}"
    check_limit("max_temporary_bytes", need_bytes, path, what)
    folder = tempfile.gettempdir()
    free_bytes = shutil.disk_usage(folder).free
    if need_bytes > free_bytes:
        raise LimitExceededError(
            f"'{path}' needs {what}, and '{folder}' has {free_bytes / 1e9:.1f} GB. Make room there, choose another "
            "folder by the environment variable TMPDIR, or save the image as a pyramidal TIFF."
        )


def _plain_jpeg(path: Path) -> JpegHeader | None:
    """The header of a JPEG that libjpeg-turbo decodes in memory; None for CMYK and very large ones."""
    header = jpeg_header(path)
    check_decoded_bytes(path, header, 0)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check_scans(path, data)
    if header.bits != 8:
        raise UnsupportedImageError(f"'{path}' is a JPEG of {header.bits} bits a sample. Save it with 8, or as PNG.")
    in_memory = header.height_px * header.width_px * 3 <= MAX_IN_MEMORY_BYTES
    return header if suits(header) and in_memory else None
