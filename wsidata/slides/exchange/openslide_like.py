"""`OpenSlideLike`, a slide behind the interface of `openslide.OpenSlide`.

For viewers and scripts that were written for openslide-python, such as its `deepzoom.DeepZoomGenerator`; OpenSlide need
not be installed. https://openslide.org/api/python/
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsidata.formats.levels import Level, check_level
from wsidata.slides.slide import Slide
from wsidata.utils.rectangle import Rectangle

VENDORS = {
    "svs": "aperio",
    "ndpi": "hamamatsu",
    "scn": "leica",
    "bif": "ventana",
    "generic": "generic-tiff",
}
"""OpenSlide's names of formats that have another one here."""
OF_ANOTHER_CANVAS = ("openslide.bounds-", "openslide.level", "openslide.region[")
"""Properties that OpenSlide states of its own canvas, of which a slide read through it shows a part."""
OPAQUE = 255


class OpenSlideLike:
    """A slide with the methods of `openslide.OpenSlide`: PIL images, level-0 locations, text properties.

    Every format that `Slide` reads is read, with its checks, and by its decoders. Differences from OpenSlide:

    * A location between pixels of a level gives the nearest whole pixel, where OpenSlide interpolates. One that is the
      corner of a pixel rounded down, as `DeepZoomGenerator` computes it, gives that pixel.
    * Tiles that were never written are white, and transparency in the file is composited on white; outside the slide
      is transparent, as in OpenSlide.
    * A level that does not exist raises, as does what is damaged, each time it is read.
    * `properties` are what the format's reader knows; the scanned part of an MRXS is the whole slide.

    Pickles, and may be read by several threads.

    Args:
        path: The file.
        **options: As for `Slide`. Pixels have to be RGB of 8 bits: `channels="rgb"` and `scale_to_8bit=` may be needed,
            and chosen channels are refused.

    Raises:
        ValueError: if `channels` are chosen. Otherwise as for `Slide`.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        self._slide = Slide(path, **options)
        if not self._slide.options.has_colors:
            self._slide.close()
            raise ValueError(
                f"slide '{path}': OpenSlide's interface is for RGB, and channels={options['channels']!r} have no "
                "colors. Leave channels= out, pass channels='rgb', or read them with wsidata.Slide."
            )

    @property
    def level_count(self) -> int:
        """Number of levels, at least 1."""
        return self._slide.level_count

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level, finest first."""
        return tuple(level.size for level in self._slide.levels)

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height) of level 0."""
        return self._slide.levels[0].size

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of each level, mean of both axes."""
        return tuple(level.downsample for level in self._slide.levels)

    @property
    def properties(self) -> Mapping[str, str]:
        """Metadata of the file, and those that OpenSlide names alike for all formats, as text."""
        slide = self._slide
        stated = {key: value for key, value in slide.properties.items() if not key.startswith(OF_ANOTHER_CANVAS)}
        found = {**stated, "openslide.vendor": VENDORS.get(slide.kind, slide.kind)}
        found["openslide.level-count"] = str(slide.level_count)
        for level in slide.levels:
            start = f"openslide.level[{level.index}]."
            found[f"{start}width"], found[f"{start}height"] = map(str, level.size)
            found[f"{start}downsample"] = f"{level.downsample:.17g}"
        if slide.mpp is not None:
            found["openslide.mpp-x"], found["openslide.mpp-y"] = map(str, slide.mpp)
        if slide.magnification is not None:
            found["openslide.objective-power"] = f"{slide.magnification:g}"
        if self._profile:
            found["openslide.icc-size"] = str(len(self._profile))
        return found

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """Label, macro and other images beside the slide, by name, as RGBA; each is decoded when it is looked up."""
        return _PillowImages(self._slide.associated_images)

    @property
    def color_profile(self) -> ImageCms.ImageCmsProfile | None:
        """The color profile of the pixels; None without one, and where `apply_icc` has converted them to sRGB."""
        return ImageCms.ImageCmsProfile(io.BytesIO(self._profile)) if self._profile else None

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """The coarsest level with at least the detail of this downsample; 0 if none has."""
        return max((index for index, down in enumerate(self.level_downsamples) if down <= downsample), default=0)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """A region of a level.

        Args:
            location: (x, y) of its top left corner, in pixels of level 0.
            level: The level.
            size: (width, height) in pixels of that level.

        Returns:
            An RGBA image; transparent black outside the slide.

        Raises:
            UnknownLevelError: naming the levels there are.
            ValueError: for a negative size.
            UnreadableImageError: if a tile is damaged.
        """
        slide, (width, height) = self._slide, size
        if width < 0 or height < 0:
            raise ValueError(f"read_region of '{slide.path.name}': size {width}x{height} must not be negative.")
        found = check_level(slide.levels, level, slide.path.name)
        x, y = (_level_pixel(place, found.downsample) for place in location)
        region = Rectangle(x, y, width, height)
        out = np.zeros((height, width, 4), dtype=np.uint8)
        inside = region.inside(*found.size)
        if inside is not None and inside.width and inside.height:
            part = out[inside.within(region)]
            part[..., :3], part[..., 3] = self._pixels(found, inside), OPAQUE
        image = Image.fromarray(out)
        if self._profile:
            image.info["icc_profile"] = self._profile
        return image

    def get_thumbnail(self, size: tuple[int, int]) -> Image.Image:
        """The whole slide as RGB, as large as fits into (width, height), but no larger than it is."""
        scale = min(most / side for most, side in zip(size, self.dimensions, strict=True))
        longer = max(1, math.floor(max(self.dimensions) * scale + 1e-6))
        image = Image.fromarray(self._slide.numpy(max_side=longer))
        if self._profile:
            image.info["icc_profile"] = self._profile
        return image

    def set_cache(self, cache: object) -> None:
        """Nothing: decoded tiles are not kept."""

    def close(self) -> None:
        """Close the file."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"OpenSlideLike({str(self._slide.path)!r})"

    @property
    def _profile(self) -> bytes | None:
        return None if self._slide.options.apply_icc else self._slide.icc_profile

    def _pixels(self, level: Level, inside: Rectangle) -> NDArray[np.uint8]:
        """A rectangle inside a level, addressed by the level-0 pixel at the middle of its first pixel."""
        x = math.floor((inside.x + 0.5) * level.downsample_x)
        y = math.floor((inside.y + 0.5) * level.downsample_y)
        return self._slide.read_region(x, y, inside.width, inside.height, level.index)


class _PillowImages(Mapping[str, Image.Image]):
    """Associated images for Pillow, each decoded when it is looked up."""

    def __init__(self, images: Mapping[str, Any]) -> None:
        self._images = images

    def __getitem__(self, name: str) -> Image.Image:
        return Image.fromarray(self._images[name].numpy()).convert("RGBA")

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, name: object) -> bool:
        return name in self._images


def _level_pixel(place_lv0: float, downsample: float) -> int:
    """The pixel of a level whose corner, rounded down, is a level-0 location; else the one with the nearest corner."""
    corner = math.ceil(place_lv0 / downsample - 1e-9)
    return corner if math.floor(corner * downsample + 1e-9) == place_lv0 else math.floor(place_lv0 / downsample + 0.5)
