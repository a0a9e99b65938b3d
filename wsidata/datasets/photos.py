"""Datasets of photos, one sample per photo, decoded at the required size.

As with slides, a sample is a pure function of photo, transform, seed, epoch and row; see `epochs.py`.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyvips
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsidata.datasets.buffers import is_bytes, new_pixels, placed
from wsidata.datasets.epochs import TableDataset, persistent
from wsidata.photos.cache import DecodedCache
from wsidata.photos.read import read_photo
from wsidata.transforms.arrays import run_on_array, runs_on_arrays
from wsidata.transforms.base import Sample
from wsidata.transforms.to_tensor import DType, to_tensor

if TYPE_CHECKING:
    from wsidata.staging.stage import Stage

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, on the scale 0..1."""


class PhotoDataset(TableDataset):
    """Dataset of the photos of a table, one sample each.

    Args:
        table: Rows with the columns `image_id`, `path`, `label`, and perhaps `target` (see `tables.COLUMNS`).
        transform: One of `wsidata.transforms`, an albumentationsxl Compose, or a callable on a pyvips image.
        resize_px: Shorter side at which photos are read; None: as they are.
        apply_icc: Convert colors to sRGB by the profile in the file.
        cache: Cache of decoded photos; None decodes each time.
        dtype: "uint8" or "float"; see `wsidata.transforms.to_tensor`.
        with_labels: False returns images alone, for prediction.
        fresh_epochs: True redraws random transforms in every epoch (training). False makes the same sample every time.
        stage: Local folder that photos are copied to, and read from. None: they are read where they are.

    Attributes:
        normalization: Mean and standard deviation that samples, but not the results of `image`, are normalized with.
    """

    noun = "photo"

    def __init__(
        self,
        table: pd.DataFrame,
        transform: Any,
        *,
        resize_px: int | None = None,
        apply_icc: bool = True,
        cache: DecodedCache | None = None,
        dtype: DType = "uint8",
        with_labels: bool = True,
        fresh_epochs: bool = False,
        stage: Stage | None = None,
    ) -> None:
        super().__init__(table, transform, dtype=dtype, with_labels=with_labels, fresh_epochs=fresh_epochs, stage=stage)
        self.resize_px, self.apply_icc, self.cache = resize_px, apply_icc, cache
        self.normalization: Normalization | None = None

    def __getitem__(self, index: int) -> Any:
        """`(image, target)`, or the image alone; the image is that of `image`, normalized if `normalization` is set.

        The target is a class number, or (K,) float32 for several labels or numbers.
        """
        image = self.image(index)
        if self.normalization is not None:
            image = normalized(image, self.normalization)
        return (image, self.targets[index % len(self)]) if self.with_labels else image

    def image(self, index: int) -> Tensor:
        """Read, transform and convert one photo, without normalization.

        Returns:
            (C, H, W), uint8 or float32, a view of (H, W, C) memory.

        Raises:
            SampleError: naming the photo.
        """
        row = index % len(self)
        with self.naming(row):
            pixels = self._transformed(self.pixels(row), self.generator(index))
            if self.normalization is None and is_bytes(pixels):
                return placed(pixels, self.dtype)
            return to_tensor(pixels, self.dtype)

    def untransformed(self, row: int) -> Sample:
        """The photo before any transform.

        Raises:
            SampleError: naming the photo.
        """
        with self.naming(row):
            return Sample(pyvips.Image.new_from_array(self.pixels(row), interpretation="srgb"))

    @persistent
    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The photo as it is read, upright, (H, W, 3)."""
        read = read_photo if self.cache is None else self.cache.get
        copy = None if self.stage is None else self.stage.copy_of(self.paths[row])
        with nullcontext(self.paths[row]) if copy is None else copy as path:
            return read(path, short_side_px=self.resize_px, apply_icc=self.apply_icc)

    def _transformed(self, pixels: NDArray[np.uint8], generator: np.random.Generator) -> Any:
        """The transformed photo, perhaps a view of what was decoded."""
        if runs_on_arrays(self.transform):
            return run_on_array(self.transform, pixels, generator)
        photo = pyvips.Image.new_from_array(pixels, interpretation="srgb")
        return self.transform.run(Sample(photo), generator).image

    def describe(self) -> str:
        """The size photos are read at."""
        return "full size" if self.resize_px is None else f"resize_px={self.resize_px}"


def normalized(image: Tensor, normalization: Normalization) -> Tensor:
    """(image - mean) / std per channel of (C, H, W) uint8 or float32 in 0..1, a view of (H, W, C) memory."""
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in normalization)
    place = torch.from_numpy(new_pixels((*image.shape[1:], image.shape[0]), np.float32)).permute(2, 0, 1)
    place.copy_(image)
    return (place if image.is_floating_point() else place.div_(255)).sub_(mean).div_(std)
