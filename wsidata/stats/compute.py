"""Exact channel means and standard deviations of images, for normalization.

Sums are integers (see `pixel_sums`), so the result does not depend on the order of the images, the number of workers,
or the machine. Only the last step, from fractions to floats, rounds, once.

    stats = channel_stats(paths, mpp=2.0, tissue_only=True)
    stats.mean, stats.std                    # on the scale 0..1, ready for StreamingResNet(mean=..., std=...)
    stats.save("stats.json")
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from fractions import Fraction
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

from wsidata.formats.resolution import Resolution
from wsidata.jobs.pools import process_pool, refuse_forks
from wsidata.slides.options import AS_STORED, SlideOptions
from wsidata.slides.tissue.crop import CropKind, TissueCrop, as_crop
from wsidata.stats.gather import Failure, count_all, name_of
from wsidata.stats.pixel_sums import Mask, PixelSums, Reader, Source, StatsJob
from wsidata.stats.result import ChannelStats, Reduction, StatsError, StatsWarning
from wsidata.utils.messages import check_choice, describe_problems

__all__ = ["channel_stats", "process_pool"]


def channel_stats(
    images: Iterable[Source],
    *,
    reduction: Reduction = "pooled",
    tissue_only: bool = False,
    mask: Mask | None = None,
    crop: CropKind | TissueCrop | None = None,
    executor: Executor | None = None,
    share: str | Path | None = None,
    mpp_override: float | tuple[float, float] | None = None,
    channels: Sequence[int | str] | int | str | None = None,
    scale_to_8bit: tuple[float, float] | None = None,
    apply_icc: bool = False,
    series: int | None = None,
    z: int | None = None,
    t: int | None = None,
    read: Reader | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    progress: Callable[[int, int], None] | None = None,
    **resolution: Any,
) -> ChannelStats:
    """Exact mean and standard deviation of each channel.

    Args:
        images: Paths, `Slide`s, pyvips images or (H, W, C) arrays, of any sizes; all 8-bit, or all 16-bit.
        reduction: "pooled" weighs every pixel alike: mean and (population) standard deviation of all pixels together,
            as `numpy.mean` and `numpy.std` of them. "per_image" takes the mean of the images' own means, and the mean
            of their own unbiased (n - 1) standard deviations, as many notebooks do with torch; small images weigh as
            much as large ones, and differences between images are left out of the standard deviation.
        tissue_only: Count only tissue, by `Slide.tissue_mask`.
        mask: Count only the pixels of a mask of your own; see `pixel_sums.Mask`. For a process pool it must be a
            function at the top of a module.
        crop: Count slides as the data module reads them with this crop, including the white of packed canvases.
        executor: A `concurrent.futures.Executor` to spread the images over: threads, processes (`process_pool`), or
            Dask's `client.get_executor(pure=False)`. None: in this thread, one after the other. The result is the same.
        share: A folder in which several jobs, on any machines, share the work: each counts the images that no other
            has, and returns the statistics of all. What is counted stays there. None: this job counts all.
        mpp_override: um per pixel of level 0 of all paths, to use instead of the files' own.
        channels: Channels to read of all paths, as for `Slide`. None: RGB.
        scale_to_8bit: Stored values that become 0 and 255, as for `Slide`.
        apply_icc: Convert colors to sRGB first, as for `Slide`.
        series: Number of the image of each file, as for `Slide`.
        z: Number of the focal plane.
        t: Number of the point in time.
        read: Reads paths, if these are not slides: a function from the path to (H, W, C). For a process pool it must be
            at the top of a module. `photos.read.read_photo` counts photos as they look, upright and in sRGB;
            `functools.partial(read_photo, short_side_px=256)` at that size.
        on_error: What to do about images that cannot be read or have no pixel to count: "raise", or "skip" them with a
            warning that names them; they are listed in `ChannelStats.skipped`.
        progress: Called with (images done, images in all) as they are done.
        **resolution: The resolution paths and slides are read at, as for `Slide.image`: `level=`, `mpp=`,
            `magnification=`, `downsample=` or `max_side=`. None: level 0.

    Returns:
        The statistics, on the scale 0..1.

    Raises:
        StatsError: naming every image that cannot be read, has no pixel to count or differs in channels or depth;
            or for a process pool that forks, in which libvips hangs.
        PoolError: if the executor ends, as when the system kills one of its processes.
        SharedRunError: if jobs at work in the folder `share` have other arguments.
        ValueError: if `on_error`, `channels`, `scale_to_8bit` or `mpp_override` are invalid.
        TypeError: if more than one resolution is given.

    Warns:
        StatsWarning: naming every image that was skipped.
    """
    sources = list(images)
    if not sources:
        raise StatsError("there are no images to compute statistics of. Pass at least one.")
    check_choice("reduction", reduction, ("pooled", "per_image"), StatsError)
    if tissue_only and mask is not None:
        raise StatsError("tissue_only=True and mask= both say which pixels count. Pass one of them.")
    if tissue_only and crop is not None:
        raise StatsError("tissue_only=True leaves out all that crop= would, and more. Pass one of them.")
    tissue_crop, requested = as_crop(crop), Resolution.of(resolution)
    options = SlideOptions(mpp_override, channels, scale_to_8bit, apply_icc, series, z, t)
    if read is not None and (requested or crop is not None or options != AS_STORED):
        raise StatsError(
            "read= reads paths its own way: leave out crop=, apply_icc= and all else that says how slides are read."
        )
    check_choice("on_error", on_error, ("raise", "skip"))
    refuse_forks(executor, StatsError)
    options.check_crop(tissue_crop)
    job = StatsJob(tissue_only, mask, tissue_crop, requested, options, read)
    return stats_of(job, sources, reduction, executor, share, skip=on_error == "skip", progress=progress)


def stats_of(
    job: StatsJob,
    sources: Sequence[Source],
    reduction: Reduction = "pooled",
    executor: Executor | None = None,
    share: str | Path | None = None,
    *,
    skip: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ChannelStats:
    """Exact mean and standard deviation of what a job counts of images; for the arguments see `channel_stats`."""
    outcome = count_all(job, sources, executor, share, {"reduction": reduction}, progress)
    sums, skipped = _readable(outcome, sources, 1 if reduction == "pooled" else 2, skip=skip)
    _refuse_mixtures(sources, sums)
    mean, std = (_pooled if reduction == "pooled" else _per_image)(list(sums.values()))
    first = next(iter(sums.values()))
    is_read_so = job.read is None and all(isinstance(one, str | Path) for one in sources)
    return ChannelStats(
        mean=mean,
        std=std,
        count_px=sum(one.count_px for one in sums.values()),
        image_count=len(sums),
        reduction=reduction,
        tissue_only=job.tissue_only or job.mask is not None,
        max_value=first.max_value,
        resolution=json.loads(json.dumps(dict(job.resolution))),  # pairs become lists, as they will when read back
        crop=None if job.crop is None else job.crop.kind,
        skipped=skipped,
        reading=job.options.reading if is_read_so else None,
    )


def _readable(
    results: Mapping[int, PixelSums | Failure], sources: Sequence[Source], least_px: int, *, skip: bool
) -> tuple[dict[int, PixelSums], tuple[tuple[str, str], ...]]:
    """The sums, and (name, reason) of the images that failed; all failures together in one error.

    Only unreadable images are skipped, not a full disk or an error in the user's own mask.
    """
    sums: dict[int, PixelSums] = {}
    problems: list[tuple[str, str]] = []
    is_fatal = not skip
    for index, result in results.items():
        name = name_of(sources[index], index)
        if isinstance(result, Failure):
            problems.append((name, result.reason))
            is_fatal = is_fatal or not result.is_of_image
        elif result.count_px < least_px:
            problems.append((name, f"{result.count_px} pixels to count, at least {least_px} are needed"))
        else:
            sums[index] = result
    listed = [f"{name}: {reason}" for name, reason in problems]
    if problems and (is_fatal or not sums):
        remedy = (
            "Repair these, or leave them out (on_error='skip' does so with images that cannot be read); for images "
            "without tissue, pass tissue_only=False."
        )
        raise StatsError(describe_problems("images", listed, remedy))
    if problems:
        message = describe_problems("images", listed, f"They are left out; {len(sums)} of {len(sources)} are counted.")
        warnings.warn(message, StatsWarning, stacklevel=3)
    return sums, tuple(problems)


def _refuse_mixtures(sources: Sequence[Source], sums: Mapping[int, PixelSums]) -> None:
    index_of_first, first = next(iter(sums.items()))
    problems = [
        f"{name_of(sources[index], index)}: has {len(one.sums)} channels up to {one.max_value}, and "
        f"{name_of(sources[index_of_first], index_of_first)} has {len(first.sums)} up to {first.max_value}"
        for index, one in sums.items()
        if (len(one.sums), one.max_value) != (len(first.sums), first.max_value)
    ]
    if problems:
        remedy = "Leave these out, or compute their statistics separately."
        raise StatsError(describe_problems("images", problems, remedy))


def _pooled(sums: Sequence[PixelSums]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    total = reduce(add, sums)
    return tuple(float(mean) for mean in _means(total)), tuple(_stds(total, unbiased=False))


def _per_image(sums: Sequence[PixelSums]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    means = zip(*(_means(one) for one in sums), strict=True)
    stds = zip(*(_stds(one, unbiased=True) for one in sums), strict=True)
    # Fractions and fsum round once, at the end, so that the order of the images does not matter.
    mean = tuple(float(sum(channel, Fraction(0)) / len(sums)) for channel in means)
    return mean, tuple(math.fsum(channel) / len(sums) for channel in stds)


def _means(sums: PixelSums) -> list[Fraction]:
    return [Fraction(one, sums.count_px * sums.max_value) for one in sums.sums]


def _stds(sums: PixelSums, *, unbiased: bool) -> list[float]:
    """sqrt((n * sum(x^2) - sum(x)^2) / (n * m)), with m = n, or n - 1 if unbiased; exact up to the root."""
    count = sums.count_px
    divisor = count * (count - 1 if unbiased else count) * sums.max_value**2
    return [
        math.sqrt(Fraction(count * square - one * one, divisor))
        for one, square in zip(sums.sums, sums.squares, strict=True)
    ]
