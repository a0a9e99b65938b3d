"""Checks of which TIFF directories are supported, as RGB without guessing or as channels."""

from __future__ import annotations

import numpy as np
import pyvips
import tifffile
from numpy.typing import NDArray

from wsidata.errors import UndecidedImageError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.channels import PLAIN_TYPES, choose_channels, scaling_hint
from wsidata.formats.codecs.color import to_rgb
from wsidata.formats.tiff.layout import TiffLayout
from wsidata.formats.tiff.photometric import (
    APERIO_YCBCR_COMPRESSION,
    FEW_BITS,
    MINISBLACK,
    MINISWHITE,
    PALETTE,
    RGB,
    SEPARATED,
    YCBCR,
)
from wsidata.formats.tiff.tile_header import COMPRESSIONS, FAX
from wsidata.formats.tiff.tile_index import JPEG_COMPRESSION
from wsidata.remote.address import SlidePath

ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
OLD_JPEG_COMPRESSION = 6
CONTIGUOUS, SEPARATE = 1, 2
"""Values of the tag PlanarConfiguration."""


def check_rgb(layout: TiffLayout, path: SlidePath, *, is_scaled: bool) -> None:
    """Check that a slide can be read as RGB, with samples that are of 8 bits or are scaled to 8.

    Raises:
        UnsupportedImageError: if it holds something else, naming what, and how to request it.
    """
    if len(layout.pages[0]) != 1:
        page, count = layout.pages[0][0], len(layout.pages[0])
        if page.photometric in (RGB, YCBCR, SEPARATED, MINISWHITE):
            several = f"Choose one: Slide(path, ...) takes series=0 to series={layout.images - 1}. Or save"
            choose = several if layout.images > 1 else "Save"
            raise UnsupportedImageError(
                f"'{path}' holds a stack of {count} images of {page.imagewidth}x{page.imagelength} px (pages, "
                f"focal planes or times), and does not say which is the slide. {choose} the one you need as a file of "
                f"its own: tifffile.imwrite('page.tif', tifffile.imread({str(path)!r}, key=0), "
                f"photometric='{'rgb' if page.photometric == YCBCR else page.photometric.name.lower()}')."
            )
        choose_channels(
            f"'{path}' holds a stack of {count} planes of {page.dtype}",
            layout.all_channel_names,
            "" if is_scaled else scaling_hint(page.dtype, page.bitspersample),
        )
    for (page,) in layout.pages:
        (check_colors if is_scaled else check_eight_bit)(page, path)


def has_planes(layout: TiffLayout) -> bool:
    """Whether a slide holds several samples of unstated color, in as many planes or side by side."""
    page = layout.pages[0][0]
    return page.photometric not in (RGB, YCBCR, SEPARATED) and len(layout.all_channel_names) > 1


def check_channels(layout: TiffLayout, path: SlidePath, *, is_scaled: bool, as_rgb: bool = False) -> None:
    """Check that the channels of a slide can be read, with samples that are of `PLAIN_TYPES` or are scaled to 8 bits.

    Of RGB (`as_rgb`), samples are of 8 bits or scaled.

    Raises:
        UnsupportedImageError: naming what cannot be read.
    """
    for page in (page for pages in layout.pages for page in pages):
        check_codec(page, path)
        is_lookup = page.photometric == PALETTE and len(layout.pages[0]) == 1  # in a stack it tells how to show planes
        if page.photometric == MINISWHITE or is_lookup:
            raise UnsupportedImageError(
                f"'{path}' holds white-is-zero gray or palette colors, which are no channels. Leave channels= out."
            )
    dtype = layout.pages[0][0].dtype
    if not is_scaled and str(dtype) not in (("uint8",) if as_rgb else PLAIN_TYPES):
        raise UndecidedImageError(
            f"'{path}' holds {dtype} samples, which can be read as 8 bits only. Say which stored values are black and "
            f"white{scaling_hint(dtype)}."
        )


def check_eight_bit(page: tifffile.TiffPage, path: SlidePath) -> None:
    """Check that a directory can be shown as 8-bit RGB without guessing.

    Raises:
        UnsupportedImageError: naming the directory, what it holds, and what to do.
    """
    _check_samples(page, path)
    if not is_eight_bit(page):
        raise UndecidedImageError(
            f"TIFF directory {page.index} of '{path}' holds {page.bitspersample}-bit {page.dtype} samples, not 8-bit "
            "ones from 0 to 255. There is no one right way to show them in 8 bits: say which stored values are "
            f"black and white{scaling_hint(page.dtype, page.bitspersample)}."
        )
    check_colors(page, path)


def is_eight_bit(page: tifffile.TiffPage) -> bool:
    """Whether the samples are 0..255, or fewer bits of gray or of a palette, which scale without a choice."""
    is_gray_or_palette = page.photometric in (MINISWHITE, MINISBLACK, PALETTE) and page.samplesperpixel == 1
    fits = page.bitspersample == 8 or (page.bitspersample in FEW_BITS and is_gray_or_palette)
    return fits and page.sampleformat in (1, None)


def check_colors(page: tifffile.TiffPage, path: SlidePath) -> None:
    """Check that the colors are gray, RGB or CMYK that is read here, whatever the depth of the samples.

    Raises:
        UnsupportedImageError: naming the directory, what it holds, and what to do.
    """
    _check_samples(page, path)
    what = f"TIFF directory {page.index} of '{path}'"
    alpha = len(page.extrasamples)
    if alpha and not (page.extrasamples[0] == UNASSOCIATED_ALPHA or is_premultiplied(page)):
        deep = page.extrasamples[0] == ASSOCIATED_ALPHA
        meaning = "a premultiplied alpha of more than 8 bits or of ink" if deep else "of no stated meaning"
        raise UnsupportedImageError(
            f"{what} has one more channel, {meaning}, which is not supported. Save it without, or with plain alpha."
        )
    if page.photometric == PALETTE and (alpha or page.colormap is None):
        lacks = "has transparency besides" if alpha else "lacks its color table"
        raise UnsupportedImageError(f"{what} is of palette colors and {lacks}, which is not supported. Save it as RGB.")
    if page.photometric == YCBCR and page.compression not in (JPEG_COMPRESSION, APERIO_YCBCR_COMPRESSION):
        old = " (or with JPEG of TIFF 6.0, compression 6)" if page.compression == OLD_JPEG_COMPRESSION else ""
        raise UnsupportedImageError(f"{what} is YCbCr without JPEG{old}, which is not supported. Save it as RGB.")
    if page.bitspersample > 8 and page.photometric in (MINISWHITE, PALETTE):
        raise UnsupportedImageError(
            f"{what} has {page.bitspersample}-bit samples of an unsupported kind. Save it as RGB."
        )
    check_codec(page, path)


def _check_samples(page: tifffile.TiffPage, path: SlidePath) -> None:
    """Check that the samples of a pixel are those of a color."""
    known = {MINISWHITE: 1, MINISBLACK: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3}
    colors, count, alpha = known.get(page.photometric), int(page.samplesperpixel), len(page.extrasamples)
    if colors is None or count != colors + alpha or alpha > 1 or page.imagedepth != 1:
        choose_channels(
            f"TIFF directory {page.index} of '{path}' has {count} channels (photometric {int(page.photometric)})",
            [str(number) for number in range(count)],
            scaling_hint(page.dtype, page.bitspersample),
        )


def check_codec(page: tifffile.TiffPage, path: SlidePath) -> None:
    """Check that the compression of a directory can be decoded, before its first pixel is read."""
    what = f"TIFF directory {page.index} of '{path}'"
    if page.planarconfig not in (CONTIGUOUS, SEPARATE):
        raise UnreadableImageError(
            f"{what} says that its samples are arranged in an unknown way (PlanarConfiguration {page.planarconfig}). "
            "Copy the file again from its source."
        )
    if page.compression not in COMPRESSIONS and page.compression != OLD_JPEG_COMPRESSION:
        raise UnsupportedImageError(
            f"{what} is compressed in an unknown way ({int(page.compression)}). Save the slide with "
            "JPEG, JPEG 2000, deflate, LZW or ZSTD."
        )
    if page.compression == OLD_JPEG_COMPRESSION:
        raise UnsupportedImageError(
            f"{what} holds JPEG of TIFF 6.0 (compression 6), which was abandoned in 1995 and is not supported. Save "
            "it with current JPEG (compression 7)."
        )
    if page.compression in FAX and page.is_subifd:
        raise UnsupportedImageError(f"{what} is a SubIFD in fax compression, which is not supported. Save it with LZW.")


def rgb_image(page: tifffile.TiffPage, pixels: NDArray[np.uint8], name: str) -> pyvips.Image:
    """8-bit samples of a directory, (height, width, samples) as `TiffTiles.read` returns them, as RGB on white."""
    if is_premultiplied(page):  # on black: add the missing white
        pixels = np.minimum(pixels[..., :-1].astype(np.uint16) + (255 - pixels[..., -1:]), 255).astype(np.uint8)
    image = pyvips.Image.new_from_array(pixels)
    return to_rgb(image.copy(interpretation=interpretation_of(page)), name)


def is_premultiplied(page: tifffile.TiffPage) -> bool:
    """Whether the colors, gray or RGB of 8 bits, were multiplied by an alpha beside them."""
    has_alpha = len(page.extrasamples) == 1 and page.extrasamples[0] == ASSOCIATED_ALPHA
    return has_alpha and page.photometric in (MINISBLACK, RGB) and page.bitspersample == 8


def orientation_of(page: tifffile.TiffPage, path: SlidePath) -> int:
    """Orientation of a directory, 1 to 8; 1, upright, where it states none.

    Raises:
        UnsupportedImageError: if it states one that does not exist.
    """
    orientation = int(page.tags.valueof("Orientation", 1)) or 1
    if orientation > 8:
        raise UnsupportedImageError(
            f"TIFF directory {page.index} of '{path}' has the unknown Orientation {orientation}. Save it upright."
        )
    return orientation


def common_orientation(layout: TiffLayout, path: SlidePath) -> int:
    """Orientation of all levels.

    Raises:
        UnsupportedImageError: if they are not all the same.
    """
    found = {page.index: orientation_of(page, path) for pages in layout.pages for page in pages}
    if len(set(found.values())) > 1:
        listing = ", ".join(f"directory {index}: {orientation}" for index, orientation in found.items())
        raise UnsupportedImageError(
            f"'{path}': the levels or channels are stored turned or mirrored in different ways (Orientation of "
            f"{listing}), so they cannot be laid on each other. Save the slide upright."
        )
    return next(iter(found.values()))


def interpretation_of(page: tifffile.TiffPage) -> str:
    """Interpretation in libvips of the samples of a directory, as `TiffTiles.read` returns them."""
    return {SEPARATED: "cmyk", MINISWHITE: "b-w", MINISBLACK: "b-w"}.get(page.photometric, "srgb")
