"""Which directories of a TIFF are the slide, at which scale, and which are pictures beside it.

A TIFF page is not a level. Every maker mixes levels, channels, a thumbnail, the label and a photo of the glass in an
order of its own; some pad levels, some put them into SubIFDs. tifffile knows most of these dialects; what it does not
know, or gets wrong, is here or in `tiff_vendors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tifffile

from wsidata.errors import UnsupportedImageError
from wsidata.formats.tiff_facts import philips_spacings
from wsidata.spacing import Level

KINDS = ("svs", "philips", "ome", "ndpi", "generic", "uniform", "shaped", "imagej")
"""tifffile's names of the dialects whose first series is the slide, in levels. (In an SCN it is the macro image, in a
BIF the tiles overlap.)"""


@dataclass(frozen=True)
class TiffLayout:
    """The parts of one TIFF.

    Attributes:
        kind: The dialect: "svs", "philips", "ome", "ndpi", "generic" ...
        levels: Sizes and true downsample factors, finest first.
        pages: The directories of each level: one for a picture, one per channel for a stack of channels.
        associated: Pictures beside the slide, by name: "thumbnail", "label", "macro".
    """

    kind: str
    levels: tuple[Level, ...]
    pages: tuple[tuple[tifffile.TiffPage, ...], ...]
    associated: Mapping[str, tifffile.TiffPage] = field(default_factory=dict)


def find_layout(tiff: tifffile.TiffFile, path: Path) -> TiffLayout:
    """Tell levels from everything else.

    Args:
        tiff: The open file.
        path: Its path, for errors.

    Raises:
        UnsupportedImageError: for dialects whose levels cannot be told, and for stacks of focal planes or times.
    """
    tiff.pages.useframes = False
    series = tiff.series[0]
    kind = str(series.kind)
    if kind not in KINDS:
        raise UnsupportedImageError(
            f"'{path}' is a TIFF of the kind '{kind}', which is not read here. Convert it to a "
            "pyramidal TIFF (bfconvert, or vips with OpenSlide: vips tiffsave --tile --pyramid --compression jpeg)."
        )
    pages = [(_only_page(level, path),) for level in series.levels]
    if kind == "svs":
        pages = _with_tiled_second_page(tiff, pages)
    if tiff.is_philips and kind != "philips" and len(pages) > 1:
        raise UnsupportedImageError(
            f"'{path}' is a Philips TIFF whose XML does not state the spacing of each level. Its levels are "
            "padded, so their scale cannot be told from their size. Convert it to a generic pyramidal TIFF."
        )
    stated = philips_spacings(tiff) if kind == "philips" else []
    return TiffLayout(kind, _measured(pages, stated), tuple(pages))


def _measured(
    pages: Sequence[tuple[tifffile.TiffPage, ...]], stated: Sequence[tuple[float, float]]
) -> tuple[Level, ...]:
    """Sizes and downsamples. Philips pads levels to whole tiles, so there the stated spacings are the measure."""
    base = pages[0][0]
    levels = []
    for index, (page, *_) in enumerate(pages):
        down = (base.imagewidth / page.imagewidth, base.imagelength / page.imagelength)
        if len(stated) == len(pages):
            down = (stated[index][0] / stated[0][0], stated[index][1] / stated[0][1])
        levels.append(Level(index, page.imagewidth, page.imagelength, down[0], down[1]))
    return tuple(levels)


def _only_page(level: tifffile.TiffPageSeries, path: Path) -> tifffile.TiffPage:
    """The one directory a level consists of."""
    if len(level.pages) != 1:
        raise UnsupportedImageError(
            f"'{path}' holds a stack of {len(level.pages)} planes (axes {level.axes}: channels, focal planes or time), "
            "not one RGB picture. Export the plane, or an RGB rendering, as a TIFF of its own."
        )
    return level.keyframe


def _with_tiled_second_page(
    tiff: tifffile.TiffFile, pages: list[tuple[tifffile.TiffPage, ...]]
) -> list[tuple[tifffile.TiffPage, ...]]:
    """Levels of an SVS are its tiled directories. tifffile takes page 1 for a thumbnail, which converters may omit."""
    if len(tiff.pages) < 2 or not tiff.pages[1].is_tiled or tiff.pages[1].subfiletype not in (0, None):
        return pages
    return sorted([*pages, (tiff.pages[1],)], key=lambda level: -level[0].imagewidth)
