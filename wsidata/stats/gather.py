"""Sums of the pixels of many images, counted here, by an executor, or by several jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import pyvips

from wsidata.errors import SlideError
from wsidata.jobs.claims import Result, Results, SharedRun
from wsidata.jobs.identity import identity
from wsidata.jobs.pools import outcomes, worker_count
from wsidata.remote.address import Address, is_address, shown
from wsidata.remote.source import identity_of
from wsidata.slides.slide import Slide
from wsidata.stats.pixel_sums import PixelSums, Source, StatsJob
from wsidata.stats.result import StatsError
from wsidata.utils.files import files_of, json_sha256
from wsidata.utils.processes import raise_system_fault

Counted = Generator[tuple[int, "PixelSums | Failure"], None, None]
"""Numbers of images, with their sums."""


@dataclass(frozen=True)
class Failure:
    """Why an image was not counted.

    Attributes:
        reason: The error, in one line.
        is_of_image: Whether the image cannot be read, and not something else went wrong.
    """

    reason: str
    is_of_image: bool

    @classmethod
    def of(cls, error: Exception, name: str) -> Failure:
        """The failure of an image, of this name, that an error tells of.

        Raises:
            OpenFilesError, UnreachableImageError: if the error is not about the image.
        """
        raise_system_fault(error, name)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return cls(reason, isinstance(error, SlideError | OSError | pyvips.Error))


def count_all(
    job: StatsJob,
    sources: Sequence[Source],
    executor: Executor | None,
    share: str | Path | None,
    settings: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> dict[int, PixelSums | Failure]:
    """Sums of every image, or why there are none, in order.

    Args:
        job: Counts an image.
        sources: The images.
        executor: See `channel_stats`, as for `share`.
        share: Folder of the jobs that share the work.
        settings: What else these jobs must have in common.
        progress: Called with (images done, images in all).

    Raises:
        StatsError: if images that jobs are to share are not paths.
        SharedRunError: if jobs have other settings.
        PoolError: if the executor ends.
        OpenFilesError, UnreachableImageError: if the system fails, and not an image.
    """
    found = _counted(job, sources, executor) if share is None else _shared(job, sources, executor, share, settings)
    results: dict[int, PixelSums | Failure] = {}
    with closing(found):
        for index, outcome in found:
            results[index] = outcome
            if progress is not None:
                progress(len(results), len(sources))
    return dict(sorted(results.items()))


def name_of(source: Source, index: int) -> str:
    """An image in messages."""
    if isinstance(source, Slide):
        return str(source.path)
    return shown(source) if isinstance(source, str | Path) else f"image {index} ({type(source).__name__})"


def _counted(job: StatsJob, sources: Sequence[Source], executor: Executor | None) -> Counted:
    items = ((name_of(source, index), index, source) for index, source in enumerate(sources))
    with closing(outcomes(partial(_count, job), items, executor, name=lambda one: one[0])) as found:
        for (name, index, _), outcome in found:
            yield index, Failure.of(outcome, name) if isinstance(outcome, Exception) else outcome


def _count(job: StatsJob, item: tuple[str, Any, Source]) -> PixelSums | Failure:
    """The sums of an image; errors are looked at here, since some of what they hold does not travel."""
    name, _, source = item
    try:
        return job(source)
    except Exception as error:  # any decoder's error is reported with the name of its file
        return Failure.of(error, name)


def _shared(
    job: StatsJob, sources: Sequence[Source], executor: Executor | None, share: str | Path, settings: Mapping[str, Any]
) -> Counted:
    """Sums from the results of all jobs; an image that is named several times is counted once."""
    if not all(isinstance(source, str | Path) for source in sources):
        raise StatsError("share= is for paths, which all jobs know. Leave it out for slides and images in memory.")
    how = _described(job)
    paths = [str(source) for source in sources]
    rows: dict[str, list[int]] = {}
    for index, path in enumerate(paths):
        rows.setdefault(path, []).append(index)
    path_of = {json_sha256([path, _facts(path), how]): path for path in rows}

    def compute(taken: Iterator[str]) -> Results:
        items = ((path_of[key], key, path_of[key]) for key in taken)
        most = worker_count(executor)  # what waits for a worker here, another job could do
        with closing(outcomes(partial(_count, job), items, executor, most=most, name=lambda one: one[0])) as done:
            for (name, key, _), outcome in done:
                counted = Failure.of(outcome, name) if isinstance(outcome, Exception) else outcome
                if isinstance(counted, Failure):
                    yield key, {"failure": asdict(counted), "retry": True}
                else:
                    yield key, {"sums": asdict(counted)}

    settings = {**how, **settings, "images": json_sha256(paths)}
    with SharedRun(share, settings, keeps=True) as run, closing(run.outcomes(path_of, compute)) as done:
        for key, result in done:
            for index in rows[path_of[key]]:
                yield index, _read(result)


def _read(result: Result) -> PixelSums | Failure:
    """What a job has written."""
    if "failure" in result:
        return Failure(**result["failure"])
    one = result["sums"]
    return PixelSums(one["count_px"], tuple(one["sums"]), tuple(one["squares"]), one["max_value"])


def _described(job: StatsJob) -> dict[str, Any]:
    """All that the sums of an image follow from, apart from its file."""
    crop = None if job.crop is None else {**vars(job.crop), "method": _identity(job.crop.method)}
    return {
        "tissue_only": job.tissue_only,
        "mask": _identity(job.mask),
        "crop": crop,
        "resolution": dict(job.resolution),
        "options": asdict(job.options),
        "read": _identity(job.read),
        **job.further,
        "libvips": ".".join(str(pyvips.version(place)) for place in range(3)),
    }


def _identity(function: Any) -> Any:
    """A function as plain values: those of this package by name, others by what they do."""
    if isinstance(function, partial):
        return [_identity(function.func), identity(function.args), identity(function.keywords)]
    if isinstance(function, FunctionType) and function.__module__.startswith("wsidata."):
        return f"{function.__module__}.{function.__qualname__}"
    return identity(function)


def _facts(path: str) -> Any:
    """Size and time of a file, or of all files of a folder; None where there is none. At an address, its version."""
    try:
        if is_address(path):
            return None if Address(path).is_store else list(identity_of(Address(path))[1:])
        return [[file.name, (status := file.stat()).st_size, status.st_mtime_ns] for file in files_of(Path(path))]
    except OSError:
        return None
