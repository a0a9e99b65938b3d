"""Formats without a reader of their own (MRXS, DICOM, VMS, CZI and others), through OpenSlide.

OpenSlide is an optional extra (`pip install 'slidestream[openslide]'`). It is slow on whole levels and returns
premultiplied transparency, black outside the scanned area, and canvases much larger than the slide; here its images
are composited on white and cropped to the bounds it states.
"""

from __future__ import annotations

import copy
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.errors import ForeignFormatError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.channels import RGB_NAMES, PixelRequest
from wsidata.formats.codecs.jpeg import JPEG_START
from wsidata.formats.levels import Level
from wsidata.formats.metadata import Loaders, SlideMetadata, StatedSpacing, positive_number
from wsidata.formats.vips import TileSource, source_tile
from wsidata.remote.address import SlidePath

if TYPE_CHECKING:
    from openslide import OpenSlide

FOREIGN_SUFFIXES = {
    ".mrxs": "a 3DHISTECH MRXS slide",
    ".dcm": "a DICOM file",
    ".vms": "a Hamamatsu VMS slide",
    ".vmu": "a Hamamatsu VMU slide",
    ".svslide": "a Sakura slide",
    ".czi": "a Zeiss CZI slide",
}
DICOM_AT, DICOM_SIGNATURE = 128, b"DICM"
CZI_SIGNATURE = b"ZISRAWFILE"
INSTALL = "Install OpenSlide to read it: pip install 'slidestream[openslide]'."
CONVERT = "Convert it to OME-TIFF (bfconvert); of DICOM, only whole-slide images are read."
UNSUPPORTED = re.compile(
    r"unsupported (?!or missing)|not supported|unrecogni[sz]ed|concatenation|attribute \w+ value -?\d+ !="
    "|nonzero subblock channel|unexpected media storage|jpeg color components",
    re.IGNORECASE,
)
"""Errors of OpenSlide about intact files: of 16 bits, of several channels, in a compression it does not have."""
TILE_PX = 512
SEARCHED_BYTES = 16 * 1024**2
"""How much of a DICOM file is searched for its first frame, which follows the metadata."""


def foreign_format(path: SlidePath, head: bytes) -> ForeignFormatError | None:
    """The error for a slide that only OpenSlide reads, by its name or first bytes; None for all others."""
    what = FOREIGN_SUFFIXES.get(path.suffix.lower())
    if head[DICOM_AT : DICOM_AT + 4] == DICOM_SIGNATURE:
        what = FOREIGN_SUFFIXES[".dcm"]
    if head.startswith(CZI_SIGNATURE):
        what = FOREIGN_SUFFIXES[".czi"]
    return None if what is None else ForeignFormatError(f"'{path}' is {what}, which is read through OpenSlide only.")


def open_foreign(path: Path, request: PixelRequest, reason: ForeignFormatError) -> OpenSlidePyramid:
    """Open a slide through OpenSlide, which no other reader opens for this reason.

    Raises:
        ForeignFormatError: if OpenSlide is not installed, or does not support the format either.
        UnsupportedImageError: if channels are requested.
        UnreadableImageError: if OpenSlide finds it damaged, or some of its files are missing.
    """
    if find_spec("openslide") is None:
        raise ForeignFormatError(f"{reason} {INSTALL}") from reason
    try:
        import openslide
    except (ImportError, OSError) as error:  # its Python half without the library
        raise ForeignFormatError(f"{reason} OpenSlide does not start here ({error}). {INSTALL}") from error
    if openslide.OpenSlide.detect_format(str(path)) is None:
        if path.suffix.lower() == ".mrxs" and not (path.with_suffix("") / "Slidedat.ini").is_file():
            raise UnreadableImageError(
                f"'{path}' is only the cover of a 3DHISTECH MRXS slide. The slide itself lies in the folder "
                f"'{path.stem}' beside it (Slidedat.ini, Index.dat, Data*.dat), which is missing or incomplete: copy "
                "it too, under this name."
            )
        raise ForeignFormatError(
            f"{reason} (OpenSlide {openslide.__library_version__} does not know it either.) {CONVERT}"
        )
    request.of.check_one_image(path)
    if request.channels is not None:
        raise UnsupportedImageError(f"'{path}' is read through OpenSlide, as RGB only. Leave channels= out.")
    return OpenSlidePyramid(path)


class OpenSlidePyramid:
    """A slide opened by OpenSlide.

    Raises:
        UnreadableImageError: if OpenSlide cannot open it.
        UnsupportedImageError: if OpenSlide does not support it, or is known to show its colors wrongly.
    """

    reader = "openslide"
    channel_names = RGB_NAMES

    def __init__(self, path: Path) -> None:
        import openslide

        self._path = path
        try:
            self._slide: OpenSlide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            if UNSUPPORTED.search(str(error)):
                raise UnsupportedImageError(
                    f"'{path}' is of a kind that OpenSlide does not read: {error}. {CONVERT}"
                ) from error
            raise UnreadableImageError(
                f"'{path}' could not be opened by OpenSlide: {error}. Copy it again from its source, or: {CONVERT}"
            ) from error
        properties = dict(self._slide.properties)
        self.kind = properties["openslide.vendor"]
        if self.kind == "dicom":
            _check_dicom_colors(path, properties)
        self._bounds = _bounds(properties, self._slide.dimensions)
        self._downsamples = list(map(float, self._slide.level_downsamples))  # one for both axes
        self.levels = tuple(self._level(index) for index in range(self._slide.level_count))
        self.metadata = _metadata(properties, self._slide)
        self.associated: Loaders = {name: partial(self._associated, name) for name in self._slide.associated_images}

    def image(self, level: int) -> pyvips.Image:
        """A whole level as RGB, lazily, also after the pyramid is closed."""
        size, twin = self.levels[level].size, copy.copy(self)
        return TileSource(size, source_tile((TILE_PX, TILE_PX), size), partial(twin.region, level)).image()

    def lazy_image(self, level: int) -> pyvips.Image:
        """The same: `image` is lazy."""
        return self.image(level)

    def lazy_regions(self, level: int, shared_px: tuple[int, int]) -> None:
        """None: OpenSlide has a cache of its own, and is slow on large rectangles."""

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """A rectangle inside a level, (height, width, 3), on white."""
        import openslide

        down = self._downsamples[level]
        left, top = self._bounds[0] + round(x_px * down), self._bounds[1] + round(y_px * down)
        try:
            image = self._slide.read_region((left, top), level, (width_px, height_px))
        except openslide.OpenSlideError as error:
            raise UnreadableImageError(
                f"'{self._path}' could not be decoded by OpenSlide: {error}. Copy it again from its source."
            ) from error
        return on_white(np.asarray(image))

    def close(self) -> None:
        """Release the slide. OpenSlide closes it when the last lazy image of it is dropped."""
        del self._slide

    def _level(self, index: int) -> Level:
        """Clipped to the bounds: the canvas of an MRXS is mostly empty."""
        down, canvas = self._downsamples[index], self._slide.level_dimensions[index]
        width, height = (
            min(most, max(1, round(side / down))) for most, side in zip(canvas, self._bounds[2:], strict=True)
        )
        return Level(index, width, height, down, down)

    def _associated(self, name: str) -> pyvips.Image:
        return pyvips.Image.new_from_array(on_white(np.asarray(self._slide.associated_images[name].convert("RGBA"))))


def on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Straight (not premultiplied) RGBA, (height, width, 4), composited on white, (height, width, 3)."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    mixed = rgba[..., :3] * alpha + np.uint16(255) * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _bounds(properties: dict[str, str], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the scanned area in level-0 pixels; the whole canvas where not stated."""
    stated = [properties.get(f"openslide.bounds-{key}") for key in ("x", "y", "width", "height")]
    if any(value is None for value in stated):
        return 0, 0, *size
    x, y, width, height = (int(str(value)) for value in stated)
    return x, y, min(width, size[0] - x), min(height, size[1] - y)


def _metadata(properties: dict[str, str], slide: OpenSlide) -> SlideMetadata:
    x, y = (positive_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    spacings = () if x is None or y is None else (StatedSpacing("OpenSlide (openslide.mpp-x)", (x, y)),)
    power = positive_number(properties.get("openslide.objective-power"))
    return SlideMetadata(spacings, power, ("OpenSlide",), properties, _icc_profile(slide))


def _icc_profile(slide: OpenSlide) -> bytes | None:
    """The color profile; b"" for one that cannot be read, so that applying it raises."""
    try:
        profile: Any = slide.color_profile
    except Exception:  # Pillow's, of LittleCMS
        return b""
    return None if profile is None else bytes(profile.tobytes())


def _check_dicom_colors(path: Path, properties: dict[str, str]) -> None:
    """Raise for frames labeled RGB that are YCbCr (they have a JFIF header): OpenSlide shows false colors."""
    if properties.get("dicom.PhotometricInterpretation") != "RGB":
        return
    with path.open("rb") as file:
        data = file.read(SEARCHED_BYTES)
    at = data.find(JPEG_START + b"\xff")
    if at >= 0 and data[at + 6 : at + 10] == b"JFIF":
        raise UnsupportedImageError(
            f"'{path}' says its frames are RGB, but they are YCbCr JPEG (JFIF): OpenSlide would show false colors. "
            "Convert it again with a converter that writes PhotometricInterpretation YBR_FULL_422."
        )
