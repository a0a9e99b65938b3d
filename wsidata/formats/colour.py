"""Any 8-bit picture to the one kind wsidata hands out: sRGB, uchar, 3 bands.

Two things must not happen here in silence: a fourth band that is dropped although it is ink (CMYK) or transparency, and
16-bit data squeezed to 8 bits by a rule nobody chose.
"""

from __future__ import annotations

import pyvips

from wsidata.errors import UnsupportedImageError

WHITE = (255, 255, 255)


def to_rgb(image: pyvips.Image, name: str) -> pyvips.Image:
    """Show a picture as sRGB, lazily.

    Grey becomes RGB, CMYK goes through its profile (or libvips' generic press profile), transparency is composited on
    white. ICC profiles of RGB pictures are not applied: scanners' profiles differ, and most published models were
    trained on the stored values.

    Args:
        image: Any pyvips image.
        name: Its file name, for errors.

    Raises:
        UnsupportedImageError: for anything but 8 bits a channel.
    """
    if image.format != "uchar":
        raise UnsupportedImageError(
            f"'{name}' holds {image.format} samples, not 8-bit ones. There is no one right way to show them in 8 bits "
            "(microscopes use 12 or 14 of 16 bits): rescale it yourself and save an 8-bit RGB TIFF."
        )
    if image.interpretation == "cmyk":
        image = image.icc_transform("srgb", embedded=True, input_profile="cmyk")
    elif image.bands in (1, 2) or image.interpretation not in ("srgb", "rgb"):
        if image.bands not in (1, 2, 3, 4):
            raise UnsupportedImageError(
                f"'{name}' has {image.bands} channels, which are no RGB picture. Export the channels you need as RGB."
            )
        image = image.copy(interpretation="b-w" if image.bands < 3 else "srgb").colourspace("srgb")
    if image.bands == 4:
        image = image.flatten(background=list(WHITE))
    if image.bands != 3:
        raise UnsupportedImageError(f"'{name}' has {image.bands} channels; an RGB picture has 3.")
    return image.cast("uchar").copy(interpretation="srgb")
