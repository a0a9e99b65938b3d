"""Thumbnails of slides, photos and heat maps as small pictures inside a page."""

from __future__ import annotations

import io
from base64 import b64encode
from pathlib import Path, PurePath

from PIL import Image

from wsidata.photos.read import read_photo
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.slide import Slide

THUMBNAIL_PX = 360
HEAT_MAP_PX = 720

_PHOTOS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".avif"}
_QUALITY = 82


def thumbnail(path: str, unit: str, options: SlideOptions = AS_STORED) -> str:
    """A slide or photo as a data URI.

    Args:
        path: The file.
        unit: "photos", or what else is read as slides unless its suffix is that of photos.
        options: How slides are opened.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        ValueError: if it is an image of a kind that has no colors.
    """
    if not Path(path).exists():
        raise FileNotFoundError("the file is gone")
    if unit == "photos" or PurePath(path).suffix.lower() in _PHOTOS:
        return _data_uri(Image.fromarray(read_photo(path)), THUMBNAIL_PX)
    with Slide.from_options(path, options) as slide:
        pixels = slide.thumbnail(THUMBNAIL_PX).numpy()
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != "uint8":
        raise ValueError("the slide is not of 8-bit colors")
    return _data_uri(Image.fromarray(pixels), THUMBNAIL_PX)


def heat_map_picture(path: Path) -> str:
    """A picture of a heat map as a data URI.

    Raises:
        OSError: if it cannot be read.
    """
    with Image.open(path) as image:
        return _data_uri(image, HEAT_MAP_PX)


def _data_uri(image: Image.Image, side_px: int) -> str:
    if image.mode in ("RGBA", "LA", "P"):
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    image = image.convert("RGB")
    image.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"
