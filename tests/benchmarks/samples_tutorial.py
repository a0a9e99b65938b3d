"""The data set of lightstream's tutorial on Camelyon16, as others use it: libvips, then albumentationsxl, to floats.

The steps are those of its `CamelyonDataset`, which tests/streammodels/training/test_lightstream_tutorial.py runs: one
page of the slide without its alpha, cropped or padded, flipped with probability 1/2, floats from 0 to 1, a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentationsxl
import pyvips
from torch.utils.data import Dataset


class PagesDataset(Dataset[Any]):
    """One page of each of some slides, transformed, with the label 0."""

    def __init__(self, paths: Sequence[Path], page: int, transform: Any) -> None:
        self.paths = list(paths)
        self.page = page
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        try:  # for files that libvips reads through OpenSlide
            image = pyvips.Image.new_from_file(str(self.paths[index]), level=self.page)
        except pyvips.Error:
            image = pyvips.Image.new_from_file(str(self.paths[index]), page=self.page)
        return self.transform(image=image[0:3])["image"], 0


def tutorial_dataset(paths: Sequence[Path], *, page: int, image_size: int) -> PagesDataset:
    """The data set with the training transform of the tutorial."""
    steps = [
        albumentationsxl.CropOrPad(image_size, image_size),
        albumentationsxl.Flip(p=0.5),
        albumentationsxl.ToDtype("float", scale=True),
        albumentationsxl.ToTensor(),
    ]
    return PagesDataset(paths, page, albumentationsxl.Compose(steps))
