"""How a pyramid is found in a file and decoded: one `Pyramid` per kind of file, chosen by the file's first bytes.

The extension is not asked: `.tif` may be BigTIFF, `.svs` is a TIFF, and a JPEG called `.png` still opens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from wsidata.errors import UnreadableImageError

if TYPE_CHECKING:
    import numpy as np
    import pyvips
    from numpy.typing import NDArray

    from wsidata.formats.facts import SlideFacts
    from wsidata.spacing import Level

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Pyramid(Protocol):
    """An open file that holds one picture at one or more resolutions."""

    @property
    def kind(self) -> str:
        """What sort of file it is, such as "svs", "philips" or "jpeg"."""

    @property
    def reader(self) -> str:
        """Who decodes the pixels: "libvips" or "tifffile"."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The resolutions, finest first, without spacing."""

    @property
    def facts(self) -> SlideFacts:
        """What the metadata says about spacing, magnification and the rest."""

    def image(self, level: int) -> pyvips.Image:
        """A whole level: uchar, 3 bands, sRGB. Lazy where the decoder can be."""

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """A rectangle of a level, wholly inside it, in that level's pixels: (height, width, 3)."""

    def close(self) -> None:
        """Let go of the file."""


def open_pyramid(path: Path) -> Pyramid:
    """Open a slide or a photo.

    Args:
        path: An existing file.

    Raises:
        UnreadableImageError: if the file is damaged or no image.
        UnsupportedImageError: if it is sound but cannot be shown as 8-bit RGB.
    """
    with path.open("rb") as file:
        signature = file.read(4)
    if not signature:
        raise UnreadableImageError(f"'{path}' is empty (0 bytes). Copy it again from its source.")
    if signature in TIFF_SIGNATURES:
        from wsidata.formats.tiff import TiffPyramid

        return TiffPyramid(path)
    from wsidata.formats.photo import PhotoPyramid

    return PhotoPyramid(path)
