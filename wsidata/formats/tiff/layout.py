"""Layout of a TIFF slide, common to all dialects, with its levels, metadata and associated images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import tifffile

from wsidata.formats.channels import RGB_NAMES
from wsidata.formats.levels import Level
from wsidata.formats.metadata import SlideMetadata
from wsidata.formats.tiff.photometric import RGB, YCBCR


@dataclass(frozen=True)
class TiffLayout:
    """Contents of one TIFF slide.

    Attributes:
        kind: The dialect: "svs", "philips", "ome", "ndpi", "scn", "generic" ...
        levels: Sizes and true downsample factors, finest first.
        pages: The directories of each level: one for an image, one per channel for a stack of channels.
        metadata: Spacing, magnification and properties.
        channel_names: Names of the channels in the file; as many as there are pages times samples, or none.
        associated: Images beside the slide, by name: "thumbnail", "label", "macro" ...
        images: Number of images that `series=` chooses from, where the pages are images of their own.
    """

    kind: str
    levels: tuple[Level, ...]
    pages: tuple[tuple[tifffile.TiffPage, ...], ...]
    metadata: SlideMetadata
    channel_names: tuple[str, ...] = ()
    associated: Mapping[str, tifffile.TiffPage] = field(default_factory=dict)
    images: int = 1

    @property
    def all_channel_names(self) -> tuple[str, ...]:
        """Name of each channel; its number where the file has none."""
        page = self.pages[0][0]
        if len(self.pages[0]) == 1 and page.photometric in (RGB, YCBCR) and page.samplesperpixel == 3:
            return RGB_NAMES
        count = len(self.pages[0]) * int(page.samplesperpixel)
        return self.channel_names if len(self.channel_names) == count else tuple(str(one) for one in range(count))


def is_like(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a directory may be a smaller version of another, by kind of samples and by aspect ratio."""
    same = all(getattr(page, name) == getattr(base, name) for name in ("samplesperpixel", "dtype", "is_tiled"))
    return same and page.imagewidth < base.imagewidth and unlike_px(page, base) <= 1


def unlike_px(page: tifffile.TiffPage, base: tifffile.TiffPage) -> float:
    """Pixels of a directory by which its aspect ratio differs from that of another one."""
    if 0 in (page.imagewidth, page.imagelength):
        return math.inf
    steps = base.imagewidth / page.imagewidth, base.imagelength / page.imagelength
    return float(abs(steps[0] / steps[1] - 1) * min(page.imagewidth, page.imagelength))


def levels_by_size(pages: Sequence[tifffile.TiffPage]) -> tuple[Level, ...]:
    """Levels of these directories, finest first, downsampled by the true ratios of their sizes."""
    base_width, base_height = pages[0].imagewidth, pages[0].imagelength
    sizes = [(page.imagewidth, page.imagelength) for page in pages]
    return tuple(
        Level(index, width, height, base_width / width, base_height / height)
        for index, (width, height) in enumerate(sizes)
    )
