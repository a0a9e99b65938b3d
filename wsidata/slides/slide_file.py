"""An open slide file and its metadata; opened at once, and again in the process it was pickled to.

The levels of a file and their decoding depend on its format (`wsidata.formats`); its resolution on its metadata, unless
the caller overrides it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pyvips

from wsidata.errors import SlideError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.levels import Level, with_spacing
from wsidata.formats.metadata import AssociatedImages, choose_spacing, spacing_conflicts
from wsidata.formats.open import Pyramid, exists, missing, open_pyramid
from wsidata.formats.plain_image import PlainImagePyramid
from wsidata.formats.tiff.reader import TiffPyramid
from wsidata.remote.address import SlidePath, slide_path
from wsidata.slides.options import SlideOptions
from wsidata.staging.copying import Facts
from wsidata.utils.retries import retried
from wsidata.utils.same_file import FileWatch

if TYPE_CHECKING:
    from wsidata.staging.stage import Stage, StagedCopy

WHITE = 255
UM_TIMES_POWER = 10.0
"""mpp times objective power of the usual scanners: 0.25 um/px at 40x, 0.5 at 20x."""


class SlideFile:
    """An open pyramid and its metadata; for the arguments see `Slide`."""

    def __init__(
        self,
        path: str | SlidePath,
        *,
        mpp_override: float | tuple[float, float] | None = None,
        channels: Sequence[int | str] | int | str | None = None,
        scale_to_8bit: tuple[float, float] | None = None,
        derive_magnification: bool = False,
        apply_icc: bool = False,
        stage: Stage | None = None,
        series: int | None = None,
        z: int | None = None,
        t: int | None = None,
    ) -> None:
        self.path = slide_path(path)
        self._stage = stage
        self._copy: StagedCopy | None = None
        self._seen: Facts | None = None  # of what was read through the stage
        self.options = SlideOptions(mpp_override, channels, scale_to_8bit, apply_icc, series, z, t)
        self._request = self.options.request
        self._derive_magnification = derive_magnification
        self._closed = False
        self._opened: _Opened | None = None
        self._open()

    def _open(self) -> _Opened:
        if self._closed:
            raise ValueError(f"slide '{self.path}' is closed. Open it again with Slide(path).")
        if self._opened is None:
            pyramid = retried(self._pyramid, self.path)
            _check_still(pyramid, self.path)
            self._opened = _Opened(pyramid, self.options.override, self.path.name, self._derive_magnification)
        return self._opened

    def _pyramid(self) -> Pyramid:
        """The file, opened; or its copy, made now if there is none."""
        self._copy = None if self._stage is None else self._stage.copy_of(self.path)
        if self._stage is None or self._copy is None:
            return self._source_pyramid()
        self._check_same(self._copy.facts)
        try:
            return open_pyramid(self._copy.path, self._request)
        except (SlideError, OSError, pyvips.Error) as error:
            self._copy.close()
            pyramid = self._source_pyramid()
            self._stage.reject(self.path, error)
            return pyramid

    def _check_same(self, facts: Facts) -> None:
        """Check that a slide which is opened again, as by another process, is the one it was."""
        if self._seen not in (None, facts):
            raise UnreadableImageError(f"'{self.path}' was replaced by another file while it was read. Open it again.")
        self._seen = facts

    def without_stage(self) -> Self | None:
        """The slide, not opened, to be read from its own file; None if it is read from there anyway."""
        if self._stage is None:
            return None
        twin = copy.copy(self)
        twin._stage, twin._closed = None, False
        return twin

    def _source_pyramid(self) -> Pyramid:
        if self._seen is not None:
            self._check_same(Facts.of(self.path))
        if isinstance(self.path, Path):
            with suppress(FileNotFoundError, NotADirectoryError):
                self.path.stat()  # raises what is wrong with a mount, which `exists` may take for an absent file
            if not exists(self.path):
                raise missing(self.path)
        return open_pyramid(self.path, self._request)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, finest level first."""
        return self._open().levels

    @property
    def level_count(self) -> int:
        """Number of levels, at least 1."""
        return len(self.levels)

    @property
    def width(self) -> int:
        """Columns of level 0."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Rows of level 0."""
        return self.levels[0].height

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Resolution of level 0 in um per pixel, (x, y), or None if unknown."""
        return self._open().mpp

    @property
    def mpp_source(self) -> str | None:
        """Where `mpp` comes from, such as "Aperio description (MPP)"."""
        return self._open().mpp_source

    @property
    def conflicts(self) -> tuple[str, ...]:
        """What a `SpacingConflictWarning` said when the slide was opened: sources that state another resolution."""
        return spacing_conflicts(self._open().pyramid.metadata.spacings, self.options.override, self.path.name)

    @property
    def magnification(self) -> float | None:
        """Objective power of level 0 by the metadata, or None; with `derive_magnification`, from the mpp."""
        return self._open().magnification

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the bands of this slide's images: ("red", "green", "blue"), or the chosen channels."""
        return self._open().pyramid.channel_names

    @property
    def background(self) -> int:
        """Pixel value outside the slide: 255, white; 0, no light, where channels were chosen."""
        return WHITE if self._request.channels is None else 0

    @property
    def icc_profile(self) -> bytes | None:
        """The color profile in the file, or None. Applied only with `apply_icc=True`."""
        return self._open().pyramid.metadata.icc_profile

    @property
    def associated_images(self) -> AssociatedImages:
        """Images beside the slide by name, such as "label" and "macro"; each is decoded when it is looked up."""
        return AssociatedImages(self._open().pyramid.associated, self.path)

    @property
    def properties(self) -> dict[str, str]:
        """Other metadata, as text."""
        return dict(self._open().pyramid.metadata.properties)

    @property
    def kind(self) -> str:
        """Sort of file: "svs", "philips", "ome", "ome-zarr", "generic", "jpeg" ..."""
        return self._open().pyramid.kind

    @property
    def reader(self) -> str:
        """Decoder of the pixels: "libjpeg-turbo" for JPEG tiles, "tifffile" for others, "libvips" for photos ..."""
        return self._open().pyramid.reader

    @property
    def is_one_file(self) -> bool:
        """Whether it is read from its file alone; OpenSlide and a folder of OME-Zarr read others, too."""
        pyramid = self._open().pyramid
        is_archive = pyramid.reader == "zarr" and isinstance(self.path, Path) and self.path.is_file()
        return isinstance(pyramid, (TiffPyramid, PlainImagePyramid)) or is_archive

    def watch(self) -> FileWatch | None:
        """Tells whether the file is still the same; None if that is not known of what is read.

        It is known of a TIFF that is read where it is, not of a copy, nor of the files that other formats consist of.
        """
        pyramid = self._open().pyramid
        return pyramid.watch() if self._stage is None and isinstance(pyramid, TiffPyramid) else None

    def close(self) -> None:
        """Close the file. Images made from it stay usable, and keep it open until they are dropped."""
        if self._opened is not None:
            self._opened.pyramid.close()
        if self._copy is not None:
            self._copy.close()
        self._opened, self._closed = None, True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_copy": None}

    def __repr__(self) -> str:
        if self._closed:
            return f"Slide('{self.path}', closed)"
        spacing = "spacing unknown" if self.mpp is None else f"{self.mpp[0]:.4g} um/px ({self.mpp_source})"
        sizes = ", ".join(f"{level.width}x{level.height}" for level in self.levels)
        return f"Slide('{self.path}', {self.kind}, levels {sizes}, {spacing})"


def _check_still(pyramid: Pyramid, path: SlidePath) -> None:
    """Raise for animations: which of their frames is the slide is not known."""
    if isinstance(pyramid, PlainImagePyramid) and pyramid.frames > 1:
        raise UnsupportedImageError(
            f"'{path}' is an animation ({pyramid.kind}) of {pyramid.frames} frames, not one image. Save the frame you "
            f"need: image = PIL.Image.open({str(path)!r}); image.seek(0); image.save('frame.png')"
        )


class _Opened:
    """Facts that are known only while the file is open."""

    def __init__(
        self, pyramid: Pyramid, override: tuple[float, float] | None, name: str, derive_magnification: bool
    ) -> None:
        facts = pyramid.metadata
        self.pyramid = pyramid
        self.mpp, self.mpp_source = choose_spacing(facts.spacings, override, name)
        self.levels = with_spacing(pyramid.levels, self.mpp)
        self.magnification = facts.magnification
        if self.magnification is None and self.mpp is not None and derive_magnification:
            self.magnification = UM_TIMES_POWER / (sum(self.mpp) / 2)
        refused = [
            f"{fact.source} says an implausible {fact.mpp[0]:.4g} x {fact.mpp[1]:.4g} um/px" for fact in facts.spacings
        ]
        self.checked = "; ".join([", ".join(facts.checked), *refused])
