"""Parallel writing of an export's images, each recorded in the journal as soon as it is done.

Workers get row numbers, write files, record them in the journal, and return only facts. At most one image per thread is
in memory; of lazy images only some rows.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyvips

from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.hub.client import is_disk_full
from wsidata.hub.export.encoding import encode
from wsidata.hub.export.journal import Entry, Journal, content_key, record
from wsidata.hub.export.plan import ExportError, ExportPlan, SplitPlan, pixel_settings
from wsidata.hub.manifest import Encoding
from wsidata.jobs.claims import Results, SharedRun
from wsidata.jobs.pools import outcomes, refuse_forks, worker_count
from wsidata.slides.masks import UNKNOWN, MaskError
from wsidata.transforms.base import Sample
from wsidata.transforms.geometry.crop import CropOrPad
from wsidata.utils.messages import describe_problems
from wsidata.utils.plain_json import from_plain

THREADS = 4
LAZY_THREADS = 2
"""Each lazy image keeps some hundreds of MB of decoded tiles, and libvips processes it in its own threads."""

_ROWS_A_JOB = 16
"""Rows per job of a process pool, because a copy of the dataset is sent with each job."""


@dataclass(frozen=True)
class ImageTask:
    """An image to write.

    Attributes:
        index: Row in the dataset.
        place: Path below the export, without suffix.
        mask_place: The same for the mask; None without one.
        key: Its content key; see `journal.content_key`.
        source: Its file.
    """

    index: int
    place: str
    mask_place: str | None
    key: str
    source: str


@dataclass(frozen=True)
class ImageWriter:
    """Writes images of one split; sent to the workers.

    Attributes:
        dataset: Source of the images.
        crop: Crop or padding to apply.
        encoding: Their encoding.
        staging: Folder to write below.
    """

    dataset: EpochDataset
    crop: CropOrPad | None
    encoding: Encoding
    staging: Path

    def __call__(self, tasks: list[ImageTask]) -> list[Entry | str]:
        """An entry for each task, or its error message.

        Raises:
            OSError: if the disk is full.
        """
        outcomes: list[Entry | str] = []
        for task in tasks:
            try:
                outcomes.append(self._write(task))
            except Exception as error:  # of any decoder; reported with the name of the file
                if is_disk_full(error):
                    raise
                outcomes.append(f"{task.source}: {type(error).__name__}: {' '.join(str(error).split())}")
        return outcomes

    def _write(self, task: ImageTask) -> Entry:
        sample = self._sample(task.index)
        mpp = _mpp(self.dataset, task.index)
        stem = self.staging / task.place
        made = encode(
            sample.image, stem, self.encoding, name=Path(task.source).name, mpp=mpp, original=Path(task.source)
        )
        mask_file = mask_sha256 = None
        if task.mask_place is not None:
            mask = sample.masks[0].copy(interpretation="b-w")
            mask_made = encode(mask, self.staging / task.mask_place, Encoding("png"), name=f"mask of {task.source}")
            _refuse_unknown_classes(mask_made.path, task.source)
            mask_file, mask_sha256 = mask_made.path.relative_to(self.staging).as_posix(), mask_made.sha256
        facts = made.sha256, made.size_bytes, made.width, made.height, mpp, mask_file, mask_sha256
        entry = Entry(task.place, task.key, made.path.relative_to(self.staging).as_posix(), *facts)
        record(self.staging, entry)
        return entry

    def _sample(self, index: int) -> Sample:
        """The image of a row, and its mask, after the deterministic steps."""
        untransformed = getattr(self.dataset, "untransformed", None)
        if untransformed is None:
            raise ExportError(
                f"{type(self.dataset).__name__} cannot say what its images are before augmentation. Export works on "
                "WSIDataModule and ImageFolderDataModule."
            )
        sample: Sample = untransformed(index)
        return sample if self.crop is None else self.crop.run(sample, np.random.default_rng(0))


Writers = list[tuple[ImageWriter, list[ImageTask]]]
Outcomes = Generator[Entry | str, None, None]


def write_images(
    plan: ExportPlan,
    journal: Journal,
    done: set[str],
    executor: Executor | None,
    *,
    run: SharedRun | None = None,
    quiet: bool = False,
) -> None:
    """Write all missing images, and record each in the journal.

    Args:
        plan: The plan.
        journal: The folder's journal.
        done: Places that are written already.
        executor: Threads, processes or Dask. None: four threads.
        run: Shares the work with other jobs.
        quiet: No progress bar.

    Raises:
        ExportError: naming every image that cannot be read or encoded; all others are written.
        PoolError: if the executor ends.
        OSError: if the disk is full; see `enough_room`.
    """
    refuse_forks(executor)
    jobs = [(split, tasks(plan, split, done)) for split in plan.splits]
    count = sum(len(missing) for _, missing in jobs)
    if not count:
        return
    from tqdm.auto import tqdm

    problems: list[str] = []
    threads = min(LAZY_THREADS if plan.manifest.arguments["lazy"] else THREADS, os.cpu_count() or 1)
    own = ThreadPoolExecutor(threads) if executor is None else nullcontext(executor)
    with own as pool, tqdm(total=count, desc="writing images", unit="image", disable=quiet) as bar:
        writers = [
            (ImageWriter(one.dataset, one.crop, plan.manifest.encoding, journal.staging), ts) for one, ts in jobs
        ]
        written = _written(writers, count, pool) if run is None else _shared(writers, run, pool)
        with closing(written):
            for outcome in written:
                bar.update()
                if isinstance(outcome, Entry):
                    journal.entries[outcome.place] = outcome
                else:
                    problems.append(outcome)
    if problems:
        remedy = "Repair these, or remove them from the table, and run the export again; what is done is kept."
        raise ExportError(describe_problems("images", sorted(problems), remedy))


def _written(writers: Writers, count: int, pool: Executor) -> Outcomes:
    """Outcomes in the order of completion."""
    at_once = 1 if isinstance(pool, ThreadPoolExecutor) else max(1, min(_ROWS_A_JOB, count // 8))
    jobs = (
        (writer, some[start : start + at_once]) for writer, some in writers for start in range(0, len(some), at_once)
    )
    with closing(outcomes(_write, jobs, pool, name=lambda job: job[1][0].source)) as found:
        for _, several in found:
            if isinstance(several, Exception):
                raise several
            yield from several


def _shared(writers: Writers, run: SharedRun, pool: Executor) -> Outcomes:
    """Outcomes of all jobs of a run."""
    job_of = {item_of(task.place, task.key): (writer, [task]) for writer, some in writers for task in some}

    def compute(taken: Iterator[str]) -> Results:
        jobs = (job_of[key] for key in taken)
        with closing(outcomes(_write, jobs, pool, most=worker_count(pool), name=lambda job: job[1][0].source)) as found:
            for (_, (task,)), several in found:
                if isinstance(several, Exception):
                    raise several
                (made,) = several
                result = {"problem": made, "retry": True} if isinstance(made, str) else {"entry": asdict(made)}
                yield item_of(task.place, task.key), result

    with closing(run.outcomes(job_of, compute)) as found:
        for _, result in found:
            yield result["problem"] if "problem" in result else from_plain(Entry, result["entry"])


def item_of(place: str, key: str) -> str:
    """The name of an image in a shared run."""
    return f"{place} {key}"


def _write(job: tuple[ImageWriter, list[ImageTask]]) -> list[Entry | str]:
    writer, some = job
    return writer(some)


def tasks(plan: ExportPlan, split: SplitPlan, done: set[str]) -> list[ImageTask]:
    """The images of a split that are still to be written."""
    keys = keys_of(plan, split)
    masks: tuple[str | None, ...] = split.mask_places or (None,) * len(split.places)
    return [
        ImageTask(index, place, mask, keys[place], sources[0])
        for index, place, mask, sources in zip(split.indices, split.places, masks, split.sources, strict=True)
        if place not in done
    ]


def keys_of(plan: ExportPlan, split: SplitPlan) -> dict[str, str]:
    """Content key of each image of a split, by place."""
    settings = pixel_settings(plan, split)
    return {
        place: content_key([Path(source) for source in sources], settings)
        for place, sources in zip(split.places, split.sources, strict=True)
    }


@contextmanager
def enough_room(folder: Path) -> Iterator[None]:
    """Explain what to do if the disk is full.

    Raises:
        ExportError: instead of the `OSError` of a full disk.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise ExportError(
            f"'{folder}' cannot take more: {error}. Free some space and run the export again; it goes on "
            "where it stopped."
        ) from error


def _mpp(dataset: EpochDataset, index: int) -> tuple[float, float] | None:
    """Resolution of the image in um/px (x, y), if its slide states it."""
    if not isinstance(dataset, SlideDataset):
        return None
    with dataset.open_slide(index) as slide:
        if slide.mpp is None:
            return None
        x, y = slide.downsample_at(**dataset.resolution)
        return slide.mpp[0] * x, slide.mpp[1] * y


def _refuse_unknown_classes(path: Path, source: str) -> None:
    """Refuse masks with values that `masks.read_mask` marks as of no class."""
    mask = pyvips.Image.new_from_file(str(path), access="sequential")
    if (mask == UNKNOWN).max() > 0:
        path.unlink()
        raise MaskError(
            f"the mask of '{source}' holds values of no class. Name them with class_names= and mask_values=."
        )
