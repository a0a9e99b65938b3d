"""Workers that outlive an epoch must learn of the next one, and the same seed must give the same run with any of them.

The loader announces each epoch by one number, in shared memory. The order of an epoch and the randomness of each sample
follow from that number and the row, never from a worker, a rank or a batch size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


class EpochDataset(Dataset[Any], ABC):
    """A map-style dataset whose samples are a pure function of epoch number and index.

    An index beyond the last row means a row that is drawn again in the same epoch (balanced sampling): `index % len`
    is the row, and the whole index seeds the sample, so that it is augmented differently.

    Args:
        transform: What is applied to each image; must be picklable where there are workers.
        fresh_epochs: True draws anew in every epoch (training). False makes the same sample every time, also with a
            random transform.

    Attributes:
        noun: What figures and messages call one row.
    """

    noun = "slide"

    def __init__(self, transform: Any, *, fresh_epochs: bool) -> None:
        self.transform = transform
        self.fresh_epochs = fresh_epochs
        self.epoch_source: Callable[[], tuple[int, int] | None] | None = None
        self._epoch_seed = torch.zeros((), dtype=torch.int64)
        self._epoch_seed.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it without annotations

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def image(self, index: int) -> Any:
        """The image of one sample, as the network gets it: a (C, H, W) tensor, or a `LazyImage` of that shape."""

    def describe(self) -> str:
        """How images are read, for the heading of a figure."""
        return ""

    def generator(self, index: int) -> np.random.Generator:
        """The generator of a sample in the present epoch."""
        return np.random.default_rng([self.epoch_seed, index])

    @property
    def epoch_seed(self) -> int:
        """The number that the epoch's order and augmentation follow from."""
        return int(self._epoch_seed.item())

    def begin_epoch(self) -> None:
        """Choose the epoch's number; loaders call this whenever they are iterated.

        Inside a Trainer it follows from the seed of the run (`seed_everything`) and the Trainer's epoch, so a resumed
        run continues as the uninterrupted one would. Elsewhere it is drawn from torch's global generator, as loaders
        draw theirs.
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
        # The epoch source looks at the Trainer, which stays in the parent; workers read the shared number.
        return {**self.__dict__, "epoch_source": None}
