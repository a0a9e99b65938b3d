"""The task of finding lesions on synthetic slides, read by the data module that real slides are read by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.arms import Arm
from study.networks import Look
from study.tasks.data import Part, Task, features_of
from wsidata import WSIDataModule
from wsidata.synthetic import write_micrometastases

MPP = 0.5


@dataclass(frozen=True)
class Slides(Task):
    """Slides with small lesions or with mimics alone; patients have one of each, and are in one part.

    Training slides are turned and mirrored; all arms and seeds of the weights see the same in the same order. Features
    are of slides as they are.

    Attributes:
        side_px: Side of level 0.
        least_share: Least share of the tissue that is lesion on positive slides.
        most_share: The greatest.
        slides: Number of slides; a sixth of them validates, and a third is the test part.
        steps: Training steps.
        batch: Slides a step.
    """

    side_px: int = 512
    least_share: float = 0.012
    most_share: float = 0.08
    slides: int = 600
    steps: int = 300
    batch: int = 8

    look = Look(colors=3, mean=0.8, sd=0.2)
    strip_rows = 64

    @property
    def key(self) -> str:
        """Name of the data, in file names."""
        return f"{self._written}_{self.steps}x{self.batch}"

    def batches(self, arm: Arm) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch after epoch of the training slides, or of the features of their tiles."""
        if arm.reads == "features":
            yield from self._batches_of_features(arm)
        loader = self._module.train_dataloader()
        for epoch in count():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(epoch)  # of the order and the turns; not of the weights
                batches = iter(loader)
            yield from batches

    def held_out(self, part: Part, arm: Arm) -> tuple[Tensor, Tensor]:
        """Slides of the validation or test part, or the features of their tiles, and labels."""
        return (self._features(part, arm) if arm.reads == "features" else self._images(part)), self._labels(part)

    @cached_property
    def lesion_shares(self) -> NDArray[np.float64]:
        """Share of the tissue that is lesion, of each test slide; 0 on negative ones."""
        table = pd.read_csv(self.folder / self._written / "slides.csv")
        shares = table.set_index(table["image"].str.removesuffix(".tif"))["lesion_share"].fillna(0.0)
        return shares[self._module.tables["test"]["image_id"]].to_numpy(np.float64)

    def _batches_of_features(self, arm: Arm) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = self._features("train", arm), self._labels("train")
        for epoch in count():
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
            for rows in torch.split(order, self.batch):
                yield inputs[rows], labels[rows]

    def _features(self, part: Part, arm: Arm) -> Tensor:
        path = self.folder / f"{self._written}_{part}_{arm.encoder}{arm.tile_px}.pt"
        return features_of(partial(self._images, part), arm, self.look, path)

    def _labels(self, part: Part) -> Tensor:
        return torch.tensor(self._module.tables[part]["label"].to_numpy(np.int64))

    def _images(self, part: Part) -> Tensor:
        if part not in self._read:
            loader = self._reader(part).predict_dataloader()
            self._read[part] = torch.cat(list(loader))  # type: ignore[arg-type]
        return self._read[part]

    @cached_property
    def _read(self) -> dict[Part, Tensor]:
        return {}

    @property
    def _written(self) -> str:
        return f"slides_{self.side_px}px_{self.least_share:g}to{self.most_share:g}_{self.slides}"

    @cached_property
    def _module(self) -> WSIDataModule:
        return self._reader("test")

    def _reader(self, part: Part) -> WSIDataModule:
        """All slides, with those of a part to predict on, which are not turned."""
        folder = self.folder / self._written
        if not (folder / "slides.csv").exists():
            write_micrometastases(
                folder, slides=self.slides, side_px=self.side_px, lesion_share=(self.least_share, self.most_share),
                lesions=(1, 2), mimics=(1, 3),
            )  # fmt: skip
        module = WSIDataModule(
            folder / "slides.csv", folder / "images", label_column="label", group_column="patient", mpp=MPP,
            image_size=self.side_px, val_fraction=1 / 6, test_fraction=1 / 3, batch_size=self.batch, num_workers=0,
            leaks="off", predict_on=part,
        )  # fmt: skip
        module.setup()
        return module
