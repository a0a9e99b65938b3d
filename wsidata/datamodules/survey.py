"""Survey of the slides of a table, each opened once, or not at all if it is known from an earlier run.

A slide that cannot be read is found here, in the first minute of a run. Whatever else `setup` needs of a slide is found
out while it is open: its size at the requested resolution, the crop, the thumbnail for the leak check. Slides are
opened on several threads, as disks and mounts have to be waited for.
"""

from __future__ import annotations

import base64
import functools
import json
import sys
import warnings
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyvips
from numpy.typing import NDArray

from wsidata.errors import SlideError, SpacingConflictWarning
from wsidata.formats.resolution import Resolution
from wsidata.formats.vips import thread_count
from wsidata.remote.address import shown
from wsidata.slides.artifacts.without import TissueWithout
from wsidata.slides.file_facts import FileFacts, fact_name
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.packing import Packing
from wsidata.splits.near_duplicates import SIDE_PX, thumbnail_of
from wsidata.transforms.describe import described
from wsidata.utils.processes import raise_system_fault

MASKS_AT_ONCE = 4
"""Tissue masks that are computed at a time, each on a view of up to some 100 MB."""

FILES_AT_ONCE = 8
"""Files that are opened at a time where no crop is planned."""

SHOWN_AFTER_S = 2.0
"""Seconds after which a progress bar is shown."""

_THUMBNAIL_BYTES = SIDE_PX * SIDE_PX * 8

T = TypeVar("T")


@dataclass(frozen=True)
class SlideFacts:
    """Facts about a slide, read with some options at some resolution.

    Attributes:
        size: (width, height) of level 0.
        image_size: (width, height) at the resolution.
        samples: "uchar", "ushort" or "float".
        channels: Names of the bands.
        conflicts: Warnings of its resolutions; see `Slide.conflicts`.
        packing: The planned crop.
        mpp: um per pixel (x, y) at the resolution, empty if the slide states none; None in facts of earlier versions.
    """

    size: tuple[int, int]
    image_size: tuple[int, int]
    samples: str
    channels: tuple[str, ...]
    conflicts: tuple[str, ...]
    packing: Packing | None = None
    mpp: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ThumbnailFact:
    """The thumbnail of a slide for the leak check, float64 of `SIDE_PX` x `SIDE_PX`, compressed, as text."""

    pixels: str

    @classmethod
    def of(cls, pixels: NDArray[np.float64]) -> ThumbnailFact:
        """From the pixels."""
        return cls(base64.b64encode(zlib.compress(pixels.astype("<f8").tobytes())).decode())

    def array(self) -> NDArray[np.float64] | None:
        """The pixels; None if these are none."""
        try:
            data = zlib.decompressobj().decompress(base64.b64decode(self.pixels), _THUMBNAIL_BYTES + 1)
        except (ValueError, zlib.error):
            return None
        if len(data) != _THUMBNAIL_BYTES:
            return None
        return np.frombuffer(data, "<f8").astype(np.float64).reshape(SIDE_PX, SIDE_PX)


@dataclass(frozen=True)
class Survey:
    """What was found out about the slides of a table.

    Attributes:
        sizes: A row per slide that can be read: `image_id`; `height_px` and `width_px` at the resolution; `samples`
            ("uchar", "ushort" or "float"); `channels`, the names of its bands; `packing`, the planned crop, or None;
            `mpp`, um per pixel (x, y) at the resolution, empty where the slide states none.
        problems: Why the others cannot, by `image_id`.
        level_0: (width, height) of level 0 of each slide that can be read, by `image_id`.
        thumbnails: The requested thumbnails by path, but for those that could not be made.
    """

    sizes: pd.DataFrame
    problems: dict[str, str]
    level_0: dict[str, tuple[int, int]]
    thumbnails: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def survey_slides(
    table: pd.DataFrame,
    resolution: Mapping[str, Any],
    options: SlideOptions = AS_STORED,
    crop: TissueCrop | None = None,
    *,
    thumbnails: Collection[str] = (),
    quiet: bool = False,
) -> Survey:
    """Open every slide of a table and plan how it is read; what is known from an earlier run is not read again.

    Args:
        table: Columns `image_id` and `path`.
        resolution: The resolution slides are read at.
        options: How they are opened.
        crop: Planned for each of them.
        thumbnails: Paths of the slides whose thumbnail is needed, too.
        quiet: No progress bar, which otherwise is drawn where somebody may look.
    """
    asked = _Questions(Resolution.of(resolution), options, crop)
    needed = frozenset(thumbnails)

    def look(row: tuple[str, str]) -> _Found | str:
        try:
            return asked.answer(row[1], row[1] in needed)
        except (SlideError, OSError, pyvips.Error, ValueError) as error:
            raise_system_fault(error, row[1])
            return f"{shown(row[1])}: {type(error).__name__}: {error}"

    rows = list(zip(table["image_id"], table["path"], strict=True))
    threads = FILES_AT_ONCE if crop is None else min(MASKS_AT_ONCE, thread_count())
    found = map_files(look, rows, threads, quiet=quiet)
    known = [(*row, one) for row, one in zip(rows, found, strict=True) if not isinstance(one, str)]
    sizes = [
        (name, *(facts := one.facts).image_size[::-1], facts.samples, facts.channels, facts.packing, facts.mpp)
        for name, _, one in known
    ]
    return Survey(
        pd.DataFrame(sizes, columns=["image_id", "height_px", "width_px", "samples", "channels", "packing", "mpp"]),
        {row[0]: one for row, one in zip(rows, found, strict=True) if isinstance(one, str)},
        {name: one.facts.size for name, _, one in known},
        {path: one.thumbnail for _, path, one in known if one.thumbnail is not None},
    )


def map_files(look: Callable[[Any], T], items: Sequence[Any], threads: int, *, quiet: bool) -> list[T]:
    """What a function returns for each of some files, on several threads, with a progress bar."""
    from tqdm.auto import tqdm

    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=len(items),
            desc="checking slides",
            unit="slide",
            disable=True if quiet else None,  # None: unless it is a terminal
            delay=SHOWN_AFTER_S,
            leave=False,
            file=sys.stderr,
        ) as bar,
    ):
        found = []
        try:
            for one in pool.map(look, items):
                found.append(one)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return found


@dataclass(frozen=True)
class _Found:
    facts: SlideFacts
    thumbnail: NDArray[np.float64] | None


@dataclass(frozen=True)
class _Questions:
    """What is to be found out about every slide."""

    resolution: Resolution
    options: SlideOptions
    crop: TissueCrop | None

    @functools.cached_property
    def names(self) -> tuple[str | None, str]:
        """Names of the facts and of the thumbnail; None for facts that hold for this process only."""
        settings = plain_crop_settings(self.crop)
        facts = None if settings is None else fact_name("slide", vars(self.options), dict(self.resolution), settings)
        return facts, fact_name("thumbnail", vars(self.options))

    def answer(self, path: str, with_thumbnail: bool) -> _Found:
        """The facts about a slide, and its thumbnail if requested and possible."""
        kept = FileFacts(path)
        named, thumbnail_name = self.names
        facts = None if named is None else kept.get(SlideFacts, named)
        fact = kept.get(ThumbnailFact, thumbnail_name) if with_thumbnail else None
        thumbnail = None if fact is None else fact.array()
        is_complete = facts is not None and facts.mpp is not None
        if facts is not None and is_complete and (thumbnail is not None or not with_thumbnail):
            for conflict in facts.conflicts:  # as if it had been opened
                warnings.warn(conflict, SpacingConflictWarning, stacklevel=2)
            return _Found(facts, thumbnail)
        with Slide.from_options(path, self.options) as slide:
            facts = self._facts(slide) if facts is None else replace(facts, mpp=self._mpp(slide))
            if with_thumbnail and thumbnail is None:
                thumbnail = _thumbnail(slide)
            if slide.is_one_file:
                if named is not None:
                    kept.put(named, facts)
                if thumbnail is not None:
                    kept.put(thumbnail_name, ThumbnailFact.of(thumbnail))
        kept.save()
        return _Found(facts, thumbnail)

    def _facts(self, slide: Slide) -> SlideFacts:
        image = slide.image(**self.resolution, keep_tiles=True)  # decodes nothing
        packing = None if self.crop is None else self.crop.plan(slide, self.resolution)
        size, image_size = (slide.width, slide.height), (image.width, image.height)
        names, conflicts = slide.channel_names, slide.conflicts
        return SlideFacts(size, image_size, image.format, names, conflicts, packing, self._mpp(slide))

    def _mpp(self, slide: Slide) -> tuple[float, ...]:
        if slide.mpp is None:
            return ()
        factors = slide.downsample_at(**self.resolution)
        return tuple(mpp * factor for mpp, factor in zip(slide.mpp, factors, strict=True))


def _thumbnail(slide: Slide) -> NDArray[np.float64] | None:
    """The thumbnail; None if it cannot be made, of which the leak check says why."""
    try:
        return thumbnail_of(slide)
    except Exception as error:  # of any reader
        raise_system_fault(error, slide.path)
        return None


def plain_crop_settings(crop: TissueCrop | None) -> list[Any] | None:
    """Plain values that a planned crop depends on; None for methods of others, whose code may change."""
    if crop is None:
        return []
    method: Any = crop.method
    excluded = ()
    if isinstance(method, TissueWithout):
        method, excluded = method.method, method.exclude
    filled: dict[str, Any] = {}
    if isinstance(method, functools.partial) and not method.args:
        method, filled = method.func, method.keywords
    if not isinstance(method, FunctionType) or method.__module__.partition(".")[0] != "wsidata":
        return None
    try:
        json.dumps(filled)
    except (TypeError, ValueError):
        return None
    return [{**vars(crop), "method": described(method)}, filled, *([list(excluded)] if excluded else [])]
