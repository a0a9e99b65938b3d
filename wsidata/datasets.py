"""A sample is a pure function of slide, transform, seed, epoch and row: the number of workers cannot change a run.

The loader announces each epoch by one number, in shared memory so that workers that outlive an epoch see it too; the
generator of a sample is seeded from that number and the row. Slides are opened where they are read, in the worker, and
closed after each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wsidata.slide import Slide
from wsidata.tensors import DType, to_tensor
from wsidata.transform_adapters import as_transform

Resolution = Mapping[str, Any]
"""Exactly one of `level`, `mpp`, `magnification`, `downsample`, `max_side`, as `Slide.image` takes it."""


class SampleError(RuntimeError):
    """A sample could not be made; the message names the slide, and what failed."""


class SlideDataset(Dataset[Any]):
    """Slides of a table, one sample each.

    Args:
        table: Rows with the columns `image_id`, `path`, `label` (see `tables.COLUMNS`).
        resolution: At which resolution slides are read, such as `{"level": 5}` or `{"mpp": 2.0}`.
        transform: One of `wsidata.transforms`, an albumentationsxl Compose, or a callable on a pyvips image.
        dtype: "uint8" or "float"; see `tensors.to_tensor`.
        with_labels: False gives images alone, for prediction.
        mpp_override: Spacing of level 0 in um/px to believe instead of the files' own.
        fresh_epochs: True draws anew in every epoch (training). False makes the same sample every time, also with a
            random transform.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        resolution: Resolution,
        transform: Any,
        *,
        dtype: DType = "uint8",
        with_labels: bool = True,
        mpp_override: float | tuple[float, float] | None = None,
        fresh_epochs: bool = False,
    ) -> None:
        self.paths = [str(path) for path in table["path"]]
        self.image_ids = [str(name) for name in table["image_id"]]
        self.labels = [int(label) for label in table["label"]]
        self.resolution = dict(resolution)
        self.transform = as_transform(transform)
        self.dtype: DType = dtype
        self.with_labels = with_labels
        self.mpp_override = mpp_override
        self.fresh_epochs = fresh_epochs
        self.epoch_source: Callable[[], int | None] | None = None
        self._epoch_seed = torch.zeros((), dtype=torch.int64)
        self._epoch_seed.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it without annotations

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, int]:
        """`(image, label)`, or the image alone; see `image`."""
        image = self.image(index)
        return (image, self.labels[index]) if self.with_labels else image

    def image(self, index: int) -> Tensor:
        """Read, transform and convert one slide.

        Returns:
            (C, H, W), uint8 or float32, a view of (H, W, C) memory.

        Raises:
            SampleError: naming the slide.
        """
        try:
            with Slide(self.paths[index], mpp_override=self.mpp_override) as slide:
                picture = self.transform(slide.image(**self.resolution), self.generator(index))
                return to_tensor(picture, self.dtype)
        except Exception as error:
            raise SampleError(
                f"slide '{self.image_ids[index]}' ({self.paths[index]}): {type(error).__name__}: {error}"
            ) from error

    def generator(self, index: int) -> np.random.Generator:
        """The generator of a sample in the present epoch."""
        return np.random.default_rng([self.epoch_seed, index])

    @property
    def epoch_seed(self) -> int:
        """The number that the epoch's order and augmentation follow from."""
        return int(self._epoch_seed.item())

    def begin_epoch(self) -> None:
        """Choose the epoch's number; loaders call this whenever they are iterated.

        Inside a Trainer it follows from the seed of the process (`seed_everything`) and the Trainer's epoch, so a
        resumed run continues as the uninterrupted one would. Elsewhere it is drawn from torch's global generator, as
        loaders draw theirs.
        """
        if not self.fresh_epochs:
            return
        epoch = None if self.epoch_source is None else self.epoch_source()
        if epoch is None:
            seed = int(torch.randint(2**62, ()).item())
        else:
            sequence = np.random.SeedSequence([torch.initial_seed() % 2**64, epoch])
            seed = int(sequence.generate_state(1, np.uint64)[0] >> 2)
        self._epoch_seed.fill_(seed)

    def __getstate__(self) -> dict[str, Any]:
        # The epoch source looks at the Trainer, which stays in the parent; workers read the shared number.
        return {**self.__dict__, "epoch_source": None}
