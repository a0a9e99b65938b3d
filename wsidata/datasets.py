"""A sample is a pure function of slide, transform, seed, epoch and row: the number of workers cannot change a run.

How epochs are numbered and samples seeded is in `epochs.py`. Slides are opened where they are read, in the worker, and
closed after each sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from torch import Tensor

from wsidata.epochs import EpochDataset
from wsidata.slide import Slide
from wsidata.tensors import DType, to_tensor
from wsidata.transform_adapters import as_transform

Resolution = Mapping[str, Any]
"""Exactly one of `level`, `mpp`, `magnification`, `downsample`, `max_side`, as `Slide.image` takes it."""


class SampleError(RuntimeError):
    """A sample could not be made; the message names the slide, and what failed."""


class SlideDataset(EpochDataset):
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
        super().__init__(as_transform(transform), fresh_epochs=fresh_epochs)
        self.paths = [str(path) for path in table["path"]]
        self.image_ids = [str(name) for name in table["image_id"]]
        self.labels = [int(label) for label in table["label"]]
        self.resolution = dict(resolution)
        self.dtype: DType = dtype
        self.with_labels = with_labels
        self.mpp_override = mpp_override

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, int]:
        """`(image, label)`, or the image alone; see `image`."""
        image = self.image(index)
        return (image, self.labels[index % len(self)]) if self.with_labels else image

    def image(self, index: int) -> Tensor:
        """Read, transform and convert one slide.

        Returns:
            (C, H, W), uint8 or float32, a view of (H, W, C) memory.

        Raises:
            SampleError: naming the slide.
        """
        row = index % len(self)
        try:
            with Slide(self.paths[row], mpp_override=self.mpp_override) as slide:
                picture = self.transform(slide.image(**self.resolution), self.generator(index))
                return to_tensor(picture, self.dtype)
        except Exception as error:
            raise SampleError(
                f"slide '{self.image_ids[row]}' ({self.paths[row]}): {type(error).__name__}: {error}"
            ) from error
