"""Photos and other plain images: JPEG, PNG, WebP and whatever else libvips reads. A pyramid of one level.

They have no spacing: the density tags of a photo are a wish about printing. EXIF orientation is applied, once, here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.associated import Loaders
from wsidata.formats.colour import ICC_FIELD, eight_bit_name, scaled_to_8bit, to_rgb
from wsidata.formats.facts import SlideFacts
from wsidata.formats.request import RGB_NAMES, PixelRequest
from wsidata.formats.segments import JPEG_START
from wsidata.formats.vips import naming_errors
from wsidata.spacing import Level


class PhotoPyramid:
    """An open plain image.

    libvips decodes these formats whole, on the first pixel asked for. That first pixel is asked for here, so that a
    damaged file is refused by name instead of failing in the middle of somebody's pipeline; the decoded picture is kept
    (in memory, above 100 MB in a temporary file) until `close`. Cut-off files are always noticed; altered bytes always
    in PNG (it has checksums), in JPEG and WebP only where they break the code.

    Args:
        path: The file.
        request: Scaling of samples of more than 8 bits. A photo has no channels to choose.

    Raises:
        UnreadableImageError: if libvips knows no image in it.
        UnsupportedImageError: if channels are asked for.
    """

    reader = "libvips"
    channel_names = RGB_NAMES

    def __init__(self, path: Path, request: PixelRequest | None = None) -> None:
        self._path, self._request = path, request or PixelRequest()
        if self._request.channels is not None:
            raise UnsupportedImageError(f"'{path}' is a photo, which is read as RGB. Leave channels= out.")
        self.associated: Loaders = {}
        try:
            header = self._load(access="sequential")
        except pyvips.Error as error:
            detail = " ".join(str(error).split())
            raise UnreadableImageError(
                f"'{path}' is no image that can be read here ({detail}). Readable are SVS, pyramidal TIFF, OME-TIFF, "
                "Philips TIFF, JPEG, PNG and WebP."
            ) from error
        self.kind = str(header.get("vips-loader")).removesuffix("load")
        self.levels = (Level(0, header.width, header.height, 1.0, 1.0),)
        fields = header.get_fields()
        self.facts = SlideFacts(
            checked=(f"a {self.kind} photo has none",),
            properties={"photo.kind": self.kind},
            icc_profile=bytes(header.get(ICC_FIELD)) if ICC_FIELD in fields else None,
        )
        self._image: pyvips.Image | None = None

    def image(self, level: int) -> pyvips.Image:
        """The picture as RGB, upright."""
        if self._image is None:
            with naming_errors(self._path):
                image = self._load(access="random")
                if self._request.scale_to_8bit is not None and image.format != "uchar":
                    image = scaled_to_8bit(image, self._request.scale_to_8bit).copy(
                        interpretation=eight_bit_name(image)
                    )
                image = to_rgb(image, self._path.name)
                image(0, 0)  # decodes all of it
            self._image = image
        return self._image

    def lazy_image(self, level: int) -> pyvips.Image:
        """The same: these formats are decoded whole."""
        return self.image(level)

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """A rectangle inside the picture, (height, width, 3)."""
        with naming_errors(self._path):
            part = self.image(level).crop(x_px, y_px, width_px, height_px)
            return np.asarray(part.numpy(), dtype=np.uint8)

    def close(self) -> None:
        """Drop the decoded picture."""
        self._image = None

    def _load(self, access: str) -> pyvips.Image:
        """Open with the strictest setting that sound files pass: many sound PNGs carry warnings, JPEGs do not."""
        with self._path.open("rb") as file:
            is_jpeg = file.read(2) == JPEG_START
        fail_on = "warning" if is_jpeg else "error"
        return pyvips.Image.new_from_file(str(self._path), access=access, fail_on=fail_on).autorot()
