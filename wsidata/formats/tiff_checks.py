"""What a TIFF directory has to be to be shown as an 8-bit RGB picture without guessing."""

from __future__ import annotations

from pathlib import Path

import tifffile

from wsidata.errors import UnsupportedImageError
from wsidata.formats.segments import APERIO_YCBCR_COMPRESSION, JPEG_COMPRESSION

RGB, YCBCR, MINISBLACK = 2, 6, 1
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2


def check_picture(page: tifffile.TiffPage, path: Path) -> None:
    """Refuse what could only be shown as 8-bit RGB by guessing.

    Args:
        page: A directory of the slide.
        path: The file, for errors.

    Raises:
        UnsupportedImageError: naming the directory, what it holds, and what to do.
    """
    what = f"TIFF directory {page.index} of '{path}'"
    if page.bitspersample not in (1, 8) or page.sampleformat not in (1, None):
        raise UnsupportedImageError(
            f"{what} holds {page.bitspersample}-bit {page.dtype} samples, not 8-bit ones. There is no one right way to "
            "show them in 8 bits: rescale it yourself and save an 8-bit RGB TIFF."
        )
    known = {0: 1, MINISBLACK: 1, RGB: 3, 3: 1, 5: 4, YCBCR: 3}
    colours = known.get(page.photometric)
    alpha = len(page.extrasamples)
    if colours is None or page.samplesperpixel != colours + alpha or alpha > 1 or page.imagedepth != 1:
        raise UnsupportedImageError(
            f"{what} has {page.samplesperpixel} channels (photometric {int(page.photometric)}), which are no grey, RGB "
            "or CMYK picture. Export it as RGB."
        )
    if alpha and page.extrasamples[0] != UNASSOCIATED_ALPHA:
        meaning = "a premultiplied alpha" if page.extrasamples[0] == ASSOCIATED_ALPHA else "of no stated meaning"
        raise UnsupportedImageError(
            f"{what} has one more channel, {meaning}, which is not read here. Save it without, or with plain alpha."
        )
    if page.photometric == YCBCR and page.compression not in (JPEG_COMPRESSION, APERIO_YCBCR_COMPRESSION):
        raise UnsupportedImageError(f"{what} is YCbCr without JPEG, which is not read here. Save it as RGB.")
    orientation = page.tags.get("Orientation")
    if orientation is not None and orientation.value not in (0, 1):
        raise UnsupportedImageError(
            f"{what} is to be shown turned or mirrored (Orientation {orientation.value}). Save it upright."
        )
