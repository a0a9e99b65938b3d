"""Dataset of cases, all slides of a patient as one sample each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from wsidata.datasets.epochs import TableDataset
from wsidata.remote.address import shown

_SLIDES = 2
"""What the generator that draws slides is told apart by from those of their augmentation."""


class CaseDataset(TableDataset):
    """Dataset of cases, a list of the images of its slides each, in the order of the table.

    Every slide is augmented by a generator of its own, that of (seed, epoch, slide).

    Args:
        samples: The cases; see `label_table.by_case`.
        slides: Their slides; see `label_table.slides_of`.
        max_slides: The most slides of a case. In training so many are drawn anew each epoch; else they are the first.
            None: all.
    """

    noun = "case"

    def __init__(self, samples: pd.DataFrame, slides: TableDataset, max_slides: int | None = None) -> None:
        table = samples.assign(path=[", ".join(map(shown, paths)) for paths in samples["paths"]])  # for messages
        super().__init__(table, slides.transform, dtype=slides.dtype, with_labels=slides.with_labels,
                         fresh_epochs=slides.fresh_epochs, stage=slides.stage)  # fmt: skip
        self.slides, self.max_slides = slides, max_slides
        self.crop = getattr(slides, "crop", None)
        self._ends = np.cumsum([len(paths) for paths in samples["paths"]], dtype=np.int64)
        slides._epoch_seed = self._epoch_seed

    @property
    def _makes_memory(self) -> bool:
        return False  # that of a batch is for images of one size

    def __getitem__(self, index: int) -> Any:
        """`(images, target)`, or the images alone."""
        return (self.image(index), self.targets[index % len(self)]) if self.with_labels else self.image(index)

    def image(self, index: int) -> list[Any]:
        """The images of the slides of one case: (C, H, W) tensors, which may differ in size, or lazy images."""
        with self.naming(index % len(self)):
            self.slides.decode_threads = self._threads
            return [self.slides.image(number) for number in self.chosen(index)]

    def chosen(self, index: int) -> list[int]:
        """Indices of the slides of a sample in `slides`; a case that is drawn twice is augmented twice."""
        turn, row = divmod(index, len(self))
        numbers = np.arange(self._ends[row - 1] if row else 0, self._ends[row]) + turn * len(self.slides)
        if self.max_slides is not None and self.fresh_epochs and len(numbers) > self.max_slides:
            rng = np.random.default_rng([self.epoch_seed, index, _SLIDES])
            numbers = np.sort(rng.choice(numbers, self.max_slides, replace=False))
        return [int(number) for number in numbers[: self.max_slides]]

    def files(self, index: int) -> list[str]:
        """The files of a sample."""
        return [self.slides.paths[number % len(self.slides)] for number in self.chosen(index)]

    def describe(self) -> str:
        """How slides are read."""
        return self.slides.describe()
