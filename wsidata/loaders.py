"""libvips' threads do not survive a fork, and a forked worker then hangs for ever; ours come from a fork server.

The fork server is a fresh process that has imported what workers need and has run no libvips operation; workers fork
from it in no time.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from wsidata.datasets import SlideDataset
from wsidata.tensors import collate
from wsidata.transform_base import TransformError

# Lightning seeds workers with a function of its own, for which every worker would import Lightning.
_PRELOADED = ["__main__", "wsidata.loaders", "lightning.fabric.utilities.seed"]


class EpochSampler(RandomSampler):
    """A random order that follows from the dataset's epoch number.

    It is a `RandomSampler` so that Lightning replaces it by a `DistributedSampler` under DDP, as it does with torch's.
    """

    data_source: SlideDataset

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.data_source.epoch_seed)
        yield from torch.randperm(len(self.data_source), generator=generator).tolist()


class SlideLoader(DataLoader[Any]):
    """A `DataLoader` that announces each epoch to its `SlideDataset`."""

    dataset: SlideDataset

    def __iter__(self) -> Any:
        """Begin an epoch."""
        self.dataset.begin_epoch()
        return super().__iter__()


def make_loader(
    dataset: SlideDataset,
    *,
    batch_size: int = 1,
    shuffle: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
    drop_last: bool = False,
) -> SlideLoader:
    """The one place where loaders are built.

    Scripts that use workers need the usual `if __name__ == "__main__":` guard, since workers import the script.

    Args:
        dataset: What to load.
        batch_size: Samples a batch.
        shuffle: Random order, a new one each epoch.
        num_workers: Worker processes, kept between epochs. 0 reads in this process.
        pin_memory: Copy batches to page-locked memory, for asynchronous transfer to a GPU.
        drop_last: Leave out a last batch that is not full.

    Raises:
        TransformError: if workers are wanted and the transform cannot be sent to them.
    """
    if num_workers:
        _check_picklable(dataset)
        multiprocessing.set_forkserver_preload(_PRELOADED)
    return SlideLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(dataset) if shuffle else None,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        drop_last=drop_last,
        multiprocessing_context="forkserver" if num_workers else None,
        persistent_workers=num_workers > 0,
    )


def _check_picklable(dataset: SlideDataset) -> None:
    try:
        pickle.dumps(dataset.transform)
    except Exception as error:  # pickle raises whatever the object's own code raises
        raise TransformError(
            f"the transform cannot be sent to worker processes ({error}). Define functions at the top of a module "
            "instead of as lambda or inside another function, or pass num_workers=0."
        ) from error
