"""Data loaders with batching, worker processes, and resumption in the middle of an epoch.

libvips' threads do not survive a fork, and a forked worker then hangs forever. So workers come from a fork server, a
fresh process that has imported what they need and has run no libvips operation; where there is none (Windows), they are
spawned.
"""

from __future__ import annotations

import multiprocessing
import pickle
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import accumulate, chain
from typing import Any, Literal, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from wsidata.datasets.buffers import stacked
from wsidata.datasets.epochs import EpochDataset, SampleError, TableDataset, Unreadable
from wsidata.datasets.sampler import EpochSampler, RowSampler, Share
from wsidata.datasets.sharing import begin_reading, end_reading, sent, trim
from wsidata.datasets.workers import (
    WorkerError,
    begin_worker,
    describe_ended,
    describe_stuck,
    never_began,
    reading_log,
)
from wsidata.slides.lazy_mask import LazyMask
from wsidata.transforms.base import TransformError
from wsidata.utils.processes import raise_open_files

WorkerStart = Literal["forkserver", "spawn"]

AHEAD = 4
"""Files that are copied to a stage ahead of those that workers read."""

# Lightning seeds workers with a function of its own, for which each would have to import Lightning.
_PRELOADED = ["__main__", "wsidata.datasets.loader", "lightning.fabric.utilities.seed"]


def make_loader(
    dataset: EpochDataset,
    *,
    batch_size: int = 1,
    shuffle: bool = False,
    balance: Sequence[int] | None = None,
    share: Share | None = None,
    rows: Sequence[int] | None = None,
    num_workers: int = 0,
    worker_start: WorkerStart | None = None,
    pin_memory: bool = False,
    read_timeout_s: float | None = None,
) -> EpochLoader:
    """Build the loader of a dataset.

    Scripts that use workers need the usual `if __name__ == "__main__":` guard, since workers import the script.

    Args:
        dataset: The dataset.
        batch_size: Samples per batch.
        shuffle: Random order, a new one each epoch.
        balance: Class of each row, to draw every class equally often; see `sampler.balanced_rows`.
        share: The samples this process takes. None: all of them; a Trainer may divide them further.
        rows: The rows that this process takes, in order, instead of all that.
        num_workers: Worker processes, kept between epochs. 0 reads in this process.
        worker_start: "forkserver" or "spawn". None: the fork server where there is one.
        pin_memory: Copy batches to page-locked memory, for asynchronous transfer to a GPU.
        read_timeout_s: Seconds without a batch from the workers after which a `WorkerError` names what they read. None
            waits forever.

    Raises:
        TransformError: if there are workers, and the transform cannot be sent to them.
        ValueError: if workers cannot be started that way on this system, or libvips would hang in them.
    """
    if num_workers:
        _check_picklable(dataset)
        multiprocessing.set_forkserver_preload(_PRELOADED)
    sampler: EpochSampler | RowSampler | None = None
    if rows is not None:
        sampler = RowSampler(dataset, rows)
    elif shuffle or balance is not None or share is not None:
        sampler = EpochSampler(dataset, shuffle=shuffle, balance=balance, share=share or Share())
    return EpochLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate if dataset.numbered is None else collate_numbered,
        pin_memory=pin_memory,
        multiprocessing_context=check_worker_start(worker_start) if num_workers else None,
        persistent_workers=num_workers > 0,
        timeout=(read_timeout_s or 0) if num_workers else 0,
    )


class BatchRows(NamedTuple):
    """What a batch of a `numbered` dataset is made of.

    Attributes:
        rows: Number of the row of each image.
        unreadable: Why rows cannot be read. In the batch another of its images stands in for each.
        is_empty: Whether no row could be read, and so there is no batch.
    """

    rows: tuple[int, ...]
    unreadable: dict[int, str]
    is_empty: bool


class EpochLoader(DataLoader[Any]):
    """A `DataLoader` that begins each epoch of its `EpochDataset`, and can resume in the middle of one.

    Lightning keeps its state in checkpoints, so a resumed run sees the rest of the interrupted epoch, and not its
    beginning again.

    Attributes:
        read: Of a `numbered` dataset, what the batches are made of, in order, empty ones too; to be taken out.
    """

    dataset: EpochDataset
    _iterator: Any  # of torch, which keeps it while its workers live
    _given = 0
    _resumed: tuple[int, int] | None = None

    def __iter__(self) -> Any:
        """Begin an epoch, or resume the one that a checkpoint was saved in."""
        self.dataset.begin_epoch()
        self.read: deque[BatchRows] = deque()
        seed, given = self._resumed or (None, 0)
        self._given = given if seed == self.dataset.epoch_seed else 0  # another epoch starts from its beginning
        if isinstance(self.sampler, EpochSampler):
            self.sampler.skipped = self._given * (self.batch_size or 1)
        with self._naming_faults():
            batches = self._started()
        return self._counted(batches)

    def _started(self) -> Iterator[Any]:
        """Torch's iterator over batches, whose workers begin with `begin_worker`."""
        if not self.num_workers or self._iterator is not None:
            return super().__iter__()
        own, self._reading, self._number = self.worker_init_fn, reading_log(self.num_workers), begin_reading()
        self.worker_init_fn = partial(begin_worker, self._reading, self._number, own)
        try:
            batches = super().__iter__()
        finally:
            self.worker_init_fn = own
        weakref.finalize(batches, end_reading, self._number)
        return batches

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        with self._naming_faults(), self._copying_ahead():
            for batch in batches:
                self._given += 1
                if self.dataset.numbered is not None:
                    batch, rows, unreadable = batch
                    self.read.append(BatchRows(rows, unreadable, is_empty=batch is None))
                    if batch is None:
                        continue
                yield batch
        if self.num_workers:
            trim(self._number)

    def _copying_ahead(self) -> AbstractContextManager[None]:
        """A thread that copies the files of the epoch to the stage of the dataset, if it has one, ahead of use."""
        dataset = self.dataset
        if not isinstance(dataset, TableDataset) or dataset.stage is None:
            return nullcontext()
        from wsidata.staging.ahead import copying_ahead

        files = [dataset.files(index) for index in self.sampler]
        ends = [0, *accumulate(map(len, files))]
        size, before = self.batch_size or 1, self._given
        in_workers = size * (self.prefetch_factor or 0) * self.num_workers * max(map(len, files), default=1)
        processes = getattr(self.sampler, "num_replicas", 1)
        used = lambda: ends[min((self._given - before) * size, len(files))]  # noqa: E731
        return copying_ahead(dataset.stage, [*chain(*files)], used, in_workers + AHEAD, processes)

    @contextmanager
    def _naming_faults(self) -> Iterator[None]:
        """Raise what became of the workers instead of what that led to."""
        try:
            yield
        except SampleError:  # says it all
            raise
        except (RuntimeError, OSError, EOFError) as error:
            workers = getattr(self._iterator, "_workers", ())
            if workers and (ended := describe_ended(workers, self._reading, self.dataset)):
                raise WorkerError(ended) from error
            if self.num_workers and "DataLoader timed out" in str(error):
                raise WorkerError(describe_stuck(self._reading, self.dataset, self.timeout)) from error
            raise_open_files(error)
            if self.num_workers and not workers:  # the fork server ended before it had started one
                what = f"worker processes cannot be started ({type(error).__name__}: {error})"
                raise WorkerError(f"{what}. {never_began()}") from error
            raise

    def state_dict(self) -> dict[str, int]:
        """The epoch's seed, and the number of batches it has yielded."""
        return {"epoch_seed": self.dataset.epoch_seed, "batches": self._given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Skip these batches when the same epoch is iterated again."""
        self._resumed = state_dict["epoch_seed"], state_dict["batches"]


def check_worker_start(requested: str | None) -> WorkerStart:
    """The start method of worker processes, if this system has it; "fork" is an error."""
    offered: list[WorkerStart] = [
        name for name in ("forkserver", "spawn") if name in multiprocessing.get_all_start_methods()
    ]
    for name in offered:
        if requested in (None, name):
            return name
    why = " (a forked worker hangs at its first pixel: libvips' threads do not survive a fork)"
    why = why if requested == "fork" else ""
    raise ValueError(f"worker_start={requested!r} is not one of {', '.join(offered)}{why}.")


def _check_picklable(dataset: EpochDataset) -> None:
    try:
        pickle.dumps((dataset.transform, getattr(dataset, "crop", None)))
    except Exception as error:  # pickle raises whatever the object's own code raises
        raise TransformError(
            f"the transform or crop cannot be sent to worker processes ({error}). Define functions at the top of a "
            "module instead of as lambda or inside another function, or pass num_workers=0."
        ) from error


class BatchError(ValueError):
    """Samples differ in size and cannot form a batch."""


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack (C, H, W) tensors to (B, C, H, W) in channels-last memory.

    Images that were made for this batch (`buffers.new_pixels`) are not copied, others once.

    Raises:
        BatchError: if the sizes differ.
    """
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise BatchError(
            f"images of different sizes (C, H, W) cannot be one batch: {', '.join(map(str, shapes))}. "
            "Pass image_size= (crops or pads), end your transform with CropOrPad, or use batch_size=1."
        )
    return stacked([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def batch_images(images: Sequence[Any]) -> Any:
    """A batch of tensors, stacked, or a list of lazy images, of bags, or of cases, which may differ in size."""
    return sent(stack_images(images)) if isinstance(images[0], Tensor) and images[0].ndim == 3 else list(images)


def collate_numbered(samples: Sequence[tuple[int, Any]]) -> tuple[Any, tuple[int, ...], dict[int, str]]:
    """A batch of the samples of a `numbered` dataset; see `BatchRows`.

    Batches stay of their size, since networks round otherwise in batches of another size.

    Returns:
        The batch, or None if no sample could be read; the rows; and why some of them cannot be read.
    """
    rows = tuple(row for row, _ in samples)
    unreadable = {row: sample.reason for row, sample in samples if isinstance(sample, Unreadable)}
    readable = [sample for row, sample in samples if row not in unreadable]
    if not readable:
        return None, rows, unreadable
    return collate([readable[0] if row in unreadable else sample for row, sample in samples]), rows, unreadable


def _is_places_of_bag(image: Any, target: Any) -> bool:
    """Whether a sample is a bag of images with the place of each."""
    return isinstance(image, Tensor) and image.ndim == 4 and isinstance(target, Tensor) and target.ndim == 2


def collate(samples: Sequence[Any]) -> Any:
    """A batch of `(image, target)` pairs, or of images alone.

    Returns:
        `(images, targets)` with images (B, C, H, W), channels-last, or a list of lazy images; and class numbers (B,)
        int64, targets (B, K) float32, or masks (B, H, W) int64, or a list of lazy masks. Or the images alone. In a
        worker tensors are what becomes them in the reader; see `sharing.sent`.
    """
    if not isinstance(samples[0], tuple):
        return batch_images(samples)
    images, targets = zip(*samples, strict=True)
    if isinstance(targets[0], LazyMask) or _is_places_of_bag(images[0], targets[0]):
        return batch_images(images), list(targets)
    is_tensors = isinstance(targets[0], Tensor)
    return batch_images(images), sent(stacked(targets) if is_tensors else default_collate(list(targets)))
