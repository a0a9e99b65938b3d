"""How a pyramid is found in a file and decoded: one `Pyramid` per kind of file, chosen by the file's first bytes.

The extension is hardly asked: `.tif` may be BigTIFF, `.svs` is a TIFF, and a JPEG called `.png` still opens. Only where
a file is the cover of a slide that lies beside it (an MRXS begins as the JPEG it shows in a folder view) it decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wsidata.errors import ForeignFormatError, UnreadableImageError
from wsidata.formats.channels import PixelRequest

if TYPE_CHECKING:
    import pyvips
    from numpy.typing import NDArray

    from wsidata.formats.levels import Level
    from wsidata.formats.metadata import Loaders, SlideMetadata
    from wsidata.utils.rectangle import ReadRectangle

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GZIP_SIGNATURE = b"\x1f\x8b\x08"
ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup")


class Pyramid(Protocol):
    """An open file that holds one picture at one or more resolutions."""

    @property
    def kind(self) -> str:
        """What sort of file it is, such as "svs", "philips" or "jpeg"."""

    @property
    def reader(self) -> str:
        """Who decodes the pixels: "libjpeg-turbo", "libvips", "tifffile", "zarr", "openslide" ..."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The resolutions, finest first, without spacing."""

    @property
    def metadata(self) -> SlideMetadata:
        """What the metadata says about spacing, magnification and the rest."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Of the bands handed out, in order."""

    @property
    def associated(self) -> Loaders:
        """Pictures beside the slide, by name."""

    def image(self, level: int) -> pyvips.Image:
        """A whole level: uchar, 3 bands, sRGB, or the channels asked for. Lazy where the decoder can be."""

    def lazy_image(self, level: int) -> pyvips.Image:
        """As `image`, but never decoded ahead where the decoder can do without."""

    def lazy_regions(self, level: int, shared_px: tuple[int, int]) -> ReadRectangle | None:
        """Reads rectangles of a level like `region`, also after the pyramid is closed, for several threads at a time.

        None where that is no faster than `lazy_image`: decoders that do not read tile by tile.

        Args:
            level: The level.
            shared_px: Columns and rows that neighbouring rectangles will share: see `TiffTiles.kept_between`.
        """

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[Any]:
        """A rectangle of a level, wholly inside it, in that level's pixels: (height, width, bands)."""

    def close(self) -> None:
        """Let go of the file."""


def exists(path: Path) -> bool:
    """Whether there is a file, or a folder that is a Zarr store."""
    return path.is_file() or any((path / name).is_file() for name in ZARR_METADATA)


def open_pyramid(path: Path, request: PixelRequest | None = None) -> Pyramid:
    """Open a slide or a photo.

    Args:
        path: An existing file, or the folder of an OME-Zarr.
        request: Channels and scaling; None for 8-bit RGB.

    Raises:
        UnreadableImageError: if the file is damaged or no image.
        UnsupportedImageError: if it is sound but cannot be shown as asked.
    """
    request = request or PixelRequest()
    if path.is_dir():
        from wsidata.formats.omezarr import ZarrPyramid

        return ZarrPyramid(path, request)
    with path.open("rb") as file:
        head = file.read(132)
    if not head:
        raise UnreadableImageError(f"'{path}' is empty (0 bytes). Copy it again from its source.")
    if head.startswith(GZIP_SIGNATURE):
        raise UnreadableImageError(f"'{path}' is compressed by gzip. Unpack it first: gunzip '{path.name}'.")
    from wsidata.formats.openslide import foreign_format, open_foreign

    foreign = foreign_format(path, head)
    if foreign is not None:
        return open_foreign(path, request, foreign)
    if head[:4] in TIFF_SIGNATURES:
        from wsidata.formats.tiff.reader import TiffPyramid

        try:
            return TiffPyramid(path, request)
        except ForeignFormatError as refusal:
            return open_foreign(path, request, refusal)
    from wsidata.formats.image import PlainImagePyramid

    return PlainImagePyramid(path, request)
