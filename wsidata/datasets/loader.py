"""libvips' threads do not survive a fork, and a forked worker then hangs for ever; ours come from a fork server.

The fork server is a fresh process that has imported what workers need and has run no libvips operation; workers fork
from it in no time. Where there is none (Windows), workers are spawned.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.sampler import EpochSampler, Share
from wsidata.transforms.base import TransformError


class BatchError(ValueError):
    """Samples do not fit into one batch."""


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack (C, H, W) tensors to (B, C, H, W) in channels-last memory.

    In a loader's worker the batch is built in shared memory (torch's own collate does that), so that it is copied once.

    Raises:
        BatchError: if the sizes differ.
    """
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise BatchError(
            f"images of different sizes (C, H, W) cannot be one batch: {', '.join(map(str, shapes))}. "
            "Pass image_size= (crops or pads), end your transform with CropOrPad, or use batch_size=1."
        )
    rows: Tensor = default_collate([image.permute(1, 2, 0) for image in images])
    return rows.permute(0, 3, 1, 2)


def batch_images(images: Sequence[Any]) -> Any:
    """Tensors are stacked; lazy images stay a list, and may differ in size."""
    return stack_images(images) if isinstance(images[0], Tensor) else list(images)


def collate(samples: Sequence[Any]) -> Any:
    """Make a batch of samples.

    Args:
        samples: `(image, target)` pairs, or images alone.

    Returns:
        `(images, targets)` with images (B, C, H, W), channels-last, or a list of lazy images; and class numbers (B,)
        int64, targets (B, K) float32, or masks (B, H, W) int64. Or the images alone.
    """
    if not isinstance(samples[0], tuple):
        return batch_images(samples)
    images, targets = zip(*samples, strict=True)
    if isinstance(targets[0], Tensor):
        return batch_images(images), default_collate(list(targets))
    return batch_images(images), torch.tensor(targets, dtype=torch.int64)


WorkerStart = Literal["forkserver", "spawn"]

# Lightning seeds workers with a function of its own, for which every worker would import Lightning.
_PRELOADED = ["__main__", "wsidata.datasets.loader", "lightning.fabric.utilities.seed"]


class EpochLoader(DataLoader[Any]):
    """A `DataLoader` that announces each epoch to its `EpochDataset`, and goes on in the middle of one.

    Lightning keeps its state in checkpoints. A run that is resumed in the middle of an epoch then sees the rest of that
    epoch, and not its beginning again.
    """

    dataset: EpochDataset
    _given = 0
    _resumed: tuple[int, int] | None = None

    def __iter__(self) -> Any:
        """Begin an epoch, or go on with the one that a checkpoint was saved in."""
        self.dataset.begin_epoch()
        seed, given = self._resumed or (None, 0)
        self._given = given if seed == self.dataset.epoch_seed else 0  # another epoch begins at its beginning
        if isinstance(self.sampler, EpochSampler):
            self.sampler.skipped = self._given * (self.batch_size or 1)
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Which epoch it is, and how many of its batches were given out."""
        return {"epoch_seed": self.dataset.epoch_seed, "batches": self._given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on behind these batches, when the same epoch is begun again."""
        self._resumed = state_dict["epoch_seed"], state_dict["batches"]


def make_loader(
    dataset: EpochDataset,
    *,
    batch_size: int = 1,
    shuffle: bool = False,
    balance: Sequence[int] | None = None,
    share: Share | None = None,
    num_workers: int = 0,
    worker_start: WorkerStart | None = None,
    pin_memory: bool = False,
    drop_last: bool = False,
    collate_fn: Callable[[Sequence[Any]], Any] = collate,
) -> EpochLoader:
    """The one place where loaders are built.

    Scripts that use workers need the usual `if __name__ == "__main__":` guard, since workers import the script.

    Args:
        dataset: What to load.
        batch_size: Samples a batch.
        shuffle: Random order, a new one each epoch.
        balance: Class of each row, to draw every class equally often; see `samplers.balanced_rows`.
        share: The part of the samples this process takes. None: all of them; a Trainer may divide them further.
        num_workers: Worker processes, kept between epochs. 0 reads in this process.
        worker_start: "forkserver" or "spawn". None: the fork server where there is one.
        pin_memory: Copy batches to page-locked memory, for asynchronous transfer to a GPU.
        drop_last: Leave out a last batch that is not full.
        collate_fn: Makes a batch of samples.

    Raises:
        TransformError: if workers are wanted and the transform cannot be sent to them.
        ValueError: if workers are wanted in a way this system has not, or that hangs libvips.
    """
    if num_workers:
        _check_picklable(dataset)
        multiprocessing.set_forkserver_preload(_PRELOADED)
    sampler = None
    if shuffle or balance is not None or share is not None:
        sampler = EpochSampler(dataset, shuffle=shuffle, balance=balance, share=share or Share())
    return EpochLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        drop_last=drop_last,
        multiprocessing_context=check_worker_start(worker_start) if num_workers else None,
        persistent_workers=num_workers > 0,
    )


def check_worker_start(wanted: str | None) -> WorkerStart:
    """How workers are started here.

    Raises:
        ValueError: if `wanted` is "fork", unknown, or not to be had on this system.
    """
    offered: list[WorkerStart] = [
        name for name in ("forkserver", "spawn") if name in multiprocessing.get_all_start_methods()
    ]
    for name in offered:
        if wanted in (None, name):
            return name
    why = " (a forked worker hangs at its first pixel: libvips' threads do not survive a fork)"
    raise ValueError(f"worker_start={wanted!r} is not one of {', '.join(offered)}{why if wanted == 'fork' else ''}.")


def _check_picklable(dataset: EpochDataset) -> None:
    try:
        pickle.dumps((dataset.transform, getattr(dataset, "crop", None)))
    except Exception as error:  # pickle raises whatever the object's own code raises
        raise TransformError(
            f"the transform or crop cannot be sent to worker processes ({error}). Define functions at the top of a "
            "module instead of as lambda or inside another function, or pass num_workers=0."
        ) from error
