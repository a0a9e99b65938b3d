"""`Slide`: one picture at many resolutions, whatever the file behind it.

The class joins three things that know nothing of each other: a `Pyramid` (which levels a file has and how they are
decoded, `wsidata.formats`), the choice of a level and a factor (`wsidata.spacing`), and the spacing somebody believes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.formats import Pyramid, exists, open_pyramid
from wsidata.formats.associated import AssociatedImages
from wsidata.formats.colour import apply_profile
from wsidata.formats.facts import choose_spacing
from wsidata.formats.request import PixelRequest
from wsidata.formats.vips import naming_errors
from wsidata.spacing import (
    TOLERANCE,
    Level,
    Resampling,
    check_level,
    plan_downsample,
    plan_level,
    plan_magnification,
    plan_max_side,
    plan_mpp,
    with_spacing,
)

__all__ = ["Level", "Slide"]

WHITE = 255
UM_TIMES_POWER = 10.0
"""Of the usual scanners: 0.25 um/px at 40x, 0.5 at 20x."""


class Slide:
    """A whole-slide image or a photo, opened for reading.

    Reads Aperio SVS (JPEG and JPEG 2000), Philips TIFF, Hamamatsu NDPI, Leica SCN, Ventana BIF (without overlaps),
    Akoya QPTIFF, OME-TIFF, OME-Zarr 0.4 and 0.5, generic pyramidal TIFF and BigTIFF (levels as pages or as SubIFDs),
    plain TIFF, JPEG, PNG and WebP; MRXS, DICOM and what else OpenSlide knows where that is installed. Pixels are 8-bit
    sRGB, three bands, unless `channels` are chosen.

    A slide is opened at once, so that a bad file is refused here; it can be pickled (the file is opened again on first
    use, in the worker), and used in a `with` block. Not for use by several threads at a time.

    Args:
        path: The file.
        mpp_override: Spacing of level 0 in um per pixel, one number or (x, y), if you know better than the file. A
            contradiction warns.
        channels: For slides of many channels: numbers or names of those to read, such as `["DAPI", 3]`. Pixels then
            have one band per channel and the stored type (uint8, uint16 or float32).
        scale_to_8bit: `(low, high)`, the stored values that become 0 and 255, for samples of more than 8 bits. Without
            it such samples are handed out as they are (`channels`) or refused (RGB): no rule fits all cameras.
        derive_magnification: Where the metadata has no objective power, take 10 / spacing in um (0.25 um/px: 40x). Off,
            because it is a rule of thumb: 0.25 um/px is called 40x by one maker and 20x by the next.
        apply_icc: Turn the scanner's colours into sRGB by the colour profile in the file, where it has one. Off,
            because most published models were trained on the stored values.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if the file is damaged, cut off or no image.
        UnsupportedImageError: if it holds no 8-bit picture (16-bit, many channels, focal stacks) and nothing was said
            about how to read it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mpp_override: float | tuple[float, float] | None = None,
        channels: Sequence[int | str] | int | str | None = None,
        scale_to_8bit: tuple[float, float] | None = None,
        derive_magnification: bool = False,
        apply_icc: bool = False,
    ) -> None:
        self.path = Path(path)
        self._override = _checked_override(mpp_override)
        self._request = PixelRequest.checked(channels, scale_to_8bit)
        self._derive_magnification, self._apply_icc = derive_magnification, apply_icc
        self._closed = False
        self._opened: _Opened | None = None
        self._open()

    def _open(self) -> _Opened:
        if self._closed:
            raise ValueError(f"slide '{self.path}' is closed. Open it again with Slide(path).")
        if self._opened is None:
            if not exists(self.path):
                raise FileNotFoundError(f"slide '{self.path}' does not exist, or is no file. Check the path.")
            pyramid = open_pyramid(self.path, self._request)
            self._opened = _Opened(pyramid, self._override, self.path.name, self._derive_magnification)
        return self._opened

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
        """Spacing of level 0 in um per pixel, (x, y), or None if unknown."""
        return self._open().mpp

    @property
    def mpp_source(self) -> str | None:
        """Where `mpp` comes from, such as "Aperio description (MPP)"."""
        return self._open().mpp_source

    @property
    def magnification(self) -> float | None:
        """Objective power of level 0 as the metadata has it, or None; with `derive_magnification`, from the spacing."""
        return self._open().magnification

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the bands of this slide's images are: ("red", "green", "blue"), or the channels chosen."""
        return self._open().pyramid.channel_names

    @property
    def icc_profile(self) -> bytes | None:
        """The colour profile in the file, or None. Applied only with `apply_icc=True`."""
        return self._open().pyramid.facts.icc_profile

    @property
    def associated_images(self) -> AssociatedImages:
        """Pictures beside the slide by name, such as "label" and "macro"; each is decoded when it is looked up."""
        return AssociatedImages(self._open().pyramid.associated, self.path)

    @property
    def properties(self) -> dict[str, str]:
        """Other metadata, as text."""
        return dict(self._open().pyramid.facts.properties)

    @property
    def kind(self) -> str:
        """Sort of file: "svs", "philips", "ome", "ome-zarr", "generic", "jpeg" ..."""
        return self._open().pyramid.kind

    @property
    def reader(self) -> str:
        """Who decodes the pixels: "libjpeg-turbo" for tiles of JPEG, else "libvips", "tifffile" ..."""
        return self._open().pyramid.reader

    def image(
        self,
        *,
        level: int | None = None,
        mpp: float | tuple[float, float] | None = None,
        magnification: float | None = None,
        downsample: float | tuple[float, float] | None = None,
        max_side: int | None = None,
        tolerance: float = TOLERANCE,
    ) -> pyvips.Image:
        """The whole slide at one resolution, as a lazy image.

        Give at most one of the five; none of them means level 0. Other than with `level`, the coarsest level that is
        still fine enough is decoded and resampled (Lanczos) to exactly the spacing asked for. Sizes are rounded: see
        `wsidata.spacing`.

        Args:
            level: A pyramid level, untouched.
            mpp: um per output pixel, one number or (x, y).
            magnification: Objective power, where the metadata has that of level 0.
            downsample: Level-0 pixels per output pixel, one number or (x, y).
            max_side: Longer side of the output; a smaller slide is not enlarged.
            tolerance: A level this much coarser than asked for (as a fraction) still counts as fine enough.

        Returns:
            A pyvips image, uchar, 3 bands, sRGB. Small levels are decoded at once, of large ones tiles as they are used.

        Raises:
            TypeError: if more than one resolution is given.
            UnknownLevelError: naming the levels there are.
            SpacingUnknownError: for `mpp` or `magnification` on a slide that does not state its own.
            ResolutionUnavailableError: for more detail than level 0 has.
            UnreadableImageError: if the level's tiles are damaged.
        """
        plan = self._plan(level, mpp, magnification, downsample, max_side, tolerance)
        with naming_errors(self.path):
            return self._coloured(_resample(self._open().pyramid.image(plan.level), plan))

    def numpy(self, **resolution: Any) -> NDArray[Any]:
        """The whole slide at one resolution, decoded.

        Args:
            **resolution: As for `image`.

        Returns:
            (height, width, 3) uint8, or (height, width, channels) of the stored type.
        """
        image = self.image(**resolution)
        with naming_errors(self.path):
            return np.asarray(image.numpy()).reshape(image.height, image.width, image.bands)

    def thumbnail(self, max_side_px: int = 512) -> pyvips.Image:
        """The slide, its longer side `max_side_px` (or smaller, if the slide is), in memory."""
        image = self.image(max_side=max_side_px)
        with naming_errors(self.path):
            return image.copy_memory()

    def read_region(self, x_lv0: int, y_lv0: int, width: int, height: int, level: int = 0) -> NDArray[np.uint8]:
        """A rectangle of one level. As in OpenSlide, the place is in level-0 pixels, the size in the level's own.

        The first pixel is the level's pixel that holds the point (x_lv0, y_lv0). Outside the slide is white.

        Args:
            x_lv0: Left edge in pixels of level 0; may be negative.
            y_lv0: Top edge in pixels of level 0; may be negative.
            width: Columns, in pixels of `level`.
            height: Rows, in pixels of `level`.
            level: The level to read.

        Returns:
            (height, width, 3) uint8.

        Raises:
            ValueError: if the size is not positive.
            UnknownLevelError: naming the levels there are.
            UnreadableImageError: if a tile is damaged.
        """
        if width < 1 or height < 1:
            raise ValueError(f"read_region of '{self.path.name}': size {width}x{height} must be at least 1x1 pixel.")
        found = check_level(self.levels, level, self.path.name)
        left, top = math.floor(x_lv0 / found.downsample_x), math.floor(y_lv0 / found.downsample_y)
        out = np.full((height, width, 3), WHITE, dtype=np.uint8)
        x_from, x_to = max(left, 0), min(left + width, found.width)
        y_from, y_to = max(top, 0), min(top + height, found.height)
        if x_from < x_to and y_from < y_to:
            part = self._open().pyramid.region(level, x_from, y_from, x_to - x_from, y_to - y_from)
            out[y_from - top : y_to - top, x_from - left : x_to - left] = part
        return out

    def close(self) -> None:
        """Let go of the file. Images handed out before stay usable, and keep it open until they are dropped."""
        if self._opened is not None:
            self._opened.pyramid.close()
        self._opened, self._closed = None, True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __repr__(self) -> str:
        if self._closed:
            return f"Slide('{self.path}', closed)"
        spacing = "spacing unknown" if self.mpp is None else f"{self.mpp[0]:.4g} um/px ({self.mpp_source})"
        sizes = ", ".join(f"{level.width}x{level.height}" for level in self.levels)
        return f"Slide('{self.path}', {self.kind}, levels {sizes}, {spacing})"

    def _coloured(self, image: pyvips.Image) -> pyvips.Image:
        profile = self._open().pyramid.facts.icc_profile if self._apply_icc else None
        return image if profile is None else apply_profile(image, profile)

    def _plan(
        self,
        level: int | None,
        mpp: float | tuple[float, float] | None,
        magnification: float | None,
        downsample: float | tuple[float, float] | None,
        max_side: int | None,
        tolerance: float,
    ) -> Resampling:
        asked = {"level": level, "mpp": mpp, "magnification": magnification, "downsample": downsample}
        given = [name for name, value in (asked | {"max_side": max_side}).items() if value is not None]
        if len(given) > 1:
            raise TypeError(f"Slide.image takes one resolution, not {len(given)}: {', '.join(given)}.")
        name, levels = self.path.name, self.levels
        if mpp is not None:
            return plan_mpp(levels, mpp, tolerance=tolerance, name=name, checked=self._open().checked)
        if magnification is not None:
            return plan_magnification(levels, magnification, self.magnification, tolerance=tolerance, name=name)
        if downsample is not None:
            return plan_downsample(levels, downsample, tolerance=tolerance, name=name)
        if max_side is not None:
            return plan_max_side(levels, max_side)
        return plan_level(levels, level or 0, name)


class _Opened:
    """What is known only while the file is open."""

    def __init__(
        self, pyramid: Pyramid, override: tuple[float, float] | None, name: str, derive_magnification: bool
    ) -> None:
        facts = pyramid.facts
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


def _resample(image: pyvips.Image, plan: Resampling) -> pyvips.Image:
    """Shrink (or, within the tolerance, enlarge) by the plan's true factors, the top left corner in place.

    libvips centres its grid on the image it is given, so the image is first cut or continued, by about half an output
    pixel at most, to the width the output stands for. What remains is a shift of at most an eighth of an output pixel.
    """
    if plan.is_identity:
        return image
    width, height = _spanned(plan.width, plan.factor_x), _spanned(plan.height, plan.factor_y)
    if (width, height) != (image.width, image.height):
        image = image.gravity("north-west", width, height, extend="copy")
    return image.resize(1 / plan.factor_x, vscale=1 / plan.factor_y, kernel="lanczos3")


def _spanned(output_px: int, factor: float) -> int:
    """Input pixels that so many output pixels stand for, in whole blocks of libvips' first, box-shrinking step."""
    block = max(1, math.floor(factor / 2))
    return max(1, round(output_px * factor / block)) * block


def _checked_override(value: float | tuple[float, float] | None) -> tuple[float, float] | None:
    if value is None:
        return None
    x, y = value if isinstance(value, tuple) else (value, value)
    if not all(math.isfinite(one) and one > 0 for one in (x, y)):
        raise ValueError(f"mpp_override={value} must be a finite number of um per pixel above 0, or a pair (x, y).")
    return float(x), float(y)
