"""Levels and associated images of a TIFF, told apart from each other and from channels.

A TIFF page is not a level. Every vendor mixes levels, channels, a thumbnail, the label and a photo of the glass in an
order of its own; some pad levels, some put them into SubIFDs. tifffile supports most of these dialects. Those of
Aperio, Leica, Roche and Akoya, which need more than the order of the pages, have modules of their own (`vendors`).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import BinaryIO, Literal

import numpy as np
import tifffile

from wsidata.errors import ForeignFormatError, SlideError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.channels import ImageChoice
from wsidata.formats.levels import Level
from wsidata.formats.tiff.integrity import check_integrity
from wsidata.formats.tiff.layout import TiffLayout, is_like, levels_by_size, unlike_px
from wsidata.formats.tiff.metadata import ome_channel_names, philips_spacings, read_metadata
from wsidata.formats.tiff.ome import check_ome
from wsidata.formats.tiff.photometric import RGB, YCBCR
from wsidata.formats.tiff.vendors.bif import bif_layout, is_bif
from wsidata.formats.tiff.vendors.qptiff import qptiff_layout
from wsidata.formats.tiff.vendors.scn import scn_layout
from wsidata.formats.tiff.vendors.svs import svs_layout
from wsidata.remote.address import SlidePath

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what matters of its warnings is an error here

KINDS = ("svs", "philips", "ome", "ndpi", "generic", "uniform", "shaped", "imagej")
"""tifffile's names of the dialects whose first series is the slide with its levels."""
NAMING_KINDS = ("svs", "philips", "ndpi")
"""Dialects that name their label, macro and thumbnail."""
SEARCHED_KINDS = ("generic", "shaped", "uniform")
"""Dialects in which tifffile finds only some of the levels."""
MAX_UNLIKE_PX = 2.0
"""Pixels by which the aspect ratio of a level may differ, as sides are rounded up or down."""

AXES: Mapping[str, Literal["z", "t"]] = {"Z": "z", "T": "t"}
"""tifffile's letters for focal planes and times."""
CHANNEL_AXES = "CIQ"
"""tifffile's letters for a stack that may be of channels: channels, pages in a row, and unknown."""
BESIDE = re.compile("label|macro|thumbnail|overview", re.IGNORECASE)
RIVAL_FRACTION = 0.5
"""A second image of this fraction of the first one's pixels is no label or macro, but another slide."""


@contextmanager
def opening(path: SlidePath, file: BinaryIO | None = None) -> Iterator[tifffile.TiffFile]:
    """Context of an open TIFF, closed only if the block fails.

    Args:
        path: The file.
        file: The file, if it is open already; then it is for the caller to close.

    Raises:
        UnreadableImageError: if the file is damaged, also in place of any error of tifffile.
    """
    check_integrity(path, file)
    if file is not None:
        file.seek(0)  # where a TIFF begins, for tifffile
    with ExitStack() as on_failure:
        try:
            yield on_failure.enter_context(tifffile.TiffFile(path if file is None else file))
        except SlideError:
            raise
        except Exception as error:  # tifffile may raise anything on a damaged file
            raise UnreadableImageError(
                f"'{path}' could not be read as TIFF: {error}. Copy it again from its source."
            ) from error
        on_failure.pop_all()


def find_layout(tiff: tifffile.TiffFile, path: SlidePath, choice: ImageChoice = ImageChoice()) -> TiffLayout:  # noqa: B008
    """Levels, channels and associated images of an open TIFF, of the chosen image and plane.

    Raises:
        ForeignFormatError: for unsupported dialects.
        UnsupportedImageError: for ambiguous levels, and for stacks and several images of which none is chosen.
    """
    first = tiff.pages.first
    if 0 in (first.imagewidth, first.imagelength):
        raise UnreadableImageError(
            f"'{path}' says it has {first.imagewidth}x{first.imagelength} pixels (TIFF directory 0): its writer did "
            "not finish it. Export it again, or copy it again from its source."
        )
    _check_sidecars(tiff, path)
    tiff.pages.useframes = False
    tiff.pages.cache = True
    _check_companions(tiff, path)
    check_ome(tiff, path)
    if tiff.is_scn:
        return scn_layout(tiff, path, choice)
    for is_of_the_kind, layout in ((is_bif(tiff), bif_layout), (tiff.is_qpi, qptiff_layout)):
        if is_of_the_kind:
            choice.check_one_image(path)
            return layout(tiff, path)
    series = tiff.series
    kind = str(series[0].kind)
    if kind not in KINDS:
        raise ForeignFormatError(
            f"'{path}' is a TIFF of the kind '{kind}', which is not supported. Convert it to a "
            "pyramidal TIFF (bfconvert, or vips with OpenSlide: vips tiffsave --tile --pyramid --compression jpeg)."
        )
    if kind == "svs":
        choice.check_one_image(path)
        return svs_layout(tiff, _level_pages(series[0].levels[0], tiff, path, choice))
    images = _images_in_a_row(series)
    if images and choice.series is not None:
        replace(choice, series=None).check_one_image(path)
        page = images[choice.place("series", range(len(images)), path)]
        return TiffLayout(kind, levels_by_size([page]), ((page,),), metadata=read_metadata(tiff, page, kind))
    if kind in NAMING_KINDS:
        choice.place("series", range(1), path)
    elif choice.series is None:
        _check_rivals(series, path)
    slide = series[choice.place("series", [f"'{one.name}' {one.shape}" for one in series], path)]
    others = [one for one in series if one is not slide]
    pages = [_level_pages(level, tiff, path, choice) for level in slide.levels]
    if kind in SEARCHED_KINDS and slide is series[0]:
        pages = _with_uneven_steps(pages, others)
    if kind not in NAMING_KINDS:
        pages = _in_order(pages, path)
    if tiff.is_philips and kind != "philips" and len(tiff.pages) > 1:
        raise UnsupportedImageError(
            f"'{path}' is a Philips TIFF whose XML does not state the spacing of each level. Its levels are "
            "padded, so their scale does not follow from their size. Convert it to a generic pyramidal TIFF."
        )
    first_pages = [level[0] for level in pages]
    levels = _philips_levels(first_pages, philips_spacings(tiff)) if kind == "philips" else levels_by_size(first_pages)
    return TiffLayout(
        kind,
        levels,
        tuple(pages),
        channel_names=ome_channel_names(tiff, pages[0][0]),
        associated=_associated(others, {page.offset for level in pages for page in level}),
        metadata=read_metadata(tiff, pages[0][0], kind),
        images=len(images) or 1,
    )


def _images_in_a_row(series: Sequence[tifffile.TiffPageSeries]) -> list[tifffile.TiffPage]:
    """Pages of one size in color, if the file has no others and does not say what they are; else none."""
    only = series[0]
    is_row = len(series) == 1 and str(only.kind) in SEARCHED_KINDS and only.axes in ("IYXS", "QYXS")
    if not is_row or len(only.levels) > 1 or only.keyframe.photometric not in (RGB, YCBCR) or None in only.pages:
        return []
    return [page.aspage() if page.is_frame else page for page in only.pages]


def _check_sidecars(tiff: tifffile.TiffFile, path: SlidePath) -> None:
    """Raise for TIFFs that are only the cover of a slide, or that need stitching."""
    if path.suffix.lower() == ".vsi":
        raise ForeignFormatError(
            f"'{path}' is the cover of an Olympus VSI slide: an overview and metadata. The slide itself lies in "
            f"'_{path.stem}_/', in files (.ets) that are not supported. Convert it to OME-TIFF (bfconvert)."
        )
    if str(tiff.pages.first.software).startswith("MedScan"):
        raise ForeignFormatError(
            f"'{path}' is a Trestle slide, whose tiles overlap and have to be stitched, which is not done here. "
            "Convert it to a pyramidal TIFF."
        )


def _check_companions(tiff: tifffile.TiffFile, path: SlidePath) -> None:
    """Raise for parts of a set whose other files tifffile would open by their names."""
    if tiff.is_mmstack or tiff.is_ndtiff:
        kind = "mmstack" if tiff.is_mmstack else "ndtiff"
        raise UnsupportedImageError(
            f"'{path}' is a TIFF of the kind '{kind}' (Micro-Manager), spread over the files of its folder, which is "
            "not supported. Save it as OME-TIFF of one file (bfconvert)."
        )


def _check_rivals(series: Sequence[tifffile.TiffPageSeries], path: SlidePath) -> None:
    """Raise for a file of several images of similar size, none of which is named as the slide."""
    sizes = [one.levels[0].keyframe.imagewidth * one.levels[0].keyframe.imagelength for one in series]
    rivals = [
        index
        for index, (one, size) in enumerate(zip(series, sizes, strict=True))
        if index and size > RIVAL_FRACTION * sizes[0] and not BESIDE.search(one.name)
    ]
    if rivals:
        listing = ", ".join(f"{index}: '{series[index].name}' {series[index].shape}" for index in [0, *rivals])
        raise UnsupportedImageError(
            f"'{path}' holds {len(rivals) + 1} images of similar size ({listing}), and does not say which is the "
            "slide. Choose one: Slide(path, series=...), or save it as a file of its own (bfconvert -series N)."
        )


def _philips_levels(pages: Sequence[tifffile.TiffPage], stated: Sequence[tuple[float, float]]) -> tuple[Level, ...]:
    """Levels by their stated resolutions: Philips pads levels to whole tiles (tifffile clips them)."""
    return tuple(
        Level(index, page.imagewidth, page.imagelength, mpp[0] / stated[0][0], mpp[1] / stated[0][1])
        for index, (page, mpp) in enumerate(zip(pages, stated, strict=True))
    )


def _level_pages(
    level: tifffile.TiffPageSeries, tiff: tifffile.TiffFile, path: SlidePath, choice: ImageChoice
) -> tuple[tifffile.TiffPage, ...]:
    """The directories of a level: one, or one per channel."""
    pages = list(level.pages)
    stacked = {axis: size for axis, size in zip(level.axes, level.shape, strict=True) if axis not in "YXS"}
    for axis, name in AXES.items():
        choice.place(name, range(stacked.get(axis, 1)), path)
    if level.is_truncated:  # by ImageJ above 4 GB, and tifffile on request: other planes have no directory
        raise UnsupportedImageError(
            f"'{path}' is a stack {level.shape} (axes {level.axes}) that has a directory for its first plane only. "
            "Save it as OME-TIFF (Bio-Formats)."
        )
    if len(pages) == math.prod(stacked.values()):  # a directory for each plane
        taken = {axis: getattr(choice, name) for axis, name in AXES.items() if axis in stacked}
        taken = {axis: number for axis, number in taken.items() if number is not None}
        numbers = np.arange(len(pages)).reshape([*stacked.values()])
        pages = [pages[number] for number in numbers[tuple(taken.get(axis, slice(None)) for axis in stacked)].ravel()]
        stacked = {axis: size for axis, size in stacked.items() if axis not in taken}
    stacked = {axis: size for axis, size in stacked.items() if size > 1}
    if any(axis not in CHANNEL_AXES for axis in stacked) or any(page is None for page in pages):
        remedy = ", ".join(f"{AXES[axis]}=0 to {AXES[axis]}={stacked[axis] - 1}" for axis in stacked if axis in AXES)
        choose = f"Choose one: Slide(path, ...) takes {remedy}. Or export" if remedy else "Export"
        raise UnsupportedImageError(
            f"'{path}' holds a stack of {len(pages)} planes (axes {level.axes}: focal planes, time or missing planes), "
            f"not one image. {choose} the plane, or an RGB rendering, as a TIFF of its own."
        )
    if any(page.parent is not tiff for page in pages):  # tifffile opened what the OME-XML names
        raise UnsupportedImageError(
            f"'{path}' is spread over several files, one for each of its images or planes; its first image "
            "lies in another one. Save it as one file (bfconvert)."
        )
    return tuple(page.aspage() if page.is_frame else page for page in pages)  # frames have no tags of their own


def _with_uneven_steps(
    pages: list[tuple[tifffile.TiffPage, ...]], others: Sequence[tifffile.TiffPageSeries]
) -> list[tuple[tifffile.TiffPage, ...]]:
    """Levels of a generic pyramid, all that are flagged as reduced; tifffile drops uneven steps (1, 4, 32)."""
    base = pages[0][0]
    known = {(level[0].imagewidth, level[0].imagelength) for level in pages}
    for page in (page.aspage() if page.is_frame else page for one in others for page in one.pages if page is not None):
        is_new = (page.imagewidth, page.imagelength) not in known  # some writers store a level twice
        if len(pages[0]) == 1 and is_new and is_like(page, base) and (page.is_reduced or page.is_subifd):
            known.add((page.imagewidth, page.imagelength))
            pages = [*pages, (page,)]
    return sorted(pages, key=lambda level: -level[0].imagewidth)


def _in_order(pages: list[tuple[tifffile.TiffPage, ...]], path: SlidePath) -> list[tuple[tifffile.TiffPage, ...]]:
    """Levels, finest first, checked to be the same image, as far as their sizes tell."""
    base = pages[0][0]
    ordered = sorted(pages, key=lambda level: -level[0].imagewidth)
    for level in ordered:
        page = level[0]
        if page is not base and (unlike_px(page, base) > MAX_UNLIKE_PX or page.imagewidth >= base.imagewidth):
            raise UnsupportedImageError(
                f"'{path}': an image of {page.imagewidth}x{page.imagelength} px is stored as a smaller version of one "
                f"of {base.imagewidth}x{base.imagelength} px, which it cannot be. Check which of them is meant, and "
                "save the slide again (bfconvert, or vips tiffsave --tile --pyramid)."
            )
    return ordered


def _associated(series: Sequence[tifffile.TiffPageSeries], level_offsets: set[int]) -> Mapping[str, tifffile.TiffPage]:
    """Single pages beside the slide by tifffile's name; the second of a name gets its page number."""
    found: dict[str, tifffile.TiffPage] = {}
    for one in series:
        page = one.keyframe
        if len(one.pages) != 1 or page.offset in level_offsets:
            continue
        name = (one.name or f"page {page.index}").lower()
        found[name if name not in found else f"{name} {page.index}"] = page
    return found
