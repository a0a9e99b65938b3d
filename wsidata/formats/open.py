"""Opening an image file as a `Pyramid`, with one reader per format.

The format is detected from the first bytes: `.tif` may be BigTIFF, `.svs` is a TIFF, and a JPEG named `.png` still
opens. The extension decides only where a file is the cover of a slide stored beside it: an MRXS begins as a JPEG.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

import pyvips
from numpy.typing import NDArray

from wsidata.errors import (
    ForeignFormatError,
    LimitExceededError,
    SlideError,
    UnreadableImageError,
    UnsupportedImageError,
)
from wsidata.formats.channels import PixelRequest
from wsidata.formats.kept import KEPT
from wsidata.formats.levels import Level
from wsidata.formats.limits import check_limit, limits
from wsidata.formats.metadata import Loaders, SlideMetadata
from wsidata.formats.openslide import DICOM_AT, DICOM_SIGNATURE, foreign_format, open_foreign
from wsidata.formats.plain_image import PlainImagePyramid
from wsidata.formats.tiff.reader import TiffPyramid
from wsidata.remote.address import Address, SlidePath, needs_file
from wsidata.remote.source import open_file
from wsidata.utils.rectangle import PartReader

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
NO_IMAGES = {
    b"version https://git-lfs": "a Git LFS pointer, which stands for the file: fetch that with 'git lfs pull'",
    b"/annex/objects/": "a git-annex pointer, which stands for the file: fetch that with 'git annex get'",
    b"<!doctype html": "a web page, such as a server's answer in place of the file: download it again",
    b"<html": "a web page, such as a server's answer in place of the file: download it again",
}
"""What files are by their first bytes, in lower case, that often stand where an image should be, and the remedy."""
HEAD_BYTES = 132
ZIP_SIGNATURE = b"PK\x03\x04"
GZIP_SIGNATURE = b"\x1f\x8b\x08"


class Pyramid(Protocol):
    """An open image file with one or more resolution levels."""

    @property
    def kind(self) -> str:
        """Format of the file, such as "svs", "philips" or "jpeg"."""

    @property
    def reader(self) -> str:
        """Library that decodes the pixels: "libjpeg-turbo", "libvips", "tifffile", "zarr" or "openslide"."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The resolution levels, finest first, without spacing."""

    @property
    def metadata(self) -> SlideMetadata:
        """Spacings, magnification and other metadata as stated in the file."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the bands returned, in order."""

    @property
    def associated(self) -> Loaders:
        """Images beside the slide (label, macro, thumbnail), by name."""

    def image(self, level: int) -> pyvips.Image:
        """A whole level: uchar, 3 bands, sRGB, or the requested channels. Lazy where the decoder can be."""

    def lazy_image(self, level: int) -> pyvips.Image:
        """Like `image`, but never decoded ahead where the decoder can avoid it."""

    def lazy_regions(self, level: int, shared_px: tuple[int, int]) -> PartReader | None:
        """A thread-safe reader of the rectangles of one level, which also works after the pyramid is closed.

        None where that is no faster than `lazy_image`: decoders that do not read tile by tile.

        Args:
            level: The level.
            shared_px: Columns that rectangles side by side will share, and rows that one below the other will.
        """

    def region(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[Any]:
        """A rectangle inside a level, in that level's pixels: (height, width, bands)."""

    def close(self) -> None:
        """Close the file."""


def exists(path: Path) -> bool:
    """Whether a path is a file, or a folder that is a Zarr store."""
    return path.is_file() or any((path / name).is_file() for name in ZARR_METADATA)


def missing(path: Path) -> SlideError | FileNotFoundError:
    """The error for a path that is neither a file nor a Zarr store, which says what it is."""
    if not path.is_dir():
        return FileNotFoundError(f"slide '{path}' does not exist, or is no file. Check the path.")
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    frames = [name for name in names if name.lower().endswith(".dcm") or _is_dicom(path / name)]
    if frames:
        return UnsupportedImageError(
            f"'{path}' is a folder of DICOM files. Open one of them, such as '{path / frames[0]}': OpenSlide finds the "
            "others of its series."
        )
    if "Slidedat.ini" in names:
        return UnsupportedImageError(
            f"'{path}' is the data folder of a 3DHISTECH MRXS slide. Open the file beside it: '{path}.mrxs'."
        )
    return FileNotFoundError(f"slide '{path}' is no file, but a folder, and no OME-Zarr. Open a file in it.")


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(DICOM_AT + len(DICOM_SIGNATURE))[DICOM_AT:] == DICOM_SIGNATURE


def check_regular(path: Path) -> None:
    """Check that a path is a plain file: opening a named pipe would wait forever, and a device never ends.

    Raises:
        FileNotFoundError: if there is nothing.
        UnreadableImageError: if it is anything but a file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableImageError(f"'{path}' is no file (but a folder, pipe or device). Check the path.")


def open_pyramid(path: SlidePath, request: PixelRequest | None = None) -> Pyramid:
    """Open a slide, an OME-Zarr (a folder, or a ZIP archive) or a photo; as 8-bit RGB unless requested otherwise.

    At an address, a TIFF or an OME-Zarr.

    Raises:
        UnreadableImageError: if the file is damaged or not an image.
        LimitExceededError: if it asks for more than one of the `limits`.
        UnsupportedImageError: if it is intact but cannot be read as requested.
    """
    request = request or PixelRequest()
    key = path if isinstance(path, Address) else os.path.abspath(path), str(path), request, limits()
    kept = KEPT.take(key)
    if kept is not None:
        return kept
    pyramid = _opened(path, request)
    try:
        largest = max(pyramid.levels, key=lambda level: level.width * level.height)
        what = f"{largest.width:,} x {largest.height:,} pixels"
        check_limit("max_pixels", largest.width * largest.height, path, what)
    except LimitExceededError:
        pyramid.close()
        raise
    if isinstance(pyramid, TiffPyramid):
        pyramid.keep = partial(KEPT.put, key)
    return pyramid


def _opened(path: SlidePath, request: PixelRequest) -> Pyramid:
    if path.is_store if isinstance(path, Address) else path.is_dir():
        from wsidata.formats.omezarr import ZarrPyramid  # zarr is slow to import

        return ZarrPyramid(path, request)
    if isinstance(path, Path):
        check_regular(path)
    with ExitStack() as unless_taken:
        file = unless_taken.enter_context(open_file(path))
        head = file.read(HEAD_BYTES)
        _check_image(path, head)
        if head.startswith(ZIP_SIGNATURE):
            from wsidata.formats.omezarr import ZarrPyramid

            return ZarrPyramid(path, request)
        foreign = foreign_format(path, head)
        if foreign is not None:
            return _open_foreign(path, request, foreign)
        if head[:4] in TIFF_SIGNATURES:
            unless_taken.pop_all()
            try:
                return TiffPyramid(path, request, file)
            except ForeignFormatError as error:
                return _open_foreign(path, request, error)
    if isinstance(path, Address):
        raise needs_file(path, f"'{path}' is no TIFF")
    return PlainImagePyramid(path, request)


def _open_foreign(path: SlidePath, request: PixelRequest, reason: ForeignFormatError) -> Pyramid:
    if isinstance(path, Address):
        raise needs_file(path, str(reason)) from reason
    return open_foreign(path, request, reason)


def _check_image(path: SlidePath, head: bytes) -> None:
    """Raise for files that are known not to be images, by their first bytes."""
    if not head:
        raise UnreadableImageError(f"'{path}' is empty (0 bytes). Copy it again from its source.")
    if head.startswith(GZIP_SIGNATURE):
        if isinstance(path, Address):
            raise UnreadableImageError(f"'{path}' is compressed by gzip. Download it, and unpack it (gunzip).")
        unpacked = path.with_suffix("") if path.suffix == ".gz" else path.with_stem(f"{path.stem}-unpacked")
        raise UnreadableImageError(
            f"'{path}' is compressed by gzip. Unpack it first: gunzip -c {quote(str(path))} > {quote(str(unpacked))}"
        )
    for start, what in NO_IMAGES.items():
        if head.lstrip().lower().startswith(start):
            raise UnreadableImageError(f"'{path}' is {what}.")
