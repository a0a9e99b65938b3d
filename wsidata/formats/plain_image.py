"""Plain images (JPEG, PNG, WebP and whatever else libvips reads) as pyramids of one level.

They have no spacing: the density tags of a photo are print sizes. EXIF orientation is applied here, once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.channels import RGB_NAMES, PixelRequest
from wsidata.formats.codecs.color import eight_bit_name, scaled_to_8bit, to_rgb
from wsidata.formats.codecs.icc import ICC_FIELD
from wsidata.formats.codecs.jpeg import JPEG_START, JpegHeader, decode_jpeg, jpeg_header, suits, upright, upright_size
from wsidata.formats.levels import Level
from wsidata.formats.metadata import Loaders, SlideMetadata
from wsidata.formats.vips import naming_errors

MAX_IN_MEMORY_BYTES = 100_000_000
"""Larger images are decoded by libvips, into a temporary file."""


class PlainImagePyramid:
    """An open plain image, as a pyramid of one level.

    The image is decoded whole on the first access, so that a damaged file raises here instead of in the middle of a
    pipeline; the pixels are kept (in memory, above 100 MB in a temporary file) until `close`. Gray and color JPEGs are
    decoded by libjpeg-turbo itself, in half the time. Cut-off files are always detected; altered bytes always in PNG
    (it has checksums), in JPEG and WebP only where they break the code.

    Raises:
        UnreadableImageError: if libvips does not recognize it as an image.
        UnsupportedImageError: if channels are requested.
    """

    channel_names = RGB_NAMES

    def __init__(self, path: Path, request: PixelRequest) -> None:
        self._path, self._request = path, request
        if request.channels is not None:
            raise UnsupportedImageError(f"'{path}' is a photo, which is read as RGB. Leave channels= out.")
        self.associated: Loaders = {}
        with path.open("rb") as file:
            self._is_jpeg = file.read(len(JPEG_START)) == JPEG_START
        self._jpeg = _plain_jpeg(path) if self._is_jpeg else None
        if self._jpeg is None:
            self.reader = "libvips"
            self.kind, width_px, height_px, profile = self._vips_header()
        else:
            self.reader, self.kind, profile = "libjpeg-turbo", "jpeg", self._jpeg.icc_profile
            height_px, width_px = upright_size(self._jpeg.height_px, self._jpeg.width_px, self._jpeg.orientation)
        self.levels = (Level(0, width_px, height_px, 1.0, 1.0),)
        self.metadata = SlideMetadata(
            checked=(f"a {self.kind} photo has none",), properties={"photo.kind": self.kind}, icc_profile=profile
        )
        self._pixels: NDArray[np.uint8] | None = None
        self._image: pyvips.Image | None = None

    def image(self, level: int) -> pyvips.Image:
        """The image as RGB, upright."""
        if self._image is None:
            if self._jpeg is None:
                self._image = self._decoded_by_vips()
            else:
                self._image = pyvips.Image.new_from_array(self._decoded_jpeg(self._jpeg)).copy(interpretation="srgb")
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

    def _vips_header(self) -> tuple[str, int, int, bytes | None]:
        """Format, width, height and color profile."""
        try:
            header = self._load(access="sequential")
        except pyvips.Error as error:
            detail = " ".join(str(error).split())
            raise UnreadableImageError(
                f"'{self._path}' is no image that can be read here ({detail}). Readable are SVS, pyramidal TIFF, "
                "OME-TIFF, Philips TIFF, JPEG, PNG and WebP."
            ) from error
        profile = bytes(header.get(ICC_FIELD)) if header.get_typeof(ICC_FIELD) else None
        if self._request.scale_to_8bit is None and header.format != "uchar":
            to_rgb(header, self._path.name)  # raises
        loader = str(header.get("vips-loader")) if header.get_typeof("vips-loader") else "vips"  # libvips' own format
        return loader.removesuffix("load"), header.width, header.height, profile

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
        fail_on = "warning" if self._is_jpeg else "error"
        name = str(self._path)
        name += "[]" if name.endswith("]") else ""  # libvips takes what stands in brackets for options
        return pyvips.Image.new_from_file(name, access=access, fail_on=fail_on).autorot()


def _plain_jpeg(path: Path) -> JpegHeader | None:
    """The header of a JPEG that libjpeg-turbo decodes in memory; None for CMYK and very large ones."""
    header = jpeg_header(path)
    if header.bits != 8:
        raise UnsupportedImageError(f"'{path}' is a JPEG of {header.bits} bits a sample. Save it with 8, or as PNG.")
    in_memory = header.height_px * header.width_px * 3 <= MAX_IN_MEMORY_BYTES
    return header if suits(header) and in_memory else None
