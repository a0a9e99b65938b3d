"""Datasets whose samples are reproducible, whatever the workers, processes or batch size.

The loader passes the number of each epoch to its persistent workers in shared memory. The order of an epoch and the
randomness of each sample follow from that number and the row alone.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyvips
import torch
from torch.utils.data import Dataset

from wsidata.datasets.buffers import batch_slots
from wsidata.errors import SlideError
from wsidata.formats.vips import decoding_threads, stated_threads
from wsidata.remote.address import shown
from wsidata.tables.targets import target_tensor
from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.to_tensor import DType
from wsidata.utils.processes import OpenFilesError, raise_open_files, why_unreadable
from wsidata.utils.retries import retried

if TYPE_CHECKING:
    from wsidata.staging.stage import Stage

T = TypeVar("T")


class SampleError(RuntimeError):
    """A sample could not be made; the message names its file and the reason."""


class Unreadable(NamedTuple):
    """Stands for a sample that cannot be read."""

    reason: str


class EpochDataset(Dataset[Any], ABC):
    """A map-style dataset whose samples are a pure function of epoch number and index.

    An index beyond the last row is a row drawn again in the same epoch (balanced sampling): `index % len` is the row,
    and the whole index seeds the sample, so that it is augmented differently.

    Args:
        transform: Applied to each image; must be picklable where there are workers.
        fresh_epochs: True redraws random transforms in every epoch (training). False makes the same sample every time.

    Attributes:
        noun: Name of one row in figures and messages.
        decode_threads: Tiles of a slide that are decoded at a time. None: one in workers, else as `vips.thread_count`.
        numbered: Whether batches come with the numbers of their rows: "raise" ends at a sample that cannot be read,
            "skip" has an `Unreadable` in its place. None: they come without.
    """

    noun = "slide"

    def __init__(self, transform: Any, *, fresh_epochs: bool) -> None:
        self.transform = transform
        self.fresh_epochs = fresh_epochs
        self.epoch_source: Callable[[], tuple[int, int] | None] | None = None
        self.reading: torch.Tensor | None = None  # in workers: where they write the row they read, for the parent
        self.decode_threads: int | None = None
        self.numbered: Literal["raise", "skip"] | None = None
        self._epoch_seed = torch.zeros((), dtype=torch.int64)
        self._epoch_seed.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it without annotations

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def image(self, index: int) -> Any:
        """The input of the network for one sample: a (C, H, W) tensor, or a `LazyImage` of that shape."""

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The samples of a batch, as torch's loaders ask for them; pairs of row and sample if they are `numbered`."""
        if not self._makes_memory:
            return [self._numbered_sample(index) for index in indices]
        samples = []
        with batch_slots(len(indices)) as slots:
            for slots.number, index in enumerate(indices):
                samples.append(self._numbered_sample(index))
        return samples

    @property
    def _makes_memory(self) -> bool:
        """Whether nobody else has the memory of a sample. A subclass of somebody else may keep its samples."""
        methods = (getattr(type(self), name) for name in ("__getitem__", "image"))
        return all(method.__module__.startswith("wsidata.") for method in methods)

    def _numbered_sample(self, index: int) -> Any:
        return self[index] if self.numbered is None else (index, self._sample_or_reason(index))

    def _sample_or_reason(self, index: int) -> Any:
        try:
            return self[index]
        except SampleError as error:
            if self.numbered == "raise" or (reason := why_unreadable(error.__cause__)) is None:
                raise
            return Unreadable(reason)

    def describe(self) -> str:
        """How images are read, as the heading of a figure."""
        return ""

    def describe_row(self, row: int) -> str:
        """The name of a row in messages."""
        return f"{self.noun} {row}"

    def generator(self, index: int) -> np.random.Generator:
        """The random generator of a sample in the current epoch."""
        return np.random.default_rng([self.epoch_seed, index])

    @property
    def epoch_seed(self) -> int:
        """The seed of the epoch's order and augmentation."""
        return int(self._epoch_seed.item())

    def begin_epoch(self) -> None:
        """Set the epoch's seed; loaders call this whenever they are iterated.

        Inside a Trainer it follows from the seed of the run (`seed_everything`) and the Trainer's epoch, so a resumed
        run continues as if it had not been interrupted. Elsewhere it is drawn from torch's global generator, like the
        seeds of other loaders.
        """
        if not self.fresh_epochs:
            return
        source = None if self.epoch_source is None else self.epoch_source()
        if source is None:
            seed = int(torch.randint(2**62, ()).item())
        else:
            run_seed, epoch = source
            seed = int(np.random.SeedSequence([run_seed % 2**64, epoch]).generate_state(1, np.uint64)[0] >> 2)
        self._epoch_seed.fill_(seed)

    def __getstate__(self) -> dict[str, Any]:
        # The epoch source refers to the Trainer, which stays in the parent; workers read the shared seed.
        return {**self.__dict__, "epoch_source": None}


class TableDataset(EpochDataset):
    """An `EpochDataset` of the files of a table, one sample each; for the arguments see `PhotoDataset`."""

    def __init__(
        self,
        table: pd.DataFrame,
        transform: Any,
        *,
        dtype: DType,
        with_labels: bool,
        fresh_epochs: bool,
        stage: Stage | None = None,
    ) -> None:
        super().__init__(as_transform(transform), fresh_epochs=fresh_epochs)
        self.paths = [str(path) for path in table["path"]]
        self.image_ids = [str(name) for name in table["image_id"]]
        self.targets = [target_tensor(row) for row in table.to_dict("records")]
        self.dtype: DType = dtype
        self.with_labels = with_labels
        self.stage = stage

    def __len__(self) -> int:
        return len(self.paths)

    def files(self, index: int) -> list[str]:
        """The files that a sample is made of."""
        return [self.paths[index % len(self)]]

    def describe_row(self, row: int) -> str:
        """The name of a row in messages, with its file."""
        return f"{self.noun} '{self.image_ids[row]}' ({shown(self.paths[row])})"

    @property
    def _threads(self) -> int | None:
        """The number of threads to decode on here; None if nobody decides."""
        is_in_worker = self.reading is not None
        return self.decode_threads or (1 if is_in_worker and stated_threads() is None else None)

    @contextmanager
    def naming(self, row: int) -> Iterator[None]:
        """Raise errors as `SampleError`, naming the row."""
        before = -1
        if self.reading is not None:
            before = int(self.reading)
            self.reading.fill_(row)
        try:
            with decoding_threads(self._threads):
                yield
        except SampleError:  # names it already
            raise
        except Exception as error:
            try:
                raise_open_files(error)
            except OpenFilesError as scarce:
                raise SampleError(f"{self.describe_row(row)}: {scarce}") from error
            raise SampleError(f"{self.describe_row(row)}: {type(error).__name__}: {error}") from error
        finally:
            if self.reading is not None:
                self.reading.fill_(before)


def persistent(read: Callable[..., T]) -> Callable[..., T]:
    """A method of a `TableDataset` that reads a sample, and is tried again before it fails.

    Where a disk or mount fails, it is tried a few times; where the copy in the stage cannot be read, without that.
    """

    @wraps(read)
    def reading(self: TableDataset, index: int, **options: Any) -> T:
        row = index % len(self)
        with self.naming(row):
            try:
                return retried(partial(read, self, index, **options), shown(self.paths[row]))
            except Exception as error:
                cause = error.__cause__ if isinstance(error, SampleError) else error
                if self.stage is None or not isinstance(cause, (SlideError, OSError, pyvips.Error)):
                    raise
                alone = copy.copy(self)
                alone.stage = None
                sample = read(alone, index, **options)
                self.stage.reject(self.paths[row], cause)
                return sample

    return reading
