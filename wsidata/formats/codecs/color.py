"""Conversion of images to 8-bit sRGB of 3 bands, and scaling of deeper samples to 8 bits.

Two things must not happen silently: dropping a fourth band that is ink (CMYK) or transparency, and scaling 16-bit data
to 8 bits by a rule that was not requested.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.errors import UndecidedImageError, UnsupportedImageError
from wsidata.formats.channels import PixelRequest

WHITE = (255, 255, 255)
VIPS_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
"""Types of samples that libvips has, apart from complex numbers."""


def requested_image(pixels: NDArray[Any], interpretation: str, request: PixelRequest, name: str) -> pyvips.Image:
    """Stored samples, (height, width, bands), as RGB or as the requested channels; scaled if requested and not 8-bit.

    `interpretation` is libvips' name for the meaning of the bands where no channels are requested.
    """
    meaning = interpretation if request.channels is None else "multiband"
    native = pixels.dtype.newbyteorder("=")
    known = pixels.astype(native if native.name in VIPS_TYPES else np.float64, copy=False)
    image = pyvips.Image.new_from_array(known).copy(interpretation=meaning)
    if request.scale_to_8bit is not None and image.format != "uchar":
        image = scaled_to_8bit(image, request.scale_to_8bit).copy(interpretation=meaning)
    return to_rgb(image, name) if request.channels is None else channels_image(image)


def to_rgb(image: pyvips.Image, name: str) -> pyvips.Image:
    """An image as sRGB, lazily.

    Gray becomes RGB, CMYK goes through its profile (or libvips' generic press profile), transparency is composited on
    white. ICC profiles of RGB images are not applied: scanners' profiles differ, and most published models were trained
    on the stored values.

    Raises:
        UnsupportedImageError: for anything but 8 bits per channel.
    """
    if image.format != "uchar":
        raise UndecidedImageError(
            f"'{name}' holds {image.format} samples, not 8-bit ones. There is no one right way to show them in 8 bits "
            "(microscopes use 12 or 14 of 16 bits): say which stored values are black and white, such as "
            "scale_to_8bit=(0, 65535)."
        )
    if image.interpretation == "cmyk":
        image = image.icc_transform("srgb", embedded=True, input_profile="cmyk")
    elif image.bands in (1, 2) or image.interpretation not in ("srgb", "rgb"):
        if image.bands not in (1, 2, 3, 4):
            raise UnsupportedImageError(
                f"'{name}' has {image.bands} channels, which are no RGB image. Export the channels you need as RGB."
            )
        image = image.copy(interpretation="b-w" if image.bands < 3 else "srgb").colourspace("srgb")
    if image.bands == 4:
        image = image.flatten(background=list(WHITE))
    if image.bands != 3:
        raise UnsupportedImageError(f"'{name}' has {image.bands} channels; an RGB image has 3.")
    return image.cast("uchar").copy(interpretation="srgb")


def scaled_to_8bit(image: pyvips.Image, low_high: tuple[float, float]) -> pyvips.Image:
    """Stored values scaled to 0..255: `low` becomes 0, `high` 255, rounded and clipped.

    An alpha band that libvips recognizes is scaled by its own range.
    """
    low, high = low_high
    step = 255 / (high - low)
    if image.hasalpha():
        colors, alpha = image.extract_band(0, n=image.bands - 1), image.extract_band(image.bands - 1)
        opaque = {"uchar": 255, "ushort": 65535, "uint": 2**32 - 1}.get(image.format, 1.0)
        return scaled_to_8bit(colors.copy(interpretation="multiband"), low_high).bandjoin(
            scaled_to_8bit(alpha.copy(interpretation="multiband"), (0, opaque))
        )
    return image.cast("double").linear(step, -low * step).rint().cast("uchar")


def eight_bit_name(image: pyvips.Image) -> str:
    """Libvips' interpretation of a deeper image once it has 8 bits."""
    return {"grey16": "b-w", "rgb16": "srgb"}.get(image.interpretation, str(image.interpretation))


def channels_image(image: pyvips.Image) -> pyvips.Image:
    """Channels with the interpretation libvips needs: three as RGB, one as gray, others as multiband."""
    names = {("uchar", 1): "b-w", ("uchar", 3): "srgb", ("ushort", 1): "grey16", ("ushort", 3): "rgb16"}
    return image.copy(interpretation=names.get((image.format, image.bands), "multiband"))
