"""Sampler of training epochs, shuffled or class-balanced, and divided over the processes of a run.

All processes need the same order, whether the run is seeded or not, and a row that is repeated to fill a share should
be augmented differently. So the order follows from the epoch's seed alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from wsidata.datasets.epochs import EpochDataset
from wsidata.tables.parts import Part, SplitWarning


@dataclass(frozen=True)
class Share:
    """The samples of an epoch that one process takes: every `count`-th, from `index` on.

    Samples are repeated until all processes have the same number, as training requires.

    Attributes:
        index: Number of the process, 0 .. count-1.
        count: Number of processes.
    """

    index: int = 0
    count: int = 1


def share_of_process(trainer: Any, part: Part, rows: int) -> Share | None:
    """This process's share of the training samples; None where it takes all, or Lightning divides (for evaluation).

    Lightning repeats samples until all processes have the same number. Unequal shares would be exact, but it averages
    what is logged with `sync_dist=True` over a number of samples that it rounds down.

    Warns:
        SplitWarning: if slides count twice in evaluation.
    """
    divided = None if trainer is None or part == "predict" else trainer.distributed_sampler_kwargs
    if divided is None or divided["num_replicas"] == 1:
        return None
    if part == "train":
        return Share(divided["rank"], divided["num_replicas"])
    processes = divided["num_replicas"]
    twice = -rows % processes
    if twice and divided["rank"] == 0:
        warnings.warn(
            f"{rows} {part} images do not divide over {processes} processes: {twice} of them count twice in the "
            "scores. For exact scores evaluate with Trainer(devices=1).",
            SplitWarning,
            stacklevel=3,
        )
    return None


class EpochSampler(DistributedSampler[Any]):
    """Sampler whose order follows from the dataset's epoch seed.

    A `DistributedSampler`, so that Lightning does not replace it.

    Args:
        dataset: The dataset.
        shuffle: Random order, a new one each epoch; False keeps the dataset's.
        balance: Class of each row, to draw every class equally often (see `balanced_rows`).
        share: This process's share.

    Attributes:
        skipped: Samples at the beginning of the epoch that were drawn before a run was interrupted.
    """

    dataset: EpochDataset

    def __init__(
        self,
        dataset: EpochDataset,
        *,
        shuffle: bool = True,
        balance: Sequence[int] | None = None,
        share: Share = Share(),
    ) -> None:
        super().__init__(dataset, num_replicas=share.count, rank=share.index, shuffle=shuffle)
        self.balance = None if balance is None else np.asarray(balance, dtype=np.int64)
        self.skipped = 0

    def __iter__(self) -> Iterator[int]:
        order, rows = self._order(), len(self.dataset)
        repeated = (order * self.num_replicas)[: self.total_size - rows]  # so that every process gets the same number
        order += [index + rows for index in repeated]
        yield from order[self.rank :: self.num_replicas][self.skipped :]

    def _order(self) -> list[int]:
        rows, seed = len(self.dataset), self.dataset.epoch_seed
        if self.balance is not None:
            return balanced_rows(self.balance, np.random.default_rng([seed, 1]))
        if self.shuffle:
            generator = torch.Generator().manual_seed(seed)
            return [int(index) for index in torch.randperm(rows, generator=generator).tolist()]
        return list(range(rows))


class RowSampler(DistributedSampler[Any]):
    """Sampler of given rows in their order, which Lightning does not divide further.

    Args:
        dataset: The dataset.
        rows: Numbers of the rows that this process takes.
    """

    def __init__(self, dataset: EpochDataset, rows: Sequence[int]) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=False)
        self.rows = rows

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def balanced_rows(classes: NDArray[np.int64], rng: np.random.Generator) -> list[int]:
    """As many samples as there are rows, each class equally often (to within one), in random order.

    Within a class every row is drawn once before any is repeated, so a large class contributes other rows each epoch,
    and a small one all of its rows several times. A repeated row appears as `row + n * len(classes)`.
    """
    found = np.unique(classes)
    shares = np.full(len(found), len(classes) // len(found))
    shares[rng.permutation(len(found))[: len(classes) % len(found)]] += 1
    drawn: list[NDArray[np.int64]] = []
    for number, share in zip(found, shares, strict=True):
        rows = np.flatnonzero(classes == number)
        turns = -(-int(share) // len(rows))
        indices = [rng.permutation(rows) + turn * len(classes) for turn in range(turns)]
        drawn.append(np.concatenate([*indices, rows[:0]])[:share])
    return [int(index) for index in rng.permutation(np.concatenate(drawn))]
