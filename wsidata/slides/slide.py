"""`Slide`, one image at many resolutions, in any file format.

The class joins three independent parts: the open file and its metadata (`slide_file`), the choice of a level and a
factor (`wsidata.formats.levels`), and the resampling of a level (`wsidata.slides.resample`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyvips
from numpy.typing import NDArray

from wsidata.errors import (
    SlideError,
    SpacingUnknownError,
    UndecidedImageError,
    UnknownPlaneError,
    UnsupportedImageError,
)
from wsidata.formats.codecs.icc import by_profile
from wsidata.formats.levels import TOLERANCE, Resampling
from wsidata.formats.resolution import Resolution
from wsidata.formats.vips import DECODED_AT_ONCE_BYTES, cached_tiles, naming_errors, pixels_of
from wsidata.slides.info import SlideInfo, slide_facts, slide_html
from wsidata.slides.options import SlideOptions
from wsidata.slides.resample import ReadRegion, ResampledRegions, output_pixel, pixel_span, resample, shared_px
from wsidata.slides.slide_file import SlideFile
from wsidata.slides.tissue.crop import CropKind, TissueCrop, as_crop
from wsidata.slides.tissue.mask import (
    MASK_MAX_SIDE_PX,
    MASK_MPP,
    TissueMask,
    apply_method,
    check_mask,
    check_sees_colors,
)
from wsidata.slides.tissue.methods import SlideMethod, TissueMethod, find_tissue
from wsidata.utils.rectangle import PartReader, Pixels, ReadParts, Rectangle

if TYPE_CHECKING:
    from wsidata.slides.lazy_image import LazyImage
    from wsidata.staging.stage import Stage
    from wsidata.transforms.to_tensor import DType


class Slide(SlideFile):
    """A whole-slide image or a photo, opened for reading.

    Reads Aperio SVS (JPEG and JPEG 2000), Philips TIFF, Hamamatsu NDPI, Leica SCN, Ventana BIF (without overlaps),
    Akoya QPTIFF, OME-TIFF, OME-Zarr 0.4 and 0.5, generic pyramidal TIFF and BigTIFF (levels as pages or as SubIFDs),
    plain TIFF, JPEG, PNG and WebP; MRXS, DICOM and other formats of OpenSlide where that is installed. Pixels are 8-bit
    sRGB, three bands, unless `channels` are chosen.

    A slide is opened at once, so that a bad file raises here; it can be pickled (the file is opened again on first use,
    in the worker), and used in a `with` block. Not for several threads at a time.

    Args:
        path: The file; of OME-Zarr the folder, or a ZIP archive of it. Or the address of one on a server, such as
            "https://host/slide.tif"; of TIFF and OME-Zarr.
        mpp_override: um per pixel of level 0 to use instead of the file's own, one number or (x, y). A contradiction
            warns.
        channels: For slides of many channels: numbers or names of those to read, such as `["DAPI", 3]`. Pixels then
            have one band per channel and the stored type (uint8, uint16 or float32). "rgb": three channels of unstated
            colors are red, green and blue.
        scale_to_8bit: `(low, high)`, the stored values that become 0 and 255, for samples of more than 8 bits. Without
            it such samples keep their type (`channels`) or raise an error (RGB): no rule fits all cameras.
        derive_magnification: Where the metadata has no objective power, use 10 / mpp (0.25 um/px: 40x). Off by default,
            because it is a rule of thumb: 0.25 um/px is called 40x by one maker and 20x by the next.
        apply_icc: Convert the scanner's colors to sRGB by the color profile in the file, where it has one. Off by
            default, because most published models were trained on the stored values.
        stage: Local folder that the file is copied to, and read from. None: it is read where it is.
        series: Number of the image, from 0, in a file of several (TIFF, OME-TIFF, Leica SCN, OME-Zarr). None: the one
            that is the slide; an error lists them where that is not clear.
        z: Number of the focal plane, from 0, of a stack. None: there is only one, or an error says how many.
        t: Number of the point in time, likewise.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if the file is damaged, truncated or no image.
        UnsupportedImageError: if it is no 8-bit RGB image (16-bit, many channels, focal stacks) and no argument says
            how to read it; or if it has no such image or plane.
    """

    @classmethod
    def from_options(cls, path: str | Path, options: SlideOptions, stage: Stage | None = None) -> Self:
        """Open a slide with the arguments that `options` hold."""
        return cls(path, **vars(options), stage=stage)

    def image(
        self,
        *,
        level: int | None = None,
        mpp: float | tuple[float, float] | None = None,
        magnification: float | None = None,
        downsample: float | tuple[float, float] | None = None,
        max_side: int | None = None,
        tolerance: float = TOLERANCE,
        keep_tiles: bool = False,
    ) -> pyvips.Image:
        """The whole slide at one resolution, as a lazy image.

        Pass at most one of the first five arguments; none means level 0. Other than with `level`, the coarsest level
        that is still fine enough is decoded and resampled (Lanczos) to exactly the requested resolution. Sizes are
        rounded: see `wsidata.formats.levels`.

        Args:
            level: A pyramid level, untouched.
            mpp: um per output pixel, one number or (x, y).
            magnification: Objective power, where the metadata has that of level 0.
            downsample: Level-0 pixels per output pixel, one number or (x, y).
            max_side: Longer side of the output; a smaller slide is not enlarged.
            tolerance: A level this much coarser than requested (as a fraction) still counts as fine enough.
            keep_tiles: Decode nothing ahead, and keep decoded tiles between requests: for an image read in strips (see
                `wsidata.formats.vips.cached_tiles`).

        Returns:
            A pyvips image, uchar, 3 bands, sRGB (or the chosen channels). Small levels are decoded at once, large ones
            tile by tile as they are used.

        Raises:
            TypeError: if more than one resolution is given.
            UnknownLevelError: naming the levels there are.
            SpacingUnknownError: for `mpp` or `magnification` on a slide that does not state its own.
            ResolutionUnavailableError: for more detail than level 0 has.
            UnreadableImageError: if the level's tiles are damaged.
        """
        plan = self._plan(Resolution(level, mpp, magnification, downsample, max_side, tolerance))
        pyramid, to_color = self._open().pyramid, self._to_color()
        with naming_errors(self.path):
            decoded = cached_tiles(pyramid.lazy_image(plan.level)) if keep_tiles else pyramid.image(plan.level)
            image = resample(decoded, plan)
            return image if to_color is None else to_color(image)

    def numpy(self, **resolution: Any) -> NDArray[Any]:
        """The whole slide at one resolution, decoded.

        Args:
            **resolution: As for `image`.

        Returns:
            (height, width, 3) uint8, or (height, width, channels) of the stored type.
        """
        requested = Resolution.of(resolution)
        if requested.is_level:  # straight from the decoder
            plan = self._plan(requested)
            return self._region(plan, Rectangle(0, 0, plan.width, plan.height))
        image = self.image(**requested)
        with naming_errors(self.path):
            return pixels_of(image)

    def thumbnail(self, max_side_px: int = 512) -> pyvips.Image:
        """The slide, its longer side `max_side_px` or less, in memory."""
        image = self.image(max_side=max_side_px)
        with naming_errors(self.path):
            return image.copy_memory()

    def lazy(
        self,
        *,
        crop: CropKind | TissueCrop | None = None,
        transform: Any = None,
        seed: int = 0,
        dtype: DType = "uint8",
        **resolution: Any,
    ) -> LazyImage:
        """The slide as an image whose rows are decoded on request; stays usable when the slide is closed.

        Args:
            crop: "tissue" for the bounding box of the tissue, "pack" for its pieces close together on white, or a
                `TissueCrop` with its settings. The tissue is detected now.
            transform: Applied to the image, lazily: one of `wsidata.transforms`, an albumentationsxl pipeline, or a
                callable on a pyvips image.
            seed: Seed of the transform.
            dtype: "uint8" keeps bytes; "float" divides them by 255, and 16-bit channels (which need it) by 65535.
            **resolution: As for `image`; none means level 0.

        Raises:
            NoTissueError: if `crop` finds no tissue.
            TransformError: if rows cannot be read from the transform's result.
        """
        from wsidata.slides.pipeline import slide_lazy

        requested = Resolution.of(resolution)
        return slide_lazy(self, requested, as_crop(crop), transform, np.random.default_rng(seed), dtype=dtype)

    def tissue_mask(
        self, method: TissueMethod = find_tissue, *, exclude: Sequence[str] = (), **resolution: Any
    ) -> TissueMask:
        """Mask of the tissue on the slide.

        Args:
            method: From (height, width, 3) uint8 RGB (or the chosen channels) to booleans (height, width); see
                `wsidata.slides.tissue.mask`. Or a method of slides, such as `TissueWithout` and `TissueFiles`.
            exclude: Artifacts that are no tissue: "pen", "fold", "bubble", "blur". The same as
                `TissueWithout(exclude, method)`, which see.
            **resolution: Resolution of the mask, as for `image`. None: 8 um per pixel, or a longer side of 2048 pixels
                where the mpp is unknown or coarser.

        Raises:
            ValueError: for a method that goes by color on chosen channels, or an unknown artifact.
            SpacingUnknownError: if artifacts are to be excluded, and the slide does not state its um per pixel.
        """
        if exclude:
            from wsidata.slides.artifacts.without import TissueWithout

            method = TissueWithout(tuple(exclude) if not isinstance(exclude, str) else (exclude,), method)
        if not self.options.has_colors:
            check_sees_colors(method, f"the tissue of slide '{self.path.name}'")
        if not resolution:
            is_fine = self.mpp is not None and max(self.mpp) <= MASK_MPP
            resolution = {"mpp": MASK_MPP} if is_fine else {"max_side": MASK_MAX_SIDE_PX}
        name = f"slide '{self.path.name}'"
        if isinstance(method, SlideMethod):
            pixels = check_mask(method(self, resolution), self.size_at(**resolution)[::-1], name)
        else:
            pixels = apply_method(method, self.numpy(**resolution), name)
        return TissueMask(pixels, *self.downsample_at(**resolution), self.width, self.height)

    def size_at(self, **resolution: Any) -> tuple[int, int]:
        """(width, height) of `image` at a resolution."""
        plan = self._plan(resolution)
        return plan.width, plan.height

    def downsample_at(self, **resolution: Any) -> tuple[float, float]:
        """Level-0 pixels per pixel of `image` at a resolution, (x, y)."""
        plan = self._plan(resolution)
        level = self.levels[plan.level]
        return level.downsample_x * plan.factor_x, level.downsample_y * plan.factor_y

    def read_region(
        self,
        x_lv0: int,
        y_lv0: int,
        width: int,
        height: int,
        level: int | None = None,
        *,
        mpp: float | tuple[float, float] | None = None,
        magnification: float | None = None,
        downsample: float | tuple[float, float] | None = None,
        tolerance: float = TOLERANCE,
    ) -> NDArray[Any]:
        """A region at one resolution. As in OpenSlide, its place is in level-0 pixels, its size in its own pixels.

        It has the pixels of the same region of `numpy`, to the last bit, and only its part of the slide is decoded. The
        first pixel is the one that contains the center of the level-0 pixel (x_lv0, y_lv0), so neighboring regions join
        without a seam. Outside the slide is white (0 where `channels` were chosen).

        Args:
            x_lv0: Left edge in pixels of level 0; may be negative.
            y_lv0: Top edge in pixels of level 0; may be negative.
            width: Columns of the result.
            height: Rows of the result.
            level: A pyramid level, untouched. Pass at most one of these four; none means level 0.
            mpp: um per pixel of the result.
            magnification: Objective power.
            downsample: Level-0 pixels per pixel of the result.
            tolerance: As for `image`.

        Returns:
            (height, width, 3) uint8, or (height, width, channels) of the stored type.

        Raises:
            ValueError: if the size is not positive. Otherwise as for `image`.
        """
        if width < 1 or height < 1:
            raise ValueError(f"read_region of '{self.path.name}': size {width}x{height} must be at least 1x1 pixel.")
        plan = self._plan(Resolution(level, mpp, magnification, downsample, tolerance=tolerance))
        region = Rectangle(*output_pixel(plan, self.levels[plan.level], x_lv0, y_lv0), width, height)
        return self._region_on_background(plan, region)

    def read_region_um(
        self,
        x_um: float,
        y_um: float,
        width_um: float,
        height_um: float,
        level: int | None = None,
        *,
        mpp: float | tuple[float, float] | None = None,
        magnification: float | None = None,
        downsample: float | tuple[float, float] | None = None,
        tolerance: float = TOLERANCE,
    ) -> NDArray[Any]:
        """A region at one resolution, by its place and size on the glass in um from the top left corner of the slide.

        Its four edges are those of the pixels next to the ones requested: each is off by at most half a pixel of the
        result, and regions that share an edge join without a gap or overlap. So the result has as many pixels wherever
        the region lies if its size is a whole number of them, and else one more here and there.

        Args:
            x_um: Left edge in um; may be negative.
            y_um: Top edge in um; may be negative.
            width_um: Width in um.
            height_um: Height in um.
            level: As for `read_region`, like the others.
            mpp: um per pixel of the result.
            magnification: Objective power.
            downsample: Level-0 pixels per pixel of the result.
            tolerance: As for `image`.

        Returns:
            As for `read_region`.

        Raises:
            SpacingUnknownError: if the slide does not state its resolution, and `mpp_override` was not passed.
            ValueError: if the size is less than a pixel. Otherwise as for `image`.
        """
        plan = self._plan(Resolution(level, mpp, magnification, downsample, tolerance=tolerance))
        found, what = self.levels[plan.level], f"read_region_um of '{self.path.name}'"
        if found.mpp is None:
            raise SpacingUnknownError(
                f"{what}: the slide has no pixel spacing (checked: {self._open().checked}), so um are no pixels of it. "
                "Pass mpp_override=... to Slide, or use read_region, in pixels of level 0."
            )
        x, width = pixel_span(x_um, width_um, found.mpp[0] * plan.factor_x, f"{what}: x_um, width_um")
        y, height = pixel_span(y_um, height_um, found.mpp[1] * plan.factor_y, f"{what}: y_um, height_um")
        return self._region_on_background(plan, Rectangle(x, y, width, height))

    def is_decoded_ahead(self, **resolution: Any) -> bool:
        """Whether `image` decodes the level for a resolution at once, because it is small."""
        level = self.levels[self._plan(resolution).level]
        return level.width * level.height * len(self.channel_names) <= DECODED_AT_ONCE_BYTES

    def regions(self, rim_px: int = 0, **resolution: Any) -> PartReader | None:
        """Reads regions of `image` at a resolution; for several threads at a time, and usable when the slide is closed.

        Tiles that a region cuts are kept for its neighbors.

        Args:
            rim_px: How far beyond its own pixels a region will reach, on each side.
            **resolution: As for `image`.

        Returns:
            A function of a `Rectangle`, which also reads it part by part; None for formats that are not decoded tile
            by tile: read them through `image`.
        """
        plan = self._plan(resolution)
        read = self._open().pyramid.lazy_regions(plan.level, shared_px(plan, rim_px))
        if read is None:
            return None
        return PartReader(self._resampled(read, plan, read.parts).parts, read.bands, read.dtype)

    windows = regions

    def _repr_html_(self) -> str:
        """Thumbnail, levels and resolution, in notebooks."""
        return f"<code>{self!r}</code>" if self._closed else slide_html(self, self.thumbnail(256))

    def _region_on_background(self, plan: Resampling, region: Rectangle) -> NDArray[Any]:
        """Pixels of a rectangle of the output of a plan, which may reach beyond it."""
        inside = region.inside(plan.width, plan.height)
        pixels = self._region(plan, inside or Rectangle(0, 0, 1, 1))
        if inside == region:
            return pixels
        out = np.full((region.height, region.width, pixels.shape[2]), self.background, dtype=pixels.dtype)
        if inside is not None:
            out[inside.within(region)] = pixels
        return out

    def _region(self, plan: Resampling, region: Rectangle) -> NDArray[Any]:
        """Pixels of a rectangle inside the output of a plan."""
        pyramid = self._open().pyramid

        def read(part: Rectangle) -> Pixels:
            return pyramid.region(plan.level, part.x, part.y, part.width, part.height)

        return self._resampled(read, plan)(region)

    def _resampled(self, read: ReadRegion, plan: Resampling, parts: ReadParts | None = None) -> ResampledRegions:
        return ResampledRegions(read, self.levels[plan.level], plan, self._to_color(), str(self.path), parts)

    def _to_color(self) -> Callable[[pyvips.Image], pyvips.Image] | None:
        """Converts stored colors to the requested ones; None if they are."""
        profile = self._open().pyramid.metadata.icc_profile if self.options.apply_icc else None
        return None if profile is None else partial(by_profile, profile=profile, name=self.path.name)

    def _plan(self, resolution: Mapping[str, Any]) -> Resampling:
        requested, checked = Resolution.of(resolution), self._open().checked
        return requested.plan(self.levels, self.magnification, name=self.path.name, checked=checked)


def slide_info(path: str | Path, **options: Any) -> SlideInfo:
    """Facts about a slide; never raises for a bad file.

    A slide whose channels or scale to 8 bits have to be chosen is shown with all of its channels; one whose
    image, focal plane or time has to be chosen, with the first.

    Args:
        path: The file.
        **options: As for `Slide`, such as `channels=` or `mpp_override=`.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            slide, choice, planes = _opened_at_any_rate(path, options)
            with slide:
                facts = slide_facts(slide, [str(warning.message) for warning in caught])
                return replace(facts, choice=choice, **planes)
        except Exception as error:  # whatever a reader raises is shown
            return SlideInfo(str(path), error=f"{type(error).__name__}: {error}")


def _opened_at_any_rate(path: str | Path, options: dict[str, Any]) -> tuple[Slide, str, dict[str, Any]]:
    """A slide for its metadata, the first choice that its pixels need, and what can be chosen."""
    choice, taken = "", ""
    while True:
        planes = _planes(path, options)
        try:
            return Slide(path, **options), choice + (taken and f" Shown here: {taken}."), planes
        except UndecidedImageError as error:
            choice = choice or str(error)
            if error.channel_names and options.get("channels") is None:
                options = {**options, "channels": list(range(len(error.channel_names)))}
            elif options.get("scale_to_8bit") is None:
                options = {**options, "scale_to_8bit": (0.0, 1.0)}
            else:
                raise
        except UnsupportedImageError as error:
            open_choices = [name for name in planes if options.get(name) is None]
            if not open_choices:
                raise
            choice = choice or str(error)
            taken += f"{', ' if taken else ''}{open_choices[0]}=0"
            options = {**options, open_choices[0]: 0}


def _planes(path: str | Path, options: dict[str, Any]) -> dict[str, Any]:
    """The images ("series"), focal planes ("z") and times ("t") of a file that has several of them.

    Each format lists them in the error for one that does not exist.
    """
    found: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore"):
        for name in ("series", "z", "t"):
            try:
                Slide(path, **{**options, name: sys.maxsize}).close()
            except UnknownPlaneError as error:
                if error.argument == name and len(error.names) > 1:
                    found[name] = error.names
            except SlideError:  # is raised again, or another choice comes first
                continue
    return found
