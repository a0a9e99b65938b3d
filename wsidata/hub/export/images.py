"""Writing the images of an export: several at a time, each noted when it is done, none held longer than it takes.

A worker is handed the row's number and writes the file; only facts come back. With threads (the default) as many
pictures are in memory as there are threads, and of slides only some rows of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.hub.client import is_disk_full
from wsidata.hub.export.encoding import encode
from wsidata.hub.export.journal import Entry, Journal, content_key
from wsidata.hub.export.plan import ExportError, ExportPlan, PartPlan, pixel_settings
from wsidata.hub.manifest import Encoding
from wsidata.slides.masks import UNKNOWN, MaskError
from wsidata.stats.compute import refuse_forks
from wsidata.transforms.base import Sample
from wsidata.transforms.geometry.crop import CropOrPad
from wsidata.utils.messages import describe_problems

THREADS = 4
LAZY_THREADS = 2
"""Each lazy image keeps some hundreds of MB of decoded tiles, and libvips works on it with threads of its own."""

_ROWS_A_JOB = 16
"""Rows that a process is handed at once, because a copy of the data set travels with them."""

_JOBS_WAITING = 32


@dataclass(frozen=True)
class Task:
    """One image to write.

    Attributes:
        index: Row in the data set.
        place: Path below the export, without suffix.
        mask_place: Likewise of the mask; None without one.
        key: What it is made of.
        source: Its file.
    """

    index: int
    place: str
    mask_place: str | None
    key: str
    source: str


@dataclass(frozen=True)
class Writer:
    """Writes images of one part; sent to the workers.

    Attributes:
        dataset: Where pictures come from.
        crop: What is applied to them.
        encoding: How they are encoded.
        staging: Folder they are written below.
    """

    dataset: EpochDataset
    crop: CropOrPad | None
    encoding: Encoding
    staging: Path

    def __call__(self, tasks: list[Task]) -> list[Entry | str]:
        """An entry for each task, or what was wrong with it.

        Raises:
            OSError: if nothing more can be written.
        """
        outcomes: list[Entry | str] = []
        for task in tasks:
            try:
                outcomes.append(self._write(task))
            except Exception as error:  # whatever a decoder raises is reported with the name of its file
                if is_disk_full(error):
                    raise
                outcomes.append(f"{task.source}: {type(error).__name__}: {' '.join(str(error).split())}")
        return outcomes

    def _write(self, task: Task) -> Entry:
        sample = self._sample(task.index)
        mpp = _spacing(self.dataset, task.index)
        stem = self.staging / task.place
        made = encode(
            sample.image, stem, self.encoding, name=Path(task.source).name, mpp=mpp, original=Path(task.source)
        )
        mask_file = mask_sha256 = None
        if task.mask_place is not None:
            mask = sample.masks[0].copy(interpretation="b-w")
            mask_made = encode(mask, self.staging / task.mask_place, Encoding("png"), name=f"mask of {task.source}")
            _refuse_unknown_classes(mask_made.path, task.source)
            mask_file, mask_sha256 = str(mask_made.path.relative_to(self.staging).as_posix()), mask_made.sha256
        return Entry(
            place=task.place,
            key=task.key,
            file=made.path.relative_to(self.staging).as_posix(),
            sha256=made.sha256,
            size_bytes=made.size_bytes,
            width=made.width,
            height=made.height,
            mpp=mpp,
            mask_file=mask_file,
            mask_sha256=mask_sha256,
        )

    def _sample(self, index: int) -> Sample:
        """The picture of a row, and its mask, after everything that is not random."""
        untransformed = getattr(self.dataset, "untransformed", None)
        if untransformed is None:
            raise ExportError(
                f"{type(self.dataset).__name__} cannot say what its images are before augmentation. Export works on "
                "WSIDataModule and ImageFolderDataModule."
            )
        sample: Sample = untransformed(index)
        return sample if self.crop is None else self.crop.run(sample, np.random.default_rng(0))


def write_images(plan: ExportPlan, journal: Journal, done: set[str], executor: Executor | None, *, quiet: bool) -> None:
    """Write all images that are not there yet, and note each in the journal.

    Args:
        plan: What is exported.
        journal: Of its folder.
        done: Places that need not be written again.
        executor: Where: threads, processes, Dask. None: four threads.
        quiet: No progress bar.

    Raises:
        ExportError: naming every image that cannot be read or encoded; the others are written.
        OSError: if the disk is full; see `enough_room`.
    """
    refuse_forks(executor)
    jobs = [(part, tasks(plan, part, done)) for part in plan.parts]
    count = sum(len(missing) for _, missing in jobs)
    if not count:
        return
    problems: list[str] = []
    threads = LAZY_THREADS if plan.arguments["lazy"] else THREADS
    with _pool(executor, threads) as pool, _bar(count, quiet=quiet) as bar:
        at_once = 1 if isinstance(pool, ThreadPoolExecutor) else max(1, min(_ROWS_A_JOB, count // 8))
        for outcome in _outcomes(plan, jobs, journal.staging, pool, at_once):
            bar.update()
            if isinstance(outcome, Entry):
                journal.add(outcome)
            else:
                problems.append(outcome)
    if problems:
        remedy = "Repair these, or take them out of the table, and run the export again; what is done is kept."
        raise ExportError(describe_problems("images", sorted(problems), remedy))


def tasks(plan: ExportPlan, part: PartPlan, done: set[str]) -> list[Task]:
    """What is to be written of a part."""
    keys = keys_of(plan, part)
    masks: tuple[str | None, ...] = part.mask_places or (None,) * len(part.places)
    return [
        Task(index, place, mask, keys[place], sources[0])
        for index, place, mask, sources in zip(part.indices, part.places, masks, part.sources, strict=True)
        if place not in done
    ]


def keys_of(plan: ExportPlan, part: PartPlan) -> dict[str, str]:
    """By place, what each image of a part is made of."""
    settings = pixel_settings(plan, part)
    return {
        place: content_key([Path(source) for source in sources], settings)
        for place, sources in zip(part.places, part.sources, strict=True)
    }


def _outcomes(
    plan: ExportPlan, jobs: list[tuple[PartPlan, list[Task]]], staging: Path, pool: Executor, at_once: int
) -> Iterator[Entry | str]:
    """As they come; no more jobs wait than the workers need, so that all of it can be stopped."""
    waiting: set[Future[list[Entry | str]]] = set()
    queue = (
        (Writer(part.dataset, part.crop, plan.encoding, staging), missing[start : start + at_once])
        for part, missing in jobs
        for start in range(0, len(missing), at_once)
    )
    try:
        for writer, some in islice(queue, _JOBS_WAITING):
            waiting.add(pool.submit(writer, some))
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield from future.result()
            for writer, some in islice(queue, len(finished)):
                waiting.add(pool.submit(writer, some))
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def enough_room(folder: Path) -> Iterator[None]:
    """Say what to do when the disk is full.

    Raises:
        ExportError: in place of the error of a disk that is full.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise ExportError(
            f"'{folder}' cannot take more: {error}. Make room and run the export again; it goes on where it stopped."
        ) from error


@contextmanager
def _pool(executor: Executor | None, threads: int) -> Iterator[Executor]:
    if executor is not None:
        yield executor
        return
    with ThreadPoolExecutor(min(threads, os.cpu_count() or 1)) as pool:
        yield pool


@contextmanager
def _bar(total: int, *, quiet: bool) -> Iterator[Any]:
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="writing images", unit="image", disable=quiet) as bar:
        yield bar


def _spacing(dataset: EpochDataset, index: int) -> tuple[float, float] | None:
    """Spacing of the image in um per pixel, if its slide says."""
    if not isinstance(dataset, SlideDataset):
        return None
    with dataset.open_slide(index) as slide:
        if slide.mpp is None:
            return None
        x, y = slide.downsample_at(**dataset.resolution)
        return slide.mpp[0] * x, slide.mpp[1] * y


def _refuse_unknown_classes(path: Path, source: str) -> None:
    """Masks hold classes; what `masks.read_mask` marks as none must not be published as if it were one."""
    mask = pyvips.Image.new_from_file(str(path), access="sequential")
    if (mask == UNKNOWN).max() > 0:
        path.unlink()
        raise MaskError(
            f"the mask of '{source}' holds values that are no class. Name them with class_names= and mask_values=."
        )
